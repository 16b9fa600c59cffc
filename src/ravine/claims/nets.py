"""Nets on the digits, a rule at many settings on many seeds at once: the experiment that several papers' claims share.

The net has 64-64-64-10 units, the data are the 1,437 and 360 rows of `ravine.problems.digits`. A seed fixes
initialization and mini-batches of every setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeAlias

import polars as pl
import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import series
from ravine.claims.laboratory import PILOT_SEED
from ravine.claims.rows import DenseNets, Descent, accuracy, cross_entropy, gradients, minibatches
from ravine.problems.digits import digits

NET = DenseNets((64, 64, 64, 10))
SAME = 0.01  # test errors that differ by less count as equal: two seeds differ by about .005
ERROR = "test errors, a share"

Value: TypeAlias = float | Tensor
"""Of a hyper-parameter: a number, or numbers that expand to (settings, seeds)."""
Losses: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Trained:
    """What came of it, (settings, seeds) each: the loss on all training rows and the share of wrong test digits.

    Of a run that diverged they are infinite and 1.
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
    loss, error = torch.where(well, loss, torch.inf), torch.where(well, error, 1.0)
    return Trained(loss.view(settings, -1), error.view(settings, -1))


def _at(value: Value | Callable[[int], Value], step: int) -> Tensor:
    return torch.as_tensor(value(step) if callable(value) else value)


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
    rule: str,
    rates: Sequence[float],
    pilots: int,
    seeds: int,
    steps: int,
    batch_size: int | None,
    *,
    shape: Callable[[int], float] | None = None,
    losses: Losses = cross_entropy,
    **hyper: float,
) -> Sweep:
    """Trains a rule at all rates on `pilots` seeds that choose and on `seeds` others; `shape`: step -> factor of lr."""
    lr = column(rates)
    scheduled = lr if shape is None else partial(_scaled, lr, shape)
    found = train(rule, every_seed(pilots, seeds), steps, batch_size, {"lr": scheduled, **hyper}, losses)
    pilot, judged = (
        Trained(found.loss[:, part], found.error[:, part]) for part in (slice(pilots), slice(pilots, None))
    )
    return Sweep(rates, pilot, judged)


def _scaled(lr: Tensor, shape: Callable[[int], float], step: int) -> Tensor:
    return lr * shape(step)


def shown(values: Sequence[float]) -> str:
    """Mean and half the width of its interval: a cell of a table."""
    mean, (_, high) = criteria.interval(values)
    return f"{mean:.4g} ± {high - mean:.2g}"
