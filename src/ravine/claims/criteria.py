"""How a statement is judged. One rule for all: an interval over seeds decides, and where it cannot, nothing is claimed.

Runs are paired by seed: initialization and data order of a seed are the same for all arms. Intervals are Student's at
95 %, of each finding alone: among many findings one in twenty may miss the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from ravine.claims.claim import Finding, Outcome

CONFIDENCE = 0.95
EQUAL = 1.05  # errors whose ratio is below count as equal


def interval(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean and Student's interval of values of different seeds; at least two."""
    array = np.asarray(values, dtype=float)
    mean, spread = float(array.mean()), float(array.std(ddof=1)) / math.sqrt(len(array))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(array) - 1)) * spread
    return mean, (mean - half, mean + half)


def shown(values: Sequence[float]) -> str:
    """Mean and half the width of its interval: a cell of a table."""
    mean, (_, high) = interval(values)
    return f"{mean:.4g} ± {high - mean:.2g}"


def lower(statement: str, lower: Sequence[float], upper: Sequence[float]) -> Finding:
    """That errors of the first kind are lower than those of the second, by their ratio, seed by seed."""
    return _ratio(statement, lower, upper, 1.0, "the interval of the ratio lies below 1")


def not_above(statement: str, lower: Sequence[float], upper: Sequence[float]) -> Finding:
    """That errors of the first kind are at or below those of the second: by less than 5 % above."""
    return _ratio(statement, lower, upper, EQUAL, f"the interval of the ratio lies below {EQUAL:g}")


def _ratio(statement: str, first: Sequence[float], second: Sequence[float], limit: float, criterion: str) -> Finding:
    logs = [math.log(a / b) for a, b in zip(first, second, strict=True)]
    mean, (low, high) = interval(logs)
    ratio, ends = math.exp(mean), (math.exp(low), math.exp(high))
    outcome: Outcome = "reproduced" if ends[1] < limit else "contradicted" if ends[0] > 1 else "not reproduced"
    return Finding(statement, f"{criterion}; contradicted above 1", outcome, ratio, ends, "ratio of errors")


def less(statement: str, lower: Sequence[float], upper: Sequence[float], unit: str, margin: float = 0.0) -> Finding:
    """That errors of the first kind are lower than those of the second, by their difference, seed by seed.

    For errors that may be 0. With a margin, that they are higher by less than it.
    """
    mean, ends = interval([a - b for a, b in zip(lower, upper, strict=True)])
    outcome: Outcome = "reproduced" if ends[1] < margin else "contradicted" if ends[0] > margin else "not reproduced"
    criterion = f"the interval of the difference lies below {margin:g}; contradicted above {margin:g}"
    return Finding(statement, criterion, outcome, mean, ends, f"difference of {unit}")


def equal(statement: str, first: Sequence[float], second: Sequence[float], margin: float, unit: str) -> Finding:
    """That two kinds of numbers differ by less than a margin, seed by seed."""
    mean, ends = interval([a - b for a, b in zip(first, second, strict=True)])
    inside, outside = -margin < ends[0] and ends[1] < margin, ends[0] > margin or ends[1] < -margin
    outcome: Outcome = "reproduced" if inside else "contradicted" if outside else "not reproduced"
    criterion = f"the interval of the difference lies within {margin:g} of 0; contradicted if all of it lies beyond"
    return Finding(statement, criterion, outcome, mean, ends, f"difference of {unit}")


def below(statement: str, values: Sequence[float], limit: float, unit: str) -> Finding:
    """That the mean of the values is below a limit."""
    mean, ends = interval(values)
    outcome: Outcome = "reproduced" if ends[1] < limit else "contradicted" if ends[0] > limit else "not reproduced"
    criterion = f"the interval lies below {limit:.4g}; contradicted above"
    return Finding(statement, criterion, outcome, mean, ends, unit)


def above(statement: str, values: Sequence[float], limit: float, unit: str) -> Finding:
    """That the mean of the values is above a limit."""
    mean, ends = interval(values)
    outcome: Outcome = "reproduced" if ends[0] > limit else "contradicted" if ends[1] < limit else "not reproduced"
    criterion = f"the interval lies above {limit:.4g}; contradicted below"
    return Finding(statement, criterion, outcome, mean, ends, unit)


def exact(statement: str, deviation: float, tolerance: float, unit: str) -> Finding:
    """That two computations agree: nothing is drawn in them, so a deviation beyond rounding contradicts."""
    outcome: Outcome = "reproduced" if deviation <= tolerance else "contradicted"
    criterion = f"the largest deviation is at most {tolerance:g}; contradicted beyond"
    return Finding(statement, criterion, outcome, deviation, None, unit)


def holds(statement: str, criterion: str, true: bool, measured: float, unit: str) -> Finding:
    """A statement about numbers without chance."""
    outcome: Outcome = "reproduced" if true else "contradicted"
    return Finding(statement, f"{criterion}; contradicted otherwise", outcome, measured, None, unit)


def expected(statement: str, values: Sequence[float], truth: float, unit: str) -> Finding:
    """That the mean of independent values is a known number: contradicted beyond 4 standard errors of it."""
    mean, ends = interval(values)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    outcome: Outcome = "reproduced" if abs(mean - truth) <= 4 * error else "contradicted"
    return Finding(statement, f"within 4 standard errors of {truth:.6g}", outcome, mean, ends, unit)
