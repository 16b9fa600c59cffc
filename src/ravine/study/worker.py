"""What a worker process does: holds one task and trains the chunks that it is handed. Runs in another process than the study."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch

from ravine import rules
from ravine.errors import UserError
from ravine.fleet.choose import Choice, choose, seconds_of
from ravine.fleet.single import Single
from ravine.fleet.stacked import Program
from ravine.fleet.task import Task
from ravine.fleet.train import Executor, Record, Trial, Work, train
from ravine.problems import Problem, digest, prepare
from ravine.problems.loading import load


@dataclass(frozen=True)
class Assignment:
    """What every worker of a study is told at its start.

    `given` is a name, a path, or a pickled Problem; `data_sha256`, if known, must be the digest of its data.
    """

    given: str | bytes
    batch_size: int
    steps: int
    study_seed: int
    device: str
    threads: int
    progress: str  # a file of int64, one a chunk: run-steps done
    data_sha256: str | None = None

    @classmethod
    def of(cls, given: str | Path | Problem, **words: Any) -> "Assignment":
        """The assignment of a problem; an object travels pickled, functions and all."""
        return cls(cloudpickle.dumps(given) if isinstance(given, Problem) else str(given), **words)


@dataclass(frozen=True)
class Trained:
    """What a worker sends back of a chunk."""

    records: list[Record]
    seconds: float


_task: Task | None = None
_program: Program | None = None
_progress: Any = None


def start(assignment: Assignment, parent: int) -> None:
    """Makes this process a worker. It ends with its parent, however that ends."""
    global _task, _program, _progress
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(assignment.threads)
    torch.set_flush_denormal(True)  # a dying velocity must not slow its fleet down
    given = cloudpickle.loads(assignment.given) if isinstance(assignment.given, bytes) else assignment.given
    problem = load(given, batch_size=assignment.batch_size, steps=assignment.steps)
    data = prepare(problem)
    if assignment.data_sha256 not in (None, digest(data)):
        raise UserError(f"the data of problem '{problem.name}' differ from load to load: draw them with a fixed seed")
    _task = Task(problem, data, assignment.study_seed, torch.device(assignment.device))
    _program = Program(_task)
    _progress = np.memmap(assignment.progress, dtype=np.int64, mode="r+")


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _ready() -> tuple[Task, Program]:
    assert _task is not None and _program is not None  # the pool starts every worker with `start`
    return _task, _program


def choose_executor(free_bytes: float, forced: Executor | None) -> Choice:
    """The executor that is best in this worker."""
    task, program = _ready()
    return choose(task, program, free_bytes, forced)


def train_chunk(number: int, work: Work, checkpoint: str | None) -> Trained:
    """Trains a chunk, going on from its checkpoint if there is one."""
    task, program = _ready()
    place = number % len(_progress)
    _progress[place] = 0

    def progress(steps: int) -> None:
        _progress[place] += steps

    began = time.perf_counter()
    records = train(task, program, work, Path(checkpoint) if checkpoint else None, progress)
    return Trained(records, time.perf_counter() - began)


def pilot(rule: str, settings: Sequence[dict[str, float]], seeds: int, steps: int) -> list[list[list[float]]]:
    """Validation values after a few steps, (settings, seeds, 1 + metrics): how much they spread over seeds."""
    task, program = _ready()
    trials = tuple(Trial(seed, setting) for setting in settings for seed in range(seeds))
    executor: Executor = "single" if program.obstacle() else "stacked"
    records = train(task, program, Work(rule, trials, steps, False, executor))
    values = [record.validation[-1] for record in records]
    return [values[k * seeds : (k + 1) * seeds] for k in range(len(settings))]


def step_seconds(rule: str, hyper: dict[str, float]) -> float:
    """Seconds of one step of one run trained alone with the drop-in optimizer."""
    task, _ = _ready()
    return seconds_of(Single(task, rules.get(rule), 0, hyper))
