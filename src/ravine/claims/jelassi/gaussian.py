"""Gaussian data, the negative control: a teacher's labels, on which momentum brings nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.jelassi.shared import PAPER
from ravine.claims.laboratory import PILOT_SEED, Laboratory
from ravine.claims.rows import DenseNets, Descent, gradients

INPUTS = 30
TEACHER, STUDENT = DenseNets((INPUTS, 10, 1)), DenseNets((INPUTS, 50, 1))
GAMMAS = (0.9, 0.99)
ETA = 1.0
ALIKE = 0.01  # accuracies whose difference is below count as the same


@dataclass(frozen=True)
class Gaussian:
    """Sizes of the negative control; 500 training and 5,000 test points are the paper's."""

    steps: int
    seeds: int
    rows: int = 500
    tests: int = 5_000

    @property
    def words(self) -> str:
        """In one line."""
        size = f"{self.rows} training and {self.tests:,} test points in {INPUTS} dimensions"
        return f"{size}; {self.steps:,} full-batch steps, {self.seeds} seeds"


GAUSSIANS: Mapping[Budget, Gaussian] = {"quick": Gaussian(2_000, 8), "evening": Gaussian(20_000, 20)}


def train_gaussian(gammas: Sequence[float], scale: Gaussian, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Training and test accuracies (momenta, seeds) of students of a random teacher, from the same start of a seed."""
    teachers, starts = TEACHER.start([PILOT_SEED + seed for seed in seeds]), STUDENT.start(seeds)
    points = torch.stack(
        [
            torch.randn(scale.rows + scale.tests, INPUTS, generator=torch.Generator().manual_seed(2**32 + seed))
            for seed in seeds
        ]
    )
    scores = TEACHER.outputs(teachers, points).squeeze(-1)
    labels = torch.where(scores > scores.median(1, keepdim=True).values, 1.0, -1.0)
    runs = len(gammas)
    x, y = (part[:, : scale.rows].repeat(runs, *[1] * (part.dim() - 1)) for part in (points, labels))
    descent = Descent(
        "ema-momentum",
        starts.repeat(runs, 1),
        lr=ETA,
        momentum=torch.tensor(gammas).repeat_interleave(len(seeds)),
    )

    def margins(rows: Tensor, inputs: Tensor, answers: Tensor) -> Tensor:
        return STUDENT.outputs(rows, inputs).squeeze(-1) * answers

    for _ in range(scale.steps):
        descent.step(gradients(lambda rows: softplus(-margins(rows, x, y)).mean(1), descent.rows)[1])
    held = margins(descent.rows, points[:, scale.rows :].repeat(runs, 1, 1), labels[:, scale.rows :].repeat(runs, 1))
    found = [(part > 0).double().mean(1).view(runs, -1) for part in (margins(descent.rows, x, y), held)]
    return found[0], found[1]


def gaussian(laboratory: Laboratory) -> Evidence:
    """On Gaussian inputs labelled by a teacher net momentum brings nothing."""
    scale = GAUSSIANS[laboratory.budget]
    gammas = (0.0, *GAMMAS)
    laboratory.listener.phase(f"{len(gammas) * scale.seeds} runs of {scale.steps:,} steps")
    fitted, right = train_gaussian(gammas, scale, range(scale.seeds))
    findings = [
        criteria.above("GD and GD+M fit the training data", fitted.amin(0).tolist(), 0.99, "lowest training accuracy"),
        *(
            criteria.equal(
                f"GD+M {gamma:g} generalizes like GD", right[k].tolist(), right[0].tolist(), ALIKE, "test accuracy"
            )
            for k, gamma in enumerate(gammas)
            if gamma
        ),
    ]
    rows: list[list[Cell]] = [
        [f"g = {gamma:g}", float(fitted[k].mean()), float(right[k].mean())] for k, gamma in enumerate(gammas)
    ]
    table = Table("Accuracies, means over seeds", ["momentum", "training", "test"], rows)
    shown = figure(
        [series("test", gammas, right.tolist())], "Test accuracy by momentum", "momentum g", "test accuracy", height=220
    )
    note = (
        f"Teacher 30-10-1, student 30-50-1 with ReLU, labels halved at the median, eta {ETA:g} in EMA form; "
        "the numbers of points and dimensions are the paper's, the nets are ours."
    )
    return Evidence(findings, [table], {"Test accuracy": shown}, [note])


CLAIMS = (
    Claim(
        name="jelassi-gaussian",
        sentence="On Gaussian inputs labelled by a teacher net, momentum generalizes like gradient descent.",
        source=f"{PAPER}, experiment on Gaussian data",
        plans={budget: scale.words for budget, scale in GAUSSIANS.items()},
        investigate=gaussian,
    ),
)
