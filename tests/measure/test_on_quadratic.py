"""What is measured on runs of the built-in `quadratic` with noise, against what theory says of them."""

import functools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ravine import measure, rules
from ravine.problems import prepare, quadratic
from ravine.schedules import Form

SPECTRUM = (4.0, 1.0, 0.1)
NOISE = (0.5, 1.0, 2.0)  # of one row
BATCH, LR, MOMENTUM = 8, 0.3, 0.9
PROBLEM = quadratic(SPECTRUM, NOISE, batch_size=BATCH, start=(1.0, -2.0, 3.0))
LEVEL = 0.999  # of the intervals: about one in a thousand fails by chance, and the seeds are fixed


@dataclass(frozen=True)
class Runs:
    """Positions, velocities and gradients (steps, runs, d) of real runs of a rule, after the first steps."""

    positions: Tensor
    velocities: Tensor
    gradients: Tensor


@functools.cache
def runs(name: str, lr: float, count: int = 40, steps: int = 2500, skip: int = 500) -> Runs:
    rows: Tensor = prepare(PROBLEM).train.tensors
    h = torch.tensor(SPECTRUM, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    rule = rules.RULES[name]
    w = torch.zeros(count, 3, dtype=torch.float64)
    state = {slot: torch.zeros_like(w) for slot in rule.slots}
    hyper = {"lr": torch.tensor(lr, dtype=torch.float64), "momentum": torch.tensor(MOMENTUM, dtype=torch.float64)}
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for step in range(steps):
        drawn = rows[torch.randint(len(rows), (count, BATCH), generator=generator)]
        gradient = h * w + drawn.mean(1)
        rule.update(w, gradient, state, hyper)
        if step >= skip:
            kept.append((w.clone(), state["momentum_buffer"].clone(), gradient))
    return Runs(*(torch.stack(one) for one in zip(*kept, strict=True)))


def at_start() -> measure.Objective:
    """The problem at its start, on 4,000 rows drawn as training draws them."""
    data = prepare(PROBLEM)
    rows = data.train.batch(torch.randint(data.train.rows, (4000,), generator=torch.Generator().manual_seed(1)))
    return measure.Objective(PROBLEM.build(), [rows], batch_loss=PROBLEM.loss_on)


def holds(found: measure.Estimate, truth: float, within: float = 0.1) -> None:
    """The truth lies in the interval, and the interval is narrow enough to say something."""
    low, high = found.interval(LEVEL)
    assert low < truth < high
    assert high - low < 2 * within * abs(truth)


@pytest.mark.parametrize("small", [1, BATCH])
def test_the_noise_scale(small: int) -> None:
    found = measure.noise_scale(at_start(), small)
    signal = 4.0**2 + 2.0**2 + 0.3**2
    holds(found.trace, sum(NOISE), within=0.2)
    holds(found.squared_norm, signal, within=0.2)
    holds(found.ratio, sum(NOISE) / signal, within=0.2)


def test_the_sharpness() -> None:
    found = measure.top_eigenvalues(measure.hessian(at_start()), 3, tolerance=1e-10)
    torch.testing.assert_close(found.values, torch.tensor(SPECTRUM, dtype=torch.float64))
    assert measure.stability_margin(float(found.values[0]), LR, MOMENTUM) == pytest.approx(1 - 4 * LR / 3.8)


@pytest.mark.parametrize("mode", range(3))
@pytest.mark.parametrize(
    ("name", "lr", "nesterov", "form"),
    [("momentum", LR, False, "heavy-ball"), ("nesterov", LR, True, "heavy-ball"), ("ema-momentum", 3.0, False, "ema")],
)
def test_the_stationary_variance(name: str, lr: float, nesterov: bool, form: Form, mode: int) -> None:
    squares = runs(name, lr).positions[..., mode].square().mean(0)  # one a run: independent draws
    truth = measure.stationary_variance(SPECTRUM[mode], lr, MOMENTUM, NOISE[mode] / BATCH, nesterov=nesterov, form=form)
    holds(measure.mean(squares.tolist()), truth, within=0.25)


@pytest.mark.parametrize("mode", range(3))
def test_the_gain_and_the_cosine_of_updates(mode: int) -> None:
    found = runs("momentum", LR)
    v, g = found.velocities[..., mode].abs(), found.gradients[..., mode].abs()
    gain = measure.momentum_gain(v[:, 0].tolist(), g[:, 0].tolist(), MOMENTUM)
    holds(gain, measure.stationary_gain(SPECTRUM[mode], LR, MOMENTUM), within=0.3)
    each = [measure.momentum_gain(a.tolist(), b.tolist(), MOMENTUM).value for a, b in zip(v.T, g.T, strict=True)]
    holds(measure.mean(each), measure.stationary_gain(SPECTRUM[mode], LR, MOMENTUM), within=0.05)
    v = found.velocities[..., mode]
    cosines = [measure.cosine(run[1:], run[:-1]) for run in v.T]
    assert measure.mean(cosines).value == pytest.approx(
        measure.stationary_cosine(SPECTRUM[mode], LR, MOMENTUM), abs=0.01
    )


@pytest.mark.parametrize("mode", range(3))
def test_the_period_of_the_oscillation(mode: int) -> None:
    truth = measure.mode(SPECTRUM[mode], LR, MOMENTUM)
    found = measure.oscillation(runs("momentum", LR).positions[:, 0, mode].tolist())
    holds(found.period, truth.period, within=0.25)
    holds(found.modulus, truth.modulus)


def test_the_noise_of_the_search_direction_and_the_degree_of_smoothing() -> None:
    """SGD's direction is the gradient, whose noise is tr Sigma / batch size."""
    rows: Tensor = prepare(PROBLEM).train.tensors
    full = torch.tensor(SPECTRUM, dtype=torch.float64)
    chosen = torch.randint(len(rows), (400, BATCH), generator=torch.Generator().manual_seed(2))
    noise = measure.search_direction_noise(list(full + rows[chosen].mean(1)), full)
    holds(noise, sum(NOISE) / BATCH, within=0.2)
    holds(measure.smoothing(LR, noise), LR * (sum(NOISE) / BATCH) ** 0.5, within=0.1)
