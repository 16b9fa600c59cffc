"""A number with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ravine.errors import UserError


@dataclass(frozen=True)
class Estimate:
    """A measured number, its standard error, and from how many draws it comes (0: it is not a sample).

    The error is NaN where one draw cannot tell it.
    """

    value: float
    error: float
    draws: int = 0

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student's interval with draws - 1 degrees of freedom; the normal one where there are no draws."""
        freedom = self.draws - 1 if self.draws > 1 else math.inf
        half = float(stats.t.ppf(0.5 + level / 2, freedom)) * self.error
        return self.value - half, self.value + half

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.error:.2g}"


def mean(draws: Sequence[float]) -> Estimate:
    """The mean of independent draws, with its standard error."""
    if not len(draws):
        raise UserError("a mean needs at least one draw")
    values = np.asarray(draws, dtype=np.float64)
    count = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Estimate(float(values.mean()), error, count)


def ratio_of_means(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """mean(a) / mean(b) of paired draws, its error by the delta method: the deviation of a - ratio b, over mean(b).

    The mean of the ratios is another number, and biased: on noise scales by several percent.
    """
    if len(numerators) != len(denominators) or not len(numerators):
        raise UserError("a ratio of means needs as many numerators as denominators, and at least one")
    a, b = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    below, count = float(b.mean()), len(a)
    ratio = float(a.mean()) / below if below else math.copysign(math.inf, float(a.mean()))
    if count < 2 or not below:
        return Estimate(ratio, math.nan, count)
    return Estimate(ratio, float((a - ratio * b).std(ddof=1)) / math.sqrt(count) / abs(below), count)
