"""Tan, Zhang and Liu, "Understanding short-range memory effects in deep neural networks" (arXiv 2105.02062).

The noise of a gradient is that of a mini-batch less that of all rows, a series in time for each parameter. Its memory
is judged by the Hurst exponent of the rescaled range R/S, beside that of the same series in random order: R/S itself is
biased, and gives about .54 for noise without any memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import rows_of_digits
from ravine.claims.rows import DenseNets, Descent, cross_entropy, gradients, minibatches

NET = DenseNets((64, 32, 10))
LR = 0.1
TRUE = (0.3, 0.5, 0.7)  # exponents of the noise on which the estimator is tried
SAME = 0.02  # exponents that differ by less count as equal
UNCORRELATED = 0.01
LAGS = 16
UNIT = "Hurst exponents"


@dataclass(frozen=True)
class Scale:
    """Training rows, rows of a batch, steps, parameters whose noise is kept, and seeds."""

    examples: int
    batch_size: int
    steps: int
    kept: int
    seeds: int

    @property
    def words(self) -> str:
        """In one line."""
        return (
            f"{self.examples} digits, a net with 32 hidden units, {self.steps:,} steps of {self.batch_size} rows, "
            f"{self.kept} parameters, {self.seeds} seeds"
        )


SCALES: Mapping[Budget, Scale] = {
    "quick": Scale(256, 16, 2_048, 100, 8),
    "evening": Scale(1_437, 16, 16_384, 500, 20),
}


def fractional_noise(exponent: float, length: int, count: int, generator: torch.Generator) -> Tensor:
    """(count, length): fractional Gaussian noise of variance 1 with this Hurst exponent (Davies and Harte 1987)."""
    lags = torch.arange(length + 1, dtype=torch.float64)
    power = 2 * exponent
    covariance = ((lags + 1) ** power - 2 * lags**power + (lags - 1).abs() ** power) / 2
    circle = torch.cat([covariance, covariance[1:-1].flip(0)])
    eigenvalues = torch.fft.fft(circle).real.clamp_min(0)
    drawn = torch.randn(2, count, len(circle), dtype=torch.float64, generator=generator)
    mixed = torch.fft.fft((eigenvalues / len(circle)).sqrt() * torch.complex(drawn[0], drawn[1]))
    found: Tensor = mixed.real[:, :length]
    return found


def windows(length: int) -> list[int]:
    """Sizes 10, 10^1.25, 10^1.5, ... up to half the length."""
    sizes = [round(10 ** (1 + k / 4)) for k in range(40)]
    return [size for size in sizes if size <= length / 2]


def rescaled_ranges(noise: Tensor) -> Tensor:
    """(windows, ...): the mean of R/S over windows of each size, of series (..., length).

    In a window, R is the range of the cumulative sums of deviations from its mean, and S the standard deviation.
    Windows in which a series does not move are left out.
    """
    found = []
    for size in windows(noise.shape[-1]):
        count = noise.shape[-1] // size
        parts = noise[..., : count * size].reshape(*noise.shape[:-1], count, size)
        deviations = parts - parts.mean(-1, keepdim=True)
        sums = deviations.cumsum(-1)
        spread = deviations.square().mean(-1).sqrt()
        ratio = (sums.amax(-1) - sums.amin(-1)) / spread
        found.append(torch.where(spread > 0, ratio, torch.nan).nanmean(-1))
    return torch.stack(found)


def hurst(noise: Tensor) -> Tensor:
    """(...): the slope of log R/S against the logarithm of the window's size, of series (..., length)."""
    x = torch.tensor(windows(noise.shape[-1]), dtype=torch.float64).log()
    weights = (x - x.mean()) / (x - x.mean()).square().sum()
    slope: Tensor = torch.tensordot(weights, rescaled_ranges(noise).log(), 1)
    return slope


def correlation(noise: Tensor) -> Tensor:
    """(...): the mean correlation of a series (..., length) of mean 0 with itself, over lags 1 to LAGS."""
    square = noise.square().sum(-1)
    lagged = [(noise[..., lag:] * noise[..., :-lag]).sum(-1) / square for lag in range(1, LAGS + 1)]
    return torch.stack(lagged).mean(0)


def epochs(scale: Scale, seeds: Sequence[int]) -> Tensor:
    """(steps, seeds, batch_size): rows in epochs, each a new order of all rows, rests left out."""
    per_epoch = scale.examples // scale.batch_size
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(8 * 2**32 + seed)
        orders = [
            torch.randperm(scale.examples, generator=generator)[: per_epoch * scale.batch_size]
            for _ in range(-(-scale.steps // per_epoch))
        ]
        drawn.append(torch.cat(orders).view(-1, scale.batch_size)[: scale.steps])
    return torch.stack(drawn, 1)


def gradient_noise(scale: Scale, seeds: Sequence[int], *, moving: bool, in_epochs: bool) -> Tensor:
    """(seeds, kept, steps): noise of the gradients of some parameters, along SGD or at the first weights."""
    (inputs, targets), _ = rows_of_digits()
    x, y = inputs[: scale.examples], targets[: scale.examples]
    batches = epochs(scale, seeds) if in_epochs else minibatches(scale.examples, scale.batch_size, scale.steps, seeds)
    kept = torch.randperm(NET.parameters, generator=torch.Generator().manual_seed(9))[: scale.kept]
    descent = Descent("sgd", NET.start(seeds), lr=LR)
    full = _slopes(descent.rows, x, y)
    found = []
    for index in batches:
        part = _slopes(descent.rows, x[index], y[index])
        found.append((part - full)[:, kept])
        if moving:
            descent.step(part)
            full = _slopes(descent.rows, x, y)
    return torch.stack(found, -1).double()


def _slopes(nets: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return gradients(lambda rows: cross_entropy(NET.outputs(rows, x), y), nets)[1]


def shuffled(noise: Tensor) -> Tensor:
    """The same noise in random order, one order for all parameters of a seed."""
    generator = torch.Generator().manual_seed(10)
    return torch.stack([one[:, torch.randperm(one.shape[-1], generator=generator)] for one in noise])


def investigate(laboratory: Laboratory) -> Evidence:
    """The estimator on noise of known memory, then gradients at fixed weights and along SGD."""
    scale = SCALES[laboratory.budget]
    seeds = range(scale.seeds)
    generator = torch.Generator().manual_seed(11)
    known = {true: hurst(fractional_noise(true, scale.steps, 50, generator)).tolist() for true in TRUE}
    exponents: dict[str, tuple[list[float], list[float]]] = {}
    ranges: dict[str, Tensor] = {}
    correlations: dict[str, list[float]] = {}
    for moving, where in ((False, "fixed"), (True, "SGD")):
        for in_epochs, how in ((False, "drawn anew"), (True, "epochs")):
            name = f"{where}, {how}"
            laboratory.listener.phase(f"noise-memory: {name}")
            noise = gradient_noise(scale, seeds, moving=moving, in_epochs=in_epochs)
            in_random_order = shuffled(noise)
            exponents[name] = (_mean(hurst(noise)), _mean(hurst(in_random_order)))
            ranges[name] = (rescaled_ranges(noise) / rescaled_ranges(in_random_order)).nanmean(-1)
            correlations[name] = _mean(correlation(noise))
    turning, mixed_turning = exponents["fixed, epochs"]
    findings = [
        *(
            criteria.less(
                f"R/S tells fractional noise of exponent {low:g} from {high:g}", known[low], known[high], UNIT
            )
            for low, high in ((0.3, 0.5), (0.5, 0.7))
        ),
        criteria.equal(
            "Fixed weights, rows drawn anew: no memory, as must be",
            *exponents["fixed, drawn anew"],
            SAME,
            UNIT,
        ),
        criteria.less("Fixed weights, rows in epochs: noise that turns back, as must be", turning, mixed_turning, UNIT),
        *(
            criteria.less(f"Along {name}: a larger exponent than in random order", mixed, own, UNIT)
            for name, (own, mixed) in exponents.items()
            if name.startswith("SGD")
        ),
        criteria.equal(
            f"Along SGD, drawn anew: noise is correlated with none of the {LAGS} steps before, as must be",
            correlations["SGD, drawn anew"],
            [0.0] * scale.seeds,
            UNCORRELATED,
            "mean correlations from 0",
        ),
    ]
    estimated: list[Sequence[Cell]] = [[true, shown(values)] for true, values in known.items()]
    rows: list[Sequence[Cell]] = [
        [name, shown(own), shown(mixed), shown(correlations[name])] for name, (own, mixed) in exponents.items()
    ]
    tables = [
        Table(f"R/S on fractional Gaussian noise of length {scale.steps:,}", ["true exponent", "estimate"], estimated),
        Table(
            "Noise of gradients",
            ["noise", "Hurst exponent", "the same in random order", f"mean correlation, lags 1 to {LAGS}"],
            rows,
        ),
    ]
    chart = figure(
        [series(name, windows(scale.steps), ratio.tolist()) for name, ratio in ranges.items()],
        "R/S of the noise by R/S of the same in random order, against the size of the window",
        "window, steps",
        "R/S by R/S in random order",
        log_x=True,
    )
    notes = [
        '"Fixed" is at the first weights, "SGD" along a training; rows are drawn anew at every step, or in epochs.',
        "Noise of rows drawn anew at every step has mean 0 whatever came before, so it cannot be correlated in time; "
        "its size can be, and does change along a training. R/S in random order does not know of such a change.",
        "The windows of the paper are not known; ours are 10, 10^1.25, ... up to half the length. Its theory of how "
        "long SGD stays in a minimum is not tried here.",
    ]
    return Evidence(findings, tables, {"R over S": chart}, notes)


def _mean(values: Tensor) -> list[float]:
    """Means over the parameters, by seed; those whose noise is always 0 are left out."""
    found: list[float] = values.nanmean(-1).tolist()
    return found


CLAIMS = (
    Claim(
        name="noise-memory",
        sentence="Along a training the noise of gradients has memory: its Hurst exponent is larger than that of the "
        "same noise in random order.",
        source="Tan, Zhang and Liu 2021 (arXiv 2105.02062), experiments",
        plans={budget: scale.words for budget, scale in SCALES.items()},
        investigate=investigate,
    ),
)
