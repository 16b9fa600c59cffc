"""Ramezani-Kebrya, Khisti and Liang, "On the generalization of stochastic gradient descent with momentum".

SGDEM, early momentum: w_(t+1) = w_t + mu_t (w_t - w_(t-1)) - lr g_t with mu_t = mu for t <= t_d and then 0, so that t_d
= 0 is SGD, and t_d = all steps is SGD with momentum. Stability is how far the parameters drift apart on two data sets
that differ in one example, when both are gone through in the same order. Float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory
from ravine.claims.rows import Descent

LR, MOMENTUM = 0.05, 0.9


@dataclass(frozen=True)
class Scale:
    """Examples, features, epochs of batches of one example, numbers of early steps, and seeds."""

    examples: int
    features: int
    epochs: int
    early: tuple[int, ...]
    seeds: int

    @property
    def steps(self) -> int:
        """In all."""
        return self.examples * self.epochs

    @property
    def words(self) -> str:
        """In one line."""
        return (
            f"logistic regression, {self.examples} examples with {self.features} features and random labels, "
            f"{self.epochs} epochs, {self.seeds} seeds"
        )


SCALES: Mapping[Budget, Scale] = {
    "quick": Scale(50, 20, 20, (50, 200), 20),
    "evening": Scale(500, 100, 50, (500, 2_000, 8_000), 100),
}


@dataclass(frozen=True)
class Neighbours:
    """Two data sets that differ in one example.

    examples: label times features, (2, seeds, examples, features). order: which example a step sees, (steps, seeds).
    """

    examples: Tensor
    order: Tensor


def neighbours(scale: Scale, first_seed: int = 0) -> Neighbours:
    """Features N(0, I) and labels +-1 at random; in the second set the first example has other features, and its label
    is flipped. Each epoch has an order of its own.
    """
    sets, orders = [], []
    for seed in range(first_seed, first_seed + scale.seeds):
        generator = torch.Generator().manual_seed(5 * 2**32 + seed)
        x = torch.randn(scale.examples, scale.features, dtype=torch.float64, generator=generator)
        y = 2.0 * torch.randint(2, (scale.examples, 1), generator=generator) - 1
        other = x.clone()
        other[0] = -torch.randn(scale.features, dtype=torch.float64, generator=generator)
        sets.append(torch.stack([y * x, y * other]))
        orders.append(torch.cat([torch.randperm(scale.examples, generator=generator) for _ in range(scale.epochs)]))
    return Neighbours(torch.stack(sets, 1), torch.stack(orders, 1))


def distances(data: Neighbours, lr: float, until: int, momentum: float = MOMENTUM) -> Tensor:
    """(steps, seeds): |w - w'| after every step on the loss log(1 + exp(-y w.x)), from w = 0."""
    _, seeds, _, features = data.examples.shape
    start = torch.zeros(2 * seeds, features, dtype=torch.float64)
    descent = Descent("early-momentum", start, lr=lr, momentum=momentum, until=float(until))
    found = []
    for index in data.order:
        seen = data.examples[:, torch.arange(seeds), index].flatten(0, 1)
        descent.step(-seen * torch.sigmoid(-(descent.rows * seen).sum(1, keepdim=True)))
        both = descent.rows.view(2, seeds, features)
        found.append(torch.linalg.vector_norm(both[0] - both[1], dim=1))
    return torch.stack(found)


def investigate(laboratory: Laboratory) -> Evidence:
    """Distances for every t_d, and for momentum at the effective learning rate of SGD."""
    scale = SCALES[laboratory.budget]
    data = neighbours(scale)
    arms = {"SGD": 0, **{f"SGDEM, t_d = {until:,}": until for until in scale.early}, "momentum": scale.steps}
    paths = {name: distances(data, LR, until) for name, until in arms.items()}
    matched = distances(data, LR * (1 - MOMENTUM), scale.steps)
    last = {name: path[-1].tolist() for name, path in paths.items()}
    findings = [
        criteria.lower(f"{before} keeps the two runs nearer than {after}", last[before], last[after])
        for before, after in pairwise(arms)
    ]
    rows: list[Sequence[Cell]] = [[name, LR, shown(values)] for name, values in last.items()]
    rows.append(["momentum, the effective learning rate of SGD", LR * (1 - MOMENTUM), shown(matched[-1].tolist())])
    table = Table("Distance of the parameters at the end", ["method", "learning rate", "distance"], rows)
    excess = [(m - s) / (p - s) for m, s, p in zip(matched[-1].tolist(), last["SGD"], last["momentum"], strict=True)]
    share, (low, high) = criteria.interval(excess)
    marks = list(range(0, scale.steps, max(1, scale.steps // 100)))
    lines = [series(name, [mark + 1 for mark in marks], path[marks].tolist()) for name, path in paths.items()]
    chart = figure(
        lines,
        "Distance of the parameters on two neighbouring data sets along the training, by method",
        "step",
        "distance",
        points=False,
    )
    notes = [
        "The learning rate is the same for all, so that with momentum .9 steps are ten times as long in the long run. "
        f"At lr (1 - mu), momentum has {share:.3g} [{low:.3g}, {high:.3g}] of its distance beyond SGD's left: that is "
        "momentum's own, and the rest is the effective learning rate's.",
        "The paper's bounds, its convex loss on which momentum is not stable at all, and its trainings on CIFAR-10 and "
        "ImageNet are not tried here.",
    ]
    return Evidence(findings, [table], {"Distance": chart}, notes)


CLAIMS = (
    Claim(
        name="early-momentum",
        sentence="Momentum in the first steps alone is more stable than throughout, the more so the fewer they are.",
        source="Ramezani-Kebrya, Khisti and Liang 2018 (arXiv 1809.04564), stability of SGDEM",
        plans={budget: scale.words for budget, scale in SCALES.items()},
        investigate=investigate,
    ),
)
