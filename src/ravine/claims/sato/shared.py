"""The net, its training by momentum with the noise measured on the way, and what a budget affords."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ravine import measure
from ravine.claims.claim import Budget
from ravine.claims.rows import DenseNets, Descent, accuracy, cross_entropy, gradients, minibatches
from ravine.problems.digits import digits

PAPER = "Sato and Iiduka 2024 (arXiv 2402.02325)"
NET = DenseNets((64, 32, 32, 10))
MOMENTUM = 0.9
RATE = 0.1  # the paper's
MEASUREMENTS = 50  # of a training, all in its second half


@dataclass(frozen=True)
class Scale:
    """Sizes: steps of a training, and seeds."""

    steps: int
    seeds: int

    @property
    def words(self) -> str:
        """In one line."""
        return f"digits, net 64-32-32-10; {self.steps:,} steps, {self.seeds} seeds"


SCALES: Mapping[Budget, Scale] = {"quick": Scale(1_000, 8), "evening": Scale(10_000, 20)}


@dataclass(frozen=True)
class Arm:
    """A method: SGD (momentum 0), SHB, or in EMA form NSHB; lr as its form has it."""

    label: str
    lr: float
    momentum: float = 0.0
    ema: bool = False

    @property
    def heavy_ball_lr(self) -> float:
        """The learning rate of the same method in heavy-ball form."""
        return self.lr * (1 - self.momentum) if self.ema else self.lr


@dataclass(frozen=True)
class Trained:
    """What came of arms on seeds, (arms, seeds) each, taken over the second half of the training.

    noise: mean |d - G|^2. batch_noise: mean |g - G|^2 of the mini-batch's gradient g, the paper's C^2 / b. bound: the
    largest |G|^2, its K^2. error: share of wrong test digits. loss: on all training rows.
    """

    noise: Tensor
    batch_noise: Tensor
    bound: Tensor
    error: Tensor
    loss: Tensor


def train(arms: Sequence[Arm], batch_size: int, steps: int, seeds: Sequence[int]) -> Trained:
    """All arms on all seeds at once; a seed fixes start and mini-batches of every arm."""
    inputs, targets = digits().train
    batches = minibatches(len(inputs), batch_size, steps, seeds)
    lr, momentum, own_lr = (
        torch.tensor(values).repeat_interleave(len(seeds))
        for values in zip(*((arm.heavy_ball_lr, arm.momentum, arm.lr) for arm in arms), strict=True)
    )
    descent = Descent("momentum", NET.start(seeds).repeat(len(arms), 1), lr=lr, momentum=momentum)
    directions, sampled, full = [], [], []
    every = max(steps // (2 * MEASUREMENTS), 1)
    for step, batch in enumerate(batches):
        x, y = inputs[batch].repeat(len(arms), 1, 1), targets[batch].repeat(len(arms), 1)
        slope = slopes(descent.rows, x, y)
        before = descent.rows.clone()
        descent.step(slope)
        if step >= steps // 2 and step % every == 0:
            directions.append((before - descent.rows) / own_lr[:, None])
            sampled.append(slope)
            full.append(slopes(before, inputs, targets))
    shape = (len(arms), len(seeds))
    noise, batch_noise = (
        torch.tensor([_noise(taken, full, run) for run in range(len(lr))]).view(shape)
        for taken in (directions, sampled)
    )
    bound = torch.stack([one.square().sum(1) for one in full]).amax(0).view(shape)
    error, loss = judged(descent.rows)
    return Trained(noise, batch_noise, bound.double(), error.view(shape), loss.view(shape))


def slopes(rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The gradient (runs, P) of each row's loss on examples x with targets y."""
    return gradients(lambda leaf: cross_entropy(NET.outputs(leaf, x), y), rows)[1]


def _noise(taken: Sequence[Tensor], full: Sequence[Tensor], run: int) -> float:
    return measure.search_direction_noise([one[run] for one in taken], [one[run] for one in full]).value


def judged(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Test error and training loss (runs,); 1 and infinite for a run that diverged."""
    problem = digits()
    loss = cross_entropy(NET.outputs(rows, problem.train[0]), problem.train[1]).double()
    error = 1 - accuracy(NET.outputs(rows, problem.test[0]), problem.test[1])
    return torch.where(loss.isfinite(), error, 1.0), torch.where(loss.isfinite(), loss, torch.inf)
