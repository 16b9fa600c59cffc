"""What a model draws depends on study seed, run seed and step alone."""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cases_fleet import Attention, Recurrent, alone, doing, problem, settings, stack, task
from cases_fleet import words as sentences
from ravine.fleet import draws
from ravine.fleet.choose import choose
from ravine.fleet.keys import generator
from ravine.fleet.stacked import Program

Action = Callable[[Any, Tensor], Tensor]


def attention(module: Any, h: Tensor) -> Tensor:
    q = h.view(1, -1, 6)
    return F.scaled_dot_product_attention(q, q, q, dropout_p=0.5, is_causal=True)[0]


KEYED: dict[str, Action] = {
    "dropout": lambda module, h: F.dropout(h, 0.5, module.training),
    "dropout-in-place": lambda module, h: F.dropout(h * 1, 0.5, module.training, inplace=True),
    "dropout-all": lambda module, h: F.dropout(h, 1.0, module.training),
    "dropout1d": lambda module, h: F.dropout1d(h.view(-1, 3, 2), 0.5, module.training).view(-1, 6),
    "dropout2d": lambda module, h: F.dropout2d(h.view(-1, 3, 2, 1), 0.5, module.training).view(-1, 6),
    "dropout3d": lambda module, h: F.dropout3d(h.view(-1, 3, 2, 1, 1), 0.5, module.training).view(-1, 6),
    "rand": lambda module, h: h * torch.rand(6, dtype=h.dtype),
    "randn": lambda module, h: h + torch.randn(h.shape),
    "randn-size": lambda module, h: h + torch.randn(size=(1, 6)),
    "rand_like": lambda module, h: h * torch.rand_like(h),
    "randn_like": lambda module, h: h + torch.randn_like(h),
    "bernoulli": lambda module, h: h * torch.bernoulli(torch.full_like(h, 0.3)),
    "bernoulli-p": lambda module, h: h * torch.bernoulli(h.detach(), 0.3),
    "attention": attention,
}


def own_generator(module: Any, h: Tensor) -> Tensor:
    return h * torch.rand(6, generator=torch.Generator().manual_seed(1))


UNKEYED: dict[str, Action] = {
    "randint": lambda module, h: h * torch.randint(2, (6,)),
    "randperm": lambda module, h: h[:, torch.randperm(6)],
    "in-place": lambda module, h: h * torch.empty_like(h).uniform_(),
    "alpha": lambda module, h: F.alpha_dropout(h, 0.5, module.training),
    "rrelu": lambda module, h: F.rrelu(h, training=module.training),
    "python": lambda module, h: h * random.random(),
    "numpy": lambda module, h: h * float(np.random.random()),
    "mixed": lambda module, h: F.dropout(h, 0.5, module.training) * torch.randint(2, (6,)),
    "checkpointed": lambda module, h: checkpoint(lambda h: torch.sin(F.dropout(h, 0.5)), h, use_reentrant=False),
}


def trajectory(fleet: Any, steps: int = 5) -> list[Tensor]:
    losses = [fleet.step(step) for step in range(steps)]
    return [*losses, fleet.evaluate("validation")[:, 0]]


@pytest.mark.parametrize("name", KEYED)
def test_stacked_and_single_draw_alike(name: str) -> None:
    made = task(doing(KEYED[name], dtype=torch.float64, metrics={}))
    assert made.in_training.draws
    assert not made.in_training.unkeyed
    hyper = settings("sgd", 3)
    together = trajectory(stack(made, "sgd", [0, 1, 1], hyper))
    for run, seed in enumerate([0, 1, 1]):
        for one, both in zip(trajectory(alone(made, "sgd", seed, hyper[run])), together, strict=True):
            assert one[0].item() == pytest.approx(both[run].item(), rel=1e-9)


def drawn_by(study_seed: int, seeds: list[int], step: int) -> Tensor:
    """What each run draws: the model adds its draw to the output, so that equal losses are equal draws."""
    made = task(doing(lambda module, h: h * 0 + torch.rand(6)), study_seed)
    fleet = stack(made, "sgd", seeds, [{"lr": 0.0}] * len(seeds))
    seen: list[Tensor] = []
    fleet._draws, original = (lambda step: seen.extend(original(step)) or seen), fleet._draws  # type: ignore[method-assign, func-returns-value]
    fleet.step(step)
    return seen[0]


def test_draws_do_not_depend_on_neighbours_place_or_chunk() -> None:
    long, short, single = drawn_by(0, [4, 2, 9, 2], 6), drawn_by(0, [2, 7], 6), drawn_by(0, [2], 6)
    assert torch.equal(long[1], long[3])
    assert torch.equal(long[1], short[0])
    assert torch.equal(long[1], single[0])
    assert not torch.equal(long[0], long[1])


def test_other_study_seed_run_seed_and_step_draw_otherwise() -> None:
    spec, model = draws.Spec("uniform", (3,)), doing(KEYED["rand"])
    keys = [task(model, study).training_key(run, step) for study in (0, 1) for run in (0, 1) for step in (0, 1)]
    assert len({tuple(spec.draw(generator(key), torch.device("cpu")).tolist()) for key in keys}) == 8


def test_the_draws_never_change() -> None:
    spec = draws.Spec("normal", (3,))
    stream = generator(task(doing(KEYED["randn"])).training_key(1, 2))
    assert spec.draw(stream, torch.device("cpu")).tolist() == pytest.approx(
        [0.0547347, -0.4035560, 0.1420176], abs=1e-6
    )


@pytest.mark.parametrize("name", ["rand", "randint"])
def test_evaluation_draws_alike_for_all_runs_and_steps(name: str) -> None:
    """The same model: lr = 0."""
    made = task(doing({**KEYED, **UNKEYED}[name], batch_size=3))
    one = alone(made, "momentum", 0, {"lr": 0.0, "momentum": 0.9})
    judged = one.evaluate("validation")
    one.step(0)
    assert torch.equal(one.evaluate("validation"), judged)
    assert torch.equal(alone(made, "sgd", 0, {"lr": 0.0}).evaluate("validation"), judged)
    assert not torch.equal(alone(made, "sgd", 1, {"lr": 0.0}).evaluate("validation"), judged)


@pytest.mark.parametrize("executor", ["single", "stacked"])
def test_what_only_evaluation_draws_is_keyed_too(executor: str) -> None:
    made = task(doing(lambda module, h: h if module.training else h * torch.rand_like(h), metrics={}))
    assert not made.in_training.draws
    hyper = settings("sgd", 1)
    fleet: Any = alone(made, "sgd", 0, hyper[0]) if executor == "single" else stack(made, "sgd", [0], hyper)
    torch.manual_seed(1)
    first = fleet.evaluate("train")
    torch.manual_seed(2)
    assert torch.equal(fleet.evaluate("train"), first)
    assert first[0, 0] == pytest.approx(alone(made, "sgd", 0, hyper[0]).evaluate("train")[0, 0].item(), rel=1e-6)


def test_pieces_of_a_split_draw_differently_in_a_stack_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ravine.fleet.task.PIECE", 5)
    made = task(doing(lambda module, h: h * torch.rand_like(h), metrics={}))
    assert len(made.pieces("validation")) == 2
    judged = stack(made, "sgd", [0], [{"lr": 0.1}]).evaluate("validation")
    assert judged.item() == pytest.approx(alone(made, "sgd", 0, {"lr": 0.1}).evaluate("validation").item(), rel=1e-6)


@pytest.mark.parametrize("name", UNKEYED)
def test_draws_that_cannot_be_keyed_are_found_and_train_alone_reproducibly(name: str) -> None:
    made = task(doing(UNKEYED[name]))
    assert made.in_training.unkeyed
    assert_trains_alone_reproducibly(made)


@pytest.mark.parametrize(
    "model",
    [lambda: Attention(dropout=0.5), lambda: Recurrent(nn.LSTM, num_layers=2, dropout=0.5)],
    ids=["attention", "lstm"],
)
def test_layers_that_draw_in_the_dark_train_alone_reproducibly(model: Callable[[], nn.Module]) -> None:
    assert_trains_alone_reproducibly(task(problem(model, sentences(50))))


def assert_trains_alone_reproducibly(made: Any) -> None:
    choice = choose(made, Program(made), math.inf)
    assert choice.executor == "single"
    assert choice.reason == "runs cannot be stacked: it draws random numbers that cannot be keyed by run"
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    first = trajectory(alone(made, "sgd", 0, {"lr": 0.01}))
    assert all(map(torch.equal, trajectory(alone(made, "sgd", 0, {"lr": 0.01})), first))
    assert not all(map(torch.equal, trajectory(alone(made, "sgd", 1, {"lr": 0.01})), first))


def test_checkpointed_dropout_has_the_gradient_of_the_mask_of_its_loss() -> None:
    """The finite difference along the gradient, under the same draws, is its squared length."""
    made = task(doing(UNKEYED["checkpointed"], dtype=torch.float64))
    one, lr = alone(made, "sgd", 0, {"lr": 1e-6}), 1e-6
    start = {name: value.clone() for name, value in one.parameters().items()}
    before = one.step(0).item()
    moved = sum((value - start[name]).square().sum().item() for name, value in one.parameters().items())
    after = one.step(0).item()
    assert before - after == pytest.approx(moved / lr, rel=1e-3)


def test_a_generator_of_the_models_own_is_left_alone() -> None:
    made = task(doing(own_generator))
    assert made.in_training.draws == ()
    assert trajectory(alone(made, "sgd", 0, {"lr": 0.1}))


def in_mode(function: Callable[[], Tensor]) -> Tensor:
    with draws.from_generator(generator(0), torch.device("cpu")):
        return function()


def test_dropout_keeps_the_mean_and_zeroes_the_share() -> None:
    dropped = in_mode(lambda: F.dropout(torch.ones(100_000), 0.3))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert dropped.max().item() == pytest.approx(1 / 0.7)
    assert in_mode(lambda: F.dropout(torch.ones(9), 1.0)).tolist() == [0] * 9
    assert in_mode(lambda: F.dropout(torch.ones(9), 0.5, training=False)).tolist() == [1] * 9
    assert in_mode(lambda: F.dropout(torch.ones(9, dtype=torch.bfloat16), 0.5)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("function", "shape", "constant"),
    [
        (F.dropout1d, (8, 20, 3), (2,)),
        (F.dropout1d, (20, 3), (1,)),
        (F.dropout2d, (8, 20, 3, 2), (2, 3)),
        (F.dropout3d, (8, 20, 3, 2, 2), (2, 3, 4)),
        (F.dropout3d, (20, 3, 2, 2), (1, 2, 3)),
    ],
)
def test_channel_dropout_drops_whole_channels(
    function: Callable[..., Tensor], shape: tuple[int, ...], constant: tuple[int, ...]
) -> None:
    dropped = in_mode(lambda: function(torch.ones(shape), 0.5))
    assert dropped.shape == shape
    assert torch.equal(dropped.amin(constant), dropped.amax(constant))
    assert 0 < (dropped.amin(constant) == 0).float().mean() < 1


@pytest.mark.parametrize("mask", ["none", "causal", "bool", "float", "blind", "grouped"])
def test_attention_with_dropout_is_torchs_attention_on_the_weights_kept(mask: str) -> None:
    """With so little dropout that nothing is dropped, it is torch's own."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 5, 3, dtype=torch.float64) for _ in range(3))
    masks: dict[str, dict[str, Any]] = {
        "none": {"scale": 0.7},
        "causal": {"is_causal": True},
        "bool": {"attn_mask": torch.rand(5, 5) < 0.7},
        "float": {"attn_mask": torch.randn(5, 5, dtype=torch.float64)},
        "blind": {"attn_mask": torch.arange(5).view(5, 1) != 2},
        "grouped": {"enable_gqa": True},
    }
    words = masks[mask]
    if mask == "grouped":
        k, v = k[:, :2], v[:, :2]
    q.requires_grad_()
    wanted = F.scaled_dot_product_attention(q, k, v, **words)
    value = in_mode(lambda: F.scaled_dot_product_attention(q, k, v, dropout_p=1e-12, **words))
    torch.testing.assert_close(value, wanted)
    gradient = torch.autograd.grad(value.sum(), q)[0]
    assert gradient.isfinite().all()


def test_a_model_whose_draws_change_says_so() -> None:
    with (
        draws.from_list([draws.Spec("uniform", (2,))], [torch.rand(2)]),
        pytest.raises(RuntimeError, match="changes from pass to pass"),
    ):
        torch.rand(3)
