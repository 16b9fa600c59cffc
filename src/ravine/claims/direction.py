"""Wu, Zou, Braverman and Gu, "Direction matters: on the implicit bias of SGD with moderate learning rate", ICLR 2021.

Linear regression with more parameters than examples: sum of <x_i, e>^2 / (2 n), e the distance from the solution. From
where a method comes to it is told by the Rayleigh quotient e' H e / |e|^2, H the Hessian: small along flat directions,
large along steep ones. Float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory
from ravine.claims.rows import Descent

STEEP, FLAT = 4.0, 1.0  # squared norms of the steepest and the flattest example
MODERATE, SMALL = 0.48, 0.02  # learning rates of SGD: 2 / (4 + 1) < .48 < 2 / 4
LEVELS = tuple(10.0**-k for k in range(1, 7))  # of the loss, by the first
LEVEL, EARLY = 1e-6, 1e-3  # at which directions are judged, with two examples and with many
STEPS, FIRST = 1_500, 100  # with two examples: in all, and with the moderate rate
MIDDLE = 0.5
NEAR = 1e-3  # of an eigenvalue, relative

Rate = Callable[[int], float]


@dataclass(frozen=True)
class Data:
    """examples (seeds, n, d), start: the first e (seeds, d)."""

    examples: Tensor
    start: Tensor

    @property
    def eigenvalues(self) -> Tensor:
        """Those of H that are not zero, (seeds, n), rising."""
        gram = self.examples @ self.examples.mT / self.examples.shape[1]
        found: Tensor = torch.linalg.eigvalsh(gram)
        return found


@dataclass(frozen=True)
class Path:
    """Loss by the first loss, Rayleigh quotient and |e|^2 after every step, (steps + 1, seeds) each."""

    loss: Tensor
    quotient: Tensor
    square: Tensor

    def at(self, level: float, what: Tensor) -> list[float]:
        """What it is where the loss first falls to a level, by seed; at the end where it never does."""
        reached = self.loss <= level
        first = torch.where(reached.any(0), reached.double().argmax(0), len(self.loss) - 1)
        found: list[float] = what.gather(0, first.unsqueeze(0))[0].tolist()
        return found


@dataclass(frozen=True)
class Scale:
    """Examples, dimensions, steps of the moderate learning rate and in all, seeds."""

    examples: int
    dimensions: int
    moderate: int
    steps: int
    seeds: int

    @property
    def words(self) -> str:
        """In one line."""
        return f"two examples in 2-d, and {self.examples} in {self.dimensions}-d; {self.seeds} seeds"


SCALES: Mapping[Budget, Scale] = {
    "quick": Scale(10, 500, 300, 3_000, 10),
    "evening": Scale(20, 2_000, 1_000, 10_000, 30),
}


def two_examples(seeds: int) -> Data:
    """(2, 0) and (0, 1), from e = (1, 1)."""
    examples = torch.diag(torch.tensor([STEEP, FLAT], dtype=torch.float64).sqrt())
    return Data(examples.expand(seeds, 2, 2), torch.ones(seeds, 2, dtype=torch.float64))


def many_examples(scale: Scale, first_seed: int = 0) -> Data:
    """Random directions, nearly orthogonal in so many dimensions, with squared norms from STEEP to FLAT."""
    examples = []
    for seed in range(first_seed, first_seed + scale.seeds):
        generator = torch.Generator().manual_seed(6 * 2**32 + seed)
        drawn = torch.randn(scale.examples, scale.dimensions, dtype=torch.float64, generator=generator)
        norms = torch.linspace(STEEP, FLAT, scale.examples, dtype=torch.float64).sqrt()
        examples.append(torch.nn.functional.normalize(drawn, dim=1) * norms.unsqueeze(1))
    found = torch.stack(examples)
    directions = torch.nn.functional.normalize(found, dim=2)
    return Data(found, directions.sum(1))


def descend(data: Data, rate: Rate, steps: int, *, single: bool, first_seed: int = 0) -> Path:
    """Gradient descent, or SGD that sees a `single` example a step, drawn with replacement."""
    seeds, n, _ = data.examples.shape
    descent = Descent("sgd", data.start, lr=0.0)
    streams = [torch.Generator().manual_seed(7 * 2**32 + first_seed + seed) for seed in range(seeds)]
    order = torch.stack([torch.randint(n, (steps,), generator=one) for one in streams], 1)
    losses, quotients, squares = [], [], []
    for step in range(steps + 1):
        e = descent.rows
        residuals = (data.examples @ e.unsqueeze(2)).squeeze(2)
        loss, square = residuals.square().mean(1) / 2, e.square().sum(1)
        losses.append(loss)
        quotients.append(2 * loss / square)
        squares.append(square)
        if step < steps:
            if single:
                residuals = n * torch.nn.functional.one_hot(order[step], n) * residuals
            descent.step((residuals.unsqueeze(1) @ data.examples).squeeze(1) / n, lr=rate(step))
    found = torch.stack(losses)
    return Path(found / found[0], torch.stack(quotients), torch.stack(squares))


def annealed(until: int) -> Rate:
    """The moderate learning rate for some steps, then the small one."""
    return lambda step: MODERATE if step < until else SMALL


def constant(rate: float) -> Rate:
    """One learning rate throughout."""
    return lambda step: rate


def descents(data: Data, gd_rates: Sequence[float], moderate: int, steps: int) -> dict[str, Path]:
    """Gradient descent at learning rates, SGD at the small one, and SGD at the moderate and then the small one."""
    found = {f"GD, lr {rate:.3g}": descend(data, constant(rate), steps, single=False) for rate in gd_rates}
    found[f"SGD, lr {SMALL:g}"] = descend(data, constant(SMALL), steps, single=True)
    found[f"SGD, lr {MODERATE:g}, then {SMALL:g}"] = descend(data, annealed(moderate), steps, single=True)
    return found


def investigate(laboratory: Laboratory) -> Evidence:
    """Two orthogonal examples, and many nearly orthogonal ones."""
    scale = SCALES[laboratory.budget]
    data = two_examples(scale.seeds)
    least, largest = data.eigenvalues[0].tolist()
    two = descents(data, (0.45, 0.05), FIRST, STEPS)
    quotients = {name: path.at(LEVEL, path.quotient) for name, path in two.items()}
    *gd, small, moderate = quotients
    drawn = many_examples(scale)
    many = descents(drawn, (1 / float(drawn.eigenvalues.max()),), scale.moderate, scale.steps)
    places = {name: _between(path.at(EARLY, path.quotient), drawn.eigenvalues) for name, path in many.items()}
    squares = {name: path.at(EARLY, path.square) for name, path in many.items()}
    many_gd = next(iter(many))
    place = "place of the quotient, 0 at the least eigenvalue and 1 at the largest"
    findings = [
        criteria.exact(
            "Two examples: GD comes along the flat direction, whatever its learning rate",
            max(abs(quotient / least - 1) for name in gd for quotient in quotients[name]),
            NEAR,
            "relative deviation of the quotient from the least eigenvalue",
        ),
        criteria.below(
            "Two examples: SGD with a small learning rate too", quotients[small], 1.1 * least, "Rayleigh quotient"
        ),
        criteria.above(
            "Two examples: SGD with a moderate and then a small one comes along the steep direction",
            quotients[moderate],
            0.9 * largest,
            "Rayleigh quotient",
        ),
        criteria.below(f"{scale.examples} examples: GD comes along flat directions", places[many_gd], MIDDLE, place),
        criteria.below(f"{scale.examples} examples: SGD with a small learning rate too", places[small], MIDDLE, place),
        criteria.above(
            f"{scale.examples} examples: SGD with a moderate and then a small one comes along steep directions",
            places[moderate],
            MIDDLE,
            place,
        ),
        criteria.lower(
            f"{scale.examples} examples: at the same training loss it is nearer to the solution than GD",
            squares[moderate],
            squares[many_gd],
        ),
    ]
    first: list[Sequence[Cell]] = [[name, shown(values)] for name, values in quotients.items()]
    second: list[Sequence[Cell]] = [[name, shown(places[name]), shown(squares[name])] for name in many]
    tables = [
        Table(
            f"Two examples, eigenvalues {least:g} and {largest:g}, at {LEVEL:g} of the first loss",
            ["method", "Rayleigh quotient"],
            first,
        ),
        Table(f"{scale.examples} examples, at {EARLY:g} of the first loss", ["method", place, "|e|^2"], second),
    ]
    chart = figure(
        [series(name, LEVELS, [path.at(level, path.quotient) for level in LEVELS]) for name, path in two.items()],
        f"Rayleigh quotient, between {least:g} and {largest:g}, against the training loss, two examples",
        "training loss by the first",
        "Rayleigh quotient",
        log_x=True,
    )
    notes = [
        f"The moderate learning rate lies between 2 / ({STEEP:g} + {FLAT:g}) and 2 / {STEEP:g}: above it SGD diverges, "
        "below it each example shrinks its own part of e faster the steeper it is.",
        "GD with many examples has the learning rate 1 / largest eigenvalue of all seeds. What the paper says of "
        "batch sizes and of nets is not tried here.",
    ]
    return Evidence(findings, tables, {"Rayleigh quotient, two examples": chart}, notes)


def _between(quotients: Sequence[float], eigenvalues: Tensor) -> list[float]:
    """The place of each seed's quotient between its least (0) and largest (1) eigenvalue."""
    least, largest = eigenvalues[:, 0], eigenvalues[:, -1]
    found: list[float] = ((torch.tensor(quotients, dtype=torch.float64) - least) / (largest - least)).tolist()
    return found


CLAIMS = (
    Claim(
        name="direction-matters",
        sentence="GD and SGD with a small learning rate come to the solution along flat directions, SGD with a "
        "moderate and then a small one along steep ones.",
        source="Wu, Zou, Braverman and Gu, ICLR 2021 (arXiv 2011.02538), theorems",
        plans={budget: scale.words for budget, scale in SCALES.items()},
        investigate=investigate,
    ),
)
