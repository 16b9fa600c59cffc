"""Gradients and seconds to a stated training error: NAG, Adam, Hessian-free and its momentum-like variant in one study.

    python benchmarks/hessian_free_study.py [--scale quick|evening] [--study DIR] [--targets 3 2 1.5]

A study as `ravine compare` makes it: every method tuned alike, the winners on fresh seeds, one batch size for all, a
step one gradient on a batch, a Hessian-free step shown only when all its passes are paid for. The problem's validation
and test rows are its training rows, so that what is tuned for and reported is training error. The quick scale is the
digits autoencoder on 512 of its 1,437 rows, about half an hour of one core; the evening's is `curves-small` on a
quarter of its 2,000 rows, about three hours (380,000 and 504,000 gradients; `OMP_NUM_THREADS=1`). A study that was
stopped goes on, and a finished one is only evaluated again, for other targets say.

From the stored runs of each winner: on how many seeds it reached an error, after how many gradients (the mean of
min(time, all gradients)), and how much sooner than NAG, as the geometric mean of the paired ratios with Student's
interval over seeds (`ravine.study.targets`). Seconds are gradients times the seconds of one, measured alone: their
intervals cover the seeds, not the clock.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import ravine
from ravine.claims.sutskever.autoencoders import judged_on_training
from ravine.claims.sutskever.second_order import digits_autoencoder
from ravine.problems import Problem
from ravine.problems.autoencoders import ERROR
from ravine.problems.curves import small_curves_autoencoder
from ravine.study import Comparison
from ravine.study.declare import machine, versions
from ravine.study.targets import Target, TimeContrast, contrast_times

METHODS = ("nesterov", "adam", "hessian-free", "momentum-hessian-free")
BASELINE = METHODS[0]
Row = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """A problem, and what a study of it may cost."""

    make: Callable[[], Problem]
    batch_size: int
    gradients: int
    trials: int
    seeds: int
    targets: tuple[float, ...]


SCALES = {
    "quick": Scale(digits_autoencoder, 512, 1_500, 8, 5, (4.0, 3.0, 2.0)),
    "evening": Scale(small_curves_autoencoder, 500, 2_000, 8, 5, (10.0, 5.0, 2.0)),
}


def constant(step: int) -> float:
    """A schedule, so that the study makes no runs for a quarter and half of the budget beside: nobody asks for them."""
    return 1.0


def studied(scale: Scale, directory: Path) -> Comparison:
    """The study in a directory, begun or gone on with."""
    of = replace(judged_on_training(scale.make()), schedule=constant)
    if directory.exists():
        return ravine.resume(directory, problem=of)
    return ravine.compare(
        of,
        METHODS,
        baseline=BASELINE,
        steps=scale.gradients,
        batch_size=scale.batch_size,
        trials=scale.trials,
        tuning_seeds=1,
        seeds=scale.seeds,
        margin=0.05,
        out=directory,
    )


def scores(comparison: Comparison, method: str) -> tuple[list[int], NDArray[np.float64]]:
    """(evaluation steps, minus the training error at them (seeds, evaluations)) of a method's winner, seed by seed.

    Runs of fewer steps, such as probes, are left out.
    """
    settings: Mapping[str, float] = comparison.verdict["methods"][method]["settings"]
    judged = comparison.runs.filter(
        pl.col(f"test_{ERROR}").is_not_null(),
        pl.col("steps") == pl.col("steps").max(),
        pl.col("method") == method,
        *((pl.col(name) == value for name, value in settings.items())),
    ).sort("seed")
    steps = max(judged["step"].to_list(), key=len)
    rows = [[-math.inf if error is None else -error for error in row] for row in judged[f"test_{ERROR}"].to_list()]
    return list(steps), np.array([row + [-math.inf] * (len(steps) - len(row)) for row in rows])


def summary(comparison: Comparison, targets: Sequence[float]) -> list[Row]:
    """A row for each target and method."""
    curves = {method: scores(comparison, method) for method in METHODS}
    steps = max((found[0] for found in curves.values()), key=len)
    whole = {
        method: np.pad(rows, ((0, 0), (0, len(steps) - rows.shape[1])), constant_values=-math.inf)
        for method, (_, rows) in curves.items()
    }
    seconds = {method: comparison.cost[method]["seconds_per_step"] for method in METHODS}
    wanted = [Target(math.nan, -error) for error in targets]
    return [
        row_of(method, error, one, seconds)
        for method in METHODS
        for error, one in zip(
            targets,
            contrast_times((method, whole[method]), (BASELINE, whole[BASELINE]), steps, wanted),
            strict=True,
        )
    ]


def row_of(method: str, error: float, one: TimeContrast, seconds: Mapping[str, float]) -> Row:
    faster = seconds[BASELINE] / seconds[method]
    times = [] if one.speedup is None or one.speedup_interval is None else [one.speedup, *one.speedup_interval]
    return {
        "method": method,
        "error": error,
        "reached": one.reached[0],
        "seeds": one.seeds,
        "gradients": one.restricted_mean[0],
        "seconds": one.restricted_mean[0] * seconds[method],
        "times_sooner_in_gradients": times,
        "times_sooner_in_seconds": [value * faster for value in times],
        "note": one.note,
    }


def shown(times: Sequence[float]) -> str:
    return f"{times[0]:.2f} ({times[1]:.2f} to {times[2]:.2f})" if times else ""


def table(rows: Sequence[Row]) -> Table:
    ends = ["reached", "gradients", "seconds", "times sooner than NAG, in gradients", "in seconds"]
    made = Table("training error", "method", *ends)
    for row in sorted(rows, key=lambda row: (-row["error"], METHODS.index(row["method"]))):
        own = row["method"] == BASELINE
        sooner = ["", ""] if own else [shown(row[f"times_sooner_in_{unit}"]) for unit in ("gradients", "seconds")]
        spent = [f"{row['gradients']:,.0f}", f"{row['seconds']:.1f}"]
        made.add_row(f"{row['error']:g}", row["method"], f"{row['reached']} of {row['seeds']}", *spent, *sooner)
    return made


def main() -> None:
    """Studies, prints, keeps."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--scale", choices=list(SCALES), default="quick")
    words.add_argument("--study", type=Path, help="its directory")
    words.add_argument("--targets", type=float, nargs="+", help="training errors to reach")
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "hessian-free-study.json")
    given = words.parse_args()
    scale = SCALES[given.scale]
    comparison = studied(scale, given.study or Path("studies") / f"hessian-free-{given.scale}")
    rows = summary(comparison, given.targets or scale.targets)
    Console(width=160).print(table(rows))
    verdict = comparison.verdict
    kept = {
        "machine": machine("cpu"),
        "versions": versions(),
        "problem": verdict["problem"],
        "batch_size": scale.batch_size,
        "gradients": scale.gradients,
        "trials": scale.trials,
        "settings": {method: verdict["methods"][method]["settings"] for method in METHODS},
        "seconds_per_gradient": {method: comparison.cost[method]["seconds_per_step"] for method in METHODS},
        "final_error": {
            one["method"]: {name: one[name] for name in ("difference", "interval", "verdict")}
            for one in verdict["contrasts"]
        },
        "rows": rows,
    }
    given.out.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
