"""From the scores of the finalists on the evaluation seeds to verdicts: `pays`, `hurts`, `equal` or `undecided`.

Scores are oriented so that larger is better, and seed j is the same seed for every method, so differences are paired.

A verdict is about methods, not about two configurations that happened to win a search. The score of a method is
therefore that of what a search of its kind is expected to choose: the mean over its finalists, weighted by their
chances of winning, e_j = sum_i w_i s_ij on seed j. The interval of the mean of d_j = e_Aj - e_Bj holds the noise of the
seeds and the noise of the search,

    Var = Var_j(d_j) / n + tau_A^2 + tau_B^2,    tau^2 = max(0, m' M m - tr(M S) / n),    M = diag(w) - w w',

with m the means of the finalists over the n seeds and S their covariance over seeds: the spread of the finalists, less
what the noise of the seeds adds to it. tau^2 has tr(M)^2 / tr(M^2) degrees of freedom (2.5 for four finalists), so the
quantile is Student's with Satterthwaite's degrees of freedom. tau^2 is the variance of a single winner, and a weighted
mean varies less: the interval is on the safe side, by an amount that `benchmarks/calibration.py` measures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from ravine.study.power import FEWEST_SEEDS, Variance, critical, pooled_freedom, seeds_needed

Verdict: TypeAlias = Literal["pays", "hurts", "equal", "undecided"]
Interval: TypeAlias = tuple[float, float]
Floats: TypeAlias = NDArray[np.float64]

FEWEST_TRIALS = 16
# The chance that the i-th best of the search points is the best one of a random half of them; the last takes the rest.
CHANCES = (1 / 2, 1 / 4, 1 / 8, 1 / 8)
FAMILY_DRAWS = 2**16


@dataclass(frozen=True)
class Finalists:
    """What one method scored on the evaluation seeds.

    scores: (k, n), k >= 1 finalists on n >= 2 seeds, finite, larger is better, first row the winner (the setting that
    is recommended); weights: (k,) positive chances of winning, on any scale; diverged: (k, n); trials: how many points
    the search tried, None if the setting was given. Raises ValueError if the shapes or values are not so.
    """

    scores: Floats
    weights: Floats
    diverged: NDArray[np.bool_]
    trials: int | None = None

    def __post_init__(self) -> None:
        if self.scores.ndim != 2 or self.scores.shape[0] < 1 or self.scores.shape[1] < 2:
            raise ValueError(f"scores must be (finalists >= 1, seeds >= 2), not {self.scores.shape}")
        if self.weights.shape != self.scores.shape[:1] or not (self.weights > 0).all():
            raise ValueError("weights must hold one positive chance per finalist")
        if self.diverged.shape != self.scores.shape:
            raise ValueError("diverged must be shaped like scores")
        if not np.isfinite(self.scores).all():
            raise ValueError("scores must be finite: a diverged run scores the worst value of its metric")

    @cached_property
    def chances(self) -> Floats:
        """(k,) chances of winning; they sum to one."""
        chances: Floats = self.weights / self.weights.sum()
        return chances

    @cached_property
    def expected(self) -> Floats:
        """(n,) the score on each seed of what the search is expected to choose."""
        winner = self.scores[0]
        expected: Floats = winner + self.chances @ (self.scores - winner)  # exact if all finalists are equal
        return expected

    @cached_property
    def search_variance(self) -> Variance:
        """tau^2 with its degrees of freedom; zero for a single finalist."""
        k, n = self.scores.shape
        if k == 1:
            return Variance(0.0, math.inf)
        spread = np.diag(self.chances) - np.outer(self.chances, self.chances)
        offsets = self.scores - self.scores[0]  # M ignores what the finalists share; equal ones give exactly zero
        means = offsets.mean(axis=1)
        noise = float(np.trace(spread @ np.cov(offsets))) / n
        freedom = float(np.trace(spread) ** 2 / np.trace(spread @ spread))
        return Variance(max(0.0, float(means @ spread @ means) - noise), freedom)


@dataclass(frozen=True)
class Contrast:
    """One method against another; positive = the method is better. The fields go to `verdict.json` by their names.

    `difference`, `interval` (adjusted for the family of contrasts), `interval_unadjusted` and `standard_error` are
    about the methods; `difference_given_settings` and `interval_given_settings` about the two recommended settings
    alone. `search_share` is the part of the variance of `difference` that is due to the search. `seeds_needed` is the
    number of seeds, in all, that would decide an undecided contrast. `diverged` counts the evaluation seeds on which
    the recommended settings of (method, versus) diverged. `note` says why a verdict was withheld or no seeds decide
    it.
    """

    method: str
    versus: str
    verdict: Verdict
    difference: float
    margin: float
    interval: Interval
    interval_unadjusted: Interval
    interval_given_settings: Interval
    difference_given_settings: float
    p_adjusted: float
    p_unadjusted: float
    standard_error: float
    search_share: float
    seeds: int
    seeds_needed: int | None
    diverged: tuple[int, int]
    note: str | None


@dataclass(frozen=True)
class _Estimate:
    """A difference with the parts of its variance."""

    difference: float
    seed_variance: float  # of one paired difference
    parts: tuple[Variance, ...]  # of the mean difference

    @cached_property
    def error(self) -> float:
        return math.sqrt(sum(part.value for part in self.parts))

    @cached_property
    def freedom(self) -> float:
        return pooled_freedom(self.parts)

    @cached_property
    def p(self) -> float:
        """Two-sided p-value of difference 0."""
        if self.error == 0:
            return float(self.difference == 0)
        return float(2 * special.stdtr(self.freedom, -abs(self.difference) / self.error))

    def interval(self, level: float) -> Interval:
        half = critical(level, self.freedom) * self.error
        return self.difference - half, self.difference + half


@dataclass(frozen=True)
class _Family:
    """How the contrasts depend on each other; adjusts p-values and levels for all of them together.

    Each p-value is uniform if no method differs from another, and together they depend as normal variables z ~ N(0,
    R) do, with R the estimated correlation of the contrasts: max-T on the scale of p-values, where contrasts with
    different degrees of freedom compare. With L L' = R and z = r L u, r chi-distributed with m = `size` degrees of
    freedom and u a random direction, P(max |z_i| > c) = E_u P(r > c / max |(L u)_i|): one smooth mean over `reach`,
    the draws of max |(L u)_i|. Adjusted values lie between the unadjusted ones and Bonferroni's, as they must, so
    that one contrast alone is not adjusted. Sources: Westfall & Young, Resampling-Based Multiple Testing (1993),
    section 2.3; Hasler & Hothorn, The International Journal of Biostatistics 7 (2011), article 11; for the radial
    integration Deak, Numerische Mathematik 35 (1980).
    """

    size: int
    reach: Floats

    def adjust(self, p: float) -> float:
        return min(max(self._any_smaller(p), p), self.size * p, 1.0)

    def level(self, alpha: float) -> float:
        """The level of one interval at which all of them hold together: p < level if and only if adjust(p) < alpha."""
        low, high = alpha / self.size, alpha
        if self._any_smaller(low) >= alpha:
            return low
        if self._any_smaller(high) <= alpha:
            return high
        return float(optimize.brentq(lambda p: self._any_smaller(p) - alpha, low, high, xtol=1e-15))

    def _any_smaller(self, p: float) -> float:
        """Chance that the smallest of the p-values is below p."""
        return float(special.chdtrc(self.size, (special.ndtri(p / 2) / self.reach) ** 2).mean())


def contrasts(
    methods: Mapping[str, Finalists],
    pairs: Sequence[tuple[str, str]],
    margin: float,
    alpha: float = 0.05,
    key: int = 0,
) -> list[Contrast]:
    """Judges each (method, versus) of `pairs`; their adjusted intervals hold together with confidence 1 - alpha.

    All methods share their n evaluation seeds; margin >= 0 in the unit of the scores. `key` seeds the draws of the
    adjustment, which move no interval by more than 1e-3 standard errors. p_adjusted < alpha if and only if 0 lies
    outside `interval`. Another pair in the family changes nothing of a contrast but `interval`, `p_adjusted` and what
    follows from them (`verdict`, `seeds_needed`, `note`). Raises ValueError if the numbers of seeds differ, the
    margin is negative or a method is paired with itself.
    """
    if not margin >= 0:
        raise ValueError(f"the margin must not be negative: {margin}")
    if len({methods[name].scores.shape[1] for pair in pairs for name in pair}) > 1:
        raise ValueError("all methods must share their evaluation seeds")
    if any(method == versus for method, versus in pairs):
        raise ValueError("a method cannot be compared with itself")
    estimates = [_estimate(methods[method], methods[versus]) for method, versus in pairs]
    family = _family(methods, [pair for pair, estimate in zip(pairs, estimates, strict=True) if estimate.error], key)
    level = family.level(alpha)
    return [
        _judge(pair, methods[pair[0]], methods[pair[1]], estimate, family, margin, alpha, level)
        for pair, estimate in zip(pairs, estimates, strict=True)
    ]


def _estimate(method: Finalists, versus: Finalists) -> _Estimate:
    mean, variance, n = _paired(method.expected - versus.expected)
    return _Estimate(mean, variance, (Variance(variance / n, n - 1), method.search_variance, versus.search_variance))


def _paired(differences: Floats) -> tuple[float, float, int]:
    """Mean, variance and number of paired differences; exactly (d, 0, n) if all are equal to d."""
    offsets = differences - differences[0]
    return float(differences[0] + offsets.mean()), float(offsets.var(ddof=1)), differences.size


def _family(methods: Mapping[str, Finalists], pairs: Sequence[tuple[str, str]], key: int) -> _Family:
    """The family of the contrasts `pairs`; their correlation comes from shared seeds and shared methods."""
    if len(pairs) < 2:
        return _Family(1, np.ones(1))
    names = sorted({name for pair in pairs for name in pair})
    # Subtracted before anything is squared: two methods may differ by less than the rounding of their variances.
    differences = [methods[method].expected - methods[versus].expected for method, versus in pairs]
    seeds = np.cov(differences) / len(differences[0])
    search = np.diag([methods[name].search_variance.value for name in names])
    signs = np.array([[(name == method) - (name == versus) for name in names] for method, versus in pairs], dtype=float)
    covariance = seeds + signs @ search @ signs.T
    scale = np.sqrt(np.diag(covariance))
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    root = vectors * np.sqrt(np.maximum(values, 0))
    draws = stats.qmc.MultivariateNormalQMC(np.zeros(len(pairs)), rng=np.random.default_rng(key)).random(FAMILY_DRAWS)
    return _Family(len(pairs), np.abs(draws @ root.T).max(axis=1) / np.linalg.norm(draws, axis=1))


def _judge(
    pair: tuple[str, str],
    method: Finalists,
    versus: Finalists,
    estimate: _Estimate,
    family: _Family,
    margin: float,
    alpha: float,
    level: float,
) -> Contrast:
    interval = estimate.interval(level)
    mean, variance, n = _paired(method.scores[0] - versus.scores[0])
    given = _Estimate(mean, variance, (Variance(variance / n, n - 1),))
    diverged = int(method.diverged[0].sum()), int(versus.diverged[0].sum())
    verdict = _verdict(interval, margin)
    note = _too_little(method, versus) or _instability(verdict, diverged)
    needed = None
    if note is not None:
        verdict = "undecided"
    elif verdict == "undecided":
        needed = seeds_needed(estimate.difference, margin, estimate.seed_variance, estimate.parts[1:], level)
        if needed is None:
            note = _seeds_cannot(estimate, margin)
    search = sum(part.value for part in estimate.parts[1:])
    return Contrast(
        method=pair[0],
        versus=pair[1],
        verdict=verdict,
        difference=estimate.difference,
        margin=margin,
        interval=interval,
        interval_unadjusted=estimate.interval(alpha),
        interval_given_settings=given.interval(alpha),
        difference_given_settings=given.difference,
        p_adjusted=family.adjust(estimate.p),
        p_unadjusted=estimate.p,
        standard_error=estimate.error,
        search_share=search / estimate.error**2 if search else 0.0,
        seeds=n,
        seeds_needed=needed,
        diverged=diverged,
        note=note,
    )


def _verdict(interval: Interval, margin: float) -> Verdict:
    low, high = interval
    if low > margin:
        return "pays"
    if high < -margin:
        return "hurts"
    return "equal" if -margin <= low and high <= margin else "undecided"


def _too_little(method: Finalists, versus: Finalists) -> str | None:
    """Why there is too little behind a contrast for any verdict."""
    trials = min((side.trials for side in (method, versus) if side.trials is not None), default=FEWEST_TRIALS)
    if trials < FEWEST_TRIALS:
        return f"{trials} trials are too few for a verdict (at least {FEWEST_TRIALS})."
    if method.scores.shape[1] < FEWEST_SEEDS:
        return f"{method.scores.shape[1]} evaluation seeds are too few for a verdict (at least {FEWEST_SEEDS})."
    if any(side.trials is not None and len(side.scores) == 1 for side in (method, versus)):
        return "A search left one finalist only, so its own noise is unknown; more trials can mend that."
    return None


def _instability(verdict: Verdict, diverged: tuple[int, int]) -> str | None:
    """Why divergence forbids a verdict: what a diverged run scores is a lower bound on the damage, so who diverges
    more can be worse, but neither better nor equal.
    """
    more, less = max(diverged), min(diverged)
    at_stake = {"pays": diverged[0], "hurts": diverged[1], "equal": more, "undecided": less}[verdict]
    if at_stake == less:
        return None
    said = "is equal" if verdict == "equal" else verdict
    return f"By the scores it {said}, but {diverged[0]} of its evaluation runs diverged, against {diverged[1]}."


def _seeds_cannot(estimate: _Estimate, margin: float) -> str:
    if abs(abs(estimate.difference) - margin) <= 0.1 * margin:
        return "The difference lies at the margin itself: more seeds would not tell on which side."
    return "More seeds cannot decide this: searches of this size differ too much among themselves; more trials can."
