"""The ravine: momentum against gradient descent, AdaGrad, RMSProp and Adam on a steep and a flat axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt
import polars as pl
import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.claim import Cell, Claim, Evidence, Finding, Table
from ravine.claims.efimov.shared import PAPER, ROUNDING, SETTINGS
from ravine.claims.laboratory import Laboratory
from ravine.claims.rows import Descent
from ravine.report.theme import colours, layered

ADAPTIVE = ("AdaGrad", "RMSProp", "Adam")
CURVATURES = (1.0, 100.0)
START = (10.0, 1.0)  # where both axes add the same to the loss
TARGET = 1e-4  # share of the first loss
STEPS = 3_000
RATES = tuple(10 ** (-4 + k / 50) for k in range(301))  # 1e-4 to 100
DRAWN = 60  # steps of a path in a figure


def path(
    method: str, rates: Tensor, steps: int, curvatures: Sequence[float] = CURVATURES, angle: float = 0.0
) -> Tensor:
    """(steps + 1, rates, axes): the iterates of a method on sum of c_i x_i^2 / 2 from `START`, along the axes.

    angle: by which the axes of the quadratic are turned against those of the parameters.
    """
    rule, hyper = SETTINGS[method]
    c, start = torch.tensor(curvatures, dtype=torch.float64), torch.tensor(START, dtype=torch.float64)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    descent = Descent(rule, (start @ turn.T).expand(len(rates), -1), lr=rates, eps=0.0, **hyper)
    seen = [start.expand(len(rates), -1)]
    for _ in range(steps):
        descent.step((seen[-1] * c) @ turn.T)
        seen.append(descent.rows @ turn)
    return torch.stack(seen)


@dataclass(frozen=True)
class Way:
    """How a method went: its rate, iterations after which it stays at the target, and turns until then.

    iterations: infinite if it is not there after `STEPS`. turns: sign changes along the steep axis.
    """

    rate: float
    iterations: float
    turns: int


def ways(method: str, rates: Sequence[float], angle: float = 0.0) -> list[Way]:
    """Of a method at each rate."""
    seen = path(method, torch.tensor(rates, dtype=torch.float64), STEPS, angle=angle)
    loss = (seen.square() * torch.tensor(CURVATURES, dtype=torch.float64)).sum(2) / 2
    away = ~(loss <= TARGET * loss[0])
    first = STEPS + 1 - away.flip(0).int().argmax(0)
    steep = seen[..., 1]
    turned = (steep[1:] * steep[:-1] < 0) & (torch.arange(STEPS).unsqueeze(1) < first)
    return [
        Way(rate, float(k) if k <= STEPS else math.inf, int(turns))
        for rate, k, turns in zip(rates, first, turned.sum(0), strict=True)
    ]


def tuned(method: str, angle: float = 0.0) -> Way:
    """The way with the fewest iterations over all rates."""
    return min(ways(method, RATES, angle), key=lambda way: way.iterations)


def in_the_ravine(laboratory: Laboratory) -> Evidence:
    """Momentum against gradient descent on a ravine along the axes; the others beside them, and on a turned one."""
    best = {method: tuned(method) for method in SETTINGS}
    rate = best["gradient descent"].rate
    same = {method: ways(method, [rate])[0] for method in SETTINGS}
    turned = {method: tuned(method, math.pi / 4) for method in SETTINGS}
    plain, momentum = same["gradient descent"], same["momentum"]
    gain = best["gradient descent"].iterations / best["momentum"].iterations
    findings = [
        criteria.holds(
            "At the best rate of gradient descent, momentum .9 oscillates less along the steep axis",
            "it changes its sign there at most half as often on the way to the target",
            momentum.turns <= plain.turns / 2,
            momentum.turns / plain.turns,
            f"of the sign changes of gradient descent ({momentum.turns} against {plain.turns})",
        ),
        criteria.holds(
            "At that rate it needs fewer iterations",
            "fewer to the target",
            momentum.iterations < plain.iterations,
            momentum.iterations / plain.iterations,
            f"of the iterations ({momentum.iterations:g} against {plain.iterations:g})",
        ),
        criteria.holds(
            "With both at their best rates it needs fewer iterations",
            "fewer to the target",
            gain > 1,
            gain,
            "times as fast",
        ),
        _tolerance(),
        *(_blind(method) for method in ADAPTIVE),
    ]
    rows: list[Sequence[Cell]] = [
        [
            method,
            rate,
            *_cells(same[method]),
            best[method].rate,
            *_cells(best[method]),
            _count(turned[method].iterations),
        ]
        for method in SETTINGS
    ]
    columns = ["", "equal rate", "iterations", "sign changes", "best rate", "iterations", "sign changes"]
    table = Table(
        f"To {TARGET:g} of the first loss; curvatures 1 and 100, from (10, 1)",
        [*columns, "ravine turned by 45°: iterations at the best rate"],
        rows,
    )
    figures = {
        f"The first {DRAWN} steps, each at its best rate": _paths({m: best[m].rate for m in SETTINGS}),
        f"The first {DRAWN} steps, all at the best rate of gradient descent": _paths(dict.fromkeys(SETTINGS, rate)),
    }
    notes = [
        "The article draws its ravine and names no function: curvatures, start and target are ours.",
        "Rates are the best of 301 from .0001 to 100; momentum is .9, in the article's form.",
        "That AdaGrad, RMSProp and Adam do not see the steep axis holds only for ravines along the axes of the "
        "parameters: the last column of the table turns it.",
    ]
    return Evidence(findings, [table], figures, notes)


def _tolerance() -> Finding:
    """That momentum is stable up to a rate (1 + b) / (1 - b) times as large, on the steep axis."""
    limit = 2 / CURVATURES[1]
    growing, turned = [], torch.tensor([0.99, 1.01], dtype=torch.float64)
    for method, factor in (("gradient descent", 1.0), ("momentum", 1.9 / 0.1)):
        ends = path(method, turned * limit * factor, STEPS)[-1, :, 1].abs()
        growing.append([bool(~(end <= START[1])) for end in ends])
    return criteria.holds(
        "Larger rates are safe with momentum: it is stable up to 19 times that of gradient descent",
        f"in {STEPS:,} steps both shrink at .99 of 2 / 100 and of 38 / 100, and both grow at 1.01 of them",
        growing == [[False, True], [False, True]],
        1.9 / 0.1,
        "times the largest stable rate",
    )


def _blind(method: str) -> Finding:
    """Along an axis the step of an adaptive method does not depend on the axis' curvature."""
    rate = torch.tensor([0.1], dtype=torch.float64)
    alike = [path(method, rate, 100, curvatures)[..., 1] for curvatures in (CURVATURES, (1.0, 1.0))]
    return criteria.exact(
        f"{method} takes the same steps on the steep axis as if its curvature were 1 (100 steps)",
        float((alike[0] - alike[1]).abs().max()),
        ROUNDING,
        "largest deviation",
    )


def _cells(way: Way) -> tuple[Cell, Cell]:
    return _count(way.iterations), float(way.turns)


def _count(iterations: float) -> Cell:
    return iterations if math.isfinite(iterations) else f"more than {STEPS:,}"


def _paths(rates: Mapping[str, float]) -> alt.LayerChart:
    """The paths on the level lines of the ravine."""
    parts = []
    for method, rate in rates.items():
        seen = path(method, torch.tensor([rate], dtype=torch.float64), DRAWN)[:, 0]
        part = {"method": method, "step": range(len(seen)), "x": seen[:, 0].tolist(), "y": seen[:, 1].tolist()}
        parts.append(pl.DataFrame(part).with_columns(pl.col("x", "y").round(4)))
    angle = torch.linspace(0, 2 * math.pi, 121, dtype=torch.float64)
    levels = [
        pl.DataFrame(
            {
                "level": f"{level:g}",
                "step": range(len(angle)),
                "x": (math.sqrt(2 * level) * angle.cos()).round(decimals=3).tolist(),
                "y": (math.sqrt(2 * level / CURVATURES[1]) * angle.sin()).round(decimals=4).tolist(),
            }
        )
        for level in (1.0, 5.0, 15.0, 30.0, 50.0, 75.0, 100.0)
    ]
    x = alt.X("x:Q", title="flat axis, curvature 1", scale=alt.Scale(domain=[-5, 12]))
    y = alt.Y("y:Q", title="steep axis, curvature 100", scale=alt.Scale(domain=[-1.45, 1.45]))
    contours = (
        alt.Chart(pl.concat(levels))
        .mark_line(clip=True, color="#d0d0d0", strokeWidth=1)
        .encode(x, y, detail="level:N", order="step:Q")
    )
    lines = (
        alt.Chart(pl.concat(parts))
        .mark_line(clip=True, point=alt.OverlayMarkDef(size=14), strokeWidth=1.4)
        .encode(x, y, alt.Color("method:N", scale=colours(list(rates)), sort=list(rates)), order="step:Q")
    )
    return layered([contours, lines], "Paths of five methods from (10, 1) over the level lines of the ravine", 340)


CLAIMS = (
    Claim(
        name="efimov-ravine",
        sentence="In a ravine momentum damps the oscillation along the steep axis, is faster, and bears larger rates.",
        source=f"{PAPER}, momentum",
        plans={"quick": "float64, seconds"},
        investigate=in_the_ravine,
    ),
)
