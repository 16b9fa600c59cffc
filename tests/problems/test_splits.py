from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from ravine.errors import UserError
from ravine.problems import Data, Problem, digest, prepare

Make = Callable[..., Problem]


class Items(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def numbered(rows: int, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs that are their own row number, so that a split tells which rows it took."""
    return torch.arange(rows, dtype=torch.float32).unsqueeze(1), classes


@pytest.mark.parametrize("counts", [(100, 50, 25), (7, 7, 7), (997, 1, 2), (5,)])
def test_a_fifth_of_train_is_set_apart_by_class(make: Make, counts: tuple[int, ...]) -> None:
    classes = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    data = prepare(make(train=numbered(len(classes), classes)))
    rows = torch.cat([data.train.tensors[0], data.validation.tensors[0]]).flatten()
    assert torch.equal(rows.sort().values, torch.arange(len(classes), dtype=torch.float32))
    assert data.validation.rows == round(0.2 * len(classes))
    for label, count in enumerate(counts):
        assert abs(int((data.validation.tensors[1] == label).sum()) - 0.2 * count) < 1


def test_the_rows_set_apart_depend_on_nothing_but_the_data(make: Make) -> None:
    torch.manual_seed(1)
    first = prepare(make())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = prepare(make(batch_size=3, steps=9))
    assert torch.equal(torch.get_rng_state(), state)
    assert digest(first) == digest(second)


def test_validation_rows_are_drawn_at_random_within_a_class(make: Make) -> None:
    data = prepare(make(train=numbered(1000, torch.zeros(1000, dtype=torch.int64))))
    rows = data.validation.tensors[0].flatten()
    assert 420 < rows.mean() < 580  # 499.5, standard error 18
    assert len(rows.diff().unique()) > 10  # not every fifth row


@pytest.mark.parametrize(
    "train",
    [
        (torch.randn(11, 4), torch.randn(11)),
        (torch.randn(11, 4), torch.randint(3, (11, 6))),
        (torch.randn(11, 4), torch.ones(11, dtype=torch.bool)),
    ],
)
def test_targets_of_any_form_can_be_split(make: Make, train: tuple[Tensor, Tensor]) -> None:
    data = prepare(make(train=train, test=None))
    assert (data.train.rows, data.validation.rows) == (9, 2)


def test_two_rows_give_one_to_validation_and_one_cannot_be_split(make: Make) -> None:
    data = prepare(make(train=(torch.randn(2, 4), torch.tensor([0, 1]))))
    assert (data.train.rows, data.validation.rows) == (1, 1)
    with pytest.raises(UserError, match="train has one row"):
        prepare(make(train=(torch.randn(1, 4), torch.tensor([0]))))


def test_given_validation_rows_leave_train_whole(make: Make) -> None:
    given = (torch.randn(7, 4), torch.zeros(7, dtype=torch.int64))
    data = prepare(make(validation=given))
    assert (data.train.rows, data.validation.rows, data.test.rows, data.caveats) == (50, 7, 20, ())


def test_without_test_rows_the_validation_rows_serve_and_a_caveat_says_so(make: Make) -> None:
    data = prepare(make(test=None))
    assert data.test is data.validation
    assert "no test data were given" in data.caveats[0]


def test_dict_batches_keep_their_form(make: Make) -> None:
    train = {"ids": torch.randint(9, (20, 5)), "mask": torch.ones(20, 5, dtype=torch.bool)}
    data = prepare(make(loss=None, batch_loss=lambda m, b: m(b), train=train, test=None, metrics={}))
    batch = data.train.batch(torch.tensor([[3, 1], [0, 0], [5, 2]]))
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {"ids": (3, 2, 5), "mask": (3, 2, 5)}
    assert torch.equal(batch["ids"][0, 1], data.train.tensors["ids"][1])


def test_floating_tensors_take_the_problems_dtype_and_others_keep_theirs(make: Make) -> None:
    given = (np.random.default_rng(0).normal(size=(10, 4)), np.arange(10) % 3)
    data = prepare(make(train=given, test=given, dtype=torch.float32))
    assert [t.dtype for t in data.test.tensors] == [torch.float32, torch.int64]
    assert [t.dtype for t in data.to("cpu", torch.float64).train.tensors] == [torch.float64, torch.int64]
    assert [t.dtype for t in prepare(make(train=given, test=given)).test.tensors] == [torch.float64, torch.int64]


def test_a_dataset_is_stacked_to_what_its_tensors_give(make: Make) -> None:
    plain = make()
    as_dataset = make(train=TensorDataset(*plain.train), test=Items(list(zip(*plain.test, strict=True))))
    assert digest(prepare(as_dataset)) == digest(prepare(plain))


def test_python_numbers_of_a_dataset_take_torchs_default_types(make: Make) -> None:
    items = Items([{"x": 0.5, "y": 1}] * 10)
    data = prepare(make(loss=None, batch_loss=lambda m, b: m(b), train=items, test=None, metrics={}))
    assert {name: tensor.dtype for name, tensor in data.train.tensors.items()} == {"x": torch.float32, "y": torch.int64}


class Broken(Items):
    def __getitem__(self, index: int) -> Any:
        return {"a": 1}["b"]


NAN = torch.zeros(6, 4)
NAN[3, 2] = float("nan")
TARGETS = torch.arange(6) % 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train": (NAN, TARGETS)}, r"small': train\[0\] has NaN or infinity, first in row 3"),
        ({"test": (NAN / 0, TARGETS)}, r"small': test\[0\] has NaN or infinity, first in row 0"),
        ({"train": (torch.full((6, 4), 1e9), TARGETS), "dtype": torch.float16}, "has NaN or infinity"),
        ({"train": (torch.zeros(6, 4), TARGETS[:5])}, r"different numbers of rows, shapes \(6, 4\), \(5,\)"),
        ({"train": (torch.zeros(0, 4), TARGETS[:0])}, "train has no rows"),
        ({"train": torch.zeros(6, 4)}, r"must be a pair \(inputs, targets\) for loss="),
        ({"train": ()}, "holds no tensor"),
        ({"train": ([1, 2], TARGETS)}, "must be made of tensors, numpy arrays of numbers or a Dataset, not int"),
        ({"train": (torch.zeros(6, 4), torch.tensor(3))}, "holds a single number"),
        ({"train": (torch.zeros(6, 4).to_sparse(), TARGETS)}, "sparse tensor"),
        ({"test": (torch.zeros(6, 4), TARGETS.float())}, r"\(float32, float32\) against \(float32, int64\)"),
        ({"validation": [torch.zeros(6, 4), TARGETS]}, "validation is built differently from train"),
        ({"train": Items([])}, "train has no rows"),
        ({"train": Items([(torch.zeros(n), 1) for n in (3, 3, 4)])}, "cannot be stacked: .*give every item the same"),
        ({"train": Items([(object(), 1)])}, "cannot be stacked: TypeError"),
        ({"train": Broken([1])}, r"train cannot be read: KeyError: 'b' \(test_splits.py, line \d+\)"),
        ({"train": nn.Identity()}, "not Identity"),
    ],
)
def test_data_that_cannot_be_used_are_explained(make: Make, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(make(**changes))


def test_a_dataset_without_a_length_is_explained(make: Make) -> None:
    class Stream(Dataset[Any]):
        def __getitem__(self, index: int) -> Any:
            raise AssertionError

    with pytest.raises(UserError, match="a Dataset without a length"):
        prepare(make(train=Stream()))


def test_the_digest_sees_every_byte_type_shape_and_split(make: Make) -> None:
    def of(train: Any, test: Any) -> str:
        return digest(prepare(make(train=train, validation=train, test=test)))

    x, y = torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64)
    changed = x.clone()
    changed[3, 5] = 1e-30
    digests = [
        of((x, y), (x, y)),
        of((changed, y), (x, y)),
        of((x, y), (changed, y)),
        of((x.view(4, 3, 2), y), (x, y)),
        of((x.to(torch.bfloat16), y), (x.to(torch.bfloat16), y)),
        of((x.half(), y), (x.half(), y)),
        of((x, y.bool()), (x, y.bool())),
    ]
    assert len(set(digests)) == len(digests)
    assert of((x.clone(), y), (x.T.contiguous().T, y)) == digests[0]


def test_data_move_as_a_whole(make: Make) -> None:
    data = prepare(make(test=None)).to("meta")
    assert isinstance(data, Data)
    assert {t.device.type for s in (data.train, data.validation, data.test) for t in s.tensors} == {"meta"}
    assert data.caveats
