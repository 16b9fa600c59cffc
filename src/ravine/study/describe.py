"""Secondary statistics of paired differences: they describe two settings and decide nothing."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

BOOTSTRAP_SEEDS = 30  # below it the bootstrap's coverage is worse than Student's
BOOTSTRAP_DRAWS = 10_000
SIGN_FLIPS = 2**16  # all patterns up to 16 seeds, as many random ones above


@dataclass(frozen=True)
class Description:
    """Robust looks at the paired differences of two settings, positive = the first is better.

    shift: Hodges-Lehmann estimate, the median of (d_i + d_j) / 2 over i <= j; chance_better: share of the seeds on
    which the first is better plus half the ties, with Wilson's interval; p_sign_flip: two-sided, of the mean under
    random signs, exact up to 16 seeds; bootstrap: BCa interval of the mean, None below 30 seeds or if all are equal.
    """

    shift: float
    chance_better: float
    chance_better_interval: tuple[float, float]
    p_sign_flip: float
    bootstrap: tuple[float, float] | None


def describe(differences: NDArray[np.float64], alpha: float = 0.05, key: int = 0) -> Description:
    """Describes n >= 2 paired differences; `key` seeds the draws of bootstrap and sign flips.

    Sources: Wilson, Journal of the American Statistical Association 22 (1927), 209-212; Efron, ibid. 82 (1987),
    171-185.
    """
    n = differences.size
    i, j = np.triu_indices(n)
    better = float((differences > 0).mean() + (differences == 0).mean() / 2)
    flips = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=SIGN_FLIPS,
        rng=np.random.default_rng([key, 0]),
    )
    return Description(
        shift=float(np.median((differences[i] + differences[j]) / 2)),
        chance_better=better,
        chance_better_interval=_wilson(better, n, alpha),
        p_sign_flip=float(flips.pvalue),
        bootstrap=_bca(differences, alpha, key),
    )


def _wilson(share: float, n: int, alpha: float) -> tuple[float, float]:
    z2 = float(stats.norm.isf(alpha / 2)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def _bca(differences: NDArray[np.float64], alpha: float, key: int) -> tuple[float, float] | None:
    if differences.size < BOOTSTRAP_SEEDS or np.ptp(differences) == 0:
        return None
    interval = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=BOOTSTRAP_DRAWS,
        confidence_level=1 - alpha,
        rng=np.random.default_rng([key, 1]),
    ).confidence_interval
    return float(interval.low), float(interval.high)
