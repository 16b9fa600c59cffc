"""What a worker process does: it holds one task and trains the chunks that it is handed.

Runs in another process than the study.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch

from ravine import rules
from ravine.errors import UserError
from ravine.fleet.choose import Choice, choose, seconds_of
from ravine.fleet.second_order import SecondOrder
from ravine.fleet.single import Single
from ravine.fleet.stacked import Program, Stacked
from ravine.fleet.task import Task
from ravine.fleet.train import Executor, Record, Work, alone, train
from ravine.problems import Problem, digest, prepare
from ravine.problems.loading import load
from ravine.problems.usercode import UserCode

PLACES = 4096  # chunks whose progress can be told apart at a time


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
    progress: str  # a file of int64, one a chunk: run-steps done; "" if nobody watches
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


_assignment: Assignment | None = None


def start(assignment: Assignment, parent: int) -> None:
    """Makes this process a worker: it ends with its parent, however that ends, and leaves ctrl-C to it.

    Nothing here fails: a pool loses what its initializer raises. What may fail, `_ready` does.
    """
    global _assignment
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(assignment.threads)
    torch.set_flush_denormal(True)  # a dying velocity must not slow its fleet down
    _assignment = assignment


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@dataclass(frozen=True)
class _Ready:
    task: Task
    program: Program
    progress: Any


@cache
def _ready() -> _Ready:
    """The task of this worker, made at its first use. Raises UserError if its data are not those of the study."""
    assert _assignment is not None  # the pool calls `start` in every worker
    given = cloudpickle.loads(_assignment.given) if isinstance(_assignment.given, bytes) else _assignment.given
    problem = load(given, batch_size=_assignment.batch_size, steps=_assignment.steps)
    data = prepare(problem)
    if _assignment.data_sha256 not in (None, digest(data)):
        raise UserError(f"the data of problem '{problem.name}' differ from load to load: draw them with a fixed seed")
    task = Task(problem, data, _assignment.study_seed, torch.device(_assignment.device))
    return _Ready(task, Program(task), counters(_assignment.progress))


def counters(path: str) -> Any:
    """Run-steps done in each chunk under way, (PLACES,), shared with all that open the same file."""
    return np.memmap(path, dtype=np.int64, mode="r+") if path else np.zeros(PLACES, dtype=np.int64)


def choose_executor(free_bytes: float, forced: Executor | None, run_steps: int) -> Choice:
    """The executor that is best in this worker, with the seconds of a run-step, measured if the choice needed none."""
    ready = _ready()
    choice = choose(ready.task, ready.program, free_bytes, forced, run_steps)
    if choice.seconds:
        return choice
    usual = Single(ready.task, rules.get("momentum"), 0, {"lr": 1e-3, "momentum": 0.9})
    return replace(choice, seconds={"single": seconds_of(usual)})


def train_chunk(number: int, work: Work, checkpoint: Path | None) -> Trained:
    """Trains a chunk, going on from its checkpoint if there is one. Raises UserError if the problem's code fails."""
    ready = _ready()
    place = number % len(ready.progress)
    ready.progress[place] = 0

    def progress(steps: int) -> None:
        ready.progress[place] += steps

    began = time.perf_counter()
    with UserCode(f"problem '{ready.task.problem.name}': training with {work.rule} fails"):
        records = train(ready.task, ready.program, work, checkpoint, progress)
    return Trained(records, time.perf_counter() - began)


def step_seconds(rule: str, hyper: dict[str, float]) -> float:
    """Seconds of one gradient, step and all, of one run trained alone with the drop-in optimizer."""
    run = alone(_ready().task, rule, 0, hyper)
    return run.seconds_per_gradient() if isinstance(run, SecondOrder) else seconds_of(run)


def stack_seconds(rule: str, hyper: dict[str, float], size: int, compiled: bool) -> float:
    """Seconds of a step per run of a stack of `size` runs."""
    ready = _ready()
    columns = {name: [value] * size for name, value in hyper.items()}
    stack = Stacked(ready.program, rules.get(rule), [run % 8 for run in range(size)], columns, compiled=compiled)
    return seconds_of(stack) / size
