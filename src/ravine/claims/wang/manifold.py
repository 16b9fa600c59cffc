"""Near a manifold of minimizers label noise moves SGD and SGDM alike over 1 / eta^2 steps, Theorem 4.5."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, line, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import every_seed
from ravine.claims.rows import Descent
from ravine.claims.wang.shared import METHODS, PAPER

BEGIN = (2.0, 0.5)  # on u v = 1
HORIZON = 1.0  # eta^2 times the number of steps
ETAS = (0.1, 0.05, 0.025, 0.0125)
ALIKE = 0.02  # of the share of u^2 - v^2 that is left, which falls from 1 to exp(-1) on the way
LEFT = "what is left of u^2 - v^2"
REPLICATES: Mapping[Budget, int] = {"quick": 400, "evening": 4_000}


def slow(method: str, eta: float, seeds: Sequence[int]) -> Tensor:
    """u^2 - v^2 at the end over that at the start, a noise a seed; on (u v - y)^2 / 2 with labels y ~ N(1, 1)."""
    steps = round(HORIZON / eta**2)
    noise = torch.stack(
        [torch.randn(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in seeds], 1
    )
    start = torch.tensor(BEGIN, dtype=torch.float64)
    rule, hyper = METHODS[method]
    descent = Descent(rule, start.expand(len(seeds), -1), lr=eta, **hyper)
    for z in noise:
        u, v = descent.rows.unbind(1)
        descent.step((u * v - 1 - z).unsqueeze(1) * torch.stack([v, u], 1))
    u, v = descent.rows.unbind(1)
    return (u**2 - v**2) / (start[0] ** 2 - start[1] ** 2)


def manifold(laboratory: Laboratory) -> Evidence:
    """Label noise drives along u v = 1 towards the flattest point; over 1 / eta^2 steps SGD and SGDM alike."""
    seeds = every_seed(0, REPLICATES[laboratory.budget])
    found = {method: [slow(method, eta, seeds).tolist() for eta in ETAS] for method in METHODS}
    gaps = [[abs(a - b) for a, b in zip(*pair, strict=True)] for pair in zip(*found.values(), strict=True)]
    findings = [
        criteria.equal(
            f"After 1 / eta^2 steps SGD and SGDM are at one place of the manifold (eta = {ETAS[-1]:g})",
            found["SGDM"][-1],
            found["SGD"][-1],
            ALIKE,
            LEFT,
        ),
        criteria.lower("Noise by noise they come closer as eta falls to an eighth", gaps[-1], gaps[0]),
        *(
            criteria.equal(
                f"{name} moves as the slow equation says: u^2 - v^2 ~ exp(-eta^2 k)",
                values[-1],
                [math.exp(-HORIZON)] * len(seeds),
                ALIKE,
                LEFT,
            )
            for name, values in found.items()
        ),
    ]
    rows: list[Sequence[Cell]] = [
        [f"{eta:g}", math.exp(-HORIZON), *(shown(values[k]) for values in found.values()), shown(gaps[k])]
        for k, eta in enumerate(ETAS)
    ]
    columns = ["eta", "slow equation", "SGD", "SGDM", "distance of the two, noise by noise"]
    table = Table("(u^2 - v^2) / (u_0^2 - v_0^2) after 1 / eta^2 steps", columns, rows)
    chart = figure(
        [line("slow equation", ETAS, [math.exp(-HORIZON)] * len(ETAS))]
        + [series(name, ETAS, values) for name, values in found.items()],
        "Progress along the manifold after 1 / eta^2 steps",
        "eta",
        "(u^2 - v^2) / (u_0^2 - v_0^2)",
        log_x=True,
    )
    notes = [
        "The example is ours: L = (u v - 1)^2 / 2 with label noise of variance 1, from (2, 1/2). SGD multiplies "
        "u^2 - v^2 by 1 - eta^2 (residual - noise)^2 at every step, so that its logarithm falls by 1 in 1 / eta^2 "
        "steps, up to O(eta).",
    ]
    return Evidence(findings, [table], {"Progress along the manifold": chart}, notes)


CLAIMS = (
    Claim(
        name="wang-manifold",
        sentence="Near a manifold of minimizers SGD and SGDM move alike over 1 / eta^2 steps.",
        source=f"{PAPER}, Theorem 4.5",
        plans={budget: f"float64; {count:,} noises, steps up to 6,400" for budget, count in REPLICATES.items()},
        investigate=manifold,
    ),
)
