"""Small margins, Sec. 3 and 4: gradient descent memorizes those examples, momentum learns their feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.jelassi.patches import ALPHA, BETA, ETA, NEURONS, NOISE, Learnt, MarginArm, Margins, train_margins
from ravine.claims.jelassi.shared import PAPER, SMALL_SHARE, errors
from ravine.claims.laboratory import Laboratory

CHANCE = 0.6  # accuracies below count as guessing between two classes
OTHER_ETAS = (0.05, 2.0, 10.0)  # for the control that the learning rate does not do it
MARGINS: Mapping[Budget, Margins] = {
    "quick": Margins(100, 200, 3, 5_000, 8),
    "evening": Margins(200, 500, 3, 10_000, 20, (0.5, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998)),
}


def margin_arms(gammas: Sequence[float]) -> list[MarginArm]:
    """Gradient descent and momenta, then the controls."""
    most = max(gammas)
    return [
        MarginArm("GD", 0.0),
        *(MarginArm(f"GD+M {gamma:g}", gamma) for gamma in gammas),
        *(MarginArm(f"GD, eta {eta:g}", 0.0, eta) for eta in OTHER_ETAS),
        MarginArm(f"GD+M {most:g}, small margins alone", most, sees="small"),
        MarginArm("GD, large margins alone", 0.0, sees="large"),
        MarginArm(f"GD+M {most:g}, large margins alone", most, sees="large"),
    ]


def margin(laboratory: Laboratory) -> Evidence:
    """Small-margin data, with the controls: learning rate, small margins alone, large margins alone."""
    scale = MARGINS[laboratory.budget]
    arms = margin_arms(scale.gammas)
    laboratory.listener.phase(f"{len(arms) * scale.seeds} runs of {scale.steps:,} steps")
    learnt = train_margins(arms, scale, range(scale.seeds))
    places = {arm.label: k for k, arm in enumerate(arms)}
    most = f"GD+M {max(scale.gammas):g}"

    def small(label: str) -> list[float]:
        return learnt.small[places[label]].tolist()

    both = torch.minimum(learnt.fitted[0], learnt.fitted[places[most]])
    large = torch.minimum(learnt.large[0], learnt.large[places[most]])
    worst = [max(of) for of in zip(*(small(f"GD, eta {eta:g}") for eta in OTHER_ETAS), strict=True)]
    alone = torch.minimum(*(learnt.large[places[f"{label}, large margins alone"]] for label in ("GD", most)))
    unit = "accuracy on small margins"
    findings = [
        criteria.above(f"GD and {most} fit the training data", both.tolist(), 0.99, "lower training accuracy"),
        criteria.above(f"GD and {most} learn the large margins", large.tolist(), 0.99, "lower test accuracy"),
        criteria.below("GD guesses on test data of small margin", small("GD"), CHANCE, unit),
        criteria.above(f"{most} classifies test data of small margin", small(most), 0.75, unit),
        criteria.less(f"{most} is better there than GD", errors(small(most)), errors(small("GD")), "test error"),
        criteria.above(
            "GD fits the small-margin data through their noise",
            learnt.noise_share[0].tolist(),
            0.5,
            "share of the noise in their training margin",
        ),
        criteria.less(
            f"GD's feature stays smaller than that of {most}",
            learnt.feature[0].tolist(),
            learnt.feature[places[most]].tolist(),
            "the largest <w, w*>",
        ),
        criteria.below(f"Control: GD guesses at eta {_listed(OTHER_ETAS)}, too", worst, CHANCE, f"largest {unit}"),
        criteria.below(
            f"Control: {most} trained on the small margins alone guesses, so the large ones carry it",
            small(f"{most}, small margins alone"),
            CHANCE,
            unit,
        ),
        criteria.above(
            "Control: trained on the large margins alone both classify them",
            alone.tolist(),
            0.99,
            "lower test accuracy",
        ),
    ]
    columns = ["arm", "training", "test, large", "test, small", "lowest to highest", "feature", "coasting length"]
    table = Table(
        "Accuracies and feature, means over seeds", columns, [_row(arm, learnt, k) for k, arm in enumerate(arms)]
    )
    notes = [
        "The paper states theorems for growing dimension, and no table for these sizes. Coasting length is "
        "sqrt(2 eta / (1 - g)), how far the velocity at 1 / ALPHA carries the feature: our estimate, not the paper's. "
        f"Momentum is expected to help once that passes about 1 / BETA = {1 / BETA:g}, for which .9 is too small.",
        f"eta {ETA:g} in EMA form, ALPHA {ALPHA:g}, BETA {BETA:g}, {SMALL_SHARE:.0%} small margins, noise {NOISE:g}, "
        f"{NEURONS} neurons; no weight decay, for which the paper has a tiny one.",
        f"One start in {2**NEURONS} has no neuron along the feature. From there GD does not learn it, not even of the "
        "large margins; with many neurons, as in the paper, there is no such start.",
    ]
    trained = [arm for arm in arms if arm.sees == "all" and arm.eta == ETA]
    times = [learnt.every * k for k in range(len(learnt.curve))]
    figures = {
        "Feature along the training": figure(
            [series(arm.label, times, learnt.curve[:, places[arm.label]].tolist()) for arm in trained],
            "The largest product of a neuron with the feature, by step",
            "step",
            "feature, the largest <w, w*>",
            points=False,
        ),
        "Accuracy by margin": figure(
            [
                series(
                    f"{name} margin",
                    [1 / (1 - arm.gamma) for arm in trained],
                    [of[places[arm.label]].tolist() for arm in trained],
                )
                for name, of in (("large", learnt.large), ("small", learnt.small))
            ],
            "Test accuracy by momentum",
            "1 / (1 - g), steps that momentum remembers",
            "test accuracy",
            log_x=True,
        ),
    }
    return Evidence(findings, [table], figures, notes)


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _row(arm: MarginArm, learnt: Learnt, k: int) -> list[Cell]:
    small = learnt.small[k]
    means = [float(of[k].mean()) for of in (learnt.fitted, learnt.large, learnt.small)]
    ends = f"{float(small.min()):.3f} to {float(small.max()):.3f}"
    coasting = (2 * arm.eta / (1 - arm.gamma)) ** 0.5 if arm.gamma else None
    return [arm.label, *means, ends, float(learnt.feature[k].mean()), coasting]


CLAIMS = (
    Claim(
        name="jelassi-margin",
        sentence="Examples that show the feature faintly are memorized by gradient descent, and learnt by momentum.",
        source=f"{PAPER}, Theorems on GD and GD+M",
        plans={budget: scale.words for budget, scale in MARGINS.items()},
        investigate=margin,
    ),
)
