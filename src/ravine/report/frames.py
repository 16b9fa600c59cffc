"""The tables behind the charts: the stored runs, reduced to what a chart shows.

A *score* is larger-is-better (a metric in its own unit, a loss as -log loss); a *value* is what an axis shows (the
metric, the loss). Runs are never embedded one by one: a chart gets one row per configuration, seed or evaluation.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from ravine.study.methods import METHODS
from ravine.study.runner import Curves, curves_of
from ravine.study.search import Settings, oriented, outcome, worst_score
from ravine.study.tuning_curve import expected_best

Floats: TypeAlias = NDArray[np.float64]
Pair: TypeAlias = tuple[str, str]  # (method, versus)
Facts: TypeAlias = Mapping[str, Any]  # what the verdict says of one method

TUNING = ("coarse", "local", "extension-1", "extension-2")
EVALUATION = ("evaluate", "current", "full")
MOMENTUM_NAMES = ("momentum", "beta1")
HEAVY_BALL = ("momentum", "nesterov")  # the effective learning rate of these is lr / (1 - momentum)
CURVE_POINTS = 100


@dataclass(frozen=True)
class Endpoint:
    """What decided the study: "loss" or the name of a metric, and how its values become scores."""

    settings: Settings

    @classmethod
    def of(cls, study: Mapping[str, Any]) -> "Endpoint":
        """The endpoint that a declaration (study.json) names."""
        declared, counts = study["endpoint"], ("trials", "tuning_seeds", "seeds", "steps", "study_seed")
        return cls(
            Settings(
                endpoint=declared["name"],
                higher_is_better=declared["higher_is_better"],
                worst=declared["worst"],
                **{name: study[name] for name in counts},
            )
        )

    @property
    def name(self) -> str:
        return self.settings.endpoint

    @property
    def is_loss(self) -> bool:
        return self.name == "loss"

    @property
    def higher_is_better(self) -> bool:
        return self.settings.higher_is_better

    def read(self, row: Mapping[str, Any]) -> Curves:
        """A row of runs/*.parquet."""
        return curves_of(row, list(dict.fromkeys((self.name, "loss"))))

    def value(self, scores: ArrayLike) -> Floats:
        """Scores to values: the inverse of `oriented`."""
        array = np.asarray(scores, dtype=np.float64)
        if self.is_loss:
            return np.exp(-array)
        return array if self.higher_is_better else -array

    def score(self, run: Curves, test: bool) -> float:
        """The score of a run at its best validation checkpoint."""
        return outcome(run, self.settings, self.settings.steps, test).score

    def along(self, run: Curves, length: int) -> Floats:
        """The test scores of a run at `length` evaluations, the worst score from its divergence on."""
        worst = worst_score(self.settings, run.initial_loss)
        scores = oriented((run.test or run.validation)[self.name], self.settings, worst)
        if run.diverged_at is not None:
            scores = np.where(np.array(run.steps)[: len(scores)] < run.diverged_at, scores, worst)
        return np.pad(scores, (0, length - len(scores)), constant_values=worst)


def momentum_name(hypers: Sequence[str]) -> str | None:
    """The hyper-parameter that is the momentum, None if there is none."""
    return next((name for name in MOMENTUM_NAMES if name in hypers), None)


def effective_lr(method: str, hyper: Mapping[str, float | None]) -> float | None:
    """lr / (1 - momentum) for a method in heavy-ball form, else None."""
    lr, momentum = hyper.get("lr"), hyper.get("momentum")
    if method not in HEAVY_BALL or lr is None or momentum is None or momentum >= 1:
        return None
    return lr / (1 - momentum)


def hypers_of(facts: Facts) -> list[str]:
    """Names of the hyper-parameters that a method searched."""
    return list(facts.get("ranges") or facts.get("settings") or {})


# --- the search -------------------------------------------------------------------------------------------------------


def trials(runs: pl.DataFrame, method: str, facts: Facts, endpoint: Endpoint) -> pl.DataFrame:
    """One row per tuning configuration: its hyper-parameters, `score` (mean over tuning seeds), `diverged` (seeds).

    What the method's search took over from the method that it contains (sgd, as momentum 0) is the first of that
    method's configurations, as many as are missing to the number of trials.
    """
    hypers = [name for name in hypers_of(facts) if name in runs.columns]
    own = _configurations(runs, method, hypers, endpoint)
    face = METHODS[method].face if method in METHODS else None
    missing = int(facts.get("trials") or 0) - len(own)
    if face is None or missing <= 0:
        return own
    others = [name for name in hypers if name != face.axis]
    contained = _configurations(runs, face.method, others, endpoint).head(missing)
    return pl.concat([contained.with_columns(pl.lit(face.value).alias(face.axis)).select(own.columns), own])


def _configurations(runs: pl.DataFrame, method: str, hypers: Sequence[str], endpoint: Endpoint) -> pl.DataFrame:
    found = runs.filter(pl.col("method") == method, pl.col("phase").is_in(TUNING))
    rows = [
        {
            **{name: row[name] for name in hypers},
            "score": endpoint.score(endpoint.read(row), test=False),
            "lost": row["diverged_at"] is not None,
        }
        for row in found.iter_rows(named=True)
    ]
    table = pl.DataFrame(rows, schema=dict.fromkeys([*hypers, "score"], pl.Float64()) | {"lost": pl.Boolean()})
    grouped = table.group_by(hypers, maintain_order=True)
    return grouped.agg(pl.col("score").mean(), diverged=pl.col("lost").sum().cast(pl.Int64))


def expected(table: pl.DataFrame, method: str, endpoint: Endpoint) -> pl.DataFrame:
    """`method`, `trials` k and `value`: the expected best of k of the configurations in `table`."""
    values = endpoint.value(expected_best(table["score"].to_numpy()))
    return pl.DataFrame({"method": [method] * len(values), "trials": range(1, len(values) + 1), "value": values})


# --- the evaluation ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluated:
    """One method on the evaluation seeds.

    scores: (seeds,) means over the finalists, weighted by their chances, which is what the verdict is about; curves:
    (seeds, points) scores along the training at the chosen settings; diverged: (seeds,) at the chosen settings.
    """

    seeds: list[int]
    scores: Floats
    steps: NDArray[np.int64]
    curves: Floats
    diverged: NDArray[np.bool_]

    def at(self, seeds: Sequence[int]) -> "Evaluated":
        """Some of the seeds."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return Evaluated(list(seeds), self.scores[rows], self.steps, self.curves[rows], self.diverged[rows])


def evaluated(runs: pl.DataFrame, method: str, facts: Facts, endpoint: Endpoint) -> Evaluated | None:
    """The evaluation of `method`; None where nothing was evaluated."""
    chosen = {"settings": facts.get("settings"), "trained_as": facts.get("trained_as"), "weight": 1.0}
    if not chosen["settings"]:
        return None
    finalists = facts.get("finalists") or [chosen]
    whole = runs.filter(pl.col("phase").is_in(EVALUATION), pl.col("steps") == endpoint.settings.steps)
    found = [_by_seed(whole, method, finalist, endpoint) for finalist in finalists]
    winner = _by_seed(whole, method, chosen, endpoint)
    seeds = sorted(set(winner).intersection(*found))
    if not seeds:
        return None
    weights = np.array([finalist["weight"] for finalist in finalists])
    scores = np.array([[endpoint.score(of[seed], test=True) for seed in seeds] for of in found])
    steps = max(whole["step"].to_list(), key=len)  # a run that diverged was evaluated less often
    keep = np.unique(np.linspace(0, len(steps) - 1, CURVE_POINTS).round().astype(np.int64))
    return Evaluated(
        seeds,
        weights / weights.sum() @ scores,
        np.array(steps, dtype=np.int64)[keep],
        np.stack([endpoint.along(winner[seed], len(steps)) for seed in seeds])[:, keep],
        np.array([winner[seed].diverged_at is not None for seed in seeds]),
    )


def _by_seed(runs: pl.DataFrame, method: str, chosen: Facts, endpoint: Endpoint) -> dict[int, Curves]:
    """The runs at one setting; a setting of a contained method was trained as that method."""
    if not set(chosen["settings"]) <= set(runs.columns):
        return {}
    here = [pl.col(name) == value for name, value in chosen["settings"].items()]
    found = runs.filter(pl.col("method") == (chosen.get("trained_as") or method), *here)
    return {row["seed"]: endpoint.read(row) for row in found.iter_rows(named=True)}


_CURVES = {"method": pl.String, "step": pl.Int64, "low": pl.Float64, "median": pl.Float64, "high": pl.Float64}
_SEEDS = {"method": pl.String, "versus": pl.String, "seed": pl.Int64, "difference": pl.Float64, "diverged": pl.Boolean}
_GAPS = {"method": pl.String, "versus": pl.String, "step": pl.Int64} | dict.fromkeys(
    ("mean", "low", "high"), pl.Float64
)


def curves(found: Mapping[str, Evaluated], endpoint: Endpoint) -> pl.DataFrame:
    """`method`, `step`, `low`, `median`, `high`: quartiles of the values over the seeds."""
    parts = [pl.DataFrame(schema=_CURVES)]
    for method, of in found.items():
        quartiles = np.quantile(endpoint.value(of.curves), [0.25, 0.5, 0.75], axis=0)
        rows = {"method": [method] * len(of.steps), "step": of.steps}
        parts.append(pl.DataFrame(rows | dict(zip(("low", "median", "high"), quartiles, strict=True)), schema=_CURVES))
    return pl.concat(parts)


def paired(found: Mapping[str, Evaluated], pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Evaluated, Evaluated]]:
    """The pairs whose two methods were both evaluated, cut to the seeds that they share."""
    for method, versus in pairs:
        if method in found and versus in found:
            shared = sorted(set(found[method].seeds) & set(found[versus].seeds))
            yield (method, versus), found[method].at(shared), found[versus].at(shared)


def differences(found: Mapping[str, Evaluated], pairs: Sequence[Pair]) -> pl.DataFrame:
    """`method`, `versus`, `seed`, `difference` of the scores (positive: better), `diverged` (either one)."""
    parts = [pl.DataFrame(schema=_SEEDS)]
    for (method, versus), ours, theirs in paired(found, pairs):
        rows = {
            "method": [method] * len(ours.seeds),
            "versus": [versus] * len(ours.seeds),
            "seed": ours.seeds,
            "difference": ours.scores - theirs.scores,
            "diverged": ours.diverged | theirs.diverged,
        }
        parts.append(pl.DataFrame(rows, schema=_SEEDS))
    return pl.concat(parts)


def gaps(found: Mapping[str, Evaluated], pairs: Sequence[Pair]) -> pl.DataFrame:
    """`method`, `versus`, `step`, `mean`, `low`, `high`: the paired difference of the scores along the training.

    The interval is Student's for the mean over the seeds, 95 % at each step by itself; no interval for a single seed.
    """
    parts = [pl.DataFrame(schema=_GAPS)]
    for (method, versus), ours, theirs in paired(found, pairs):
        points = min(len(ours.steps), len(theirs.steps))
        gap = ours.curves[:, :points] - theirs.curves[:, :points]
        mean, seeds = gap.mean(axis=0), len(gap)
        reach = np.full(points, math.nan)
        if seeds > 1:
            reach = float(stdtrit(seeds - 1, 0.975)) * gap.std(axis=0, ddof=1) / math.sqrt(seeds)
        rows = {
            "method": [method] * points,
            "versus": [versus] * points,
            "step": ours.steps[:points],
            "mean": mean,
            "low": mean - reach,
            "high": mean + reach,
        }
        parts.append(pl.DataFrame(rows, schema=_GAPS))
    return pl.concat(parts)
