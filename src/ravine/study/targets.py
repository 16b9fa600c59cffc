"""Time to target: how many steps a method needs to reach what the baseline reached while it was tuned.

Curves are scores at the evaluation steps, larger is better, one row a run. A run that never reaches a target is
censored at the end T; a run that diverges holds its worst score from there on and so counts as censored too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ravine.study.power import critical

SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Target:
    """A score to reach: `share` of the baseline's progress from its first evaluation to its median best."""

    share: float
    score: float


@dataclass(frozen=True)
class TimeContrast:
    """How much sooner `method` reaches a target than `versus`, both at their recommended settings.

    target_share, target: the rung of the ladder; reached: runs of (method, versus) that do; both_missed: seeds on
    which neither does; restricted_mean: mean of min(time, T) over all seeds; ert: expected running time, all steps
    spent until the target or T, over the number of successes (None without one). saved: mean paired difference of
    min(time, T) in steps, positive = `method` is sooner; speedup: the geometric mean of the paired ratios. The
    intervals are Student's and cover the seeds. All four are None if the contrast is undecided, and `note` says why.
    """

    method: str
    versus: str
    target_share: float
    target: float
    seeds: int
    reached: tuple[int, int]
    both_missed: int
    restricted_mean: tuple[float, float]
    ert: tuple[float | None, float | None]
    saved: float | None
    saved_interval: Interval | None
    speedup: float | None
    speedup_interval: Interval | None
    note: str | None


def ladder(curves: ArrayLike) -> tuple[Target, ...]:
    """Targets from the baseline's tuning runs, (runs, evaluations): 25, 50, 75, 90 and 100 % of its progress.

    Progress goes from the median score at the first evaluation to the median of the best scores.
    """
    scores = np.asarray(curves, dtype=np.float64)
    start, best = float(np.median(scores[:, 0])), float(np.median(scores.max(axis=1)))
    return tuple(Target(share, start + share * (best - start) if share < 1 else best) for share in SHARES)


def times(curves: ArrayLike, steps: Sequence[int], target: float) -> NDArray[np.float64]:
    """(runs,) the first evaluation step at which a run of curves (runs, evaluations) has reached the target, or inf."""
    reached = np.asarray(curves, dtype=np.float64) >= target
    found: NDArray[np.float64] = np.where(reached.any(axis=1), np.asarray(steps)[reached.argmax(axis=1)], np.inf)
    return found


def contrast_times(
    method: tuple[str, ArrayLike],
    versus: tuple[str, ArrayLike],
    steps: Sequence[int],
    targets: Sequence[Target],
    alpha: float = 0.05,
) -> list[TimeContrast]:
    """Compares (name, curves (seeds, evaluations)) of two methods on the same seeds, target by target.

    steps: the evaluation steps, ascending and positive, the last one T. The contrast is that of the restricted mean
    time on [0, T], over the seeds on which at least one of the two reaches the target. Where neither does, both times
    are beyond T and nothing is known of their difference: a zero would be a made-up tie. Leaving these seeds out
    treats both methods alike, so that equal methods still differ by zero on average. If over half of the runs of both
    miss, or fewer than two seeds are left, the answer is undecided.
    """
    if len(steps) == 0 or steps[0] <= 0:
        raise ValueError("the evaluation steps must be positive")
    return [_contrast(method, versus, steps, target, alpha) for target in targets]


def _contrast(
    method: tuple[str, ArrayLike],
    versus: tuple[str, ArrayLike],
    steps: Sequence[int],
    target: Target,
    alpha: float,
) -> TimeContrast:
    both = np.stack([times(curves, steps, target.score) for _, curves in (method, versus)])
    hit, spent = np.isfinite(both), np.minimum(both, steps[-1])
    known = hit.any(axis=0)
    note = None
    if (hit.mean(axis=1) < 0.5).all():
        note = "undecided: over half of the runs of both miss the target"
    elif known.sum() < 2:
        note = "undecided: fewer than two seeds on which one of the two reaches the target"
    saved = _mean_interval(spent[1, known] - spent[0, known], alpha) if note is None else None
    log_ratio = _mean_interval(np.log(spent[1, known] / spent[0, known]), alpha) if note is None else None
    return TimeContrast(
        method=method[0],
        versus=versus[0],
        target_share=target.share,
        target=target.score,
        seeds=both.shape[1],
        reached=(int(hit[0].sum()), int(hit[1].sum())),
        both_missed=int((~known).sum()),
        restricted_mean=(float(spent[0].mean()), float(spent[1].mean())),
        ert=(_ert(spent[0], hit[0]), _ert(spent[1], hit[1])),
        saved=saved and saved[0],
        saved_interval=saved and saved[1],
        speedup=log_ratio and math.exp(log_ratio[0]),
        speedup_interval=log_ratio and (math.exp(log_ratio[1][0]), math.exp(log_ratio[1][1])),
        note=note,
    )


def _ert(spent: NDArray[np.float64], hit: NDArray[np.bool_]) -> float | None:
    return float(spent.sum() / hit.sum()) if hit.any() else None


def _mean_interval(values: NDArray[np.float64], alpha: float) -> tuple[float, Interval]:
    mean, half = float(values.mean()), critical(alpha, values.size - 1) * float(values.std(ddof=1)) / values.size**0.5
    return mean, (mean - half, mean + half)
