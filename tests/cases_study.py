"""Small studies for tests: a problem file, an engine in this process, and processes that end when a test wants it."""

import ctypes
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import TracebackType
from typing import Any, TypeVar

import polars as pl
import psutil
import pytest
import torch

from ravine import cli, study
from ravine.fleet import train
from ravine.fleet.choose import Choice
from ravine.fleet.single import Single
from ravine.fleet.stacked import Stacked
from ravine.fleet.train import Executor, Work
from ravine.report import page
from ravine.study import api, worker
from ravine.study.store import Store
from ravine.study.worker import Assignment, Trained

T = TypeVar("T")

PROBLEM = """
from pathlib import Path
from time import sleep

import torch

import ravine

generator = torch.Generator().manual_seed(7)
x = torch.randn(60, 4, generator=generator)
y = (x[:, 0] * x[:, 1] + x[:, 2] > 0).long()


class Net(torch.nn.Sequential):
    def forward(self, inputs):
        while self.training and Path(__file__).with_name("gate").exists():
            sleep(0.05)
        return super().forward(inputs)


def problem():
    return ravine.Problem(
        name="tiny",
        model=lambda: Net(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)),
        loss=torch.nn.functional.cross_entropy,
        train=(x, y),
        metrics={"accuracy": ravine.metrics.accuracy},
        batch_size=16,
        steps=4,
    )
"""
WORDS = {
    "--methods": "sgd,momentum",
    "--trials": "8",
    "--tuning-seeds": "1",
    "--seeds": "4",
    "--executor": "single",
    "--workers": "2",
}


def write_problem(path: Path, *changes: tuple[str, str]) -> Path:
    """The tiny problem as a file, with some of its text replaced."""
    text = PROBLEM
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def compare_words(problem: Path | str, out: Path, changes: Mapping[str, str] | None = None) -> list[str]:
    """`compare` of a tiny study, as the words of a command line."""
    options = {**WORDS, **(changes or {})}
    return ["compare", str(problem), "--out", str(out), *(word for option in options.items() for word in option)]


class HereEngine:
    """Trains in this process: what kills it, kills the study in the midst of its training."""

    def __init__(self, assignment: Assignment, workers: int) -> None:
        self.workers = workers
        worker._assignment = replace(assignment, progress="")
        worker._ready.cache_clear()

    def __enter__(self) -> "HereEngine":
        torch.set_flush_denormal(True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.set_flush_denormal(False)
        worker._ready.cache_clear()

    def ask(self, function: Callable[..., T], *arguments: object) -> T:
        return function(*arguments)

    def choose(self, forced: Executor | None, run_steps: int) -> Choice:
        return worker.choose_executor(1e9, forced, run_steps)

    def train(
        self, works: Sequence[tuple[str, Work]], checkpoints: Path | None, tick: Callable[[int], None]
    ) -> Iterator[tuple[str, Trained]]:
        for number, (name, work) in enumerate(works):
            yield name, worker.train_chunk(number, work, None if checkpoints is None else checkpoints / name)
            tick(0)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus the signal that killed it), and what it said on both streams."""

    code: int
    said: str

    @property
    def sentence(self) -> str:
        """The one sentence about what went wrong."""
        assert "Traceback" not in self.said, self.said
        (sentence,) = re.findall(r"^ravine: (.*)$", self.said, re.MULTILINE)
        return str(sentence)


_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["ravine.study.verdict", "ravine.study.api", "ravine.report"])


def in_child(words: Sequence[str], trouble: Callable[[], None] | None = None, seconds: float = 60) -> Ended:
    """A command line in a process of its own that trains by itself; `trouble` is called in it beforehand."""
    with NamedTemporaryFile("r") as said:
        process = _processes.Process(target=_child, args=(list(words), trouble, said.name))
        process.start()
        process.join(seconds)
        assert process.exitcode is not None, "the process hangs"
        return Ended(process.exitcode, said.read())


def _child(words: Sequence[str], trouble: Callable[[], None] | None, said: str) -> None:
    handle = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)
    patch(api, "LocalEngine", HereEngine)
    patch(page, "bundle", str)  # a second of work, and no study depends on it
    if trouble is not None:
        trouble()
    cli.main(words)


# --- troubles: what a child does to itself before it begins ----------------------------------------------------------


def patch(owner: Any, name: str, new: Any) -> Any:
    """Gives an attribute a new value and returns the old one; for processes that end soon."""
    old = getattr(owner, name)
    setattr(owner, name, new)
    return old


def die() -> None:
    """Kills this process with SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_training(phase: str) -> None:
    """SIGKILL in the midst of the first chunk of a phase."""

    def wrapped(task: Any, program: Any, work: Work, checkpoint: Path | None, progress: Callable[[int], None]) -> Any:
        def dying(steps: int) -> None:
            progress(steps)
            if checkpoint is not None and f"-{phase}-" in checkpoint.name:
                die()

        return old(task, program, work, checkpoint, dying)

    old = patch(worker, "train", wrapped)


def die_with_checkpoint(phase: str) -> None:
    """SIGKILL in the first chunk of a phase, at the second evaluation after it saved a checkpoint."""
    patch(train, "CHECKPOINT_SECONDS", 0.0)

    def wrapped(task: Any, program: Any, work: Work, checkpoint: Path | None, progress: Callable[[int], None]) -> Any:
        seen = 0

        def dying(steps: int) -> None:
            nonlocal seen
            progress(steps)
            seen += checkpoint is not None and f"-{phase}-" in checkpoint.name and checkpoint.exists()
            if seen == 2:
                die()

        return old(task, program, work, checkpoint, dying)

    old = patch(worker, "train", wrapped)


def count_steps(path: Path) -> None:
    """Writes a word to `path` for every step of every run that is trained, and "load" for a checkpoint."""

    def wrapped(self: Any, step: int) -> Any:
        with path.open("a") as file:
            file.write("step " * len(self.seeds))
        return old[type(self)](self, step)

    def loaded(self: Any, state: Any) -> None:
        with path.open("a") as file:
            file.write("load ")
        loads[type(self)](self, state)

    old = {stepper: patch(stepper, "step", wrapped) for stepper in (Single, Stacked)}
    loads = {stepper: patch(stepper, "load", loaded) for stepper in (Single, Stacked)}


def die_in_rename(part: str) -> None:
    """SIGKILL when the first file with `part` in its name was written aside and is not renamed yet."""

    def wrapped(source: Path, target: Path) -> None:
        if part in target.name:
            assert source.stat().st_size > 0
            die()
        replace_file(source, target)

    replace_file = patch(os, "replace", wrapped)


def die_after_chunk(number: int) -> None:
    """SIGKILL when that many chunks are stored."""

    def wrapped(self: Store, chunk: str, frame: pl.DataFrame) -> None:
        write(self, chunk, frame)
        if len(list(self.runs_directory.glob("*.parquet"))) == number:
            die()

    write = patch(Store, "write_chunk", wrapped)


def die_at_call(module: str, name: str) -> None:
    """SIGKILL where a function of a module is called."""
    patch(import_module(module), name, lambda *arguments, **words: die())


def own_mounts() -> bool:
    """Gives this process mounts of its own, to add to as it likes; False where that is forbidden."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, new_user = 0x00020000, 0x10000000
    user, group = os.getuid(), os.getgid()
    if libc.unshare(new_mounts | new_user) != 0:
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return True


def mount(*words: str) -> None:
    """`mount`; ends the child with code 77 where that is forbidden."""
    if subprocess.run(["mount", *words], capture_output=True, check=False).returncode:
        sys.exit(NOT_ALLOWED)


NOT_ALLOWED = 77


def full_disk(directory: Path, kibibytes: int) -> None:
    """A study on a disk that gets full, and then has room again."""
    study_json = (directory / "study.json").read_bytes()
    if not own_mounts():
        sys.exit(NOT_ALLOWED)
    mount("-t", "tmpfs", "-o", f"size={kibibytes}k", "none", str(directory))
    (directory / "study.json").write_bytes(study_json)
    try:
        cli.main(["resume", str(directory)])
    except SystemExit as stopped:
        print("first:", stopped.code, *chunk_names(directory), [path.name for path in (directory / "runs").glob(".*")])
    mount("-o", "remount,size=10m", str(directory))
    try:
        cli.main(["resume", str(directory)])
    finally:
        (directory.parent / "saved.json").write_bytes(verdict_bytes(directory))


def read_only(directory: Path) -> None:
    """A directory that cannot be written, not even by root."""
    if not own_mounts():
        sys.exit(NOT_ALLOWED)
    mount("--bind", str(directory), str(directory))
    mount("-o", "remount,bind,ro", str(directory))


# --- commands in this process, and in real ones -----------------------------------------------------------------------


def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes studies of this process train in it."""
    monkeypatch.setattr(api, "LocalEngine", HereEngine)


def says(capsys: pytest.CaptureFixture[str], *words: str) -> Ended:
    """A command line in this process."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    captured = capsys.readouterr()
    assert isinstance(stopped.value.code, int)
    return Ended(stopped.value.code, captured.out + captured.err)


@dataclass
class Command:
    """A command line in a process group of its own, with real worker processes."""

    process: "subprocess.Popen[str]"

    @classmethod
    def start(cls, *words: str) -> "Command":
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", "from ravine.cli import main; main()", *words]
        return cls(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
                start_new_session=True,
            )
        )

    def end(self) -> Ended:
        """Waits for the end."""
        said, _ = self.process.communicate(timeout=120)
        return Ended(self.process.returncode, said)

    def workers(self) -> list[psutil.Process]:
        """The processes that train."""
        children = psutil.Process(self.process.pid).children()
        return [one for one in children if "popen_loky_posix" in " ".join(one.cmdline())]

    def session(self) -> list[int]:
        """The processes of the command's session that are still there."""
        found = []
        for one in psutil.process_iter():
            try:
                if os.getsid(one.pid) == self.process.pid and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(one.pid)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found


def until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Waits until something holds; whether it did in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def begin(directory: Path, like: Path, study_seed: int = 0, **execution: object) -> Path:
    """A study directory as it is right after the declaration: with the study.json of another one and nothing else.

    `execution`: what is to be different in how its runs are trained.
    """
    directory.mkdir(parents=True)
    declaration = json.loads((like / "study.json").read_text())
    declaration["study_seed"] = study_seed
    declaration["execution"].update(execution)
    (directory / "study.json").write_text(json.dumps(declaration))
    return directory


def verdict_bytes(directory: Path) -> bytes:
    """verdict.json as it is."""
    return (directory / "verdict.json").read_bytes()


def chunk_names(directory: Path) -> list[str]:
    """The stored chunks, in the order of their training."""
    return sorted(path.stem for path in (directory / "runs").glob("*.parquet"))


class Quiet(study.Silent):
    """A listener that keeps what it hears, and interrupts the study where it should end."""

    def __init__(self, until: str | None = None) -> None:
        self.said: list[str] = []
        self.phases: list[str] = []
        self.until = until

    def say(self, text: str) -> None:
        self.said.append(text)

    def phase(self, text: str) -> None:
        self.phases.append(text)
        if text == self.until:
            raise KeyboardInterrupt
