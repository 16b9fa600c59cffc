"""The laws between the three forms: random schedules, random gradients on quadratics, against plain NumPy."""

import math
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ravine.errors import UserError
from ravine.schedules import (
    FORMS,
    Cosine,
    EMAToHeavyBall,
    Form,
    HeavyBallToEMA,
    HeavyBallToSutskever,
    Setting,
    SutskeverToHeavyBall,
    convert_settings,
)
from ravine.schedules.base import at
from ravine.schedules.forms import REMEMBERED

Vector = NDArray[np.float64]
STEPS = 25
PAIRS = list(permutations(FORMS, 2))
every_pair = pytest.mark.parametrize(("source", "target"), PAIRS)


def walk(form: Form, lr: Setting, momentum: Setting, seed: int, *, nesterov: bool = False) -> Vector:
    """The stored point over time, on a quadratic with noise; written from the papers."""
    rng = np.random.default_rng(seed)
    curvature = rng.uniform(0.0, 1.0, 3)
    w, v, path = rng.normal(size=3), np.zeros(3), []
    for t in range(STEPS):
        a, mu = at(lr, t), at(momentum, t)
        g = curvature * w + rng.normal(size=3)
        if form == "heavy-ball":
            v = mu * v + g
            w = w - a * (g + mu * v if nesterov else v)
        elif form == "ema":
            v = mu * v + (1 - mu) * g
            w = w - a * ((1 - mu) * g + mu * v if nesterov else v)
        else:
            v = mu * v - a * g
            w = w + (at(momentum, t + 1) * v - a * g if nesterov else v)
        path.append(w)
    return np.array(path)


def by_table(numbers: list[float]) -> Callable[[int], float]:
    return lambda step: numbers[min(step, len(numbers) - 1)]


rates = st.floats(0.01, 0.5)
momenta = st.floats(0.0, 0.95)


def setting(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Setting]:
    return st.one_of(numbers, st.lists(numbers, min_size=STEPS + 1, max_size=STEPS + 1).map(by_table))


@every_pair
@settings(max_examples=25, deadline=None)
@given(lr=setting(rates), momentum=setting(momenta), seed=st.integers(0, 2**32))
def test_classical_momentum_whatever_the_schedules(
    source: Form, target: Form, lr: Setting, momentum: Setting, seed: int
) -> None:
    there = convert_settings(lr, momentum, source=source, target=target)
    expected = walk(source, lr, momentum, seed)
    np.testing.assert_allclose(walk(target, *there, seed), expected, rtol=1e-8, atol=1e-9 * np.abs(expected).max())


@every_pair
@settings(max_examples=10, deadline=None)
@given(lr=setting(rates), momentum=setting(momenta))
def test_there_and_back(source: Form, target: Form, lr: Setting, momentum: Setting) -> None:
    there = convert_settings(lr, momentum, source=source, target=target)
    back = convert_settings(*there, source=target, target=source)
    for step in range(STEPS):
        assert at(back[0], step) == pytest.approx(at(lr, step), rel=1e-9)
        assert at(back[1], step) == pytest.approx(at(momentum, step), rel=1e-6, abs=1e-9)


@every_pair
@settings(max_examples=10, deadline=None)
@given(lr=setting(rates), momentum=st.floats(0.0, 0.95), seed=st.integers(0, 2**32))
def test_nesterov_s_momentum_while_it_is_constant(
    source: Form, target: Form, lr: Setting, momentum: float, seed: int
) -> None:
    if callable(lr) and "sutskever" in (source, target):
        lr = lr(0)
    there = convert_settings(lr, momentum, source=source, target=target, nesterov=True)
    expected = walk(source, lr, momentum, seed, nesterov=True)
    np.testing.assert_allclose(
        walk(target, *there, seed, nesterov=True), expected, rtol=1e-8, atol=1e-9 * np.abs(expected).max()
    )


def test_numbers_stay_numbers_and_schedules_that_agree_stay_themselves() -> None:
    lr, momentum = Cosine(0.1, 0.0, 9), Cosine(0.9, 0.5, 9)
    assert convert_settings(0.1, 0.75, source="heavy-ball", target="ema") == (0.4, 0.75)
    assert convert_settings(0.4, 0.75, source="ema", target="sutskever") == (0.1, 0.75)
    assert convert_settings(0.1, 0.9, source="sutskever", target="heavy-ball") == (0.1, 0.9)
    assert convert_settings(lr, 0.9, source="heavy-ball", target="ema")[1] == 0.9
    assert convert_settings(0.1, momentum, source="heavy-ball", target="sutskever") == (0.1, momentum)
    assert convert_settings(lr, momentum, source="ema", target="ema") == (lr, momentum)


def test_what_a_changing_learning_rate_does_to_each_form() -> None:
    # A gradient of 1 at each step, lr .1 and .01 from the third on: heavy-ball shrinks at once, Sutskever's coasts.
    lr = by_table([0.1, 0.1, 0.01])
    velocity, coasting = 0.0, 0.0
    for step in range(3):
        velocity, coasting = 0.9 * velocity + 1, 0.9 * coasting - lr(step)
    assert (lr(2) * velocity, -coasting) == pytest.approx((0.0271, 0.181))
    # With the momentum correction Sutskever's form does as heavy-ball form does.
    corrected, coasting = HeavyBallToSutskever(0.9, lr), 0.0
    assert [corrected(step) for step in range(4)] == pytest.approx([0.9, 0.9, 0.09, 0.9])
    for step in range(3):
        coasting = corrected(step) * coasting - lr(step)
    assert -coasting == pytest.approx(0.0271)


def test_the_ema_momentum_is_that_of_the_summed_weights() -> None:
    momentum = by_table([0.5, 0.75, 0.8, 0.9])
    ema = HeavyBallToEMA(momentum)
    weights = 1 / (1 - 0.5)
    for step in range(1, 6):
        weights = 1 + momentum(step) * weights
        assert ema(step) == pytest.approx(1 - 1 / weights, rel=1e-14)
    assert ema(0) == 0.5
    assert HeavyBallToEMA(momentum, start=3)(4) == pytest.approx(0.9)  # constant from the start on


def test_the_ema_momentum_is_right_in_any_order() -> None:
    momentum = by_table([0.9 - 0.8 * math.sin(step) ** 2 for step in range(400)])
    ema, steps = HeavyBallToEMA(momentum), np.random.default_rng(0).integers(0, 400, 200).tolist()
    assert [ema(step) for step in steps] == [HeavyBallToEMA(momentum)(step) for step in steps]
    assert len(ema._sums) <= REMEMBERED


def test_the_ema_momentum_takes_one_operation_a_step() -> None:
    asked: list[int] = []
    ema = HeavyBallToEMA(lambda step: asked.append(step) or 0.9)  # type: ignore[func-returns-value]
    for step in range(200):
        ema(step)
        ema(max(step - 1, 0))
    assert len(asked) < 3 * 200


def test_momentum_that_rises_fast_has_no_heavy_ball_form() -> None:
    rising = EMAToHeavyBall(by_table([0.9, 0.99]))
    assert rising(1) == pytest.approx(0.99 * 0.1 / 0.01)  # 9.9: the optimizer refuses it


@pytest.mark.parametrize("law", [HeavyBallToSutskever, SutskeverToHeavyBall])
def test_a_learning_rate_of_zero(law: type[HeavyBallToSutskever | SutskeverToHeavyBall]) -> None:
    with pytest.raises(UserError, match=r"learning rate of 0 near step [34]"):
        [law(0.9, by_table([0.1, 0.1, 0.1, 0.0, 0.1]))(step) for step in range(5)]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_nesterov_s_momentum_that_changes_has_no_other_form(source: Form, target: Form) -> None:
    changing = Cosine(0.9, 0.5, 9)
    with pytest.raises(UserError, match=r"only while .* constant"):
        convert_settings(0.1, changing, source=source, target=target, nesterov=True)
    if "sutskever" in (source, target):
        with pytest.raises(UserError, match="learning rate and momentum are constant"):
            convert_settings(changing, 0.9, source=source, target=target, nesterov=True)


def test_wrong_words() -> None:
    with pytest.raises(UserError, match="no form 'polyak' of momentum"):
        convert_settings(0.1, 0.9, source="polyak", target="ema")  # type: ignore[arg-type]
    for law in (HeavyBallToEMA, EMAToHeavyBall):
        with pytest.raises(UserError, match="first step is -1"):
            law(0.9, -1)
    with pytest.raises(UserError, match="learning rate is -1"):
        convert_settings(-1.0, 0.9, source="heavy-ball", target="ema")
