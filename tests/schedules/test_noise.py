"""The random scale against Exp(1), and the noise schedules against the equations that define them."""

import math

import numpy as np
import pytest
from scipy import stats

from ravine.errors import UserError
from ravine.schedules import ExponentialScale, NoiseDecay, Schedule, degree_of_smoothing
from ravine.schedules.noise import LEVERS, Lever

PLAN = {"stages": 8, "stage_steps": 5, "start_lr": 0.1, "start_momentum": 0.9, "start_batch_size": 128}
NOISE = {"variance": 25.3, "bound": 1.77}


def plan(by: Lever, **changes: object) -> NoiseDecay:
    return NoiseDecay(by, **{**PLAN, **NOISE, **changes})  # type: ignore[arg-type]


def test_the_random_scale_is_exponential() -> None:
    scale = ExponentialScale(3)
    drawn = np.array([scale(step) for step in range(5000)])
    assert stats.kstest(drawn, "expon").pvalue > 0.01
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 4 / math.sqrt(5000)
    other = np.array([ExponentialScale(4)(step) for step in range(5000)])
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 4 / math.sqrt(5000)


def test_the_random_scale_is_a_function_of_seed_and_step() -> None:
    # These numbers are a promise: a run of an old checkpoint goes on with the same scales.
    first = [0.011613935705874748, 1.6785418310473934, 1.6843423888761642]
    assert [ExponentialScale(0)(step) for step in range(3)] == pytest.approx(first, rel=1e-14)
    for seed, step in ((0, 1), (1, 0), (2**64 - 1, 10**12)):
        key = np.array([seed, step], dtype=np.uint64)
        uniform = np.random.Generator(np.random.Philox(key=key)).random()
        assert ExponentialScale(seed)(step) == pytest.approx(-math.log(1 - uniform), rel=1e-12)


def test_the_degree_of_smoothing() -> None:
    assert degree_of_smoothing(0.2, 0.0, 16, variance=4.0, bound=3.0) == pytest.approx(0.2 * 0.5)  # SGD: no bound
    h = 0.9 * (0.81 - 0.9 + 1) / 0.01
    assert h == pytest.approx(81.9)
    assert degree_of_smoothing(1.0, 0.9, 10, 5.0, 2.0) == pytest.approx(math.sqrt(82.9 * 0.5 + 81.9 * 4))


@pytest.mark.parametrize("by", LEVERS)
def test_the_degree_of_smoothing_falls_as_told(by: Lever) -> None:
    it = plan(by)
    first = degree_of_smoothing(0.1, 0.9, 128, **NOISE)
    reached = []
    for step in range(0, 45, 5):
        lr, momentum, size = it.lr(step), it.momentum(step), it.batch_size(step)
        left = 1 - min(step // 5, 7) / 8
        if momentum > 0:  # where momentum has come to its end, it can do no more
            assert degree_of_smoothing(lr, momentum, size, **NOISE) == pytest.approx(first * left**0.9, rel=1e-9)
            reached.append(step)
    assert len(reached) >= 5
    values: list[Schedule] = [it.lr, it.momentum, it.batch_size]
    for values_of in values:
        assert [values_of(step) for step in range(5)] == pytest.approx([values_of(0)] * 5)  # a stage is 5 steps
    assert (it.lr(0), it.momentum(0), it.batch_size(0)) == pytest.approx((0.1, 0.9, 128))


@pytest.mark.parametrize("by", LEVERS)
def test_only_what_is_named_moves(by: Lever) -> None:
    it = plan(by)
    for name, schedule in (("lr", it.lr), ("momentum", it.momentum), ("batch_size", it.batch_size)):
        moves = schedule(30) != pytest.approx(schedule(0))
        assert moves == (name in by.split("+")), name


def test_stages_by_the_factors_of_the_authors() -> None:
    # delta_{m+1} = gamma_m delta_m, gamma_m = ((M - m) / (M - m + 1))^p, m from 1.
    lr, expected = plan("lr").lr, 0.1
    grown, size = plan("lr+batch_size", balance=1.503).batch_size, 128.0
    half, lr_half = plan("lr+momentum").lr, 0.1
    for m in range(1, 8):
        gamma = ((8 - m) / (8 - m + 1)) ** 0.9
        expected, size, lr_half = expected * gamma, size * gamma**-1.503, lr_half * gamma**0.5
        assert lr(5 * m) == pytest.approx(expected)
        assert grown(5 * m) == round(size)
        assert half(5 * m) == pytest.approx(lr_half)
    assert lr(39) == lr(1000) == pytest.approx(0.1 / 8**0.9)


def test_the_momentum_solves_the_cubic_of_the_authors() -> None:
    it = plan("momentum")
    noise = 25.3 / 128
    for stage in range(1, 5):
        target = degree_of_smoothing(0.1, 0.9, 128, **NOISE) * (1 - stage / 8) ** 0.9
        u = (target**2 - 0.1**2 * noise) / (0.1**2 * (1.77**2 + noise))
        roots = np.roots([1, -(1 + u), 1 + 2 * u, -u])
        real = [root.real for root in roots if abs(root.imag) < 1e-9 and 0 <= root.real <= 0.9]
        assert it.momentum(5 * stage) == pytest.approx(real[0], rel=1e-9)
    # With much noise and no bound on the gradient, momentum alone cannot bring it down so far.
    assert plan("momentum", variance=1e3, bound=0.0, stages=50).momentum(245) == 0.0


def test_a_learning_rate_of_zero_has_no_noise() -> None:
    assert plan("momentum", start_lr=0.0).momentum(10) == 0.0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: ExponentialScale(-1), "seed is -1"),
        (lambda: ExponentialScale(2**64), "below 2"),
        (lambda: plan("momentun"), "choose one of"),  # type: ignore[arg-type]
        (lambda: plan("lr", gives="size"), "not 'size'"),
        (lambda: plan("momentum", variance=None), "variance of the gradient is not given"),
        (lambda: plan("momentum", bound=-1.0), "bound of the gradient is -1"),
        (lambda: plan("momentum", bound=0, variance=0), "no noise"),
        (lambda: plan("lr", stages=0), "number of stages is 0"),
        (lambda: plan("lr", stage_steps=0), "steps of a stage is 0"),
        (lambda: plan("lr", start_lr=-1.0), "learning rate is -1"),
        (lambda: plan("lr", start_momentum=1.0), "momentum is 1"),
        (lambda: plan("lr", start_batch_size=0), "batch size is 0"),
        (lambda: plan("lr", power=1.5), "power is 1.5"),
        (lambda: plan("lr", balance=0.0), "balance is 0"),
    ],
)
def test_wrong_words(wrong: object, words: str) -> None:
    assert callable(wrong)
    with pytest.raises(UserError, match=words):
        wrong()
