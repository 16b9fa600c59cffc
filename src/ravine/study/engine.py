"""Engines: where chunks are trained. The local one has a worker process per core, each with one thread."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

import psutil
from loky.process_executor import ProcessPoolExecutor, TerminatedWorkerError

from ravine.errors import WorkError
from ravine.fleet.choose import Choice
from ravine.fleet.train import Executor, Work
from ravine.study import worker
from ravine.study.worker import PLACES, Assignment, Trained

T = TypeVar("T")
POLL_SECONDS = 0.25

ENVIRONMENT = {
    # glibc gives every large temporary back to the system and faults it in again; kept, a stacked step is up to 1.8x
    # faster.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    # Two threads on tiny operations are unstable when anything else runs.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Chunks differ in size and freed memory is kept, so growth is no leak for which loky should replace a worker.
    "LOKY_MAX_MEMORY_LEAK_SIZE": str(2**50),
}


class Engine(Protocol):
    """What a study asks of the place where its chunks are trained."""

    workers: int

    def choose(self, forced: Executor | None, run_steps: int) -> Choice: ...
    def train(
        self, works: Sequence[tuple[str, Work]], checkpoints: Path | None, tick: Callable[[int], None]
    ) -> Iterator[tuple[str, Trained]]: ...
    def ask(self, function: Callable[..., T], *arguments: object) -> T: ...


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalEngine:
    """Worker processes on this machine."""

    def __init__(self, assignment: Assignment, workers: int) -> None:
        self.workers = workers
        self._watched = Path(assignment.progress) if assignment.progress else None
        if self._watched is not None:  # written out: a hole in a file on a full disk would kill who first writes there
            self._watched.write_bytes(bytes(8 * PLACES))
        self._progress = worker.counters(assignment.progress)
        self._pool = ProcessPoolExecutor(
            max_workers=workers,
            env=ENVIRONMENT,
            initializer=worker.start,
            initargs=(assignment, os.getpid()),
        )

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the workers, after an error at once."""
        self._pool.shutdown(wait=True, kill_workers=error is not None)
        if self._watched is not None:
            self._watched.unlink(missing_ok=True)

    def ask(self, function: Callable[..., T], *arguments: object) -> T:
        """What a function of `ravine.study.worker` returns in some worker."""
        future: Future[T] = self._pool.submit(function, *arguments)
        return _result(future)

    def choose(self, forced: Executor | None, run_steps: int) -> Choice:
        """The executor for a study of so many run-steps, measured in all workers at once, as they will work."""
        free = psutil.virtual_memory().available / self.workers
        words = free, forced, run_steps // self.workers
        futures: list[Future[Choice]] = [self._pool.submit(worker.choose_executor, *words) for _ in range(self.workers)]
        choices = [_result(future) for future in futures]
        return sorted(choices, key=lambda choice: choice.size)[(len(choices) - 1) // 2]

    def train(
        self, works: Sequence[tuple[str, Work]], checkpoints: Path | None, tick: Callable[[int], None]
    ) -> Iterator[tuple[str, Trained]]:
        """Trains named works, the costliest first, and yields each as it is done.

        `checkpoints`: where long works save their state under their names; `tick` hears the run-steps under way.
        """
        self._progress[:] = 0
        pending: dict[Future[Trained], int] = {}
        for number in sorted(range(len(works)), key=lambda k: -works[k][1].steps * len(works[k][1].trials)):
            name, work = works[number]
            checkpoint = None if checkpoints is None else checkpoints / name
            pending[self._pool.submit(worker.train_chunk, number, work, checkpoint)] = number
        while pending:
            done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda future: future.exception() is not None):  # what is done, is kept
                number = pending.pop(future)
                trained = _result(future)
                self._progress[number % PLACES] = 0
                yield works[number][0], trained
            tick(int(self._progress.sum()))


def _result(future: "Future[T]") -> T:
    try:
        return future.result()
    except TerminatedWorkerError:
        raise WorkError(
            "a worker process was ended from outside, perhaps for lack of memory: free some memory, then go on with"
            " `ravine resume` (what was stored is kept), or start anew with fewer --workers"
        ) from None
