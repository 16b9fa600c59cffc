"""How many seeds a verdict needs, and how small a difference a study of n seeds can find.

A contrast is decided when its interval clears the margin. The chance of that is the power of a one-sided Student test
whose noncentrality is (distance to the margin) / (standard error); everything here inverts that one relation. With
infinite degrees of freedom it is the textbook's n = (z_{1-alpha/2} + z_power)^2 sigma_d^2 / distance^2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import nctdtrinc, stdtrit

FEWEST_SEEDS = 5
MOST_SEEDS = 2**20


@dataclass(frozen=True)
class Variance:
    """A variance estimate with the degrees of freedom it was estimated with."""

    value: float
    freedom: float


def pooled_freedom(parts: Sequence[Variance]) -> float:
    """Degrees of freedom of a sum of variance estimates: nu = (sum V_i)^2 / sum(V_i^2 / nu_i).

    Returns infinity if all parts are zero. Source: Satterthwaite, Biometrics Bulletin 2 (1946), 110-114.
    """
    total = sum(part.value for part in parts)
    if total == 0:
        return math.inf
    return 1 / sum((part.value / total) ** 2 / part.freedom for part in parts if part.value)


def critical(level: float, freedom: float = math.inf) -> float:
    """Two-sided critical value of Student's t: t_{nu, 1 - level/2}."""
    return float(stdtrit(freedom, 1 - level / 2))


def decisive_error(
    difference: float, margin: float, level: float = 0.05, power: float = 0.8, freedom: float = math.inf
) -> float:
    """Largest standard error at which a true difference is decided with the chance `power`.

    Beyond the margin (`pays`, `hurts`): (|difference| - margin) / delta(power). Inside it (`equal`): the interval must
    clear both sides, so each side gets half the failures: (margin - |difference|) / delta((1 + power) / 2), exact at
    difference 0 and on the safe side elsewhere. delta(p) is the noncentrality at which Student's t exceeds its critical
    value with chance p. `level` is one minus the interval's confidence (0.1 for the classical two one-sided tests).
    """
    distance = abs(difference) - margin
    chance = power if distance > 0 else (1 + power) / 2
    return abs(distance) / float(nctdtrinc(freedom, 1 - chance, critical(level, freedom)))


def seeds_needed(
    difference: float,
    margin: float,
    seed_variance: float,
    search: Sequence[Variance] = (),
    level: float = 0.05,
    power: float = 0.8,
) -> int | None:
    """Seeds (in all, at least 5) with which this difference would be decided with the chance `power`.

    seed_variance: variance of the paired differences, which n seeds divide by n; search: the variances of the search,
    which no seeds shrink. None if |difference| is within 10 % of the margin, or if no number of seeds is enough.
    """
    if abs(abs(difference) - margin) <= 0.1 * margin:
        return None

    def enough(n: int) -> bool:
        parts = [Variance(seed_variance / n, n - 1), *search]
        error = math.sqrt(sum(part.value for part in parts))
        return error <= decisive_error(difference, margin, level, power, pooled_freedom(parts))

    low, high = FEWEST_SEEDS - 1, FEWEST_SEEDS
    while not enough(high):
        if high >= MOST_SEEDS:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def detectable(seeds: int, deviation: float, margin: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true difference that `seeds` paired seeds find (`pays` or `hurts`) with the chance `power`.

    margin + delta sd / sqrt(n), in the unit of the endpoint; `deviation` is the standard deviation of the paired
    differences. The spread of the search is not in it: it is not known before the study.
    """
    shift = float(nctdtrinc(seeds - 1, 1 - power, critical(alpha, seeds - 1)))
    return margin + shift * deviation / math.sqrt(seeds)
