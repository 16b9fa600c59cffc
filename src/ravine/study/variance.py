"""The variance of whole studies, simulated from a table of all configurations on all seeds (`--full`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StudyVariance:
    """What studies of k = 1..K trials would have found; entry k-1 of every array is for k trials.

    expected: per method, mean test score of the chosen configuration; interval: per method, (2, K), the central 95 % of
    the simulated studies; wins: per (method, versus), the chance that a study finds `method` better, ties counted half;
    tuning_share, seed_share: the parts of the variance of their difference that come from the drawn configurations and
    from the split of the seeds (the rest is their interaction); zero where nothing varies.
    """

    expected: Mapping[str, Floats]
    interval: Mapping[str, Floats]
    wins: Mapping[tuple[str, str], Floats]
    tuning_share: Mapping[tuple[str, str], Floats]
    seed_share: Mapping[tuple[str, str], Floats]


def study_variance(
    validation: Mapping[str, Floats],
    test: Mapping[str, Floats],
    pairs: Sequence[tuple[str, str]],
    draws: int = 50,
    splits: int = 40,
    key: int = 0,
) -> StudyVariance:
    """Simulates draws x splits studies: k configurations without replacement, half the seeds to tune, half to evaluate.

    validation, test: per method (configurations, seeds), larger is better, the same seeds for all methods. Each
    simulated study selects by the mean validation score on the tuning half and scores by the mean test score on the
    other half, which all methods share. K is the smallest number of configurations. Draws and splits are crossed, so
    that a two-way analysis of variance tells them apart. Raises ValueError for fewer than 2 seeds or unequal numbers
    of them. Source: Bouthillier et al., MLSys 2021 (variance of whole benchmarks).
    """
    counts = {table.shape[1] for tables in (validation, test) for table in tables.values()}
    if len(counts) != 1 or min(counts) < 2:
        raise ValueError("all tables must have the same seeds, at least 2")
    (seeds,) = counts
    trials = min(table.shape[0] for table in validation.values())
    generator = np.random.default_rng(key)
    halves = generator.permuted(np.tile(np.arange(seeds) < seeds // 2, (splits, 1)), axis=1)
    studies = {
        name: _studies(validation[name], test[name], halves, trials, draws, generator) for name in sorted(validation)
    }
    differences = {(method, versus): studies[method] - studies[versus] for method, versus in pairs}
    shares = {pair: _shares(difference) for pair, difference in differences.items()}
    return StudyVariance(
        expected={name: values.mean(axis=(0, 1)) for name, values in studies.items()},
        interval={name: np.quantile(values, [0.025, 0.975], axis=(0, 1)) for name, values in studies.items()},
        wins={pair: ((d > 0) + (d == 0) / 2).mean(axis=(0, 1)) for pair, d in differences.items()},
        tuning_share={pair: share[0] for pair, share in shares.items()},
        seed_share={pair: share[1] for pair, share in shares.items()},
    )


def _studies(
    validation: Floats,
    test: Floats,
    halves: NDArray[np.bool_],
    trials: int,
    draws: int,
    generator: np.random.Generator,
) -> Floats:
    """(draws, splits, trials): the test score that each study ends with."""
    order = generator.permuted(np.tile(np.arange(len(validation)), (draws, 1)), axis=1)[:, :trials]
    studies = np.empty((draws, len(halves), trials))
    for split, tuning in enumerate(halves):
        ranks = np.argsort(np.argsort(validation[:, tuning].mean(axis=1)))
        chosen = np.argsort(ranks)[np.maximum.accumulate(ranks[order], axis=1)]
        studies[:, split] = test[:, ~tuning].mean(axis=1)[chosen]
    return studies


def _shares(difference: Floats) -> tuple[Floats, Floats]:
    """Shares of the variance of (draws, splits, trials) due to draws and due to splits: a crossed two-way layout."""
    draws, splits, _ = difference.shape
    by_draw = difference.mean(axis=1, keepdims=True)
    by_split = difference.mean(axis=0, keepdims=True)
    rest = difference - by_draw - by_split + difference.mean(axis=(0, 1), keepdims=True)
    residual = (rest**2).sum(axis=(0, 1)) / ((draws - 1) * (splits - 1))
    draw = np.maximum(by_draw.var(axis=0, ddof=1)[0] - residual / splits, 0)
    split = np.maximum(by_split.var(axis=1, ddof=1)[0] - residual / draws, 0)
    total = draw + split + residual
    safe = np.where(total > 0, total, 1)
    return draw / safe, split / safe
