"""A rule at many learning rates on many seeds: the experiment that the claims of several papers share.

On the digits all runs are rows of one tensor: 64-64-64-10 units, the 1,437 and 360 rows of `ravine.problems.digits`,
mini-batches drawn with replacement. On other problems they are fleets, whose mini-batches are shuffled epochs. A seed
fixes initialization and mini-batches of every setting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TypeAlias

import polars as pl
import torch
from torch import Tensor

from ravine import rules
from ravine.claims.charts import series
from ravine.claims.criteria import shown
from ravine.claims.laboratory import PILOT_SEED, Arm, Laboratory
from ravine.claims.rows import DenseNets, Descent, accuracy, cross_entropy, gradients, minibatches
from ravine.metrics import Metric
from ravine.problems import load
from ravine.problems.digits import digits
from ravine.schedules import Cosine, ExponentialScale, Polynomial

NET = DenseNets((64, 64, 64, 10))
SAME = 0.01  # test errors that differ by less count as equal: two seeds differ by about .005
LOST = (math.log(10), 1.0)  # the loss of guessing among ten classes, and the largest error
ERROR = "test errors, a share"
LOSS = "training losses"
WRONG = Metric(
    lambda outputs, targets: (outputs.argmax(1) != targets).to(outputs.dtype).mean(),
    higher_is_better=False,
    worst=1.0,
    bounded=True,
)
"""Share of rows whose largest output is not the target."""

Value: TypeAlias = float | Tensor
"""Of a hyper-parameter: a number, or numbers that expand to (settings, seeds)."""
Losses: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Trained:
    """What came of it, (settings, seeds) each: the loss on the training rows and the share of wrong test rows.

    Of a run that diverged they are those of `LOST`.
    """

    loss: Tensor
    error: Tensor


@cache
def rows_of_digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """((inputs, targets) to train on, those to test on)."""
    problem = digits()
    return problem.train, problem.test


def train(
    rule: str,
    seeds: Sequence[int],
    steps: int,
    batch_size: int | None,
    hyper: Mapping[str, Value | Callable[[int], Value]],
    losses: Losses = cross_entropy,
) -> Trained:
    """Trains `steps` updates of mini-batches drawn with replacement, or of the full batch (None).

    hyper: by name a number, a tensor that expands to (settings, seeds), or a function of the step, from 0, to either;
    lr must be one of the latter two, and fixes the number of settings. losses: (outputs (runs, examples, classes),
    targets) -> (runs,).
    """
    (inputs, targets), test = rows_of_digits()
    settings = len(_at(hyper["lr"], 0))

    scales = {name: [ExponentialScale(seed) for seed in seeds] for name in rules.get(rule).random}
    for name, drawing in scales.items():
        hyper = {**hyper, name: partial(_drawn, drawing)}

    def rows(value: Value) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64).expand(settings, len(seeds)).flatten()

    descent = Descent(rule, NET.start(seeds).repeat(settings, 1), **{k: rows(_at(v, 0)) for k, v in hyper.items()})
    drawn = None if batch_size is None else minibatches(len(inputs), batch_size, steps, seeds)
    for step in range(steps):
        x, y = inputs, targets
        if drawn is not None:
            x, y = inputs[drawn[step]].repeat(settings, 1, 1), targets[drawn[step]].repeat(settings, 1)
        _, slopes = gradients(lambda nets, x=x, y=y: losses(NET.outputs(nets, x), y), descent.rows)  # type: ignore[misc]
        descent.step(slopes, **{name: rows(value(step)) for name, value in hyper.items() if callable(value)})
    with torch.no_grad():
        loss = cross_entropy(NET.outputs(descent.rows, inputs), targets).double()
        error = 1 - accuracy(NET.outputs(descent.rows, test[0]), test[1])
    well = loss.isfinite()
    loss, error = (torch.where(well, one, lost) for one, lost in zip((loss, error), LOST, strict=True))
    return Trained(loss.view(settings, -1), error.view(settings, -1))


def _drawn(scales: Sequence[ExponentialScale], step: int) -> Tensor:
    """What each seed draws at a step for a rule that scales its steps at random."""
    return torch.tensor([scale(step) for scale in scales], dtype=torch.float64)


def _at(value: Value | Callable[[int], Value], step: int) -> Tensor:
    return torch.as_tensor(value(step) if callable(value) else value)


@dataclass(frozen=True)
class Field:
    """Where rules compete: a problem of `ravine.problems`, its length, and how many seeds choose rates and judge."""

    problem: str
    batch_size: int | None
    steps: int
    seeds: int
    pilots: int = 2

    @property
    def words(self) -> str:
        """In one line."""
        batches = "full batches" if self.batch_size is None else f"mini-batches of {self.batch_size}"
        return f"{self.problem}, {self.steps:,} {batches}, {self.seeds} seeds"


def every_seed(pilots: int, seeds: int) -> list[int]:
    """First the seeds that choose learning rates, then those that judge."""
    return [*range(PILOT_SEED, PILOT_SEED + pilots), *range(seeds)]


def column(values: Sequence[float]) -> Tensor:
    """Values of a hyper-parameter, one a setting."""
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


@dataclass(frozen=True)
class Sweep:
    """A rule at several learning rates, on pilot seeds that choose among them and on the seeds that judge."""

    rates: Sequence[float]
    pilot: Trained
    judged: Trained

    @property
    def best_for_loss(self) -> int:
        """The place of the rate with the lowest mean training loss of the pilot."""
        return int(self.pilot.loss.mean(1).argmin())

    @property
    def best_for_error(self) -> int:
        """The place of the rate with the lowest mean test error of the pilot."""
        return int(self.pilot.error.mean(1).argmin())

    @property
    def loss(self) -> list[float]:
        """The training losses at the rate that is best for them, by seed."""
        found: list[float] = self.judged.loss[self.best_for_loss].tolist()
        return found

    @property
    def error(self) -> list[float]:
        """The test errors at the rate that is best for them, by seed."""
        found: list[float] = self.judged.error[self.best_for_error].tolist()
        return found

    def errors_at(self, rate: float) -> list[float]:
        """The test errors at a rate, by seed."""
        found: list[float] = self.judged.error[list(self.rates).index(rate)].tolist()
        return found

    def errors(self, name: str) -> pl.DataFrame:
        """Test error against learning rate, a series of a figure."""
        return series(name, self.rates, self.judged.error.tolist())

    @property
    def shown(self) -> tuple[str, float]:
        """The test error at the best rate with its interval, and that rate: two cells of a table."""
        return shown(self.error), self.rates[self.best_for_error]


def sweep(
    laboratory: Laboratory,
    field: Field,
    rule: str,
    rates: Sequence[float],
    shape: Cosine | Polynomial | None = None,
    **hyper: float,
) -> Sweep:
    """Trains a rule at all rates on all seeds of a field; `shape`: what the learning rate is multiplied with."""
    every = every_seed(field.pilots, field.seeds)
    if field.problem == "digits":
        lr = column(rates)
        scheduled = lr if shape is None else partial(_scaled, lr, shape)
        found = train(rule, every, field.steps, field.batch_size, {"lr": scheduled, **hyper})
    else:
        found = _in_fleets(laboratory, field, rule, rates, shape, every, hyper)
    pilots, judges = slice(field.pilots), slice(field.pilots, None)
    pilot, judged = (Trained(found.loss[:, part], found.error[:, part]) for part in (pilots, judges))
    return Sweep(rates, pilot, judged)


def _scaled(lr: Tensor, shape: Callable[[int], float], step: int) -> Tensor:
    return lr * shape(step)


def _in_fleets(
    laboratory: Laboratory,
    field: Field,
    rule: str,
    rates: Sequence[float],
    shape: Cosine | Polynomial | None,
    seeds: Sequence[int],
    hyper: Mapping[str, float],
) -> Trained:
    problem = load(field.problem, batch_size=field.batch_size, steps=field.steps)
    judged = replace(
        problem,
        name=f"{problem.name}, batches of {problem.batch_size}",
        validation=problem.test,
        metrics={"error": WRONG},
    )
    scheduled = {rate: rate if shape is None else replace(shape, start=rate) for rate in rates}
    arms = [Arm(f"{rule} {rate:g}", rule, {"lr": lr, **hyper}) for rate, lr in scheduled.items()]
    runs = laboratory.train(judged, arms, sorted(seeds), field.steps)
    place = [sorted(seeds).index(seed) for seed in seeds]
    error = torch.tensor([runs.errors(arm.label) for arm in arms], dtype=torch.float64)[:, place]
    loss = torch.tensor([runs.losses(arm.label) for arm in arms], dtype=torch.float64)[:, place]
    return Trained(torch.where(loss.isfinite(), loss, LOST[0]), error)
