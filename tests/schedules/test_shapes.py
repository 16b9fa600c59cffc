"""Shapes and their composition against closed forms, and against torch's schedulers."""

import math
import warnings

import pytest
import torch

from ravine.errors import UserError
from ravine.schedules import Cosine, Piecewise, Polynomial, StepDecay, one_cycle, warm_up


def test_cosine() -> None:
    schedule = Cosine(start=0.3, end=0.1, steps=100)
    assert [schedule(step) for step in (0, 25, 50, 100, 1000)] == pytest.approx(
        [0.3, 0.2 + 0.1 / math.sqrt(2), 0.2, 0.1, 0.1], rel=1e-14
    )


def test_polynomial() -> None:
    line = Polynomial(start=1.0, end=3.0, steps=4)
    assert [line(step) for step in range(6)] == [1.0, 1.5, 2.0, 2.5, 3.0, 3.0]
    square = Polynomial(start=0.8, end=0.0, steps=100, power=2)
    assert [square(step) for step in (0, 50, 90, 100, 101)] == pytest.approx([0.8, 0.2, 0.008, 0, 0], rel=1e-12)


def test_step_decay_is_torch_s() -> None:
    schedule = StepDecay(start=0.2, factor=0.1, milestones=(80, 120))
    assert [schedule(step) for step in (0, 79, 80, 119, 120, 500)] == pytest.approx(
        [0.2, 0.2, 0.02, 0.02, 0.002, 0.002]
    )
    assert StepDecay(0.3, 0.5, ())(7) == 0.3


def test_parts_count_their_own_steps() -> None:
    schedule = Piecewise((0.9, lambda step: step / 10, 0.5), (3, 5))
    assert [schedule(step) for step in range(7)] == [0.9, 0.9, 0.9, 0.0, 0.1, 0.5, 0.5]
    assert Piecewise((1.0, 2.0), (0,))(0) == 2.0


def test_warm_up_meets_what_follows() -> None:
    schedule = warm_up(0.02, 10, Cosine(0.1, 0.0, 90))
    assert [schedule(step) for step in (0, 5, 10)] == pytest.approx([0.02, 0.06, 0.1])
    assert [schedule(step) for step in range(10, 120)] == [Cosine(0.1, 0.0, 90)(step) for step in range(110)]
    assert [warm_up(0.0, 2, 0.4)(step) for step in range(4)] == [0.0, 0.2, 0.4, 0.4]


@pytest.mark.parametrize(("steps", "warm"), [(100, 0.3), (60, 0.5), (10, 0.2)])
def test_one_cycle_is_torch_s(steps: int, warm: float) -> None:
    sgd = torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=0.5)
    theirs = torch.optim.lr_scheduler.OneCycleLR(sgd, max_lr=0.8, total_steps=steps, pct_start=warm)
    lr = one_cycle(0.8 / 25, 0.8, 0.8 / 25e4, steps, warm=warm)
    momentum = one_cycle(0.95, 0.85, 0.95, steps, warm=warm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimizer takes no steps
        for step in range(steps):
            group = sgd.param_groups[0]
            assert lr(step) == pytest.approx(group["lr"], rel=1e-9, abs=1e-15)
            assert momentum(step) == pytest.approx(group["momentum"], rel=1e-12)
            if step < steps - 1:
                theirs.step()
    assert (lr(steps), momentum(steps)) == pytest.approx((0.8 / 25e4, 0.95))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Cosine(1.0, 0.0, 0), "number of steps is 0"),
        (lambda: Cosine(1.0, 0.0, 2.5), r"number of steps is 2\.5"),  # type: ignore[arg-type]
        (lambda: Cosine(float("nan"), 0.0, 5), "start is nan, and must be a number"),
        (lambda: Piecewise((0.1, "0.2"), (3,)), "part 1 is '0.2'"),  # type: ignore[arg-type]
        (lambda: Polynomial(1.0, 0.0, 0), "number of steps is 0"),
        (lambda: Polynomial(1.0, 0.0, 5, power=0), "power is 0"),
        (lambda: StepDecay(1.0, 0.0, (3,)), "factor is 0"),
        (lambda: StepDecay(1.0, 0.1, (3, 3)), "milestones"),
        (lambda: Piecewise((1.0, 2.0), ()), "1 starts|0 starts"),
        (lambda: Piecewise((1.0, 2.0), (-1,)), "starts are"),
        (lambda: Piecewise((1.0, 2.0, 3.0), (5, 4)), "starts are"),
        (lambda: warm_up(0.0, 0, 1.0), "number of steps is 0"),
        (lambda: one_cycle(0.1, 1.0, 0.1, 10, warm=0.1), "1 steps up"),
        (lambda: one_cycle(0.1, 1.0, 0.1, 10, warm=1.0), "10 steps up"),
    ],
)
def test_wrong_words(wrong: object, words: str) -> None:
    assert callable(wrong)
    with pytest.raises(UserError, match=words):
        wrong()
