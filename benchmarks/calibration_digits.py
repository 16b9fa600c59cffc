"""A method against itself on real training: the rate of false verdicts over resampled studies of digits.

    python benchmarks/calibration_digits.py [--studies 1000] [--out benchmarks/results/calibration_digits.json]

A table of real runs (configurations of a method on 66 seeds) is trained once. A study is simulated by the coroutine
that drives real studies (`ravine.study.search.tune`): what it asks for is answered by the nearest configuration of
the table, and its seeds are a random choice of the table's. Two copies of the same method draw independent search
points, tuning seeds and screening seeds; they share the 20 evaluation seeds and are judged at margin 0, so every
`pays` and `hurts` is false.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from calibration import copies, rate, show
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import qmc

from ravine.fleet.train import Record, Trial, Work, evaluation_steps
from ravine.problems.digits import digits
from ravine.study.declare import machine, versions
from ravine.study.engine import LocalEngine, cores
from ravine.study.infer import Contrast, contrasts
from ravine.study.methods import get
from ravine.study.runner import Curves, full_hyper
from ravine.study.search import Request, Run
from ravine.study.worker import Assignment

SEEDS = 66  # what two copies may ask for: each 3 + 20 of its own, and 20 to evaluate on
MARGIN = 0.01
NAMES = ("loss", "accuracy")


@dataclass(frozen=True)
class Cell:
    """One table: a method on digits at a batch size and a number of steps, `rows` configurations in a box of lr."""

    method: str
    batch_size: int
    steps: int
    rows: int
    lr: tuple[float, float]


# The boxes are those that the probe finds on digits, extended by a factor of two on either side.
CELLS = {
    "sgd, full batch, 30 steps": Cell("sgd", 2000, 30, 256, (0.002, 8.0)),
    "momentum, full batch, 30 steps": Cell("momentum", 2000, 30, 512, (0.001, 4.0)),
    "sgd, batch 16, 1,000 steps": Cell("sgd", 16, 1000, 128, (0.001, 4.0)),
}


@dataclass(frozen=True)
class Table:
    """Trained runs: `places` (configurations, axes) in logarithms, `runs` (configurations, seeds)."""

    places: NDArray[np.float64]
    runs: list[list[Curves]]


def train(cell: Cell) -> Table:
    """Trains a table."""
    axes = get(cell.method).axes
    unit = qmc.Sobol(len(axes), rng=np.random.default_rng(7)).random(cell.rows)
    low = np.log([cell.lr[0], 0.003][: len(axes)])
    high = np.log([cell.lr[1], 0.5][: len(axes)])
    places = low + unit * (high - low)
    hypers = [_hyper(cell.method, place) for place in places]
    if cell.method == "momentum":  # the face at momentum 0, which a search asks for too
        face = np.linspace(math.log(cell.lr[0]), math.log(cell.lr[1]), 96)
        places = np.vstack([places, np.column_stack([face, np.zeros(96)])])
        hypers += [{"lr": float(lr), "momentum": 0.0} for lr in np.exp(face)]
    problem = digits()
    assignment = Assignment.of(
        problem, batch_size=cell.batch_size, steps=cell.steps, study_seed=0, device="cpu", threads=1, progress=""
    )
    works = []
    for start in range(0, len(hypers), 2):
        trials = tuple(Trial(seed, h) for h in hypers[start : start + 2] for seed in range(SEEDS))
        works.append((str(start), Work(cell.method, trials, cell.steps, True, "stacked")))
    records: dict[int, list[Record]] = {}
    with tempfile.TemporaryDirectory() as scratch, LocalEngine(assignment, cores()) as engine:
        for name, trained in engine.train(works, Path(scratch), lambda steps: None):
            for k in range(len(trained.records) // SEEDS):
                records[int(name) + k] = trained.records[k * SEEDS : (k + 1) * SEEDS]
    steps = tuple(evaluation_steps(cell.steps))
    return Table(places, [[_curves(record, steps) for record in records[k]] for k in range(len(hypers))])


def _hyper(method: str, place: NDArray[np.float64]) -> dict[str, float]:
    lr = float(np.exp(place[0]))
    searched = (("lr", lr),) if len(place) == 1 else (("lr", lr), ("momentum", 1 - float(np.exp(place[1]))))
    return full_hyper(Run(method, searched, 0, 1))


def _curves(record: Record, steps: tuple[int, ...]) -> Curves:
    validation, test = np.array(record.validation), np.array(record.test)
    final = math.inf if record.final_train_loss is None else record.final_train_loss
    return Curves(
        record.initial_loss,
        final,
        record.diverged_at,
        steps[: len(validation)],
        {name: validation[:, k] for k, name in enumerate(NAMES)},
        {name: test[:, k] for k, name in enumerate(NAMES)},
    )


class Resampler:
    """Answers requests from a table; its seeds stand for those of one study."""

    def __init__(self, table: Table, study: int) -> None:
        self.table = table
        self.order = np.random.default_rng([study, 8]).permutation(SEEDS)
        self.seeds: dict[int, int] = {}

    def __call__(self, requests: list[Request]) -> Mapping[Run, Curves]:
        return {run: self.answer(run) for request in requests for run in request.runs}

    def answer(self, run: Run) -> Curves:
        """The nearest configuration of the table, on the seed that stands for this one; a probe run stops early."""
        values = dict(run.hyper)
        place = np.log([values["lr"], 1 - values.get("momentum", 0.0)][: self.table.places.shape[1]])
        nearest = int(np.argmin(((self.table.places - place) ** 2).sum(axis=1)))
        if run.seed not in self.seeds:
            self.seeds[run.seed] = int(self.order[len(self.seeds)])
        return self.table.runs[nearest][self.seeds[run.seed]]


def study(table: Table, cell: Cell, number: int) -> tuple[Contrast, Contrast]:
    """What one study says of a method against itself, at margin 0 and with a true difference exactly at the margin."""
    a, b = copies(cell.method, cell.steps, number, Resampler(table, number))
    better = replace(a, scores=a.scores + MARGIN)
    return (
        contrasts({"a": a, "b": b}, [("a", "b")], 0.0)[0],
        contrasts({"a": better, "b": b}, [("a", "b")], MARGIN)[0],
    )


def against_itself(name: str, cell: Cell, studies: int) -> dict[str, Any]:
    """Rates of false verdicts of one cell."""
    table = train(cell)
    with ProcessPoolExecutor(max_workers=cores()) as pool:
        found = list(pool.map(partial(study, table, cell), range(studies), chunksize=10))
    same, edge = [one for one, _ in found], [one.verdict for _, one in found]
    alone = [not one.interval_given_settings[0] <= 0 <= one.interval_given_settings[1] for one in same]
    return {
        "cell": name,
        "studies": studies,
        **rate("false", sum(one.verdict in ("pays", "hurts") for one in same), studies),
        **rate("false_by_seeds_alone", sum(alone), studies),
        **rate("pays_at_margin", edge.count("pays"), studies),
        **rate("equal_at_margin", edge.count("equal"), studies),
        "deviation": float(np.std([one.difference for one in same])),
        "median_half_width": float(np.median([(one.interval[1] - one.interval[0]) / 2 for one in same])),
    }


def main() -> None:
    """Trains the tables, resamples the studies, prints and keeps the rates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "calibration_digits.json")
    options = parser.parse_args()
    rows = [against_itself(name, cell, options.studies) for name, cell in CELLS.items()]
    show(Console(width=180), "A method against itself on digits (false at most 5)", rows)
    record = {"machine": machine("cpu"), "versions": versions(), "margin": MARGIN, "rows": rows}
    options.out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
