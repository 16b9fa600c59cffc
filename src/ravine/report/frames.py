"""The tables behind the charts: the stored runs, reduced to what a chart shows.

A *score* is larger-is-better (a metric in its own unit, a loss as -log loss); a *value* is what an axis shows (the metric,
the loss). Runs are never embedded one by one: a chart gets one row per configuration, per seed or per evaluation point.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from ravine.study.tuning_curve import expected_best

Floats = NDArray[np.float64]
Row = dict[str, Any]

TUNING = ("coarse", "local", "extension-1", "extension-2")
MOMENTUM_NAMES = ("momentum", "beta1", "beta")
HEAVY_BALL = ("momentum", "nesterov")  # the effective learning rate of these is lr / (1 - momentum)
CURVE_POINTS = 100
WORST_LOSS = 3.0  # a diverged run's loss, in initial losses: a lower bound on the damage


@dataclass(frozen=True)
class Endpoint:
    """How the endpoint of a study is read from its runs; `worst` is the value of a diverged run, None for a loss."""

    name: str
    is_loss: bool
    higher_is_better: bool = True
    worst: float | None = None

    @classmethod
    def of(cls, verdict: Mapping[str, Any], study: Mapping[str, Any]) -> "Endpoint":
        """The endpoint that decided `verdict`, with the direction that the declaration gives its metric."""
        name = str(verdict["endpoint"])
        metric = (study.get("metrics") or {}).get(name, {})
        if str(verdict.get("unit") or "").startswith("log-ratio"):
            return cls(name, is_loss=True, higher_is_better=False)
        return cls(name, False, metric.get("higher_is_better", True), metric.get("worst", 0.0))

    def score(self, values: ArrayLike) -> Floats:
        """Values to scores; what is not finite stays NaN."""
        array = np.asarray(values, dtype=np.float64)
        array = np.where(np.isfinite(array), array, np.nan)
        if self.is_loss:
            return -np.log(np.where(array > 0, array, np.nan))
        return array if self.higher_is_better else -array

    def value(self, scores: ArrayLike) -> Floats:
        """Scores to values."""
        array = np.asarray(scores, dtype=np.float64)
        if self.is_loss:
            return np.exp(-array)
        return array if self.higher_is_better else -array

    def worst_value(self, run: Mapping[str, Any]) -> float:
        """The value that stands for a diverged run."""
        if self.is_loss:
            return WORST_LOSS * float(run["initial_loss"] or math.nan)
        return math.nan if self.worst is None else self.worst

    def curve(self, run: Mapping[str, Any], split: str) -> Floats | None:
        """The stored values of one run on `split` ("validation", "test"), None where it was not evaluated there."""
        stored = run.get(f"{split}_{self.name}")
        return None if stored is None else np.array([math.nan if v is None else v for v in stored], dtype=np.float64)

    def final(self, run: Mapping[str, Any]) -> float:
        """The score of one run: the test score (validation where there is no test) at the best validation checkpoint."""
        validation = self.curve(run, "validation")
        test = self.curve(run, "test")
        scores = None if validation is None else self.score(validation)
        if run["diverged_at"] is not None or scores is None or not np.isfinite(scores).any():
            return float(self.score(self.worst_value(run)))
        best = int(np.nanargmax(scores))
        return float(scores[best] if test is None else self.score(test)[best])


def momentum_name(hypers: Sequence[str]) -> str | None:
    """The hyper-parameter that is the momentum, None if there is none."""
    return next((name for name in MOMENTUM_NAMES if name in hypers), None)


def effective_lr(method: str, hyper: Mapping[str, float | None]) -> float | None:
    """lr / (1 - momentum) for a method in heavy-ball form, else None."""
    lr, momentum = hyper.get("lr"), hyper.get("momentum")
    if method not in HEAVY_BALL or lr is None or momentum is None or momentum >= 1:
        return None
    return lr / (1 - momentum)


def hypers_of(facts: Mapping[str, Any]) -> list[str]:
    """Names of the hyper-parameters that a method searched."""
    return list(facts.get("ranges") or facts.get("settings") or {})


def trials(runs: pl.DataFrame, method: str, hypers: Sequence[str], endpoint: Endpoint) -> pl.DataFrame:
    """One row per tuning configuration: its hyper-parameters, `score` (mean over tuning seeds), `seeds`, `diverged`."""
    hypers = [name for name in hypers if name in runs.columns]
    found = runs.filter((pl.col("method") == method) & pl.col("phase").is_in(TUNING))
    rows = [
        {**{h: run[h] for h in hypers}, "score": endpoint.final(run), "lost": run["diverged_at"] is not None}
        for run in found.iter_rows(named=True)
    ]
    schema = dict.fromkeys([*hypers, "score"], pl.Float64()) | {"lost": pl.Boolean()}
    table = pl.DataFrame(rows, schema=schema)
    return table.group_by(hypers, maintain_order=True).agg(
        pl.col("score").mean(), seeds=pl.len(), diverged=pl.col("lost").sum()
    )


def expected(table: pl.DataFrame, method: str, endpoint: Endpoint) -> pl.DataFrame:
    """`method`, `trials` k and `value`: the expected best of k of the configurations in `table`."""
    scores = table["score"].drop_nans().drop_nulls().to_numpy()
    values = endpoint.value(expected_best(scores)) if len(scores) else np.empty(0)
    return pl.DataFrame({"method": [method] * len(values), "trials": range(1, len(values) + 1), "value": values})


@dataclass(frozen=True)
class Evaluated:
    """The evaluation runs of one method at its chosen settings: `values` is (seeds, points), `scores` is (seeds,)."""

    seeds: list[int]
    steps: NDArray[np.int64]
    values: Floats
    scores: Floats
    diverged: NDArray[np.bool_]


def evaluated(
    runs: pl.DataFrame, method: str, settings: Mapping[str, float] | None, endpoint: Endpoint
) -> Evaluated | None:
    """The runs of `method` at `settings` on the evaluation seeds, in the order of the seeds; None if there are none."""
    if not settings or not set(settings) <= set(runs.columns):
        return None
    here = [(pl.col(name) - value).abs() <= 1e-9 * abs(value) for name, value in settings.items()]
    found = runs.filter(pl.col("method") == method, pl.col("phase") == "evaluate", *here).unique("seed").sort("seed")
    rows = found.to_dicts()
    steps = max((run["step"] or [] for run in rows), key=len, default=[])
    if not len(steps):
        return None
    values = np.stack([_padded(run, len(steps), endpoint) for run in rows])
    keep = np.unique(np.linspace(0, len(steps) - 1, CURVE_POINTS).round().astype(np.int64))
    return Evaluated(
        found["seed"].to_list(),
        np.asarray(steps, dtype=np.int64)[keep],
        values[:, keep],
        np.array([endpoint.final(run) for run in rows]),
        np.array([run["diverged_at"] is not None for run in rows]),
    )


def _padded(run: Mapping[str, Any], length: int, endpoint: Endpoint) -> Floats:
    """The curve of a run at `length` points; from its divergence on it has the worst value."""
    values = np.full(length, endpoint.worst_value(run))
    curve = endpoint.curve(run, "test")
    curve = endpoint.curve(run, "validation") if curve is None else curve
    if curve is None:
        return values
    steps, limit = np.asarray(run["step"])[: len(curve)], run["diverged_at"]
    alive = np.isfinite(curve) & (steps < limit if limit is not None else True)
    values[: len(curve)][alive] = curve[alive]
    return values


def curves(runs_of: Mapping[str, Evaluated]) -> pl.DataFrame:
    """`method`, `step`, `low`, `median`, `high`: quartiles over the seeds of the values."""
    parts = []
    for method, found in runs_of.items():
        low, median, high = np.nanquantile(found.values, [0.25, 0.5, 0.75], axis=0)
        parts.append(
            pl.DataFrame({"method": method, "step": found.steps, "low": low, "median": median, "high": high})
        )
    schema = {"method": pl.String, "step": pl.Int64, "low": pl.Float64, "median": pl.Float64, "high": pl.Float64}
    return pl.concat(parts) if parts else pl.DataFrame(schema=schema)


Pair = tuple[str, str]


def paired(runs_of: Mapping[str, Evaluated], pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Evaluated, Evaluated]]:
    """The pairs whose two methods were both evaluated, cut to the seeds that they share."""
    for method, versus in pairs:
        ours, theirs = runs_of.get(method), runs_of.get(versus)
        if ours is None or theirs is None:
            continue
        shared = sorted(set(ours.seeds) & set(theirs.seeds))
        if shared:
            yield (method, versus), _take(ours, shared), _take(theirs, shared)


def _take(found: Evaluated, seeds: list[int]) -> Evaluated:
    rows = [found.seeds.index(seed) for seed in seeds]
    return Evaluated(seeds, found.steps, found.values[rows], found.scores[rows], found.diverged[rows])


def differences(runs_of: Mapping[str, Evaluated], pairs: Sequence[Pair]) -> pl.DataFrame:
    """`method`, `versus`, `seed`, `difference` of the scores (positive: the method is better), `diverged` (either one)."""
    parts = [
        pl.DataFrame(
            {
                "method": method,
                "versus": versus,
                "seed": ours.seeds,
                "difference": ours.scores - theirs.scores,
                "diverged": ours.diverged | theirs.diverged,
            }
        )
        for (method, versus), ours, theirs in paired(runs_of, pairs)
    ]
    schema = {"method": pl.String, "versus": pl.String, "seed": pl.Int64, "difference": pl.Float64, "diverged": pl.Boolean}
    return pl.concat(parts) if parts else pl.DataFrame(schema=schema)


def gaps(runs_of: Mapping[str, Evaluated], pairs: Sequence[Pair], endpoint: Endpoint) -> pl.DataFrame:
    """`method`, `versus`, `step`, `mean`, `low`, `high`: the paired difference of the scores along the training.

    The interval is Student's for the mean over the seeds, 95 % at each step by itself.
    """
    parts = []
    for (method, versus), ours, theirs in paired(runs_of, pairs):
        points = min(len(ours.steps), len(theirs.steps))
        gap = endpoint.score(ours.values[:, :points]) - endpoint.score(theirs.values[:, :points])
        mean, seeds = gap.mean(axis=0), len(gap)
        error = gap.std(axis=0, ddof=1) / math.sqrt(seeds) if seeds > 1 else np.full(points, np.nan)
        reach = float(stdtrit(max(seeds - 1, 1), 0.975)) * error
        parts.append(
            pl.DataFrame(
                {
                    "method": method,
                    "versus": versus,
                    "step": ours.steps[:points],
                    "mean": mean,
                    "low": mean - reach,
                    "high": mean + reach,
                }
            )
        )
    schema = {"method": pl.String, "versus": pl.String, "step": pl.Int64} | dict.fromkeys(("mean", "low", "high"), pl.Float64)
    return pl.concat(parts) if parts else pl.DataFrame(schema=schema)
