"""Momentum schedules against the numbers of their papers."""

import math

import pytest

from ravine.errors import UserError
from ravine.schedules import (
    Cosine,
    EffectiveLearningRate,
    NesterovMomentum,
    StronglyConvexMomentum,
    SutskeverMomentum,
    TwoThirdsMomentum,
    early_momentum,
)


def test_momentum_of_sutskever_et_al() -> None:
    # Eq. 5 as printed, 1 - 2^(-1 - log2(floor(t / 250) + 1)), and the steps at which it reaches round numbers.
    schedule = SutskeverMomentum(highest=0.9999)
    for step in range(0, 5000, 37):
        assert schedule(step) == pytest.approx(1 - 2 ** (-1 - math.log2(step // 250 + 1)), rel=1e-14)
    reached = {0: 0.5, 249: 0.5, 250: 0.75, 1000: 0.9, 12_250: 0.99, 24_750: 0.995, 49_750: 0.9975, 124_750: 0.999}
    for step, momentum in reached.items():
        assert schedule(step) == pytest.approx(momentum, rel=1e-14)
    assert SutskeverMomentum(highest=0.9)(10**6) == 0.9
    assert SutskeverMomentum(highest=0.0)(0) == 0.0


def test_a_shorter_period_compresses_it() -> None:
    short, long = SutskeverMomentum(0.99, period=25), SutskeverMomentum(0.99)
    assert [short(step) for step in range(2000)] == [long(10 * step) for step in range(2000)]


def test_momentum_is_low_in_the_end() -> None:
    schedule = SutskeverMomentum(0.99, steps=20_000)
    assert [schedule(step) for step in (18_999, 19_000, 19_999, 20_000)] == [0.99, 0.9, 0.9, 0.9]
    assert all(schedule(step) == SutskeverMomentum(0.99)(step) for step in range(0, 19_000, 50))
    assert SutskeverMomentum(0.0, steps=2000)(1999) == 0.0  # no momentum stays none, as in the paper
    assert SutskeverMomentum(0.99, period=5, steps=500, low=0.8, low_steps=20)(480) == 0.8


def test_nesterov_s_momentum_against_his_recursion() -> None:
    a, exact = 1.0, []
    for _ in range(1001):
        following = (1 + math.sqrt(4 * a * a + 1)) / 2
        exact.append((a - 1) / following)
        a = following
    schedule = NesterovMomentum()
    assert [exact[step] for step in (0, 10, 100, 1000)] == pytest.approx([0, 0.782, 0.97138, 0.997018], abs=5e-4)
    assert [schedule(step) for step in (0, 10, 100)] == pytest.approx([0.4, 0.8, 0.97143], abs=5e-6)
    assert all(abs(schedule(step) - exact[step]) < 1e-3 for step in range(100, 1001))


def test_nesterov_s_constant_reaches_its_rate() -> None:
    # On a quadratic with curvatures from 1 to 100 and lr = 1 / 100, the slowest direction falls by 1 - 1 / sqrt(100).
    momentum = StronglyConvexMomentum(100.0)(0)
    assert momentum == pytest.approx(9 / 11)
    radii = []
    for curvature in range(1, 101):
        shrink = 1 - curvature / 100
        half, determinant = shrink * (1 + momentum) / 2, shrink * momentum
        root = half**2 - determinant
        radii.append(abs(half) + math.sqrt(root) if root >= 0 else math.sqrt(determinant))
    assert max(radii) == pytest.approx(0.9, abs=1e-6)
    assert StronglyConvexMomentum(1.0)(5) == 0.0


def test_momentum_follows_the_learning_rate_by_two_thirds() -> None:
    assert TwoThirdsMomentum(0.001)(0) == pytest.approx(0.99)
    assert TwoThirdsMomentum(0.001, scale=5.0)(0) == pytest.approx(0.95)
    lr = Cosine(0.1, 0.0, 50)
    schedule = TwoThirdsMomentum(lr, scale=2.0)
    for step in range(49):
        assert (1 - schedule(step)) ** 3 == pytest.approx(8 * lr(step) ** 2, rel=1e-9)
    assert schedule(50) == 1 - 1e-6  # lr is 0
    assert TwoThirdsMomentum(lr, highest=0.95)(50) == 0.95
    assert TwoThirdsMomentum(10.0)(0) == 0.0


def test_the_effective_learning_rate_stays() -> None:
    momentum = SutskeverMomentum(0.99, period=3)
    schedule = EffectiveLearningRate(0.5, momentum)
    assert [schedule(step) / (1 - momentum(step)) for step in range(30)] == pytest.approx([0.5] * 30, rel=1e-12)
    falling = EffectiveLearningRate(Cosine(0.5, 0.1, 10), 0.8)
    assert [falling(step) for step in (0, 10)] == pytest.approx([0.1, 0.02])


def test_early_momentum() -> None:
    assert [early_momentum(0.9, 2)(step) for step in range(4)] == [0.9, 0.9, 0.0, 0.0]
    assert early_momentum(0.9, 0)(0) == 0.0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: SutskeverMomentum(1.0), r"highest momentum is 1, and must lie in \[0, 1\)"),
        (lambda: SutskeverMomentum(0.9, period=0), "period is 0"),
        (lambda: SutskeverMomentum(0.9, low=1.2, steps=2000), "low momentum is 1.2"),
        (lambda: SutskeverMomentum(0.9, steps=1000), "which is all of them"),
        (lambda: SutskeverMomentum(0.9, steps=10, low_steps=-1), "must be a whole number from 0"),
        (lambda: StronglyConvexMomentum(0.5), "condition number is 0.5"),
        (lambda: TwoThirdsMomentum(-0.1), "learning rate is -0.1"),
        (lambda: TwoThirdsMomentum(0.1, scale=0), "scale is 0"),
        (lambda: TwoThirdsMomentum(0.1, highest=1), "highest momentum is 1"),
        (lambda: EffectiveLearningRate(-1.0, 0.9), "effective learning rate is -1"),
        (lambda: EffectiveLearningRate(float("nan"), 0.9), "effective learning rate is nan"),
        (lambda: EffectiveLearningRate(1.0, 1.0), "momentum is 1"),
        (lambda: early_momentum(1.0, 3), "momentum is 1"),
        (lambda: early_momentum(0.9, -1), "starts are"),
    ],
)
def test_wrong_words(wrong: object, words: str) -> None:
    assert callable(wrong)
    with pytest.raises(UserError, match=words):
        wrong()
