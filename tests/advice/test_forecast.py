"""The noisy quadratic model against simulation and against what theory says of its optimum."""

import math

import pytest
import torch
from torch import Tensor

from ravine import measure, rules
from ravine.advice.forecast import MOMENTA, Landscape, Spectrum, best, damping_of, expected_loss, powers

H = torch.tensor([0.02, 0.3, 1.0], dtype=torch.float64)
START = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
NOISE = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)


def landscape(noise: Tensor = NOISE, h: Tensor = H, start: Tensor = START) -> Landscape:
    """A quadratic with noise as what is measured of it."""
    loss = float((h * start.square()).sum()) / 2
    return Landscape(loss, 0.0, Spectrum(h, (h * start).square()), Spectrum(h, noise), float(h.max()))


@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.0), ("momentum", 0.9), ("nesterov", 0.9)])
def test_the_expected_loss_is_that_of_simulated_runs(name: str, momentum: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rule, lr, steps, count = rules.RULES[name], 0.3, 37, 4000
    w = START.repeat(count, 1)
    state = {slot: torch.zeros_like(w) for slot in rule.slots}
    hyper = {"lr": torch.tensor(lr, dtype=torch.float64), "momentum": torch.tensor(momentum, dtype=torch.float64)}
    for _ in range(steps):
        noise = NOISE.sqrt() * torch.randn(count, 3, generator=generator, dtype=torch.float64)
        rule.update(w, H * w + noise, state, hyper)
    losses = measure.mean(((H * w.square()).sum(1) / 2).tolist())
    at = torch.tensor([lr], dtype=torch.float64)
    found = float(expected_loss(landscape(), steps, at, momentum, nesterov=name == "nesterov"))
    low, high = losses.interval(0.999)
    assert low < found < high
    assert high - low < 0.1 * found


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64, 1001])
def test_powers_by_doubling_are_those_one_by_one(count: int) -> None:
    step = torch.tensor([[0.9, -0.2], [0.5, 0.8]], dtype=torch.float64)
    push = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
    power, energy = torch.eye(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    for _ in range(count):
        energy = energy + power @ push @ power.T
        power = step @ power
    found = powers(step[None], push[None], count)
    torch.testing.assert_close(found[0][0], power)
    torch.testing.assert_close(found[1][0], energy)


def test_in_the_long_run_the_loss_is_the_stationary_one() -> None:
    lr = torch.tensor([0.2], dtype=torch.float64)
    floor = sum(
        h / 2 * measure.stationary_variance(h, 0.2, 0.9, s) for h, s in zip(H.tolist(), NOISE.tolist(), strict=True)
    )
    assert float(expected_loss(landscape(), 100_000, lr, 0.9)) == pytest.approx(floor, rel=1e-9)


def test_without_noise_momentum_pays_and_more_where_the_flat_mode_holds_more() -> None:
    quiet = torch.zeros(3, dtype=torch.float64)
    gains = []
    for smallest in (0.2, 0.05, 0.02):
        h = torch.tensor([smallest, 0.7, 1.0], dtype=torch.float64)
        plain, heavy = best(landscape(quiet, h), 30, (0.0,)), best(landscape(quiet, h), 30, MOMENTA)
        assert plain.lr > 0.5 * 2 / 1.0  # at the edge: curvature limits it
        gains.append(plain.loss - heavy.loss)
    assert gains[0] < gains[1] < gains[2]
    assert gains[1] > 0


def test_where_noise_limits_the_step_momentum_gives_nothing() -> None:
    h = torch.full((3,), 0.5, dtype=torch.float64)
    at = landscape(torch.full((3,), 30.0, dtype=torch.float64), h)
    plain, heavy = best(at, 300, (0.0,)), best(at, 300, MOMENTA)
    assert plain.lr < 0.1 * 2 / 0.5
    assert math.log(plain.loss / heavy.loss) < math.log(1.05)
    assert heavy.effective_lr == pytest.approx(plain.lr, rel=0.5)


def test_the_damping_leaves_the_loss_there_is() -> None:
    spectrum = Spectrum(torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([1.0, 4.0], dtype=torch.float64))
    damping = damping_of(spectrum, 3.0)
    left = float((spectrum.weights / (spectrum.curvatures + damping)).sum()) / 2
    assert left == pytest.approx(3.0)
    assert damping_of(Spectrum(H, H), 100.0) < 1e-9


def test_unstable_learning_rates_are_not_recommended() -> None:
    at = landscape()
    lr = torch.tensor([5.0], dtype=torch.float64)
    assert math.isinf(float(expected_loss(at, 5000, lr, 0.0)))
    assert best(at, 5000, (0.0,)).lr < 2
