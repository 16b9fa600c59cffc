"""Cost to a stated training error: NAG, Adam, Hessian-free and its momentum-like variant on `curves`, in one study.

    python benchmarks/hessian_free_study.py [--study DIR] [--targets 10 7 3] [--workers 1]

Every method trains the autoencoder `curves-small` at the same cost, counted in gradients of the whole training set, all
passes included (`ravine.hessian_free.Step.cost`). The first-order methods spend it on small batches, momentum-like
Hessian-free on larger ones, classic on the whole set. The learning rate (1 / damping at the start of the Hessian-free
ones) is the best of a grid, by the error at the end, on a seed that no result is judged on. About an hour of one core.
A study that was stopped goes on, and a finished one is only evaluated again, for other targets say.

For each error: on how many seeds a method reached it, after how much (the mean of min(cost, all)), and how much sooner
than NAG, as the geometric mean of the paired ratios with Student's interval over seeds (`ravine.study.targets`).
Seconds are gradients times the seconds of one, of runs trained alone in turn: their intervals cover the seeds only.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ravine.claims.laboratory import STUDY_SEED, Arm, Laboratory, Runs
from ravine.claims.sutskever.autoencoders import autoencoder_momentum, judged_on_training
from ravine.claims.sutskever.second_order import FIRST, classic, momentum_like
from ravine.problems import Problem
from ravine.problems.curves import small_curves_autoencoder
from ravine.study import worker
from ravine.study.declare import machine, versions
from ravine.study.engine import LocalEngine
from ravine.study.store import Store
from ravine.study.targets import Target, TimeContrast, contrast_times

NAG_MOMENTUM = 0.99
Row = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """A problem, what a run may cost in gradients of its whole training set, and what its targets are.

    small, large: batches of the first-order methods and of the momentum-like one, which takes `few` steps of conjugate
    gradients an update; the classic one takes at most `many`, on all rows. Batches divide the rows, and the cost is in
    hundreds, so that all methods are evaluated after the same hundredths of it.
    """

    make: Callable[[], Problem]
    gradients: int
    small: int
    large: int
    few: int
    many: int
    nag_rates: tuple[float, ...]
    adam_rates: tuple[float, ...]
    few_rates: tuple[float, ...]
    many_rates: tuple[float, ...]
    seeds: int
    targets: tuple[float, ...]


SCALE = Scale(
    small_curves_autoencoder,
    gradients=2_000,
    small=200,
    large=500,
    few=10,
    many=250,
    nag_rates=(0.02, 0.01, 0.005),
    adam_rates=(0.03, 0.01, 0.003, 0.001),
    few_rates=(100.0, 10.0, 1.0, 0.1),
    many_rates=(10.0, 1.0, 0.1, 0.02),
    seeds=5,
    targets=(10.0, 7.0, 3.0),
)


@dataclass(frozen=True)
class Method:
    """How a method trains: rows of a batch, learning rate -> arm, and the learning rates that it tries."""

    rows: int
    of: Callable[[float], Arm]
    rates: Sequence[float]


def methods(scale: Scale, rows: int) -> dict[str, Method]:
    """Every method by its name, the baseline first."""
    updates = scale.gradients * rows // scale.small

    def nag(lr: float) -> Arm:
        return Arm("NAG", "sutskever-nesterov", {"lr": lr, "momentum": autoencoder_momentum(NAG_MOMENTUM, updates)})

    def adam(lr: float) -> Arm:
        return Arm("Adam", "adam", {"lr": lr, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8})

    few = momentum_like("momentum-like HF", scale.few, FIRST)
    return {
        "NAG": Method(scale.small, nag, scale.nag_rates),
        "Adam": Method(scale.small, adam, scale.adam_rates),
        "momentum-like HF": Method(scale.large, few, scale.few_rates),
        "classic HF": Method(rows, classic(scale.many), scale.many_rates),
    }


@dataclass(frozen=True)
class Trained:
    """The runs of a method, as it was tuned, on the seeds that judge; `steps`: those of a gradient of all rows."""

    problem: Problem
    arm: Arm
    runs: Runs
    steps: int

    def costs(self) -> list[int]:
        """After how many gradients of all rows its runs were evaluated."""
        return [step // self.steps for step in max(self.runs.frame["step"].to_list(), key=len)]

    def scores(self) -> NDArray[np.float64]:
        """Minus the training error (seeds, evaluations); after its divergence a run has the worst."""
        rows = self.runs.frame.sort("seed")[f"validation_{self.runs.endpoint}"].to_list()
        width = len(self.costs())
        known = [[-math.inf if error is None else -error for error in row] for row in rows]
        return np.array([row + [-math.inf] * (width - len(row)) for row in known])


def trained(laboratory: Laboratory, scale: Scale) -> dict[str, Trained]:
    """Every method, tuned and trained."""
    whole = judged_on_training(scale.make())
    rows = len(whole.train[0])
    found = {}
    for name, method in methods(scale, rows).items():
        problem = replace(whole, batch_size=method.rows, name=f"{whole.name}, batches of {method.rows}")
        steps = rows // method.rows
        rate = laboratory.rates(problem, {name: method.of}, method.rates, 1, scale.gradients * steps)[name]
        arm = method.of(rate)
        runs = laboratory.train(problem, [arm], range(scale.seeds), scale.gradients * steps)
        found[name] = Trained(problem, arm, runs, steps)
    return found


def seconds(found: Mapping[str, Trained], rounds: int = 9) -> dict[str, float]:
    """Of a gradient of all rows, steps and all, of runs that are trained alone: medians of rounds of all in turn."""
    words = {"study_seed": STUDY_SEED, "device": "cpu", "threads": 1, "progress": ""}
    times: dict[str, list[float]] = {name: [] for name in found}
    with ExitStack() as stack:
        engines = {}
        for name, one in found.items():
            problem = one.problem
            told = worker.Assignment.of(problem, batch_size=problem.batch_size, steps=problem.steps, **words)
            engines[name] = stack.enter_context(LocalEngine(told, 1))
        for _ in range(rounds):
            for name, one in found.items():
                of_step = engines[name].ask(worker.step_seconds, one.arm.rule, dict(one.arm.hyper))
                times[name].append(of_step * one.steps)
    return {name: statistics.median(values) for name, values in times.items()}


def summary(found: Mapping[str, Trained], spent: Mapping[str, float], targets: Sequence[float]) -> list[Row]:
    """A row for each target and method; spent: the seconds of a gradient."""
    (baseline, base), *_ = found.items()
    wanted = [Target(math.nan, -error) for error in targets]
    rows = []
    for name, one in found.items():
        contrasts = contrast_times((name, one.scores()), (baseline, base.scores()), base.costs(), wanted)
        rows += [
            row_of(name, error, contrast, spent[name], spent[baseline])
            for error, contrast in zip(targets, contrasts, strict=True)
        ]
    return rows


def row_of(name: str, error: float, one: TimeContrast, own: float, of_baseline: float) -> Row:
    """own, of_baseline: seconds of a gradient."""
    times = [] if one.speedup is None or one.speedup_interval is None else [one.speedup, *one.speedup_interval]
    return {
        "method": name,
        "error": error,
        "reached": one.reached[0],
        "seeds": one.seeds,
        "gradients": one.restricted_mean[0],
        "seconds": one.restricted_mean[0] * own,
        "times_sooner_in_gradients": times,
        "times_sooner_in_seconds": [value * of_baseline / own for value in times],
        "note": one.note,
    }


def shown(times: Sequence[float]) -> str:
    return f"{times[0]:.2f} ({times[1]:.2f} to {times[2]:.2f})" if times else ""


def table(rows: Sequence[Row]) -> Table:
    """The rows by error."""
    baseline = rows[0]["method"]
    ends = ["reached", "gradients", "seconds", f"times sooner than {baseline}, in gradients", "in seconds"]
    made = Table("training error", "method", *ends)
    for row in sorted(rows, key=lambda row: -row["error"]):
        units = ("gradients", "seconds") if row["method"] != baseline else ()
        sooner = [shown(row[f"times_sooner_in_{unit}"]) for unit in units]
        spent = [f"{row['gradients']:,.0f}", f"{row['seconds']:.1f}"]
        made.add_row(f"{row['error']:g}", row["method"], f"{row['reached']} of {row['seeds']}", *spent, *sooner)
    return made


class Spoken:
    """A listener that prints what begins."""

    def phase(self, text: str) -> None:
        Console().print(text)

    def progress(self, done_steps: int, total_steps: int, runs_done: int, runs: int) -> None: ...


def main() -> None:
    """Studies, prints, keeps."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--study", type=Path, default=Path("studies") / "hessian-free", help="its directory")
    words.add_argument("--targets", type=float, nargs="+", help="training errors to reach")
    words.add_argument("--workers", type=int, default=1)
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "hessian-free-study.json")
    given = words.parse_args()
    store = Store(given.study)
    store.directory.mkdir(parents=True, exist_ok=True)
    with store.locked():
        laboratory = Laboratory("evening", store, given.workers, "cpu", Spoken())
        found = trained(laboratory, SCALE)
    spent = seconds(found)
    rows = summary(found, spent, given.targets or SCALE.targets)
    Console(width=160).print(table(rows))
    kept = {
        "machine": machine("cpu"),
        "versions": versions(),
        "problem": SCALE.make().name,
        "gradients": SCALE.gradients,
        "pilot": laboratory.pilots,
        "methods": {
            name: {
                **one.arm.described,
                "batch": one.problem.batch_size,
                "seconds_per_gradient": spent[name],
                "final_errors": one.runs.errors(name),
            }
            for name, one in found.items()
        },
        "rows": rows,
    }
    given.out.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
