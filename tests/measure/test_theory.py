"""The closed forms: against reference values, against linear algebra, and against real runs of the rules."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from torch import Tensor

from ravine import measure, rules
from ravine.errors import UserError
from ravine.schedules import Form

MOMENTA = (0.0, 0.5, 0.9, 0.99)


@pytest.mark.parametrize(
    ("nesterov", "form", "thresholds"),
    [
        (False, "heavy-ball", (2, 3, 3.8, 3.98)),
        (True, "heavy-ball", (2, 1.5, 1.357143, 1.33557)),
        (False, "ema", (2, 6, 38, 398)),
        (False, "sutskever", (2, 3, 3.8, 3.98)),
    ],
)
def test_the_stability_limits_are_the_table_of_the_literature(
    nesterov: bool, form: Form, thresholds: tuple[float, ...]
) -> None:
    for momentum, threshold in zip(MOMENTA, thresholds, strict=True):
        limit = measure.stability_limit(0.5, momentum, nesterov=nesterov, form=form)
        assert 0.5 * limit == pytest.approx(threshold, rel=1e-6)
    assert measure.stability_limit(0.0, 0.9) == math.inf
    assert measure.sharpness_plateaus(0.1, 0.9) == pytest.approx((2, 38))


RULES: dict[str, tuple[bool, Form]] = {
    "momentum": (False, "heavy-ball"),
    "nesterov": (True, "heavy-ball"),
    "ema-momentum": (False, "ema"),
    "ema-nesterov": (True, "ema"),
    "sutskever-momentum": (False, "sutskever"),
    "sutskever-nesterov": (True, "sutskever"),
}


def diverge(name: str, lr: Tensor, momentum: Tensor, curvature: float) -> Tensor:
    """Whether real runs of a rule on one mode grow in the long run; lr and momentum (runs, 1)."""
    rule = rules.RULES[name]
    w = torch.ones_like(lr)
    state = {slot: torch.zeros_like(lr) for slot in rule.slots}
    early, late = torch.zeros_like(lr), torch.zeros_like(lr)
    for step in range(1500):
        rule.update(w, curvature * w, state, {"lr": lr, "momentum": momentum})
        if step >= 1000:
            late = late.maximum(w.abs())
        elif step >= 500:
            early = early.maximum(w.abs())
    return ~((late < early) | (late == 0))  # not a number: overflown; zero: underflown


@pytest.mark.parametrize("name", RULES)
def test_thresholds_found_by_bisection_are_the_limits(name: str) -> None:
    nesterov, form = RULES[name]
    momentum = torch.tensor(MOMENTA, dtype=torch.float64)[:, None]
    curvature = 3.0
    low, high = torch.full_like(momentum, 0.01), torch.full_like(momentum, 1e3)
    while (high / low).max() > 1 + 5e-4:
        middle = (low * high).sqrt()
        above = diverge(name, middle, momentum, curvature)
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    for found, b in zip(high.flatten().tolist(), MOMENTA, strict=True):
        assert measure.stability_limit(found, b, nesterov=nesterov, form=form) == pytest.approx(curvature, rel=1e-3)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.81, 0.99])
@pytest.mark.parametrize("step", [0.001, 0.1, 0.5, 1.2, 3.0])
def test_a_mode_is_the_spectrum_of_its_companion_matrix(nesterov: bool, momentum: float, step: float) -> None:
    matrix = companion(step, momentum, nesterov)[0]
    roots = np.linalg.eigvals(matrix)
    found = measure.mode(step / 0.1, 0.1, momentum, nesterov=nesterov)
    assert found.modulus == pytest.approx(abs(roots).max(), rel=1e-6, abs=1e-7)
    assert found.oscillates == bool(abs(roots.imag).max() > 1e-9)
    if found.oscillates:
        assert found.period == pytest.approx(2 * math.pi / abs(np.angle(roots[0])), rel=1e-6)


def companion(step: float, momentum: float, nesterov: bool) -> tuple[np.ndarray, np.ndarray]:
    """(M, q) of (w, v)' = M (w, v) + q noise with lr = step and curvature 1, as the rules are written."""
    b, s = momentum, step
    if nesterov:  # v' = b v + w + e; w' = w - s (w + e + b v')
        return np.array([[1 - s * (1 + b), -s * b * b], [1, b]]), np.array([-s * (1 + b), 1])
    return np.array([[1 - s, -s * b], [1, b]]), np.array([-s, 1])


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("momentum", "step"), [(0, 0.1), (0, 1), (0.5, 0.3), (0.9, 0.1), (0.9, 1), (0.99, 0.3)])
def test_stationary_moments_are_those_of_the_lyapunov_equation(nesterov: bool, momentum: float, step: float) -> None:
    matrix, q = companion(step, momentum, nesterov)
    covariance = solve_discrete_lyapunov(matrix, np.outer(q, q))
    found = measure.stationary_variance(2.0, step / 2, momentum, 4 * 0.7, nesterov=nesterov)
    assert found == pytest.approx(0.7 * covariance[0, 0], rel=1e-9)  # in units of lr^2 s^2: (lr h)^2 (s / h)^2
    ema = measure.stationary_variance(2.0, step / 2 / (1 - momentum), momentum, 2.8, nesterov=nesterov, form="ema")
    assert ema == pytest.approx(found, rel=1e-9)
    if nesterov:
        return
    gradient = np.array([1.0, 0.0]) @ covariance @ np.array([1.0, 0.0]) + 1
    gain = (1 - momentum) * math.sqrt(covariance[1, 1] / gradient)
    assert measure.stationary_gain(2.0, step / 2, momentum) == pytest.approx(gain, rel=1e-9)
    cosine = ((matrix @ covariance)[1, 1]) / covariance[1, 1]
    assert measure.stationary_cosine(2.0, step / 2, momentum) == pytest.approx(cosine, rel=1e-9)


@pytest.mark.parametrize(
    ("momentum", "step", "variance"),
    [(0, 0.1, 5.26316), (0, 1, 1), (0.5, 0.3, 3.70370), (0.9, 0.1, 51.35135), (0.9, 0.3, 18.09524), (0.9, 1, 6.78571)],
)
def test_stationary_variances_are_the_reference_values(momentum: float, step: float, variance: float) -> None:
    assert measure.stationary_variance(step, 1.0, momentum, 1.0) == pytest.approx(variance, rel=1e-5)


def test_at_equal_effective_lr_momentum_leaves_the_noise_floor() -> None:
    plain = measure.stationary_variance(1.0, 1e-4, 0.0, 1.0)
    assert measure.stationary_variance(1.0, 1e-5, 0.9, 1.0) == pytest.approx(plain, rel=1e-3)
    assert measure.stationary_variance(1.0, 0.3, 0.9, 0.09, nesterov=True) == pytest.approx(8.08376 * 0.0081, rel=1e-5)
    assert measure.stationary_variance(1.0, 3.81, 0.9, 1.0) == math.inf
    for momentum in (0.0, 0.5, 0.8, 0.9, 0.99):
        assert measure.stationary_variance(0.0, 0.1, momentum, 1.0) == math.inf


def test_gains_of_the_three_kinds_of_gradients() -> None:
    assert measure.gains(0.9) == pytest.approx((1, 0.2294157, 1 / 19), rel=1e-6)
    edge = measure.stability_limit(0.1, 0.9)
    assert measure.stationary_gain(edge, 0.1, 0.9) == pytest.approx(measure.gains(0.9)[2])
    assert measure.stationary_gain(0.0, 0.1, 0.9) == pytest.approx(measure.gains(0.9)[1])
    assert measure.stationary_cosine(edge, 0.1, 0.9) == pytest.approx(-1)
    assert measure.effective_batch(32, 0.9) == pytest.approx(608)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: measure.stability_limit(0.1, 1.0),
        lambda: measure.stability_limit(-0.1),
        lambda: measure.gains(-0.1),
        lambda: measure.heavy_ball_lr(math.nan, 0.9, "ema"),
        lambda: measure.stationary_gain(1.0, 0.1, 1.0),
        lambda: measure.stability_limit(0.1, 0.9, form="EMA"),  # type: ignore[arg-type]
    ],
)
def test_wrong_use_gets_a_sentence(ask: Callable[[], object]) -> None:
    with pytest.raises(
        UserError, match=r"must lie in \[0, 1\)|must be at least 0 and finite|form is 'EMA': choose one"
    ):
        ask()
