"""Does momentum pay when training a small diffusion model? A question that no paper has settled.

A dense net learns to tell the noise in digits of 8x8 pixels: x_t = cos(pi t / 2) x + sin(pi t / 2) e, with t uniform in
(0, 1) and e ~ N(0, I), and the loss is the mean square error of e (Ho, Jain and Abbeel 2020, simple loss; the cosine
schedule of Nichol and Dhariwal 2021). Samples are drawn by the deterministic sampler of Song, Meng and Ermon 2021.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Finding, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import PILOT_SEED, Laboratory
from ravine.claims.nets import rows_of_digits
from ravine.claims.rows import DenseNets, Descent, gradients, minibatches

PIXELS = 64
WAVES = 8  # sine and cosine each, of t
GAP = 1e-3  # t lies in [GAP, 1 - GAP]
SAMPLED = 64  # steps of the sampler
REPEATS = 8  # noisings of each test row
LOOKS = 10  # points of a curve
PLAIN_RATES = tuple(0.05 * 2**k for k in range(7))
ADAM_RATES = tuple(0.00025 * 2**k for k in range(7))


@dataclass(frozen=True)
class Arm:
    """A rule with its hyper-parameters and the learning rates that it may choose from."""

    rule: str
    hyper: Mapping[str, float]
    rates: Sequence[float]


ARMS: Mapping[str, Arm] = {
    "SGD": Arm("sgd", {}, PLAIN_RATES),
    "momentum": Arm("momentum", {"momentum": 0.9}, tuple(rate / 10 for rate in PLAIN_RATES)),
    "Adam, beta1 0": Arm("adam", {"beta1": 0.0}, ADAM_RATES),
    "Adam, beta1 .9": Arm("adam", {"beta1": 0.9}, ADAM_RATES),
}
SCHEDULES = ("constant", "falling")  # the learning rate: as it is, or linearly down to 0
PAIRS = (("momentum", "SGD"), ("Adam, beta1 .9", "Adam, beta1 0"))
"""With momentum, and the same without."""


@dataclass(frozen=True)
class Scale:
    """Units of the two hidden layers, updates, rows of a batch, seeds that judge and that choose, samples."""

    units: int
    steps: int
    batch_size: int
    seeds: int
    pilots: int
    samples: int

    @property
    def net(self) -> DenseNets:
        """Pixels and waves of t -> noise."""
        return DenseNets((PIXELS + 2 * WAVES, self.units, self.units, PIXELS))

    @property
    def words(self) -> str:
        """In one line."""
        return (
            f"digits, a dense net with twice {self.units} units, {self.steps:,} updates of {self.batch_size} rows, "
            f"{self.seeds} seeds"
        )


SCALES: Mapping[Budget, Scale] = {
    "quick": Scale(96, 1_000, 32, 6, 2, 360),
    "evening": Scale(256, 20_000, 64, 10, 3, 1_000),
}


def pictures() -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to test on, pixels in -1 to 1."""
    (train, _), (test, _) = rows_of_digits()
    return 2 * train, 2 * test


def noised(x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """cos(pi t / 2) x + sin(pi t / 2) noise; t has one element a row."""
    angle = t.unsqueeze(-1) * (math.pi / 2)
    return angle.cos() * x + angle.sin() * noise


def inputs(x: Tensor, t: Tensor) -> Tensor:
    """What the net sees: x_t (..., PIXELS), and sines and cosines of t (...) of growing frequency."""
    phases = t.unsqueeze(-1) * (math.pi / 2 * 2.0 ** torch.arange(WAVES) / 4)
    return torch.cat([x, phases.sin(), phases.cos()], -1)


def times(*shape: int, generator: torch.Generator) -> Tensor:
    """Uniform in [GAP, 1 - GAP]."""
    return GAP + (1 - 2 * GAP) * torch.rand(*shape, generator=generator)


def test_set() -> tuple[Tensor, Tensor]:
    """Inputs and noise of the test rows, noised `REPEATS` times, the same for every run."""
    generator = torch.Generator().manual_seed(1)
    rows = pictures()[1].repeat(REPEATS, 1)
    noise, t = torch.randn(rows.shape, generator=generator), times(len(rows), generator=generator)
    return inputs(noised(rows, t, noise), t), noise


def sample(net: DenseNets, rows: Tensor, count: int) -> Tensor:
    """(runs, count, PIXELS): pictures, each run from the same noise; the noise is told, taken away and put on anew."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(count, PIXELS, generator=generator).expand(len(rows), -1, -1)
    grid = torch.linspace(1 - GAP, GAP, SAMPLED + 1)
    with torch.no_grad():
        for now, later in pairwise(grid):
            noise = net.outputs(rows, inputs(x, now.expand(x.shape[:2])))
            a, b = torch.cos(now * math.pi / 2), torch.sin(now * math.pi / 2)
            clean = ((x - b * noise) / a).clamp(-1, 1)
            noise = (x - a * clean) / b
            x = noised(clean, later.expand(x.shape[:2]), noise)
    return x


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of samples (n, d) and (m, d) (Szekely and Rizzo 2013), 0 for equal laws."""
    within = [torch.cdist(z, z).sum() / (len(z) * (len(z) - 1)) for z in (x, y)]
    return float(2 * torch.cdist(x, y).mean() - within[0] - within[1])


@dataclass(frozen=True)
class Trained:
    """Losses on the test rows, (evaluations, runs), the steps at which they were taken, and the last nets (runs, P)."""

    at: Sequence[int]
    losses: Tensor
    nets: Tensor


def train(
    arm: Arm, schedule: str, rates: Sequence[float], seeds: Sequence[int], scale: Scale, looks: int = 1
) -> Trained:
    """An arm at each rate on each seed (rates outside), with `looks` evaluations on the way; a seed fixes all draws."""
    x, _ = pictures()
    net, (test, noise) = scale.net, test_set()
    lr = torch.tensor(rates, dtype=torch.float64).repeat_interleave(len(seeds))
    descent = Descent(arm.rule, net.start(seeds).repeat(len(rates), 1), lr=lr, **arm.hyper)
    drawn = minibatches(len(x), scale.batch_size, scale.steps, seeds)
    streams = [torch.Generator().manual_seed(3 * 2**32 + seed) for seed in seeds]
    at, losses = [scale.steps * (k + 1) // looks for k in range(looks)], []
    for step in range(scale.steps):
        e = torch.stack([torch.randn(scale.batch_size, PIXELS, generator=one) for one in streams])
        t = torch.stack([times(scale.batch_size, generator=one) for one in streams])
        seen = inputs(noised(x[drawn[step]], t, e), t).repeat(len(rates), 1, 1)
        told = e.repeat(len(rates), 1, 1)
        _, slopes = gradients(lambda rows, s=seen, e=told: _error(net.outputs(rows, s), e), descent.rows)  # type: ignore[misc]
        descent.step(slopes, lr=lr * (1 - step / scale.steps if schedule == "falling" else 1))
        if step + 1 in at:
            with torch.no_grad():
                losses.append(
                    torch.cat([_error(net.outputs(row, test), noise) for row in descent.rows.chunk(len(descent.rows))])
                )
    found = torch.stack(losses).double()
    return Trained(at, torch.where(found.isfinite(), found, torch.inf), descent.rows)


def _error(told: Tensor, noise: Tensor) -> Tensor:
    return (told - noise).square().mean((1, 2))


@dataclass(frozen=True)
class Judged:
    """An arm under a schedule at its best learning rate: the last test losses and distances of samples, by seed."""

    rate: float
    edge: bool
    trained: Trained
    loss: list[float]
    distance: list[float]


def judged(arm: Arm, schedule: str, scale: Scale) -> Judged:
    """The arm at the learning rate with the lowest mean test loss on the seeds of a pilot, on other seeds."""
    pilot = train(arm, schedule, arm.rates, range(PILOT_SEED, PILOT_SEED + scale.pilots), scale)
    best = int(pilot.losses[-1].view(len(arm.rates), -1).mean(1).argmin())
    found = train(arm, schedule, arm.rates[best : best + 1], range(scale.seeds), scale, LOOKS)
    distances = [energy_distance(one, pictures()[1]) for one in sample(scale.net, found.nets, scale.samples)]
    return Judged(arm.rates[best], best in (0, len(arm.rates) - 1), found, found.losses[-1].tolist(), distances)


def investigate(laboratory: Laboratory) -> Evidence:
    """Every arm under every schedule."""
    scale = SCALES[laboratory.budget]
    found: dict[tuple[str, str], Judged] = {}
    for schedule in SCHEDULES:
        for name, arm in ARMS.items():
            laboratory.listener.phase(f"diffusion: {name}, {schedule} learning rate")
            found[schedule, name] = judged(arm, schedule, scale)
    rows: list[Sequence[Cell]] = [
        [name, f"{one.rate:g}, {schedule}", shown(one.loss), shown(one.distance)]
        for (schedule, name), one in found.items()
    ]
    train_rows, test = pictures()
    floor: list[Cell] = ["training digits", None, None, energy_distance(train_rows[: len(test)], test)]
    table = Table(
        f"After {scale.steps:,} updates",
        ["method", "learning rate", "test loss", "energy distance of samples to test digits"],
        [*rows, floor],
    )
    figures = {
        f"Test loss, {schedule} learning rate": figure(
            [
                series(name, found[schedule, name].trained.at, found[schedule, name].trained.losses.tolist())
                for name in ARMS
            ],
            f"Test loss along the training with a {schedule} learning rate, by method",
            "step",
            "test loss",
        )
        for schedule in SCHEDULES
    }
    notes = [
        "The learning rate of every row is the best of seven by test loss on other seeds. Nothing else is tuned; "
        "momentum is in heavy-ball form, and no average of the weights is taken.",
        f"Energy distances are those of samples by {SAMPLED} steps of the deterministic sampler, from the same noise.",
        *(
            f"{name}, {schedule}: the best learning rate, {one.rate:g}, is at an edge."
            for (schedule, name), one in found.items()
            if one.edge
        ),
    ]
    return Evidence(list(_findings(found)), [table], figures, notes)


def _findings(found: Mapping[tuple[str, str], Judged]) -> Iterator[Finding]:
    for schedule in SCHEDULES:
        for with_, without in PAIRS:
            more, less = found[schedule, with_], found[schedule, without]
            yield criteria.lower(
                f"{schedule} learning rate: {with_} has a lower test loss than {without}", more.loss, less.loss
            )
            yield criteria.lower(
                f"{schedule} learning rate: samples of {with_} are nearer to the digits than those of {without}",
                more.distance,
                less.distance,
            )


CLAIMS = (
    Claim(
        name="diffusion",
        sentence="Momentum pays when a small diffusion model is trained, by itself and inside Adam.",
        source="an open question; loss of Ho, Jain and Abbeel 2020 (arXiv 2006.11239)",
        plans={budget: scale.words for budget, scale in SCALES.items()},
        investigate=investigate,
    ),
)
