"""Degree of smoothing against test accuracy, at equal and at matched learning rates."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import numpy as np
import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Cell, Claim, Evidence, Finding, Table
from ravine.claims.laboratory import PILOT_SEED, Laboratory
from ravine.claims.nets import ERROR
from ravine.claims.sato.shared import MOMENTUM, PAPER, RATE, SCALES, Arm, Trained, train
from ravine.schedules.noise import degree_of_smoothing

RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
BATCHES = (8, 32, 128)
LARGE = BATCHES[-1]
GRID = tuple(Arm(label, rate, momentum) for label, momentum in (("SGD", 0.0), ("SHB", MOMENTUM)) for rate in RATES)


def smoothing(laboratory: Laboratory) -> Evidence:
    """Test errors of SGD and SHB over learning rates and batch sizes."""
    scale = SCALES[laboratory.budget]
    found: dict[int, Trained] = {}
    for batch_size in BATCHES:
        laboratory.listener.phase(f"batches of {batch_size}: {len(GRID) * scale.seeds} runs")
        found[batch_size] = train(GRID, batch_size, scale.steps, range(scale.seeds))
    pilot = train(GRID, LARGE, scale.steps, range(PILOT_SEED, PILOT_SEED + 3)).error.mean(1)
    best = {
        label: min((k for k, arm in enumerate(GRID) if arm.label == label), key=lambda k: float(pilot[k]))
        for label in ("SGD", "SHB")
    }

    def errors(arm: Arm) -> list[float]:
        taken: list[float] = found[LARGE].error[GRID.index(arm)].tolist()
        return taken

    def compared(words: str, shb: Arm, sgd: Arm) -> Finding:
        return criteria.less(f"{words}: SHB errs less than SGD", errors(shb), errors(sgd), ERROR)

    shb = Arm("SHB", RATE, MOMENTUM)
    slow = Arm("SHB", RATES[RATES.index(RATE) - 2], MOMENTUM)  # whose effective learning rate is RATE
    chosen = {label: GRID[k] for label, k in best.items()}
    smoothed, bounded, effective = _smoothing(found), _bounds(found), _effective(found)
    explained = {
        "degree of smoothing, measured": _explained(found, smoothed),
        "degree of smoothing, by its formula": _explained(found, bounded),
        "effective learning rate": _explained(found, effective),
    }
    findings = [
        compared(f"Batches of {LARGE}, both at lr {RATE:g}, as in the paper", shb, Arm("SGD", RATE)),
        compared(f"Batches of {LARGE}, both at effective lr {RATE:g}, as the critics ask", slow, Arm("SGD", RATE)),
        compared(
            f"Batches of {LARGE}, each at its best lr ({chosen['SHB'].lr:g} and {chosen['SGD'].lr:g})",
            chosen["SHB"],
            chosen["SGD"],
        ),
        criteria.less(
            "Over all runs the degree of smoothing explains the test error better than the effective learning rate",
            explained["effective learning rate"],
            explained["degree of smoothing, measured"],
            "shares of the variance explained (R^2)",
        ),
    ]
    rows: list[list[Cell]] = [
        [
            batch_size,
            arm.label,
            *(float(found[batch_size].error[GRID.index(Arm(arm.label, rate, arm.momentum))].mean()) for rate in RATES),
        ]
        for batch_size in BATCHES
        for arm in (GRID[0], GRID[-1])
    ]
    table = Table("Test error by learning rate, means over seeds", ["batch size", "method", *map(str, RATES)], rows)
    fit = Table(
        "Share of the variance of the test error that a quadratic in the logarithm explains, mean over seeds",
        list(explained),
        [[float(np.mean(shares)) for shares in explained.values()]],
    )
    notes = [
        "The paper trains ResNet18 and WRN-28-10 on CIFAR-100 for 200 epochs at lr .1 and momentum .9. Here all batch "
        "sizes have the same number of steps, so that batch size is not confounded with the number of updates.",
        "At the same lr SHB has ten times the effective learning rate. The best lr are chosen on other seeds. Runs "
        "that end above the loss of guessing are left out of the fits and of the figures.",
        "The degree of smoothing is measured in the second half of a training, where runs that fit have less noise. "
        f"That of the paper's formula has one C^2 and one K for all, here those of SGD at lr {RATE:g}; it is shown and "
        "not judged.",
    ]
    figures = {
        "Test error by degree of smoothing": _plotted(found, smoothed, "degree of smoothing, lr sqrt(mean |d - G|^2)"),
        "Test error by the formula of the degree of smoothing": _plotted(
            found, bounded, "degree of smoothing, formula"
        ),
        "Test error by effective learning rate": _plotted(found, effective, "effective learning rate"),
    }
    return Evidence(findings, [table, fit], figures, notes)


Values = Mapping[int, Tensor]
"""Of each batch size, (arms of GRID, seeds)."""


def _smoothing(found: Mapping[int, Trained]) -> Values:
    rates = torch.tensor([[arm.lr] for arm in GRID], dtype=torch.float64)
    return {batch_size: rates * trained.noise.sqrt() for batch_size, trained in found.items()}


def _bounds(found: Mapping[int, Trained]) -> Values:
    """The degree of smoothing that the paper's formula gives, with one C^2 and one K for all: of SGD at RATE."""
    few, place = min(found), GRID.index(Arm("SGD", RATE))
    variance, bound = few * float(found[few].batch_noise[place].mean()), float(found[few].bound[place].max()) ** 0.5
    return {
        b: torch.tensor(
            [[degree_of_smoothing(arm.lr, arm.momentum, b, variance, bound)] for arm in GRID], dtype=torch.float64
        ).expand_as(trained.error)
        for b, trained in found.items()
    }


def _effective(found: Mapping[int, Trained]) -> Values:
    rates = torch.tensor([[arm.lr / (1 - arm.momentum)] for arm in GRID], dtype=torch.float64)
    return {batch_size: rates.expand_as(trained.error) for batch_size, trained in found.items()}


def _explained(found: Mapping[int, Trained], values: Values) -> list[float]:
    """R^2 of the quadratic in log(x) that fits the test errors of all learning runs best; of each seed."""
    shares = []
    for seed in range(next(iter(found.values())).error.shape[1]):
        pairs = [
            (float(values[batch_size][arm, seed]), float(trained.error[arm, seed]))
            for batch_size, trained in found.items()
            for arm in range(len(GRID))
            if float(trained.loss[arm, seed]) < np.log(10)
        ]
        x, y = np.log([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
        left = y - np.polyval(np.polyfit(x, y, 2), x)
        shares.append(float(1 - left.var() / y.var()))
    return shares


def _plotted(found: Mapping[int, Trained], values: Values, x: str) -> alt.LayerChart:
    """Test errors of the settings that learn on all seeds, a line a method and batch size."""
    parts = []
    for batch_size, trained in found.items():
        learns = (trained.loss < np.log(10)).all(1)
        for label in ("SGD", "SHB"):
            arms = [k for k, arm in enumerate(GRID) if arm.label == label and learns[k]]
            taken = [trained.error[k].tolist() for k in arms]
            parts.append(
                series(f"{label}, b = {batch_size}", [float(values[batch_size][k].mean()) for k in arms], taken)
            )
    return figure(parts, f"Test error against the {x}", x, "test error", log_x=True, log_y=True)


CLAIMS = (
    Claim(
        name="sato-smoothing",
        sentence="How well a run generalizes is told by its degree of smoothing, so that SHB wins at large batches.",
        source=f"{PAPER}, degree of smoothing and test accuracy",
        plans={budget: scale.words for budget, scale in SCALES.items()},
        investigate=smoothing,
    ),
)
