"""Runs the requests of a study: they are cut into chunks, and those that are not stored yet are trained by the engine.

What a chunk holds depends on the declaration and on earlier rounds alone, not on what happens to be stored: so a study
that was killed and resumed trains the same chunks as an unbroken one, and ends with the same bits.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from ravine.errors import WorkError
from ravine.fleet.train import Trial, Work, checkpoint_files
from ravine.study import methods as registry
from ravine.study.declare import Declaration
from ravine.study.engine import Engine
from ravine.study.search import Request, Result, Run
from ravine.study.space import Floats
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
    test: Mapping[str, Floats] | None = None


def full_hyper(run: Run) -> dict[str, float]:
    """Every hyper-parameter of a run's rule: the rule's defaults, what the method holds fixed, what the run says."""
    method = registry.get(run.method)
    defaults = {name: one.default for name, one in method.hyper.items() if one.default is not None}
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


@dataclass(frozen=True)
class Chunk:
    """Runs of one method and length that are trained together and stored in one file."""

    name: str
    phase: str
    runs: tuple[Run, ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Who ran: the columns of the file that are known before the training."""
        return [
            {"method": run.method, "phase": self.phase, "seed": run.seed, "steps": run.steps, **full_hyper(run)}
            for run in self.runs
        ]

    def is_in(self, frame: pl.DataFrame, names: Sequence[str]) -> bool:
        """Whether a stored file holds these runs and the curves of these metrics."""
        rows = self.rows
        needed = {*rows[0], *(f"{split}_{name}" for split in ("validation", "test") for name in names)}
        return needed <= set(frame.columns) and frame.select(*rows[0]).rows() == [tuple(row.values()) for row in rows]


class Runner:
    """Answers requests round by round."""

    def __init__(
        self,
        declaration: Declaration,
        names: Sequence[str],
        store: Store,
        engine: Engine,
        listener: Listener,
        total_steps: int,
    ) -> None:
        self._declaration, self._names, self._store = declaration, names, store
        self._engine, self._listener = engine, listener
        self._stored = store.chunks(self._set_aside)
        self.results: dict[Run, Result] = {}  # of all rounds so far
        self._round = 0
        self._total_steps, self._done_steps, self._runs_done, self._runs = total_steps, 0, 0, 0

    def __call__(self, requests: Sequence[Request]) -> dict[Run, Result]:
        """The results of all runs in the requests of a round."""
        chunks = {chunk.name: chunk for chunk in self._chunks(requests)}
        self._round += 1
        self._announce(requests, chunks.values())
        missing = []
        for chunk in chunks.values():
            if chunk.name in self._stored and not chunk.is_in(self._stored[chunk.name], self._names):
                self._set_aside(self._store.chunk_path(chunk.name))
                del self._stored[chunk.name]
            if chunk.name in self._stored:
                self._take(chunk)
            else:
                missing.append((chunk.name, self._work(chunk.runs)))
        self._tick(0)
        for name, trained in self._engine.train(missing, self._store.checkpoints, self._tick):
            chunk = chunks[name]
            frame = frame_of(chunk.rows, trained.records, self._names, trained.seconds, name)
            self._store.write_chunk(name, frame)
            self._stored[name] = frame
            self._take(chunk)
        return {run: self.results[run] for request in requests for run in request.runs}

    def _announce(self, requests: Sequence[Request], chunks: Collection[Chunk]) -> None:
        """Says which phases begin, and what an extension round costs beyond the plan."""
        extra = [run for chunk in chunks if chunk.phase.startswith("extension") for run in chunk.runs]
        if extra:
            steps = sum(run.steps for run in extra)
            self._total_steps += steps
            self._listener.say(
                f"a best setting lies at the edge of its range ({', '.join(sorted({run.method for run in extra}))}):"
                f" {len(extra)} more runs beyond it, {steps:,} run-steps"
            )
        self._listener.phase(", ".join(dict.fromkeys(request.phase for request in requests)))
        self._runs += sum(len(chunk.runs) for chunk in chunks)

    def _set_aside(self, path: Path) -> None:
        aside = self._store.set_aside(path)
        self._listener.say(
            f"{path.name} is damaged or of another study: it was set aside as {aside.name}, and its runs are trained"
            " again"
        )

    def _tick(self, under_way: int) -> None:
        self._listener.progress(self._done_steps + under_way, self._total_steps, self._runs_done, self._runs)

    def _take(self, chunk: Chunk) -> None:
        for path in checkpoint_files(self._store.checkpoints / chunk.name):
            path.unlink(missing_ok=True)
        for run, row in zip(chunk.runs, self._stored[chunk.name].iter_rows(named=True), strict=True):
            self.results[run] = curves_of(row, self._names)
        self._runs_done += len(chunk.runs)
        self._done_steps += sum(run.steps for run in chunk.runs)

    def _chunks(self, requests: Sequence[Request]) -> Iterator[Chunk]:
        """The runs of a round that no earlier round trained, cut into chunks."""
        phases: dict[Run, str] = {}
        for request in requests:
            for run in request.runs:
                if run not in self.results:
                    phases.setdefault(run, request.phase)
        groups: dict[tuple[str, str, int, bool], list[Run]] = {}
        for run, phase in phases.items():
            groups.setdefault((phase, run.method, run.steps, run.test), []).append(run)
        execution = self._declaration.execution
        for (phase, method, steps, _), runs in groups.items():
            size = 1 if registry.get(method).second_order else execution.size
            for part, members in enumerate(split(runs, size, execution.workers)):
                yield Chunk(f"{self._round:02d}-{phase}-{method}-{steps}-{part:03d}", phase, tuple(members))

    def _work(self, members: Sequence[Run]) -> Work:
        first = members[0]
        method = registry.get(first.method)
        return Work(
            rule=method.rule,
            trials=tuple(Trial(run.seed, full_hyper(run)) for run in members),
            steps=first.steps,
            test=first.test,
            executor="single" if method.second_order else self._declaration.execution.executor,
            budget=self._declaration.steps,
        )


def split(runs: Sequence[Run], size: int, workers: int) -> list[Sequence[Run]]:
    """Chunks of nearly equal length, at most `size`; as many for every worker, where each can have 16 runs or more."""
    count = math.ceil(len(runs) / size)
    if len(runs) >= 16 * workers:
        count = min(workers * math.ceil(count / workers), len(runs))
    bounds = [round(k * len(runs) / count) for k in range(count + 1)]
    return [runs[a:b] for a, b in itertools.pairwise(bounds)]


def all_runs(store: Store) -> pl.DataFrame:
    """Every stored run, one row each. Raises WorkError if a file is damaged."""

    def refuse(path: Path) -> None:
        raise WorkError(f"{path} is damaged: `ravine resume {store.directory}` sets it aside and trains its runs again")

    chunks = store.chunks(refuse)
    return pl.concat([chunks[name] for name in sorted(chunks)], how="diagonal_relaxed") if chunks else pl.DataFrame()
