import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ravine.errors import UserError
from ravine.metrics import Metric, accuracy
from ravine.problems import Problem, check, prepare

Make = Callable[..., Problem]
ONE = nn.Linear(4, 3)


class Shared(nn.Module):
    """A fresh module around layers that are not fresh."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = ONE

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


class Own(nn.Linear):
    """A linear layer whose output goes through a function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__(4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(super().forward(x))


def foreign_draw() -> nn.Module:
    layer = nn.Linear(4, 3)
    nn.init.constant_(layer.bias, random.random())
    return layer


def frozen() -> nn.Module:
    return nn.Linear(4, 3).requires_grad_(False)


def raises(*_: Any) -> Any:
    raise RuntimeError("first line\nsecond line")


def metric(function: Callable[[Any, Any], Any], **words: Any) -> dict[str, Any]:
    return {"metrics": {"mine": Metric(function, **{"higher_is_better": True, "worst": 0.0} | words)}}


X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
LATE = torch.arange(40) % 3
LATE[39] = 3  # the only row out of range, far from the first batch
NUMBERS = (X, X[:, 0])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": raises}, r"model\(\) fails: RuntimeError: first line \(test_checking.py, line \d+\)"),
        ({"model": lambda: 3}, r"model\(\) must return a torch.nn.Module, not int"),
        ({"model": lambda: ONE}, "returns the same parameters at every call"),
        ({"model": Shared}, "returns the same parameters at every call"),
        ({"model": foreign_draw}, "differs between two calls under one seed"),
        ({"model": nn.Identity}, "has no trainable parameter"),
        ({"model": frozen}, "has no trainable parameter"),
        ({"model": lambda: nn.LazyLinear(3)}, "lazy layers without a shape"),
        (
            {"model": lambda: nn.Linear(5, 3)},
            r"the model fails on inputs \(8, 4\) float32: RuntimeError: mat1 and mat2",
        ),
        (
            {"train": (X.double(), LATE % 3), "test": None},
            r"\(8, 4\) float64: .*; .*dtype=torch.float32 in the Problem casts both",
        ),
        (
            {"train": (X, torch.ones(40, 5)), "test": None},
            r"outputs \(8, 3\) float32 do not fit targets \(8, 5\) float32 in the loss: RuntimeError: ",
        ),
        (
            {"model": lambda: nn.Linear(4, 1), "loss": mse_loss, "train": NUMBERS, "test": NUMBERS, "metrics": {}},
            r"outputs \(8, 1\) float32 do not fit targets \(8,\) float32 in the loss: UserWarning: Using a target size",
        ),
        ({"train": (X, LATE), "test": None}, r"targets from 0 to 3 do not fit 3 outputs \(0 to 2\): IndexError"),
        ({"test": (X, LATE - 1)}, r"targets from -1 to 2 do not fit 3 outputs \(0 to 2\): IndexError"),
        ({"loss": lambda o, t: cross_entropy(o, t, reduction="none")}, r"has shape \(8,\); take the mean"),
        ({"loss": lambda o, t: cross_entropy(o, t).item()}, "the loss must be a tensor, not float"),
        ({"loss": lambda o, t: cross_entropy(o, t) * float("nan")}, "the loss is nan before the first step"),
        ({"loss": lambda o, t: o.abs().sum().mul(0).log().neg()}, "the loss is inf before the first step"),
        ({"loss": lambda o, t: cross_entropy(o.detach(), t)}, "the loss does not depend on any parameter"),
        ({"loss": lambda o, t: torch.zeros((), requires_grad=True)}, "no parameter of model.. receives a gradient"),
        ({"loss": lambda o, t: (o * 0).sum().sqrt()}, "the gradient of 'weight' on the first batch is not finite"),
        ({"model": lambda: Own(lambda y: (y, y))}, r"outputs \(8, 3\) float32, \(8, 3\) float32 do not fit targets"),
        (metric(raises), r"metric 'mine' fails on train: RuntimeError: first line"),
        (metric(lambda o, t: 0.5), "metric 'mine' must return a tensor with one number .*, not float"),
        (metric(lambda o, t: (o.argmax(1) == t).float()), r"not a tensor of shape \(\d+,\)"),
        (metric(lambda o, t: o.sum() / 0 - o.sum() / 0), "metric 'mine' is nan on train"),
        (metric(lambda o, t: o.sum() * 0 + 2, bounded=True), r"bounded=True and is 2 on train, outside \[0, 1\]"),
        (
            {"test": (torch.zeros(20, 5), torch.zeros(20, dtype=torch.int64))},
            r"the model fails on test on inputs \(\d+, 5\)",
        ),
        ({"model": lambda: nn.BatchNorm1d(4), "batch_size": 1}, "Expected more than 1 value per channel"),
        (
            {"loss": None, "batch_loss": lambda m, b: cross_entropy(m(b["x"]), b["z"]), "metrics": {}}
            | {name: {"x": X, "y": LATE} for name in ("train", "test")},
            r"batch_loss fails on a batch \(8, 4\) float32, \(8,\) int64: KeyError: 'z'",
        ),
    ],
)
def test_what_is_wrong_with_a_problem_is_one_sentence(make: Make, changes: dict[str, Any], sentence: str) -> None:
    problem = make(**changes)
    data = prepare(problem)
    with pytest.raises(UserError, match=sentence) as caught:
        check(problem, data)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("problem 'small': ")


def words_problem(make: Make, highest: int) -> Problem:
    ids = torch.randint(9, (40, 6), generator=torch.Generator().manual_seed(0))
    ids[33, 4] = highest

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 5)
            self.cells = nn.GRU(5, 7, batch_first=True)
            self.out = nn.Linear(7, 3)

        def forward(self, ids: Tensor) -> Any:
            return self.out(self.cells(self.table(ids))[0][:, -1])

    batch = {"ids": ids, "label": torch.arange(40) % 3}
    return make(
        model=Recurrent,
        loss=None,
        batch_loss=lambda model, batch: cross_entropy(model(batch["ids"]), batch["label"]),
        train=batch,
        test=batch,
        metrics={"right": Metric(lambda m, b: accuracy(m(b["ids"]), b["label"]), higher_is_better=True, worst=0.0)},
    )


def test_dict_batches_and_recurrent_nets_pass(make: Make) -> None:
    problem = words_problem(make, 9)
    check(problem, prepare(problem))


def test_a_word_out_of_the_vocabulary_is_found_wherever_it_is(make: Make) -> None:
    problem = words_problem(make, 10)
    with pytest.raises(UserError, match="IndexError: index out of range"):
        check(problem, prepare(problem))


def test_an_autoencoder_whose_targets_are_its_inputs_passes(make: Make) -> None:
    problem = make(
        model=lambda: nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 4)),
        loss=mse_loss,
        train=(X, X),
        test=(X, X),
        metrics={"error": Metric(lambda o, t: (o - t).square().sum(1).mean(), higher_is_better=False, worst=1e9)},
    )
    check(problem, prepare(problem))


def test_dropout_batchnorm_tied_and_unused_weights_pass(make: Make) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
            self.again = self.first[0]
            self.unused = nn.Linear(2, 2)
            self.last = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Any:
            return self.last(self.again(self.first(x)))

    problem = make(model=Tied)
    check(problem, prepare(problem))


def test_the_check_leaves_torchs_generator_alone(make: Make) -> None:
    problem = make()
    data = prepare(problem)
    state = torch.get_rng_state()
    check(problem, data)
    assert torch.equal(torch.get_rng_state(), state)
