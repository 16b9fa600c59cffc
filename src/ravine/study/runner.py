"""Runs the requests of a study: what is stored is not trained again, the rest is cut into chunks and trained by the engine.

What a chunk holds depends on the declaration and on earlier rounds alone, not on what happens to be stored: so a study that
was killed and resumed trains the same chunks as an unbroken one, and ends with the same bits.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl

from ravine import rules
from ravine.fleet.train import Trial, Work, checkpoint_files
from ravine.study import methods as registry
from ravine.study.declare import Declaration
from ravine.study.engine import Engine
from ravine.study.search import Floats, Request, Result, Run
from ravine.study.store import Store, frame_of


class Listener(Protocol):
    """Who hears how a study goes."""

    def phase(self, text: str) -> None: ...
    def progress(self, done_steps: int, total_steps: int, runs_done: int, runs: int) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass(frozen=True)
class Curves:
    """A stored run, as the search reads it (`ravine.study.search.Result`)."""

    initial_loss: float
    final_train_loss: float
    diverged_at: int | None
    steps: tuple[int, ...]
    validation: Mapping[str, Floats]
    test: Mapping[str, Floats] | None


def full_hyper(run: Run) -> dict[str, float]:
    """Every hyper-parameter of the rule of a run: the rule's defaults, what the method holds fixed, what the run says."""
    method = registry.get(run.method)
    defaults = {name: one.default for name, one in rules.get(method.rule).hyper.items() if one.default is not None}
    return {**defaults, **method.fixed, **dict(run.hyper)}


def curves_of(row: Mapping[str, Any], names: Sequence[str]) -> Curves:
    """A row of a chunk as curves."""
    tested = row[f"test_{names[0]}"] is not None
    final = row["final_train_loss"]
    return Curves(
        initial_loss=row["initial_loss"],
        final_train_loss=math.inf if final is None else final,
        diverged_at=row["diverged_at"],
        steps=tuple(row["step"]),
        validation={name: np.array(row[f"validation_{name}"], dtype=np.float64) for name in names},
        test={name: np.array(row[f"test_{name}"], dtype=np.float64) for name in names} if tested else None,
    )


class Runner:
    """Answers requests round by round."""

    def __init__(
        self, declaration: Declaration, names: Sequence[str], store: Store, engine: Engine, listener: Listener, total_steps: int
    ) -> None:
        self._declaration, self._names, self._store = declaration, names, store
        self._engine, self._listener = engine, listener
        self._stored = store.chunks(listener.say)
        self._results: dict[Run, Result] = {}
        self._round = 0
        self._total_steps, self._done_steps, self._runs_done, self._runs = total_steps, 0, 0, 0

    def __call__(self, requests: Sequence[Request]) -> dict[Run, Result]:
        """The results of all runs in the requests of a round."""
        chunks = dict(self._chunks(requests))
        self._round += 1
        phases = ", ".join(dict.fromkeys(request.phase for request in requests))
        runs = sum(map(len, chunks.values()))
        if phases.startswith("extension"):
            steps = sum(run.steps for chunk in chunks.values() for run in chunk)
            self._listener.say(f"{phases}: a best setting lies at the edge of its range; {runs} runs, {steps:,} steps more")
            self._total_steps += steps
        self._listener.phase(phases)
        self._runs += runs
        missing = []
        for name, members in chunks.items():
            if name in self._stored:
                self._take(name, members)
            else:
                missing.append((name, self._work(members)))
        self._tick(0)
        for name, trained in self._engine.train(missing, self._store.checkpoints, self._tick):
            members = chunks[name]
            rows = [_identity(run, name) for run in members]
            frame = frame_of(rows, trained.records, self._names, trained.seconds, name)
            self._store.write_chunk(name, frame)
            for path in checkpoint_files(self._store.checkpoints / name):
                path.unlink(missing_ok=True)
            self._stored[name] = frame
            self._take(name, members)
        return {run: self._results[run] for request in requests for run in request.runs}

    def _tick(self, under_way: int) -> None:
        self._listener.progress(self._done_steps + under_way, self._total_steps, self._runs_done, self._runs)

    def _take(self, name: str, members: Sequence[Run]) -> None:
        for run, row in zip(members, self._stored[name].iter_rows(named=True), strict=True):
            self._results[run] = curves_of(row, self._names)
        self._runs_done += len(members)
        self._done_steps += sum(run.steps for run in members)

    def _chunks(self, requests: Sequence[Request]) -> Iterator[tuple[str, list[Run]]]:
        """The runs of a round that no earlier round trained, cut into chunks of one method and length, with their names."""
        phases: dict[Run, str] = {}
        for request in requests:
            for run in request.runs:
                if run not in self._results:
                    phases.setdefault(run, request.phase)
        groups: dict[tuple[str, str, int, bool], list[Run]] = {}
        for run, phase in phases.items():
            groups.setdefault((phase, run.method, run.steps, run.test), []).append(run)
        execution = self._declaration.execution
        for (phase, method, steps, _), runs in groups.items():
            for part, members in enumerate(split(runs, execution.size, execution.workers)):
                yield f"{self._round:02d}-{phase}-{method}-{steps}-{part:03d}", members

    def _work(self, members: Sequence[Run]) -> Work:
        first = members[0]
        return Work(
            rule=registry.get(first.method).rule,
            trials=tuple(Trial(run.seed, full_hyper(run)) for run in members),
            steps=first.steps,
            test=first.test,
            executor=self._declaration.execution.executor,
        )


def split(runs: list[Run], size: int, workers: int) -> list[list[Run]]:
    """Chunks of nearly equal length, at most `size`, a multiple of `workers` of them where that leaves at least 8 in each."""
    count = math.ceil(len(runs) / size)
    if len(runs) >= 8 * workers:
        count = workers * math.ceil(count / workers)
    bounds = [round(k * len(runs) / count) for k in range(count + 1)]
    return [runs[a:b] for a, b in itertools.pairwise(bounds)]


def _identity(run: Run, chunk: str) -> dict[str, Any]:
    phase = chunk.split("-", 1)[1].split(f"-{run.method}-{run.steps}-")[0]
    return {"method": run.method, "phase": phase, "seed": run.seed, "steps": run.steps, **full_hyper(run)}


def all_runs(store: Store) -> pl.DataFrame:
    """Every stored run, one row each."""
    chunks = store.chunks()
    return pl.concat([chunks[name] for name in sorted(chunks)], how="diagonal_relaxed") if chunks else pl.DataFrame()

