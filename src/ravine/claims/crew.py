"""Workers that train one net on the digits together, many runs at once: what claims about several workers share.

A run is a seed: it fixes the initialization and the mini-batches of every worker, whatever the method and its settings.
The net and the data are those of `ravine.claims.nets`. Learning rates are chosen on the seeds of a pilot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ravine.claims.laboratory import PILOT_SEED
from ravine.claims.nets import NET, rows_of_digits
from ravine.claims.rows import accuracy, cross_entropy, gradients, minibatches

Method = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Starts (runs, P), learning rates (runs,), what each worker sees (steps, runs, workers, rows) -> nets (runs, P)."""


def drawn(steps: int, rows: int, workers: int, seeds: Sequence[int]) -> Tensor:
    """(steps, seeds, workers, rows): the training rows that each worker sees at each step, with replacement."""
    streams = [seed * workers + worker for seed in seeds for worker in range(workers)]
    examples = len(rows_of_digits()[0][0])
    return minibatches(examples, rows, steps, streams).view(steps, len(seeds), workers, rows)


def slopes(nets: Tensor, index: Tensor) -> Tensor:
    """(runs, workers, P): the gradients of nets (runs, workers, P), or (runs, 1, P), on rows (runs, workers, size)."""
    (inputs, targets), _ = rows_of_digits()
    x, y = inputs[index].flatten(0, 1).to(nets.dtype), targets[index].flatten(0, 1)
    each = nets.expand(*index.shape[:2], -1).flatten(0, 1)
    _, found = gradients(lambda rows: cross_entropy(NET.outputs(rows, x), y), each)
    return found.view(*index.shape[:2], -1)


def judged(nets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss on all training rows and share of wrong test digits, (runs,) each; infinite and 1 where it diverged."""
    (inputs, targets), test = rows_of_digits()
    with torch.no_grad():
        loss = cross_entropy(NET.outputs(nets, inputs.to(nets.dtype)), targets).double()
        error = 1 - accuracy(NET.outputs(nets, test[0].to(nets.dtype)), test[1])
    well = loss.isfinite()
    return torch.where(well, loss, torch.inf), torch.where(well, error, 1.0)


@dataclass(frozen=True)
class Scale:
    """Workers, updates of a run, rows a worker and update, seeds that judge and seeds that choose learning rates."""

    workers: int
    steps: int
    rows: int
    seeds: int
    pilots: int

    @property
    def words(self) -> str:
        """In one line."""
        return f"digits, {self.workers} workers with {self.rows} rows each, {self.steps:,} updates, {self.seeds} seeds"


@dataclass(frozen=True)
class Tuned:
    """A method at the best of its learning rates: training losses and test errors by seed."""

    rates: Sequence[float]
    rate: float
    loss: list[float]
    error: list[float]

    @property
    def edge(self) -> bool:
        """Whether the best learning rate is the first or last that was tried."""
        return self.rate in (self.rates[0], self.rates[-1])


def trained(method: Method, rate: float | Sequence[float], seeds: Sequence[int], scale: Scale) -> tuple[Tensor, Tensor]:
    """Training loss and test error, (rates, seeds) each, of a method at one or several learning rates."""
    rates = torch.as_tensor(rate, dtype=torch.float64).reshape(-1)
    lr = rates.repeat_interleave(len(seeds))
    batches = drawn(scale.steps, scale.rows, scale.workers, seeds).repeat(1, len(rates), 1, 1)
    loss, error = judged(method(NET.start(seeds).repeat(len(rates), 1), lr, batches))
    return loss.view(len(rates), -1), error.view(len(rates), -1)


def tuned(method: Method, rates: Sequence[float], scale: Scale) -> Tuned:
    """The method at the learning rate with the lowest mean training loss over the pilot's seeds, on other seeds."""
    pilot, _ = trained(method, rates, range(PILOT_SEED, PILOT_SEED + scale.pilots), scale)
    rate = rates[int(pilot.mean(1).argmin())]
    loss, error = trained(method, rate, range(scale.seeds), scale)
    return Tuned(rates, rate, loss[0].tolist(), error[0].tolist())
