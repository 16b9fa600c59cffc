"""Goh, "Why Momentum Really Works", Distill 2017 (doi 10.23915/distill.00006): its formulas against iterates.

The article writes z <- beta z + grad f(w), w <- w - alpha z, which is `ravine.rules` "momentum" in heavy-ball form with
learning rate alpha and momentum beta. All of it is about quadratics, per eigenvalue lambda of the curvature.
"""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from ravine import rules
from ravine.claims import criteria
from ravine.claims.claim import Claim, Evidence, Finding, Table
from ravine.claims.laboratory import Laboratory
from ravine.report.theme import layered

Array = NDArray[np.float64]
Complexes = NDArray[np.complex128]

ROUNDING = 1e-10  # relative, that hundreds of steps in float64 may add up to
RATE_STEPS = 20_000  # whose mean growth measures a rate, to about log(steps) / steps
RATE_ERROR = 2e-3
CONDITION = 100.0
REPLICATES = {"quick": 4_000, "evening": 40_000, "paper": 400_000}


def iterates(
    curvature: Tensor, alpha: Tensor, beta: Tensor, start: Tensor, steps: int, noise: Tensor | None = None
) -> Tensor:
    """w_0, ..., w_steps of momentum on lambda w^2 / 2, elementwise over any shape; `noise` adds to the gradients."""
    rule = rules.get("momentum")
    w, state = start.clone(), {"momentum_buffer": torch.zeros_like(start)}
    seen = [w.clone()]
    for step in range(steps):
        gradient = curvature * w if noise is None else curvature * w + noise[step]
        rule.update(w, gradient, state, {"lr": alpha, "momentum": beta})
        seen.append(w.clone())
    return torch.stack(seen)


def matrix(alpha: float, beta: float, curvature: float) -> Array:
    """The momentum matrix R on (z, w): (z', w') = R (z, w)."""
    return np.array([[beta, curvature], [-alpha * beta, 1 - alpha * curvature]])


def eigenvalues(alpha: Array, beta: Array, curvature: Array) -> Complexes:
    """(2, ...): (1 - alpha lambda + beta +- sqrt((1 - alpha lambda + beta)^2 - 4 beta)) / 2."""
    half = (1 - alpha * curvature + beta) / 2
    root = np.sqrt((half**2 - beta).astype(complex))
    return np.stack([half + root, half - root])


def rate(alpha: Array, beta: Array, curvature: Array) -> Array:
    """The factor by which an eigen-direction shrinks in the long run: the larger modulus."""
    moduli: Array = np.abs(eigenvalues(alpha, beta, curvature)).max(0)
    return moduli


def measured_rate(alpha: Tensor, beta: Tensor, curvature: Tensor, steps: int = RATE_STEPS) -> Tensor:
    """The mean growth of (z, w) over many steps, made small again at every one."""
    rule = rules.get("momentum")
    w, state = torch.ones_like(alpha), {"momentum_buffer": torch.zeros_like(alpha)}
    growth = torch.zeros_like(alpha)
    for _ in range(steps):
        rule.update(w, curvature * w, state, {"lr": alpha, "momentum": beta})
        size = torch.sqrt(w.square() + state["momentum_buffer"].square()).clamp_min(1e-300)
        growth += size.log()
        w /= size
        state["momentum_buffer"] /= size
    return (growth / steps).exp()


def optimum(low: float, high: float) -> tuple[float, float, float]:
    """The best alpha and beta for curvatures from low to high, and their rate."""
    a, b = low**0.5, high**0.5
    return (2 / (a + b)) ** 2, ((b - a) / (b + a)) ** 2, (b - a) / (b + a)


def _filled(value: float, size: int) -> Tensor:
    return torch.full((size,), value, dtype=torch.float64)


def investigate(laboratory: Laboratory) -> Evidence:
    """All of it takes seconds; the budget says how many replicates the stochastic formula is judged on."""
    grid = _Grid()
    findings = [*_closed_forms(), *_rates(grid), *_optima(), _rosenbrock(), _noise(REPLICATES[laboratory.budget])]
    note = (
        "The article prints 2 sqrt(beta) as the rate where the eigenvalues are complex, and a plus in the unrolled sum "
        "of gradients. Judged here is what is right: sqrt(beta), and a minus."
    )
    return Evidence(findings, [_optimum_table()], {"Rate against step size and momentum": grid.chart()}, [note])


class _Grid:
    """Step sizes (times curvature) and momenta on which rates are measured."""

    def __init__(self) -> None:
        steps, momenta = np.linspace(0.1, 4.2, 42), np.linspace(0, 0.975, 40)
        self.step, self.beta = (axis.ravel() for axis in np.meshgrid(steps, momenta))
        self.predicted = rate(self.step, self.beta, np.ones_like(self.step))
        step, beta = torch.from_numpy(self.step), torch.from_numpy(self.beta)
        self.measured: Array = measured_rate(step, beta, torch.ones_like(step)).numpy()

    def chart(self) -> alt.LayerChart:
        """The measured rate as a map, with the limit of stability."""
        table = pl.DataFrame(
            {"step": self.step.round(3), "beta": self.beta.round(4), "rate": np.minimum(self.measured, 1.2).round(4)}
        )
        cells = (
            alt.Chart(table)
            .mark_rect()
            .encode(
                alt.X("step:O", title="step size times curvature", axis=alt.Axis(labelOverlap=True)),
                alt.Y("beta:O", title="momentum", sort="descending", axis=alt.Axis(labelOverlap=True)),
                alt.Color(
                    "rate:Q", title="rate", scale=alt.Scale(scheme="viridis"), legend=alt.Legend(symbolType="square")
                ),
            )
        )
        return layered([cells], "Measured rate of convergence against step size and momentum", 320)


def _closed_forms() -> Iterator[Finding]:
    """Iterates against (1 - alpha lambda)^k and against powers of R."""
    curvatures = torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64)
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    steps = 150
    seen = iterates(curvatures, _filled(1.8, 3), _filled(0.0, 3), start, steps)
    powers = (1 - 1.8 * curvatures) ** torch.arange(steps + 1).unsqueeze(1) * start
    yield criteria.exact(
        "Gradient descent: w_k = sum of x_i (1 - alpha lambda_i)^k q_i",
        float((seen - powers).abs().max()),
        ROUNDING,
        "largest deviation of an iterate",
    )
    worst = 0.0
    for alpha_, beta in ((0.5, 0.5), (1.5, 0.9), (0.01, 0.99), (3.0, 0.7)):
        seen = iterates(curvatures, _filled(alpha_, 3), _filled(beta, 3), start, steps)
        for k, curvature in enumerate(curvatures.tolist()):
            expected = [
                float((np.linalg.matrix_power(matrix(alpha_, beta, curvature), step) @ (0.0, 1.0))[1])
                for step in range(steps + 1)
            ]
            worst = max(worst, float((seen[:, k] / start[k] - torch.tensor(expected, dtype=torch.float64)).abs().max()))
    yield criteria.exact(
        "Momentum: (z, w)_k = R^k (z, w)_0 in every eigen-direction", worst, ROUNDING, "largest deviation of an iterate"
    )


def _rates(grid: _Grid) -> Iterator[Finding]:
    gap = np.abs(grid.measured - grid.predicted)
    yield criteria.exact(
        "The rate is the larger modulus of the two eigenvalues, sqrt(beta) where they are complex",
        float(gap.max()),
        RATE_ERROR,
        f"largest deviation over {gap.size:,} pairs of step size and momentum",
    )
    inside = grid.step < 2 + 2 * grid.beta
    clear = np.abs(grid.step - (2 + 2 * grid.beta)) > 0.02
    wrong = ((grid.measured < 1) != inside) & clear
    yield criteria.exact(
        "It converges if and only if 0 < alpha lambda < 2 + 2 beta",
        float(wrong.sum()),
        0,
        f"pairs on the wrong side, of {int(clear.sum()):,}",
    )
    steps = np.linspace(0.05, 0.95, 19)
    betas = (1 - np.sqrt(steps)) ** 2
    before, here, after = (rate(steps, betas + shift, np.ones_like(steps)) for shift in (-0.01, 0.0, 0.01))
    gain = (here - np.minimum(before, after))[betas > 0.01]
    yield criteria.exact(
        "Critical damping: beta = (1 - sqrt(alpha lambda))^2 has rate 1 - sqrt(alpha lambda), the least of all beta",
        max(float(np.abs(here - (1 - np.sqrt(steps))).max()), float(gain.max())),
        1e-7,
        "largest deviation, or gain of a beta .01 beside it",
    )


def _optima() -> Iterator[Finding]:
    low, high = 1.0, CONDITION
    alpha, beta, best = optimum(low, high)
    lambdas = np.linspace(low, high, 199)
    worst = float(rate(np.full_like(lambdas, alpha), np.full_like(lambdas, beta), lambdas).max())
    yield criteria.exact(
        f"At condition number {CONDITION:g} the optimal pair has rate (sqrt(k) - 1) / (sqrt(k) + 1) = 9/11 everywhere",
        abs(worst - best) + abs(best - 9 / 11),
        1e-7,
        "deviation of the slowest direction",
    )
    alphas, betas = (axis.ravel() for axis in np.meshgrid(np.linspace(0.0, 0.06, 241)[1:], np.linspace(0, 0.99, 199)))
    ends = np.maximum(rate(alphas, betas, np.full_like(alphas, low)), rate(alphas, betas, np.full_like(alphas, high)))
    yield criteria.exact(
        "No other pair is faster (240 step sizes by 199 momenta)",
        max(best - float(ends.min()), 0.0),
        1e-9,
        "gain of another",
    )
    fine = np.linspace(0, 0.04, 400_001)
    plain = np.maximum(np.abs(1 - fine * low), np.abs(1 - fine * high)).min()
    yield criteria.exact(
        "Without momentum the best rate is (k - 1) / (k + 1)",
        abs(float(plain) - (CONDITION - 1) / (CONDITION + 1)),
        1e-6,
        "deviation on a grid of step sizes",
    )


def _rosenbrock() -> Finding:
    """No linear first-order method beats the lower bound on the convex Rosenbrock function: three are tried."""
    size, root = 200, CONDITION**0.5
    ratio = (root - 1) / (root + 1)
    d = np.diff(np.eye(size), axis=0)
    first = np.eye(size)[:1]
    hessian = first.T @ first + d.T @ d + 4 / (CONDITION - 1) * np.eye(size)
    target = np.linalg.solve(hessian, first[0])
    alpha, beta, _ = optimum(*np.linalg.eigvalsh(hessian)[[0, -1]])
    shortfall = 0.0
    for step, momentum in ((0.2, 0.0), (0.1, 0.9), (alpha, beta)):
        w, z = np.zeros(size), np.zeros(size)
        for k in range(1, 51):
            z = momentum * z + hessian @ w - first[0]
            w = w - step * z
            error = np.abs(w - target).max() / np.abs(target).max()
            shortfall = max(shortfall, ratio**k / error - 1)
    return criteria.exact(
        "Convex Rosenbrock: after k steps the error is at least ((sqrt(k) - 1) / (sqrt(k) + 1))^k of the first",
        float(shortfall),
        1e-6,
        "largest undercut by three methods in 50 steps, relative",
    )


def _noise(replicates: int) -> Finding:
    """E f of noisy iterates at the 100th step: deterministic part + lambda/2 eps^2 sum_j (e_2' R^j (1, -alpha))^2."""
    alpha, beta, curvature, scale, steps = 0.5, 0.5, 1.0, 3.0, 100
    generator = torch.Generator().manual_seed(0)
    noise = scale * torch.randn(steps, replicates, dtype=torch.float64, generator=generator)
    of_all = [_filled(value, replicates) for value in (curvature, alpha, beta, 3**0.5)]
    last = iterates(of_all[0], of_all[1], of_all[2], of_all[3], steps, noise)[-1]
    power, total = np.array([1.0, -alpha]), 0.0
    r = matrix(alpha, beta, curvature)
    for _ in range(steps):
        total += power[1] ** 2
        power = r @ power
    start = float((np.linalg.matrix_power(r, steps) @ (0.0, 3**0.5))[1])
    truth = curvature / 2 * (start**2 + scale**2 * total)
    return criteria.expected(
        "Noise adds (lambda/2) eps^2 sum of (e_2' R^j (1, -alpha))^2 to the expected loss",
        (curvature / 2 * last.square()).tolist(),
        truth,
        f"mean loss of {replicates:,} noisy runs",
    )


def _optimum_table() -> Table:
    rows = []
    for condition in (10.0, 100.0, 1000.0):
        alpha, beta, best = optimum(1.0, condition)
        ends = torch.tensor([1.0, condition], dtype=torch.float64)
        found = float(measured_rate(_filled(alpha, 2), _filled(beta, 2), ends).max())
        rows.append([condition, (condition - 1) / (condition + 1), best, found])
    return Table(
        "Rates at the optimum",
        ["condition number", "gradient descent, article", "momentum, article", "momentum, here"],
        rows,
    )


CLAIMS = (
    Claim(
        name="goh",
        sentence="On quadratics momentum's iterates, rates, stability, optimum and noise have the stated closed forms.",
        source='Goh, "Why Momentum Really Works", Distill 2017',
        plans={
            budget: f"float64, seconds; {count:,} noisy runs"  # type: ignore[misc]
            for budget, count in REPLICATES.items()
        },
        investigate=investigate,
    ),
)
