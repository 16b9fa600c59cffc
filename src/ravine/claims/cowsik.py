"""Cowsik, Can and Glorioso, "Flatter, faster: scaling momentum for optimal speedup of SGD", 2022 (arXiv 2210.16400).

On a valley of minima, label noise drives momentum (heavy-ball form) to flat minima. With 1 - b = C eta^g it takes the
longer of two times: across the valley about 1 / (1 - b) = eta^-g, along it ((1 - b) / eta)^2 = eta^-(2 - 2g). They meet
at g = 2/3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.laboratory import Laboratory
from ravine.claims.rows import Descent

POWERS: Mapping[str, float] = {"0": 0.0, "1/3": 1 / 3, "1/2": 1 / 2, "2/3": 2 / 3, "5/6": 5 / 6}
CONSTANTS = {"5/6": 3.0}
"""C where it is not 1: with C = 1 this model does not settle at 5/6, as the friction is too weak for the noise."""
BEST = "2/3"
COMMON = 0.01  # the learning rate at which no momentum is compared with the best
START = (2.0, 0.5)  # u and v, on the valley u v = 1 and away from its flattest point u = v
ENOUGH = 1 / np.e  # of |u^2 - v^2| at the start
STAYS = 2.0  # it has arrived when it stayed so many times as long as it took
CLOSE = 0.1  # exponents whose difference is below count as the same
BLOCK = 256  # steps whose noise is drawn at once


@dataclass(frozen=True)
class Scale:
    """What a budget affords: seeds, replicas of a seed, and the predicted times, in steps, that are tried."""

    seeds: int
    replicas: int
    times: Sequence[float]

    @property
    def words(self) -> str:
        """In one line."""
        range_ = f"learning rates whose times are predicted from {min(self.times):g} to {max(self.times):g} steps"
        return f"f = u v; {range_}; {self.seeds} seeds of {self.replicas:,} replicas"


SCALES: Mapping[Budget, Scale] = {
    "quick": Scale(8, 512, (300, 1_000, 3_000, 10_000)),
    "evening": Scale(20, 1_024, (300, 1_000, 3_000, 10_000, 30_000, 100_000)),
}


def exponent(power: float) -> float:
    """x of the time eta^-x that the theory predicts at 1 - b = C eta^power."""
    return max(power, 2 - 2 * power)


def momentum(name: str, rate: float) -> float:
    """b = 1 - C eta^power."""
    share: float = CONSTANTS.get(name, 1.0) * rate ** POWERS[name]
    return 1 - share


def slope(rows: Tensor, noise: Tensor) -> Tensor:
    """The gradient of (u v - 1 - noise)^2 / 2, rows (runs, 2)."""
    return (rows[:, :1] * rows[:, 1:] - 1 - noise[:, None]) * rows.flip(1)


def noises(seeds: Sequence[int], replicas: int) -> Iterator[Tensor]:
    """The label noise N(0, 1) of each step, (seeds * replicas,)."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    while True:
        drawn = [torch.randn(BLOCK, replicas, dtype=torch.float64, generator=generator) for generator in generators]
        yield from torch.cat(drawn, 1)


def arrival(rate: float, b: float, seeds: Sequence[int], replicas: int) -> list[float]:
    """The step from which on the root mean square of u^2 - v^2 over replicas is below its share ENOUGH; a seed each.

    It must stay below for STAYS times as long: with much momentum it passes through and comes back.
    """
    start = torch.tensor(START, dtype=torch.float64).expand(len(seeds) * replicas, 2)
    descent = Descent("momentum", start, lr=rate, momentum=b)
    limit = ENOUGH * abs(START[0] ** 2 - START[1] ** 2)
    last = torch.zeros(len(seeds))
    for step, noise in enumerate(noises(seeds, replicas), 1):
        descent.step(slope(descent.rows, noise))
        if step % max(step // BLOCK, 1) == 0:
            squares = descent.rows.square()
            size = (squares[:, 0] - squares[:, 1]).view(len(seeds), -1).square().mean(1).sqrt()
            last[~(size < limit)] = step
            if step > (1 + STAYS) * float(last.max()) + 10:
                return (last + 1).tolist()
    raise AssertionError("the noise never ends")


def investigate(laboratory: Laboratory) -> Evidence:
    """Times at all powers and learning rates, and the exponents that fit them."""
    scale = SCALES[laboratory.budget]
    seeds = range(scale.seeds)
    times: dict[str, dict[float, list[float]]] = {}
    for name, power in POWERS.items():
        laboratory.listener.phase(f"1 - b = C eta^({name})")
        times[name] = {}
        for wanted in scale.times:
            rate = wanted ** (-1 / exponent(power))
            times[name][rate] = arrival(rate, momentum(name, rate), seeds, scale.replicas)
    fitted = {name: _exponents(of) for name, of in times.items()}
    none, best = (arrival(COMMON, momentum(name, COMMON), seeds, scale.replicas) for name in ("0", BEST))
    findings = [
        *(
            criteria.equal(
                f"With 1 - b = C eta^({name}) the time grows as eta^-{exponent(power):.3g}",
                fitted[name],
                [exponent(power)] * scale.seeds,
                CLOSE,
                f"exponents, measured less {exponent(power):.3g}",
            )
            for name, power in POWERS.items()
        ),
        *(
            criteria.less(
                f"Towards small learning rates the time grows less with eta^({BEST}) than with eta^({name})",
                fitted[BEST],
                fitted[name],
                "exponents",
            )
            for name in POWERS
            if name != BEST
        ),
        criteria.below(
            f"At eta {COMMON:g} momentum with 1 - b = eta^({BEST}) takes less than a tenth of the time of none",
            [a / b for a, b in zip(best, none, strict=True)],
            0.1,
            f"ratio of times (none: {np.mean(none):,.0f} steps)",
        ),
    ]
    rows: list[list[Cell]] = [
        [
            f"{CONSTANTS.get(name, 1.0):g} eta^({name})",
            exponent(power),
            float(np.mean(fitted[name])),
            *(f"{np.mean(of):,.0f} at eta {rate:.2g}" for rate, of in times[name].items()),
        ]
        for name, power in POWERS.items()
    ]
    columns = [
        *("1 - b", "exponent, theory", "exponent, here"),
        *(f"theory's time {wanted:,.0f}" for wanted in scale.times),
    ]
    shown = figure(
        [series(f"eta^({name})", list(of), list(of.values())) for name, of in times.items()],
        "Steps until the flat minimum is reached, by learning rate, for powers of 1 - b",
        "learning rate eta",
        "steps",
        log_x=True,
        log_y=True,
    )
    notes = [
        "The paper states g = 2/3 and the exponents 2 and 2/3; the exponents between follow from its two time scales. "
        "It tests matrix sensing, a teacher and student, FashionMNIST and CIFAR-10; here it is the scalar model "
        "f = u v with labels 1 + N(0, 1), from u = 2, v = .5.",
        "Time is counted until the root mean square of u^2 - v^2 over the replicas of a seed is below 1/e of its start "
        f"for good ({STAYS:g} times as long as it took).",
        f"C is 1, and {CONSTANTS['5/6']:g} at 5/6, where it does not settle with C = 1; the paper predicts no C.",
    ]
    table = Table("Steps to the flat minimum, means over seeds", columns, rows)
    return Evidence(findings, [table], {"Steps by learning rate": shown}, notes)


def _exponents(times: Mapping[float, Sequence[float]]) -> list[float]:
    """Of each seed, x of the best fit time = c eta^-x."""
    logs = np.log([list(of) for of in times.values()])
    fitted: list[float] = (-np.polyfit(np.log(list(times)), logs, 1)[0]).tolist()
    return fitted


CLAIMS = (
    Claim(
        name="cowsik-two-thirds",
        sentence="SGD with label noise reaches flat minima fastest, as eta falls, if 1 - b goes as eta^(2/3).",
        source="Cowsik, Can and Glorioso 2022 (arXiv 2210.16400), abstract",
        plans={budget: scale.words for budget, scale in SCALES.items()},
        investigate=investigate,
    ),
)
