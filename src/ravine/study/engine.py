"""Engines: where chunks are trained. The local one has a worker process per core, each with one thread."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np
import psutil
from loky.process_executor import ProcessPoolExecutor, TerminatedWorkerError

from ravine.errors import WorkError
from ravine.fleet.choose import Choice
from ravine.fleet.train import Executor, Work
from ravine.study import worker
from ravine.study.worker import Assignment, Trained

T = TypeVar("T")
POLL_SECONDS = 0.25
PLACES = 4096  # chunks whose progress can be told apart at a time

# glibc gives every large temporary back to the system and faults it in again; kept, a stacked step is up to 1.8x faster.
# One thread a worker: two threads on tiny operations are unstable when anything else runs.
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class Engine(Protocol):
    """What a study asks of the place where its chunks are trained."""

    workers: int

    def choose(self, forced: Executor | None) -> Choice: ...
    def train(
        self, works: Sequence[tuple[str, Work]], checkpoints: Path, tick: Callable[[int], None]
    ) -> Iterator[tuple[str, Trained]]: ...
    def ask(self, function: Callable[..., T], *arguments: object) -> T: ...
    def close(self, *, kill: bool = False) -> None: ...


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalEngine:
    """Worker processes on this machine."""

    def __init__(self, assignment: Assignment, workers: int) -> None:
        self.workers = workers
        self._progress_directory = tempfile.TemporaryDirectory(prefix="ravine-")
        path = Path(self._progress_directory.name) / "progress"
        self._progress = np.memmap(path, dtype=np.int64, mode="w+", shape=(PLACES,))
        self._pool = ProcessPoolExecutor(
            max_workers=workers,
            env=ENVIRONMENT,
            initializer=_start,
            initargs=(replace(assignment, progress=str(path)), os.getpid()),
        )

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(kill=error is not None)

    def close(self, *, kill: bool = False) -> None:
        """Ends the workers; with `kill` at once."""
        self._pool.shutdown(wait=True, kill_workers=kill)
        self._progress_directory.cleanup()

    def ask(self, function: Callable[..., T], *arguments: object) -> T:
        """What a function of `ravine.study.worker` returns in some worker."""
        return _result(self._pool.submit(_call, function, arguments))

    def choose(self, forced: Executor | None) -> Choice:
        """The executor for this study, measured in all workers at once, as they will work."""
        free = psutil.virtual_memory().available / self.workers
        futures = [self._pool.submit(_call, worker.choose_executor, (free, forced)) for _ in range(self.workers)]
        choices = [_result(future) for future in futures]
        return sorted(choices, key=lambda choice: choice.size)[(len(choices) - 1) // 2]

    def train(
        self, works: Sequence[tuple[str, Work]], checkpoints: Path, tick: Callable[[int], None]
    ) -> Iterator[tuple[str, Trained]]:
        """Trains named works, the costliest first, and yields each as it is done; `tick` hears the run-steps under way."""
        order = sorted(range(len(works)), key=lambda k: -works[k][1].steps * len(works[k][1].trials))
        self._progress[:] = 0
        pending: dict[Future[Trained], int] = {
            self._pool.submit(_call, worker.train_chunk, (k, works[k][1], str(checkpoints / works[k][0]))): k for k in order
        }
        while pending:
            done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                number = pending.pop(future)
                trained = _result(future)
                self._progress[number % PLACES] = 0
                yield works[number][0], trained
            tick(int(self._progress.sum()))


_failure: BaseException | None = None


def _start(assignment: Assignment, parent: int) -> None:
    """A pool breaks if an initializer raises, and loses the reason: keep it, and tell it to who asks."""
    global _failure
    try:
        worker.start(assignment, parent)
    except Exception as error:  # handed to the study, which raises it
        _failure = error


def _call(function: Callable[..., T], arguments: tuple[object, ...]) -> T:
    if _failure is not None:
        raise _failure
    return function(*arguments)


def _result(future: "Future[T]") -> T:
    try:
        return future.result()
    except TerminatedWorkerError:
        raise WorkError(
            "a worker process was ended from outside, perhaps for lack of memory: what was stored is kept; "
            "free some memory, or start with fewer --workers, and go on with `ravine resume`"
        ) from None
