"""Theorem 2.1: on a quadratic NAG is CM with momentum mu (1 - lr lambda) in each eigen-direction."""

from __future__ import annotations

import math
from collections.abc import Callable

import altair as alt
import polars as pl
import torch
from torch import Tensor

from ravine import rules
from ravine.claims import criteria
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.laboratory import Laboratory
from ravine.claims.sutskever.shared import PAPER
from ravine.report.theme import colours, layered

ROUNDING = 1e-20  # products of neighbouring positions, in float64 from a start of 1


def theorem(laboratory: Laboratory) -> Evidence:
    """Nesterov's and classical momentum on random quadratics, by the rules of the library, in float64."""
    deviation, plain, rotated = 0.0, math.inf, 0.0
    for seed in range(20):
        a, basis, curvatures, start = _quadratic(seed)
        lr, momentum = 0.9 / float(curvatures.max()), 0.95
        nesterov = _trajectory("sutskever-nesterov", lambda w, a=a: a @ w, start, lr, momentum)  # type: ignore[misc]
        classical = _trajectory("sutskever-momentum", lambda w, a=a: a @ w, start, lr, momentum)  # type: ignore[misc]
        each = lambda w, c=curvatures: c * w  # noqa: E731
        along = start @ basis
        scaled = _trajectory("sutskever-momentum", each, along, lr, momentum * (1 - lr * curvatures))
        alone = _trajectory("sutskever-momentum", each, along, lr, momentum)
        size = float(start.norm())
        deviation = max(deviation, float((nesterov @ basis - scaled).abs().max()) / size)
        rotated = max(rotated, float((classical @ basis - alone).abs().max()) / size)
        plain = min(plain, float((nesterov @ basis - alone).abs().max()) / size)
    gaps = [_gap(lr) for lr in (1e-3, 1e-4)]
    steep = {rule: _ravine(rule)[:, 1] for rule in ("sutskever-momentum", "sutskever-nesterov")}
    # At lr lambda = 1 NAG is at 0 after a step, up to rounding, whose signs mean nothing.
    turns = {rule: int(((path[1:] * path[:-1]) < -ROUNDING).sum()) for rule, path in steep.items()}
    findings = [
        criteria.exact(
            "NAG is CM with momentum mu (1 - lr lambda) in every eigen-direction (20 quadratics in 6-d, 200 steps)",
            deviation,
            1e-11,
            "largest deviation, relative to the start",
        ),
        criteria.exact(
            "CM itself commutes with the change to the eigenbasis (Proposition 6.1)",
            rotated,
            1e-11,
            "largest deviation, relative to the start",
        ),
        criteria.holds(
            "The factor matters: CM with mu alone is another method",
            "on each quadratic the paths differ by more than .001 of the start",
            plain > 1e-3,
            plain,
            "least of the largest gaps",
        ),
        criteria.holds(
            "NAG and CM coincide as lr lambda vanishes",
            "with a tenth of lr their largest gap is at most a fifth",
            gaps[1] <= 0.2 * gaps[0],
            gaps[1],
            f"largest gap at lr lambda = .0001, and {gaps[0]:.3g} at .001",
        ),
        criteria.holds(
            "On the ravine (curvatures 1 and 100, lr .01, mu .9) CM oscillates along the steep axis, NAG does not",
            "CM changes its sign there at least ten times as often",
            turns["sutskever-momentum"] >= 10 * turns["sutskever-nesterov"],
            turns["sutskever-momentum"] - turns["sutskever-nesterov"],
            "more sign changes in 100 steps",
        ),
    ]
    row: list[Cell] = [turns["sutskever-momentum"], turns["sutskever-nesterov"]]
    table = Table("Sign changes along the steep axis in 100 steps", ["CM", "NAG"], [row])
    return Evidence(findings, [table], {"Paths on the ravine": _paths()})


Gradient = Callable[[Tensor], Tensor]


def _quadratic(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A positive definite matrix, its eigenvectors, its eigenvalues, and a start."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))
    curvatures = 10 ** (3 * torch.rand(6, dtype=torch.float64, generator=generator) - 2)
    start = torch.randn(6, dtype=torch.float64, generator=generator)
    return basis @ torch.diag(curvatures) @ basis.T, basis, curvatures, start


def _trajectory(
    rule: str, gradient: Gradient, start: Tensor, lr: float, momentum: float | Tensor, steps: int = 200
) -> Tensor:
    """theta after every step, (steps, ...); the rule of NAG keeps theta + mu v, from which theta is taken."""
    body = rules.get(rule)
    h = {"lr": torch.tensor(lr, dtype=torch.float64), "momentum": torch.as_tensor(momentum, dtype=torch.float64)}
    w, state, seen = start.clone(), {"momentum_buffer": torch.zeros_like(start)}, []
    for _ in range(steps):
        body.update(w, gradient(w), state, h)
        ahead = h["momentum"] * state["momentum_buffer"] if rule == "sutskever-nesterov" else 0.0
        seen.append(w - ahead)
    return torch.stack(seen)


def _gap(lr: float) -> float:
    """The largest distance of NAG from CM on a curvature of 1, mu = .9, relative to the start."""
    start = torch.ones(1, dtype=torch.float64)
    paths = [_trajectory(rule, lambda w: w, start, lr, 0.9) for rule in ("sutskever-nesterov", "sutskever-momentum")]
    return float((paths[0] - paths[1]).abs().max())


def _ravine(rule: str, momentum: float = 0.9) -> Tensor:
    curvatures = torch.tensor([1.0, 100.0], dtype=torch.float64)
    start = torch.tensor([10.0, 1.0], dtype=torch.float64)
    return torch.cat([start.unsqueeze(0), _trajectory(rule, lambda w: curvatures * w, start, 0.01, momentum, 100)])


def _paths() -> alt.LayerChart:
    """As the paper's Figure 2, whose numbers it does not give."""
    named = {"GD": ("sutskever-momentum", 0.0), "CM": ("sutskever-momentum", 0.9), "NAG": ("sutskever-nesterov", 0.9)}
    parts = []
    for name, (rule, momentum) in named.items():
        path = _ravine(rule, momentum)
        parts.append(
            pl.DataFrame({"method": name, "step": range(len(path)), "x": path[:, 0].tolist(), "y": path[:, 1].tolist()})
        )
    lines = (
        alt.Chart(pl.concat(parts))
        .mark_line(point=alt.OverlayMarkDef(size=12))
        .encode(
            alt.X("x:Q", title="flat direction, curvature 1"),
            alt.Y("y:Q", title="steep direction, curvature 100"),
            alt.Color("method:N", scale=colours(list(named))),
            order="step:Q",
        )
    )
    return layered([lines], "Paths of gradient descent, CM and NAG from (10, 1) to the minimum at the origin", 260)


EXACT: dict[Budget, str] = dict.fromkeys(("quick", "evening", "paper"), "float64, seconds")

CLAIMS = (
    Claim(
        name="sutskever-theorem",
        sentence="On quadratics NAG is classical momentum with mu (1 - lr lambda) in every eigen-direction.",
        source=f"{PAPER}, Theorem 2.1",
        plans=EXACT,
        investigate=theorem,
    ),
)
