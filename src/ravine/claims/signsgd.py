"""Bernstein et al., "signSGD: compressed optimisation for non-convex problems", ICML 2018.

The toy problem, with its learning rates, is that of the authors' code: f(x) = |x|^2 / 2, and noise in the gradient of
one coordinate alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory
from ravine.claims.rows import Descent

PAPER = "Bernstein et al., ICML 2018 (arXiv 1802.04434)"

DIMENSION, NOISE = 100, 100.0
SGD_RATE, SIGN_RATE = 1e-3, 1e-2
SGD_RATES = np.geomspace(1e-6, 1.0, 601)


@dataclass(frozen=True)
class Toy:
    """Steps, the step of the early look, and seeds."""

    steps: int
    early: int
    seeds: int

    @property
    def words(self) -> str:
        """In one line."""
        return f"{self.steps:,} steps in {DIMENSION} dimensions, {self.seeds} seeds"


TOYS: Mapping[Budget, Toy] = {
    "quick": Toy(10_000, 1_000, 20),
    "evening": Toy(10_000, 1_000, 1_000),
    "paper": Toy(10_000, 1_000, 10),  # repeats of the authors' code
}


def starts(seeds: int) -> Tensor:
    """(seeds, DIMENSION): x0 ~ N(0, I)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(seeds, DIMENSION, dtype=torch.float64, generator=generator)


def toy(rule: str, lr: float, scale: Toy, deviations: Tensor) -> Tensor:
    """(steps + 1, seeds): f along the way, the gradient being x + noise of these deviations (DIMENSION,)."""
    generator = torch.Generator().manual_seed(2)  # the same noise for every rule
    descent = Descent(rule, starts(scale.seeds), lr=lr)
    losses = [descent.rows.square().sum(1) / 2]
    for _ in range(scale.steps):
        noise = torch.randn(scale.seeds, DIMENSION, dtype=torch.float64, generator=generator)
        descent.step(descent.rows + deviations * noise)
        losses.append(descent.rows.square().sum(1) / 2)
    return torch.stack(losses)


def expected_loss(lr: NDArray[np.float64] | float, steps: int) -> NDArray[np.float64]:
    """E f of SGD after `steps` on noise of total variance NOISE^2, in whatever coordinates, over starts and noise.

    With q = (1 - lr)^(2 steps): (d q + lr^2 NOISE^2 (1 - q) / (1 - (1 - lr)^2)) / 2.
    """
    q = (1 - np.asarray(lr)) ** (2 * steps)
    found: NDArray[np.float64] = (DIMENSION * q + lr * NOISE**2 * (1 - q) / (2 - lr)) / 2
    return found


def sparse_noise(laboratory: Laboratory) -> Evidence:
    """The toy problem, and the same with the noise spread over all coordinates."""
    scale = TOYS[laboratory.budget]
    one, all_ = torch.zeros(DIMENSION, dtype=torch.float64), torch.full((DIMENSION,), NOISE / DIMENSION**0.5)
    one[0] = NOISE
    paths = {rule: toy(rule, lr, scale, one) for rule, lr in (("sgd", SGD_RATE), ("signsgd", SIGN_RATE))}
    spread = {rule: toy(rule, lr, scale, all_.double()) for rule, lr in (("sgd", SGD_RATE), ("signsgd", SIGN_RATE))}
    early, late = scale.early, scale.steps
    least = {step: float(expected_loss(SGD_RATES, step).min()) for step in (early, late)}
    at = {rule: {step: path[step].tolist() for step in (early, late)} for rule, path in paths.items()}
    findings = [
        *(
            criteria.lower(f"signSGD is below SGD after {step:,} steps", at["signsgd"][step], at["sgd"][step])
            for step in (early, late)
        ),
        *(
            criteria.below(
                f"signSGD is below what SGD can expect at its best learning rate, after {step:,} steps",
                at["signsgd"][step],
                least[step],
                "mean f",
            )
            for step in (early, late)
        ),
        criteria.expected(
            "SGD is where the closed form has it at the end",
            at["sgd"][late],
            float(expected_loss(SGD_RATE, late)),
            "mean f",
        ),
        criteria.lower(
            "What signSGD gains on SGD comes of the noise being in one coordinate: spread over all it gains less",
            [a / b for a, b in zip(at["signsgd"][late], at["sgd"][late], strict=True)],
            (spread["signsgd"][late] / spread["sgd"][late]).tolist(),
        ),
    ]
    rows: list[Sequence[Cell]] = [
        ["all in one coordinate", *(shown(at[rule][step]) for rule in at for step in (early, late)), least[late]],
        ["the same in all", *(shown(spread[r][s].tolist()) for r in spread for s in (early, late)), least[late]],
    ]
    columns = ["noise", *(f"{name}, {step:,} steps" for name in ("SGD", "signSGD") for step in (early, late))]
    table = Table("f, mean over seeds", [*columns, f"best SGD in expectation, {late:,} steps"], rows)
    marks = np.unique(np.geomspace(10, late, 60).astype(int)).tolist()
    lines = [
        series(name, marks, paths[rule][marks].tolist())
        for name, rule in ((f"SGD, lr {SGD_RATE:g}", "sgd"), (f"signSGD, lr {SIGN_RATE:g}", "signsgd"))
    ]
    chart = figure(lines, "f along the training, by rule", "step", "f", log_x=True, log_y=True, points=False)
    note = (
        "The expectation of SGD depends on the total variance of the noise alone, not on where it is; the best of 601 "
        "constant learning rates is chosen in hindsight for each number of steps, which signSGD is not given."
    )
    return Evidence(findings, [table], {"f along the training": chart}, [note])


CLAIMS = (
    Claim(
        name="signsgd",
        sentence="Where few coordinates have all the noise, signSGD trains where SGD cannot.",
        source=f"{PAPER}, toy problem of the authors' code",
        plans={budget: scale.words for budget, scale in TOYS.items()},
        investigate=sparse_noise,
    ),
)
