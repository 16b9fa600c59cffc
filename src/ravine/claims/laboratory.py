"""Where claims train: arms on seeds as fleets, each run stored once, going on where it stopped."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from ravine.claims.claim import Budget
from ravine.fleet.second_order import SECOND_ORDER
from ravine.fleet.train import Trial, Work, checkpoint_files, places
from ravine.problems import Problem
from ravine.schedules import Setting, to_dict
from ravine.study.engine import LocalEngine
from ravine.study.store import Store, frame_of
from ravine.study.worker import Assignment, Trained

STUDY_SEED = 2013  # of all draws of all claims
PILOT_SEED = 1_000  # from here on seeds choose learning rates, below they judge
NUMBERS = "numbers.json"
EMPTY = 2  # places that a stack may have without a run
PILOTS = Path(__file__).with_name("pilots")


class Listener(Protocol):
    """Who hears how the work goes."""

    def phase(self, text: str) -> None: ...
    def progress(self, done_steps: int, total_steps: int, runs_done: int, runs: int) -> None: ...


@dataclass(frozen=True)
class Arm:
    """One way to train: a rule with its hyper-parameters, numbers or schedules of `ravine.schedules`."""

    label: str
    rule: str
    hyper: Mapping[str, Setting]

    @property
    def described(self) -> dict[str, Any]:
        """Rule and hyper-parameters as plain data."""
        settings = {name: to_dict(value) if callable(value) else value for name, value in self.hyper.items()}
        return {"rule": self.rule, **settings}


@dataclass(frozen=True)
class Runs:
    """The runs of a problem: a row each, with its arm, seed and curves."""

    frame: pl.DataFrame
    endpoint: str
    worst: float

    def errors(self, arm: str, step: int | None = None) -> list[float]:
        """The endpoint at the end, or at the last evaluation until a step, by seed; diverged runs have the worst."""
        rows = self.frame.filter(pl.col("arm") == arm).sort("seed").iter_rows(named=True)
        return [self._at(row, step) for row in rows]

    def _at(self, row: Mapping[str, Any], step: int | None) -> float:
        last = row["steps"] if step is None else step
        seen = [k for k, at in enumerate(row["step"]) if at <= last]
        if not seen or (row["diverged_at"] is not None and row["diverged_at"] <= last):
            return self.worst
        return float(row[f"validation_{self.endpoint}"][seen[-1]])

    def losses(self, arm: str) -> list[float]:
        """The training loss at the end, on the first rows of the training data, by seed; infinite if diverged."""
        rows = self.frame.filter(pl.col("arm") == arm).sort("seed")
        lost = pl.col("diverged_at").is_not_null() | pl.col("final_train_loss").is_null()
        found: list[float] = (
            rows.select(pl.when(lost).then(math.inf).otherwise("final_train_loss")).to_series().to_list()
        )
        return found

    def curves(self) -> pl.DataFrame:
        """Columns arm, seed, step and error: the endpoint along the training."""
        column = f"validation_{self.endpoint}"
        long = self.frame.select("arm", "seed", "step", pl.col(column).alias("error")).explode("step", "error")
        return long.filter(pl.col("error").is_finite())


@dataclass
class Laboratory:
    """A budget, a place to store what is done, and machines to do it.

    fresh_pilot: search learning rates anew, in place of those that come with the package.
    """

    budget: Budget
    store: Store
    workers: int
    device: str
    listener: Listener
    fresh_pilot: bool = False
    pilots: dict[str, Any] = field(default_factory=dict)

    def train(self, problem: Problem, arms: Sequence[Arm], seeds: Sequence[int], steps: int) -> Runs:
        """Every arm on every seed, judged on the validation rows; what is stored already is not trained again.

        The name of the problem tells it from all others of the claim.
        """
        wanted = {self._key(problem, arm, seed, steps): (arm, seed) for arm in arms for seed in seeds}
        stored = self._stored(wanted)
        missing = {key: run for key, run in wanted.items() if key not in stored}
        if missing:
            self.listener.phase(f"{problem.name}: {len(missing)} runs of {steps:,} steps")
            self._run(problem, missing, steps)
            stored = self._stored(wanted)
        labels = pl.DataFrame(
            {"key": list(wanted), "arm": [arm.label for arm, _ in wanted.values()]}, schema_overrides={"arm": pl.String}
        )
        frame = pl.concat(list(stored.values())).join(labels, on="key", how="inner")
        endpoint = next(iter(problem.metrics), "loss")
        worst = problem.metrics[endpoint].worst if problem.metrics else math.inf
        return Runs(frame, endpoint, worst)

    def _key(self, problem: Problem, arm: Arm, seed: int, steps: int) -> str:
        words = json.dumps([problem.name, arm.described, seed, steps, STUDY_SEED], sort_keys=True)
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    def _stored(self, wanted: Mapping[str, Any]) -> dict[str, pl.DataFrame]:
        """The stored runs among those wanted, by key; a file that cannot be read is set aside, its runs train again."""
        found: dict[str, pl.DataFrame] = {}
        damaged: list[Path] = []
        chunks = self.store.chunks(damaged.append)
        for path in damaged:
            self.store.set_aside(path)
        for frame in chunks.values():
            for key in frame["key"]:
                if key in wanted:
                    found[key] = frame.filter(pl.col("key") == key)
        return found

    def _run(self, problem: Problem, missing: Mapping[str, tuple[Arm, int]], steps: int) -> None:
        progress = self.store.path(".progress")
        assignment = Assignment.of(
            problem,
            batch_size=problem.batch_size,
            steps=steps,
            study_seed=STUDY_SEED,
            device=self.device,
            threads=1,
            progress=str(progress),
        )
        total, done, runs_done = len(missing) * steps, 0, 0
        with LocalEngine(assignment, self.workers) as engine:
            choice = engine.choose(None, total)
            size = min(choice.size, math.ceil(len(missing) / self.workers))
            works: dict[str, tuple[Work, list[str]]] = {}
            for rule, keys in _parts(missing, size):
                trials = tuple(Trial(missing[key][1], dict(missing[key][0].hyper)) for key in keys)
                work = Work(rule, trials, steps, False, "single" if rule in SECOND_ORDER else choice.executor)
                works[hashlib.sha256("".join(keys).encode()).hexdigest()[:16]] = (work, keys)
            given = [(name, work) for name, (work, _) in works.items()]

            def tick(under_way: int) -> None:
                self.listener.progress(done + under_way, total, runs_done, len(missing))

            for name, trained in engine.train(given, self.store.checkpoints, tick):
                work, keys = works[name]
                self._keep(problem, name, work, keys, trained)
                done, runs_done = done + steps * len(keys), runs_done + len(keys)

    def _keep(self, problem: Problem, name: str, work: Work, keys: list[str], trained: Trained) -> None:
        rows = [{"seed": trial.seed, "steps": work.steps} for trial in work.trials]
        frame = frame_of(rows, trained.records, ("loss", *problem.metrics), trained.seconds, name)
        self.store.write_chunk(name, frame.with_columns(pl.Series("key", keys), pl.lit(problem.name).alias("problem")))
        for path in checkpoint_files(self.store.checkpoints / name):
            path.unlink()

    def rates(
        self,
        problem: Problem,
        arms: Mapping[str, Callable[[float], Arm]],
        grid: Sequence[float],
        seeds: int,
        steps: int,
    ) -> dict[str, float]:
        """The best learning rate of each arm: of the committed pilot if there is one for these words, else searched.

        Best is the lowest mean of the endpoint over the pilot's seeds, which no result is judged on; a run that
        diverged has the worst; of equals the largest is taken. The table is kept in `pilots`.
        """
        name = f"{problem.name} {steps}"
        table = None if self.fresh_pilot else committed_pilot(name)
        if table is None or not set(arms) <= set(table):
            trained = [arm_of(rate) for arm_of in arms.values() for rate in grid]
            tried = [Arm(f"{arm.label} {arm.hyper['lr']:g}", arm.rule, arm.hyper) for arm in trained]
            runs = self.train(problem, tried, range(PILOT_SEED, PILOT_SEED + seeds), steps)
            table = {label: {f"{rate:g}": _mean(runs.errors(f"{label} {rate:g}")) for rate in grid} for label in arms}
        self.pilots[name] = self.pilots.get(name, {}) | table
        self.store.write_json("pilot.json", self.pilots)
        return {label: best_rate(table[label]) for label in arms}

    def best(self, problem: Problem, labels: Sequence[str], steps: int) -> str:
        """The arm that has the lowest error at its best learning rate, of those that `rates` was asked for."""
        table = self.pilots[f"{problem.name} {steps}"]
        return min(labels, key=lambda label: min(table[label].values()))

    def kept(self, name: str, compute: Callable[[], float]) -> float:
        """A number that takes long: from numbers.json if it is there, else computed, and stored there at once."""
        numbers = self.store.read_json(NUMBERS) if self.store.path(NUMBERS).exists() else {}
        if name not in numbers:
            numbers[name] = compute()
            self.store.write_json(NUMBERS, numbers)
        return float(numbers[name])


def best_rate(errors: Mapping[str, float]) -> float:
    """The learning rate with the lowest error, of equals the largest, in whatever order they are."""
    _, negative = min((error, -float(rate)) for rate, error in errors.items())
    return -negative


def committed_pilot(name: str) -> dict[str, dict[str, float]] | None:
    """What the pilot that comes with the package found: arm -> learning rate -> mean error; None if it has none."""
    for path in sorted(PILOTS.glob("*.json")):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if name in found:
            table: dict[str, dict[str, float]] = found[name]
            return table
    return None


def _parts(missing: Mapping[str, tuple[Arm, int]], size: int) -> Iterator[tuple[str, list[str]]]:
    """The runs of each rule in parts of a size; Hessian-free ones are alone."""

    def rule_of(key: str) -> str:
        return missing[key][0].rule

    for rule, keys in groupby(sorted(missing, key=rule_of), rule_of):
        every = list(keys)
        while every:
            part = 1 if rule in SECOND_ORDER else _full(min(size, len(every)))
            yield rule, every[:part]
            every = every[part:]


def _full(runs: int) -> int:
    """How many of so many runs to stack, so that of the stack's places, which are trained too, few are empty."""
    return next(size for size in range(runs, 0, -1) if places(size) - size <= EMPTY)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
