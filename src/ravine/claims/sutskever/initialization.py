"""The scale of the sparse initialization, Sec. 3: Table 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from ravine.claims import criteria
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory, Runs
from ravine.claims.sutskever.autoencoders import (
    AUTOENCODERS,
    MOMENTA,
    RATES,
    UPDATES,
    autoencoder_arms,
    judged_on_training,
)
from ravine.claims.sutskever.shared import PAPER, Scale, curves, notes_of, plans
from ravine.problems.curves import curves_autoencoder, small_curves_autoencoder

TABLE_3 = {0.25: 16.0, 0.5: 16.0, 1.0: 0.074, 2.0: 0.083, 4.0: 0.35}

INITIALIZATIONS: Mapping[Budget, Scale] = {
    "quick": Scale(("curves",), 2_000, 4, RATES),
    "evening": Scale(("curves",), 5_000, 4, RATES[:4]),
    "paper": Scale(("curves",), UPDATES, 3, RATES, small=False),
}


def init_scale(laboratory: Laboratory) -> Evidence:
    """Table 3."""
    scale = INITIALIZATIONS[laboratory.budget]
    highest = max(scale.momenta(MOMENTA))
    label = f"{highest:g}N"
    made = small_curves_autoencoder if scale.small else curves_autoencoder
    standard = judged_on_training(made())
    arms = autoencoder_arms(AUTOENCODERS[laboratory.budget].momenta(MOMENTA), scale.steps)
    wanted = arms if label in arms else autoencoder_arms([highest], scale.steps)
    rate = laboratory.rates(standard, {label: wanted[label]}, scale.rates, scale.pilot_seeds, scale.steps)[label]
    errors: dict[float, list[float]] = {}
    frames = []
    for factor in TABLE_3:
        problem = replace(judged_on_training(made(factor)), name=f"{standard.name}, scale {factor:g}")
        arm = replace(wanted[label](rate), label=f"{factor:g}")
        runs = laboratory.train(problem, [arm], range(scale.seeds), scale.steps)
        errors[factor] = runs.errors(arm.label)
        frames.append(runs.frame)
    pictures = standard.train[0].double()
    mean = float((pictures - pictures.mean(0)).square().sum(1).mean())
    share = {factor: [error / mean for error in of] for factor, of in errors.items()}
    unit = "share of the mean picture's error"
    findings = [
        *(criteria.above(f"Scale {factor:g} fails", share[factor], 0.75, unit) for factor in (0.25, 0.5)),
        *(criteria.below(f"Scale {factor:g} works", share[factor], 0.5, unit) for factor in (1.0, 2.0)),
        *(criteria.lower(f"Scale 1 is better than {f:g}", errors[1.0], errors[f]) for f in (0.25, 0.5, 4.0)),
    ]
    rows: list[Sequence[Cell]] = [["paper", *TABLE_3.values()], ["here", *map(shown, errors.values())]]
    runs = Runs(pl.concat(frames), runs.endpoint, runs.worst)
    figure = curves(runs, [f"{factor:g}" for factor in TABLE_3], "squared error", log=True)
    table = Table(
        f"Squared error by the scale of the initialization, NAG at {highest:g}",
        ["scale", *(f"{f:g}" for f in TABLE_3)],
        rows,
    )
    notes = [
        *notes_of(scale, laboratory),
        f"The mean picture's error is {mean:.4g}; the learning rate is {rate:g}, chosen at scale 1.",
    ]
    return Evidence(findings, [table], {"Training by scale": figure}, notes)


CLAIMS = (
    Claim(
        name="sutskever-init-scale",
        sentence="Sparse initialization works at scale 1 and 2; training fails at 1/2 and 1/4, and is worse at 4.",
        source=f"{PAPER}, Table 3",
        plans=plans(INITIALIZATIONS),
        investigate=init_scale,
    ),
)
