"""The noise of the search direction and its bounds, at a small and a large batch size."""

from __future__ import annotations

import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Cell, Claim, Evidence, Finding, Table
from ravine.claims.laboratory import Laboratory
from ravine.claims.sato.shared import MOMENTUM, PAPER, SCALES, Arm, Trained, train
from ravine.schedules.noise import degree_of_smoothing

BATCHES = (8, 128)
ARMS = (
    Arm("SGD", 0.05),
    Arm("SHB", 0.005, MOMENTUM),
    Arm("NSHB", 0.05, MOMENTUM, ema=True),
)
"""At the same effective learning rate."""


def bounds(arm: Arm, batch_noise: Tensor, bound: Tensor) -> Tensor:
    """The paper's upper bound of the noise of an arm's direction, from C^2 / b and K^2; of NSHB that of v1 to v3."""
    if arm.ema:
        return batch_noise + 4 * arm.momentum**2 * (batch_noise + bound)
    pairs = zip(batch_noise.tolist(), bound.tolist(), strict=True)
    return torch.tensor([degree_of_smoothing(1.0, arm.momentum, 1, c, k**0.5) ** 2 for c, k in pairs])


def noise(laboratory: Laboratory) -> Evidence:
    """The noise of SGD, SHB and NSHB at two batch sizes."""
    scale = SCALES[laboratory.budget]
    found: dict[int, Trained] = {}
    for batch_size in BATCHES:
        laboratory.listener.phase(f"batches of {batch_size}: {len(ARMS) * scale.seeds} runs")
        found[batch_size] = train(ARMS, batch_size, scale.steps, range(scale.seeds))
    findings: list[Finding] = []
    rows: list[list[Cell]] = []
    for batch_size, trained in found.items():
        sgd, shb, nshb = trained.noise
        words = f"batches of {batch_size}"
        findings += [
            criteria.below(
                f"{words}: SHB has more noise than SGD", (sgd / shb).tolist(), 1.0, "SGD's over SHB's noise"
            ),
            criteria.below(
                f"{words}: NSHB has more noise than SGD, as its bound has",
                (sgd / nshb).tolist(),
                1.0,
                "SGD's over NSHB's",
            ),
        ]
        for k, arm in enumerate(ARMS):
            limit = bounds(arm, trained.batch_noise[k], trained.bound[k])
            if arm.momentum:
                findings.append(
                    criteria.below(
                        f"{words}: the noise of {arm.label} is below its bound",
                        (trained.noise[k] / limit).tolist(),
                        1.0,
                        "noise over bound",
                    )
                )
            rows.append([batch_size, arm.label, arm.lr, float(trained.noise[k].mean()), float(limit.mean())])
    few, many = (found[batch_size].noise for batch_size in BATCHES)
    ratio = BATCHES[0] / BATCHES[1]
    findings.append(
        criteria.above(
            f"From batches of {BATCHES[0]} to {BATCHES[1]} the noise of SHB falls much less than SGD's, to {ratio:.3g}",
            (many[1] / few[1]).tolist(),
            2 * ratio,
            "share of SHB's noise that is left",
        )
    )
    shown = figure(
        [
            series(arm.label, BATCHES, [found[batch_size].noise[k].tolist() for batch_size in BATCHES])
            for k, arm in enumerate(ARMS)
        ],
        "Noise of the search direction by batch size",
        "batch size",
        "mean |d - G|^2",
        log_x=True,
        log_y=True,
    )
    notes = [
        f"At the same effective learning rate, {ARMS[0].lr:g}. C^2 / b and K^2 are measured: the mean noise of "
        "the mini-batch's gradient, and the largest |G|^2. Of SGD the bound is an identity.",
        "The bound of NSHB is that of the first three versions; in later ones it goes to 0 with the batch, as SGD's. "
        "The paper measures ResNet18 and WRN-28-10 on CIFAR-100.",
    ]
    columns = ["batch size", "method", "lr", "noise", "bound"]
    table = Table("Noise of the search direction, means over seeds", columns, rows)
    return Evidence(findings, [table], {"Noise by batch size": shown}, notes)


CLAIMS = (
    Claim(
        name="sato-noise",
        sentence="Momentum adds noise to the search direction, as its bounds tell, and at large batches it stays.",
        source=f"{PAPER}, search-direction noise",
        plans={budget: scale.words for budget, scale in SCALES.items()},
        investigate=noise,
    ),
)
