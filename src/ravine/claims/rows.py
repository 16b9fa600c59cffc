"""Many small trainings at once, in one process: each is a row of one tensor, so that a step of all is one step.

For claims whose nets are so small, or whose measurements are so unusual, that fleets of `ravine.fleet` do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from ravine import rules


class Descent:
    """A rule of `ravine.rules` at work on the rows of a tensor (runs, P), each with its own hyper-parameters.

    hyper: a number for all rows, or a tensor (runs,); what is not given has the rule's default.
    """

    def __init__(self, rule: str, start: Tensor, **hyper: float | Tensor) -> None:
        self.rule = rules.get(rule)
        self.rows = start.detach().clone()
        self.state = {slot: torch.zeros_like(self.rows) for slot in self.rule.slots}
        defaults = {name: one.default for name, one in self.rule.hyper.items() if one.default is not None}
        self.hyper = {name: _column(value) for name, value in {**defaults, **hyper}.items()}
        self.steps = 0

    def step(self, gradient: Tensor, **now: float | Tensor) -> None:
        """One step along gradients (runs, P); `now` are hyper-parameters from this step on."""
        self.steps += 1
        self.hyper |= {name: _column(value) for name, value in now.items()}
        self.rule.update(self.rows, gradient, self.state, self.hyper | {"step": _column(float(self.steps))})


def _column(value: float | Tensor) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.float64)
    return tensor.unsqueeze(1) if tensor.dim() else tensor


def gradients(losses: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """The loss (runs,) of each row and its gradient (runs, P); a row has no part in the losses of the others."""
    leaf = rows.detach().requires_grad_()
    values = losses(leaf)
    (slopes,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), slopes


@dataclass(frozen=True)
class DenseNets:
    """Dense nets of one shape with ReLU between the layers, a row of parameters each.

    sizes: inputs, hidden units, ..., outputs.
    """

    sizes: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """How many numbers a net has."""
        return sum((sources + 1) * units for sources, units in pairwise(self.sizes))

    def start(self, seeds: Sequence[int]) -> Tensor:
        """(seeds, P): weights and biases uniform in +-1 / sqrt(fan-in), as of `torch.nn.Linear`; a draw a seed."""
        return torch.stack([self._drawn(torch.Generator().manual_seed(seed)) for seed in seeds])

    def _drawn(self, generator: torch.Generator) -> Tensor:
        parts = []
        for sources, units in pairwise(self.sizes):
            drawn = 2 * torch.rand((sources + 1) * units, generator=generator) - 1
            parts.append(drawn / sources**0.5)
        return torch.cat(parts)

    def outputs(self, rows: Tensor, inputs: Tensor) -> Tensor:
        """(runs, examples, outputs) of rows (runs, P) on inputs (examples, inputs), or (runs, examples, inputs)."""
        return self.layers(rows, inputs)[-1][1]

    def layers(self, rows: Tensor, inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What enters each layer, (runs, examples, sources), and what it makes of it before the ReLU."""
        found: list[tuple[Tensor, Tensor]] = []
        place = 0
        for sources, units in pairwise(self.sizes):
            x = found[-1][1].relu() if found else inputs.expand(len(rows), -1, -1)
            weights = rows[:, place : (place := place + sources * units)].reshape(-1, sources, units)
            biases = rows[:, place : (place := place + units)].unsqueeze(1)
            found.append((x, torch.baddbmm(biases, x, weights)))
        return found


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy (runs,) of outputs (runs, examples, classes); targets (examples,) or (runs, examples)."""
    each = functional.cross_entropy(
        outputs.flatten(0, 1), targets.expand(outputs.shape[:2]).flatten(), reduction="none"
    )
    return each.view(outputs.shape[:2]).mean(1)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of right answers (runs,); shapes as of `cross_entropy`."""
    return (outputs.argmax(-1) == targets).double().mean(1)


def minibatches(examples: int, size: int, steps: int, seeds: Sequence[int]) -> Tensor:
    """(steps, seeds, size): the rows of each mini-batch, drawn with replacement; a draw a seed."""
    drawn = [
        torch.randint(examples, (steps, size), generator=torch.Generator().manual_seed(2**32 + seed)) for seed in seeds
    ]
    return torch.stack(drawn, 1)
