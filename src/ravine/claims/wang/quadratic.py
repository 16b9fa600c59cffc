"""Quadratics: where momentum matters, how fast the difference vanishes (Theorem 3.5), and what SVAG does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_lyapunov

from ravine import rules
from ravine.claims import criteria
from ravine.claims.charts import figure, line
from ravine.claims.claim import Cell, Claim, Evidence, Finding, Table
from ravine.claims.laboratory import Laboratory
from ravine.claims.wang.shared import MOMENTUM, PAPER, svag_weights
from ravine.rules.base import Rule

SGDM: Rule = rules.get("ema-momentum")
Array = NDArray[np.float64]

ROUNDING = 1e-9
BETAS = (0.0, 0.5, 0.9, 0.99)
STEEPNESS = (0.01, 0.1, 0.5, 1.0, 1.5, 1.9)  # eta times the curvature
ALPHAS = (0.0, 0.25, 0.5, 0.75)  # 1 - b = eta^alpha / 2
ETAS = tuple(2.0**-k for k in range(5, 12))
SLACK = 0.05  # by which a fitted exponent may miss its bound


def system(eta: float, momentum: float, curvature: float) -> tuple[Array, Array]:
    """(A, n) of (x, m) <- A (x, m) + n z, a step on curvature x^2 / 2 with gradient noise z; from the rule itself."""
    x, m = (torch.tensor(unit, dtype=torch.float64) for unit in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]))
    gradient = curvature * x + torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    h = {"lr": torch.tensor(eta, dtype=torch.float64), "momentum": torch.tensor(momentum, dtype=torch.float64)}
    SGDM.update(x, gradient, {"momentum_buffer": m}, h)
    columns = torch.stack([x, m]).numpy()
    return columns[:, :2], columns[:, 2]


def variance(eta: float, momentum: float, curvature: float, noise: float = 1.0) -> float:
    """The stationary variance: eta s^2 / (lambda (2 - eta lambda (1 - b) / (1 + b)))."""
    return eta * noise / (curvature * (2 - eta * curvature * (1 - momentum) / (1 + momentum)))


def moments(eta: float, momentum: float, noise: float, steps: int) -> Array:
    """(steps, 2): mean and variance of x from x = 1, m = 0, on curvature 1."""
    a, n = system(eta, momentum, 1.0)
    mean, covariance, seen = np.array([1.0, 0.0]), np.zeros((2, 2)), []
    for _ in range(steps):
        mean, covariance = a @ mean, a @ covariance @ a.T + noise * np.outer(n, n)
        seen.append((mean[0], covariance[0, 0]))
    return np.array(seen)


def short_gap(eta: float, alpha: float) -> float:
    """The largest gap of mean or variance between SGD and SGDM in 1 / eta steps, noise of variance 1 / eta."""
    steps, momentum = round(1 / eta), 1 - eta**alpha / 2
    return float(np.abs(moments(eta, momentum, 1 / eta, steps) - moments(eta, 0.0, 1 / eta, steps)).max())


def exponent(alpha: float) -> float:
    """How the gap falls: the slope of its logarithm against that of eta."""
    gaps = [short_gap(eta, alpha) for eta in ETAS]
    return float(np.polyfit(np.log(ETAS), np.log(gaps), 1)[0])


def svag_ratio(steepness: float, ell: float) -> float:
    """Variance of SGD over that of SGDM at eta / ell, with noise of ell times the variance."""
    return variance(steepness / ell, 0.0, 1.0, ell) / variance(steepness / ell, MOMENTUM, 1.0, ell)


def quadratics(laboratory: Laboratory) -> Evidence:
    """Closed forms: where momentum matters, how fast the difference vanishes, and what SVAG does."""
    grid = [(eta, b) for eta in STEEPNESS for b in BETAS]
    solved = [float(solve_discrete_lyapunov(a, np.outer(n, n))[0, 0]) for a, n in (system(*at, 1.0) for at in grid)]
    radii = [max(abs(np.linalg.eigvals(system(2 * (1 + b) / (1 - b), b, 1.0)[0]))) for b in BETAS]
    small = variance(0.01, 0.0, 1.0) / variance(0.01, MOMENTUM, 1.0)
    large = variance(1.9, 0.0, 1.0) / variance(1.9, MOMENTUM, 1.0)
    mixed = [(sum(svag_weights(ell)), sum(w**2 for w in svag_weights(ell)) / ell) for ell in (1.0, 2.0, 4.0, 8.0)]
    findings: list[Finding] = [
        criteria.exact(
            "The stationary variance is eta s^2 / (lambda (2 - eta lambda (1 - b) / (1 + b)))",
            max(abs(found / variance(*at, 1.0) - 1) for found, at in zip(solved, grid, strict=True)),
            ROUNDING,
            f"largest relative deviation of {len(grid)} Lyapunov solutions",
        ),
        criteria.exact(
            "SGDM is stable up to eta lambda = 2 (1 + b) / (1 - b)",
            max(abs(radius - 1) for radius in radii),
            1e-6,
            "largest deviation of the spectral radius from 1 at the limit",
        ),
        criteria.holds(
            "At a small learning rate SGD and SGDM fluctuate alike",
            "at eta lambda = .01 their variances differ by less than 1 %",
            abs(small - 1) < 0.01,
            small,
            "ratio of the variances",
        ),
        criteria.holds(
            "Where curvature limits they do not",
            "at eta lambda = 1.9 that of SGD is more than ten times as large",
            large > 10,
            large,
            "ratio of the variances",
        ),
        *_orders(),
        criteria.exact(
            "SVAG keeps the mean of the gradient, and has ell times its variance",
            max(max(abs(mean - 1), abs(spread - 1)) for mean, spread in mixed),
            ROUNDING,
            "largest deviation, ell = 1, 2, 4, 8",
        ),
        criteria.holds(
            "SVAG closes the gap",
            "at eta lambda = 1.9 the ratio of the variances falls with ell, to below 1.2 at 8",
            svag_ratio(1.9, 1) > svag_ratio(1.9, 2) > svag_ratio(1.9, 4) > svag_ratio(1.9, 8) < 1.2,
            svag_ratio(1.9, 8),
            f"ratio at 8, from {svag_ratio(1.9, 1):.3g} at 1",
        ),
    ]
    rows: list[Sequence[Cell]] = [
        [eta, *(variance(eta, b, 1.0) for b in BETAS), variance(eta, 0.0, 1.0) / variance(eta, MOMENTUM, 1.0)]
        for eta in STEEPNESS
    ]
    columns = ["eta lambda", *(f"b = {b:g}" for b in BETAS), "b = 0 over b = 0.9"]
    table = Table("Stationary variance of x on x^2 / 2, noise of variance 1", columns, rows)
    steep = np.geomspace(0.01, 1.99, 60).tolist()
    curves = [line(f"ell = {ell:g}", steep, [svag_ratio(eta, ell) for eta in steep]) for ell in (1.0, 2.0, 4.0, 8.0)]
    chart = figure(
        curves,
        "Variance of SGD over that of SGDM against learning rate times curvature, under SVAG",
        "eta lambda",
        "variance of SGD over SGDM",
        log_x=True,
        log_y=True,
        points=False,
    )
    notes = [
        "Nothing is drawn: means and variances of the linear iteration are followed exactly.",
        "The exponents are the paper's bounds: on a quadratic the gap falls faster. At alpha = 1, which it does not "
        f"cover, the gap does not vanish: its exponent is {abs(exponent(1.0)):.1g}.",
    ]
    return Evidence(findings, [table], {"SGD against SGDM, and what SVAG does": chart}, notes)


def _orders() -> Iterator[Finding]:
    """Theorem 3.5: with 1 - b ~ eta^alpha the gap over 1 / eta steps is O(eta^((1 - alpha) / 2))."""
    for alpha in ALPHAS:
        found, bound = exponent(alpha), (1 - alpha) / 2
        yield criteria.holds(
            f"With 1 - b ~ eta^{alpha:g} the gap over 1 / eta steps falls at least as eta^{bound:g}",
            f"the fitted exponent is at least {bound - SLACK:g}",
            found >= bound - SLACK,
            found,
            "exponent",
        )


CLAIMS = (
    Claim(
        name="wang-quadratic",
        sentence="At small learning rates SGD and SGDM are alike; momentum matters where curvature limits, not noise.",
        source=f"{PAPER}, Theorem 3.5 and SVAG, on quadratics",
        plans={"quick": "float64, seconds"},
        investigate=quadratics,
    ),
)
