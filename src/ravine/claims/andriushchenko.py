"""Andriushchenko et al., "SGD with large step sizes learns sparse features", ICML 2023 (arXiv 2210.05337).

Diagonal linear nets beta = u v on noiseless sparse regression, one example a step. A large step size is given as a
share of the edge of divergence, which depends on the draw of the data and is looked for on a grid. One claim looks for
the smallest rate that diverges, on another order of the examples, and keeps a distance. The other looks for the largest
one before it, on the very order that is judged and on a finer grid, and starts there, as the authors do on their draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.laboratory import PILOT_SEED, Laboratory
from ravine.claims.rows import Descent, minibatches

PAPER = "Andriushchenko, Varre, Pillaud-Vivien and Flammarion, ICML 2023 (arXiv 2210.05337)"
START = 0.1  # of u; v starts at 0
EDGES = tuple(0.15 * 1.05**k for k in range(18))  # learning rates among which the edge is looked for, .15 to .34
SMALL, LARGE = 0.08, 0.9  # shares of the edge
FINE_EDGES = tuple(0.15 * 1.02**k for k in range(42))
DECAYS: Mapping[float, float] = {0.1: 4.8, 0.3: 3.4, 0.5: 1.5}
"""After a share of the steps the learning rate is divided: the paper's pairs, for a learning rate of .282."""
NONZERO = 1e-50
MOMENTUM = 0.9  # in EMA form
DIVERGED = 1.0  # the loss of a run that diverged, and above which it counts as such; beta = 0 has .5
PAPERS = {"constant": (0.00353, 200), "10 %": (0.00066, 156), "30 %": (0.00028, 89), "50 %": (0.00015, 71)}
"""Test loss and nonzero coordinates that the authors' notebook prints, of one draw; the constant rate is .25."""


@dataclass(frozen=True)
class Scale:
    """Sizes: examples, dimensions, coordinates that are not 0, steps, seeds."""

    examples: int
    dimensions: int
    sparse: int
    steps: int
    seeds: int

    @property
    def words(self) -> str:
        """In one line."""
        size = f"{self.examples} examples in {self.dimensions} dimensions, {self.sparse} of them used"
        return f"{size}; {self.steps:,} steps of one example, {self.seeds} seeds"


SCALES: Mapping[Budget, Scale] = {
    "quick": Scale(80, 200, 20, 100_000, 10),
    "evening": Scale(80, 200, 20, 1_000_000, 20),
}


@dataclass(frozen=True)
class Data:
    """Regressions of several seeds: x (seeds, examples, dimensions) of N(0, 1), truth (seeds, dimensions), y = x truth.

    truth has norm 1, and is positive in its first coordinates and 0 in the others.
    """

    x: Tensor
    truth: Tensor
    y: Tensor


def draw(scale: Scale, seeds: Sequence[int]) -> Data:
    """The data of each seed, float64."""
    xs, truths = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        xs.append(torch.randn(scale.examples, scale.dimensions, dtype=torch.float64, generator=generator))
        truth = torch.randn(scale.dimensions, dtype=torch.float64, generator=generator).abs()
        truth[scale.sparse :] = 0
        truths.append(truth / truth.norm())
    x, truth = torch.stack(xs), torch.stack(truths)
    return Data(x, truth, (x @ truth[:, :, None]).squeeze(2))


def slopes(rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The gradient (runs, 2 dimensions) of (x . (u v) - y)^2 / 2, rows (u, v), x (runs, dimensions), y (runs,)."""
    u, v = rows.chunk(2, 1)
    residual = (x * u * v).sum(1, keepdim=True) - y[:, None]
    along = residual * x
    return torch.cat([along * v, along * u], 1)


@dataclass(frozen=True)
class Arm:
    """A course of the learning rate, as a share of the edge, and momentum (EMA form)."""

    label: str
    share: float
    decay_at: float | None = None
    momentum: float = 0.0

    def factor(self, step: int, steps: int) -> float:
        """The share of the edge at a step."""
        if self.decay_at is None or step < self.decay_at * steps:
            return self.share
        return self.share / DECAYS[self.decay_at]


def arms_of(large: float) -> list[Arm]:
    """The small and the large learning rate, and each decay of a rate at a share of the edge."""
    decays = [Arm(f"{100 * at:g} %", large, at) for at in DECAYS]
    return [Arm("small", SMALL), Arm("constant", LARGE), *decays]


ARMS = (
    *arms_of(LARGE),
    Arm("small, momentum", SMALL, momentum=MOMENTUM),
    Arm("constant, momentum", LARGE, momentum=MOMENTUM),
)
EDGE_ARMS = tuple(arms_of(1.0))


@dataclass(frozen=True)
class Trained:
    """Of arms on seeds: loss (times, arms, seeds), E (x . (beta - truth))^2 / 2 = |beta - truth|^2 / 2 along the steps.

    steps: those times. nonzero (arms, seeds): coordinates of beta above NONZERO at the end; all, if it diverged.
    """

    steps: list[int]
    loss: Tensor
    nonzero: Tensor


def train(data: Data, order: Tensor, arms: Sequence[Arm], edges: Tensor) -> Trained:
    """Every arm on every seed; order (steps, seeds) of examples, edges (arms, seeds) or (seeds,)."""
    steps, seeds = order.shape
    dimensions = data.x.shape[2]
    every = torch.arange(seeds)
    start = torch.cat([torch.full((dimensions,), START), torch.zeros(dimensions)]).double()
    edges = edges.expand(len(arms), seeds)
    changes = {0} | {math.ceil(arm.decay_at * steps) for arm in arms if arm.decay_at}
    momentum = torch.tensor([arm.momentum for arm in arms]).repeat_interleave(seeds)
    descent = Descent("ema-momentum", start.expand(len(arms) * seeds, -1), lr=0.0, momentum=momentum)
    found = Trained([], torch.empty(0), torch.empty(0))
    losses = []

    def beta() -> Tensor:
        u, v = descent.rows.chunk(2, 1)
        return (u * v).view(len(arms), seeds, dimensions)

    for step, chosen in enumerate(order):
        x, y = data.x[every, chosen].repeat(len(arms), 1), data.y[every, chosen].repeat(len(arms))
        gradient = slopes(descent.rows, x, y)
        if step in changes:
            factors = torch.tensor([arm.factor(step, steps) for arm in arms], dtype=torch.float64)
            descent.step(gradient, lr=(factors[:, None] * edges).flatten())
        else:
            descent.step(gradient)
        if (step + 1) % max(steps // 100, 1) == 0:
            found.steps.append(step + 1)
            loss = (beta() - data.truth).square().sum(2) / 2
            losses.append(torch.where(loss < DIVERGED, loss, DIVERGED))
    return Trained(found.steps, torch.stack(losses), (~(beta().abs() <= NONZERO)).sum(2))


def order_of(scale: Scale, steps: int, seeds: Sequence[int]) -> Tensor:
    """(steps, seeds): the example of each step."""
    return minibatches(scale.examples, 1, steps, seeds).squeeze(2)


def edges_of(data: Data, order: Tensor, grid: Sequence[float]) -> Tensor:
    """(2, seeds): the smallest learning rate of a grid at which a run on the data in this order diverges, and the one
    before it; with the latter, number for number, a run in this order does not.
    """
    rates = torch.tensor(grid, dtype=torch.float64)
    found = train(data, order, [Arm(f"{rate:.3g}", 1.0) for rate in grid], rates[:, None])
    diverged = (found.loss >= DIVERGED).any(0)
    first = torch.where(diverged.any(0), diverged.double().argmax(0), len(grid) - 1)
    return rates[torch.stack([first, (first - 1).clamp_min(0)])]


def away(laboratory: Laboratory) -> Evidence:
    """Learning rates at a distance from the edge, and momentum beside them."""
    scale = SCALES[laboratory.budget]
    pilots = [PILOT_SEED + seed for seed in range(scale.seeds)]
    return _judged(laboratory, order_of(scale, scale.steps // 2, pilots), EDGES, ARMS, stable=False)


def close(laboratory: Laboratory) -> Evidence:
    """Learning rates that are divided start at the last stable one of the order that is judged."""
    scale = SCALES[laboratory.budget]
    order = order_of(scale, scale.steps, range(scale.seeds))
    return _judged(laboratory, order[: scale.steps // 2], FINE_EDGES, EDGE_ARMS, stable=True)


def _judged(
    laboratory: Laboratory, pilot: Tensor, grid: Sequence[float], arms: Sequence[Arm], *, stable: bool
) -> Evidence:
    """The arms, at shares of the last stable or of the first unstable rate of the pilot's order of examples."""
    scale = SCALES[laboratory.budget]
    seeds = range(scale.seeds)
    data = draw(scale, seeds)
    laboratory.listener.phase(f"the edge: {len(grid) * scale.seeds} runs of {len(pilot):,} steps")
    edges = edges_of(data, pilot, grid)[int(stable)]
    laboratory.listener.phase(f"{len(arms) * scale.seeds} runs of {scale.steps:,} steps")
    found = train(data, order_of(scale, scale.steps, seeds), arms, edges)
    losses = {arm.label: found.loss[-1, k].tolist() for k, arm in enumerate(arms)}
    nonzero = {arm.label: found.nonzero[k].double().tolist() for k, arm in enumerate(arms)}
    decays = [arm.label for arm in arms if arm.decay_at]
    findings = [
        criteria.lower("A large constant learning rate has a lower test loss", losses["constant"], losses["small"]),
        *(
            criteria.lower(
                f"Large for {label} of the steps: lower test loss than if it stays", losses[label], losses["constant"]
            )
            for label in decays
        ),
        *(
            criteria.lower(f"Large for {after} rather than {before}: lower test loss", losses[after], losses[before])
            for before, after in pairwise(decays)
        ),
        *(
            criteria.less(
                f"Large for {after} rather than {before}: fewer nonzero coordinates",
                nonzero[after],
                nonzero[before],
                "coordinates",
            )
            for before, after in pairwise(decays)
        ),
    ]
    rows: list[list[Cell]] = [
        [
            arm.label,
            float((arm.share * edges).mean()),
            *(PAPERS.get(arm.label, (None, None))),
            sum(losses[arm.label]) / scale.seeds,
            f"{min(losses[arm.label]):.2g} to {max(losses[arm.label]):.2g}",
            sum(nonzero[arm.label]) / scale.seeds,
        ]
        for arm in arms
    ]
    columns = [
        *("learning rate", "at the start", "test loss, paper", "nonzero, paper"),
        *("test loss, here", "lowest to highest", "nonzero, here"),
    ]
    curves = found.loss.unbind(1)
    shown = figure(
        [series(arm.label, found.steps, curves[k].tolist()) for k, arm in enumerate(arms) if not arm.momentum],
        "Test loss along the training",
        "step",
        "test loss |beta - truth|^2 / 2",
        points=False,
        log_y=True,
    )
    notes = [
        f"Shares of the edge ({float(edges.min()):.3g} to {float(edges.max()):.3g} by seed): small {SMALL:g}, constant "
        f"{LARGE:g}, and {max(arm.share for arm in arms):.2g} until it is divided (by 4.8, 3.4 and 1.5 at 10, 30 and "
        "50 % of the steps). The authors take .25 and .282 on one draw of the data, and the latter is at its edge.",
        f"A run that diverges has a loss of {DIVERGED:g}. The paper also trains ReLU nets and a ResNet-18.",
    ]
    if stable:
        notes.append(
            "The edge is chaotic: with the same learning rates, rounded otherwise in the sixteenth digit, 3 of 10 runs "
            "diverged that had not diverged when the edge was looked for. Here the numbers are the same."
        )
    if any(arm.momentum for arm in arms):
        notes.append(f"Momentum {MOMENTUM:g} in EMA form, at the same effective learning rates, is our addition.")
    return Evidence(
        findings,
        [Table("Test loss and nonzero coordinates, means over seeds", columns, rows)],
        {"Test loss along the training": shown},
        notes,
    )


CLAIMS = (
    Claim(
        name="andriushchenko-sparse",
        sentence="SGD with large steps finds sparser features that generalize better, the more so if they last.",
        source=f"{PAPER}, diagonal linear nets",
        plans={budget: scale.words for budget, scale in SCALES.items()},
        investigate=away,
    ),
    Claim(
        name="andriushchenko-edge",
        sentence="Right below divergence the longer SGD's large steps last, the sparser and better is what it finds.",
        source=f"{PAPER}, diagonal linear nets",
        plans={budget: scale.words for budget, scale in SCALES.items()},
        investigate=close,
    ),
)
