"""Trains a piece of work (many runs of one rule) and records what happened; the same loop for every executor."""

import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ravine import rules
from ravine.errors import WorkError
from ravine.fleet.second_order import SECOND_ORDER, SecondOrder
from ravine.fleet.single import Single
from ravine.fleet.stacked import Program, Stacked
from ravine.fleet.task import Task
from ravine.schedules import Setting

DIVERGED = 3.0  # a training loss above this multiple of the loss at initialization ...
PATIENCE = 3  # ... at this many evaluations in a row is certified divergence
CHECKPOINT_SECONDS = 60.0

Executor = Literal["stacked", "compiled", "single"]
Progress = Callable[[int], None]  # called with the number of run-steps done since the last call


@dataclass(frozen=True)
class Trial:
    """One run of the work: its seed and its own value of every hyper-parameter of the rule.

    A hyper-parameter may be a schedule of `ravine.schedules`; but not the learning rate where the problem has one.
    """

    seed: int
    hyper: Mapping[str, Setting]


@dataclass(frozen=True)
class Work:
    """What is trained at once: runs of one rule, for `steps` steps; the test split is touched only if `test`.

    budget: the steps of the study. A run that stops earlier is evaluated as a whole one is until there, so that
    stopping early brings no more chances to look good. None: the run is a whole one.
    """

    rule: str
    trials: tuple[Trial, ...]
    steps: int
    test: bool
    executor: Executor
    budget: int | None = None

    @property
    def evaluations(self) -> set[int]:
        """After which steps its runs are evaluated."""
        regular = evaluation_steps(self.steps if self.budget is None else self.budget)
        return {step for step in regular if step <= self.steps} | {self.steps}

    @property
    def digest(self) -> str:
        """Names this work among all others, for its checkpoint."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Record:
    """What one run left behind. Curves have a value per evaluation until the end or the divergence."""

    initial_loss: float
    final_train_loss: float | None = None
    diverged_at: int | None = None
    step: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    validation: list[list[float]] = field(default_factory=list)
    test: list[list[float]] = field(default_factory=list)

    def diverges(self) -> bool:
        """Whether the last evaluations certify divergence: a loss is not finite, or the training loss stays above 3x.

        A validation loss that rises while the training loss falls is overfitting, and is judged as what it is.
        """
        if not (math.isfinite(self.train_loss[-1]) and math.isfinite(self.validation[-1][0])):
            return True
        threshold = DIVERGED * self.initial_loss
        return threshold > 0 and len(self.step) >= PATIENCE and min(self.train_loss[-PATIENCE:]) > threshold


class Stepper(Protocol):
    """What an executor offers to the loop; `Stacked` and `Single` are two."""

    seeds: list[int]

    def step(self, step: int) -> Tensor: ...
    def evaluate(self, split: str) -> Tensor: ...
    def finite(self) -> Tensor: ...
    def keep(self, alive: Tensor) -> None: ...
    def state(self) -> dict[str, Tensor]: ...
    def load(self, state: dict[str, Tensor]) -> None: ...


def evaluation_steps(steps: int) -> list[int]:
    """After which steps a run is evaluated: a hundred times evenly, and at a quarter, half and all of the budget."""
    regular = {round(steps * k / 100) for k in range(1, 101)}
    return sorted((regular | {steps // 4, steps // 2, steps}) - {0})


def train(
    task: Task, program: Program, work: Work, checkpoint: Path | None = None, progress: Progress | None = None
) -> list[Record]:
    """Trains all trials of `work` and returns their records in order.

    With `checkpoint`, saves there from time to time, and goes on from what was saved there of the same work. A damaged
    checkpoint counts as none. Raises WorkError if it cannot be written.
    """
    progress = progress or (lambda steps: None)
    saved = _Checkpoint.load(checkpoint, work) if checkpoint else None
    keeper = _Keeper(checkpoint, work)
    done = saved.done if saved else []
    progress(len(done) * work.steps)
    for stepper in _steppers(task, program, work, len(done)):
        done += _follow(task, stepper, work, saved, functools.partial(keeper.keep, done, stepper), progress)
        saved = None
    return done[: len(work.trials)]


def _steppers(task: Task, program: Program, work: Work, done: int) -> Iterator[Stepper]:
    """What trains the trials that are not done: a run each, or a stack of all of them."""
    if work.executor == "single":
        for trial in work.trials[done:]:
            yield alone(task, work.rule, trial.seed, trial.hyper)
    else:
        rule = rules.get(work.rule)
        spare = places(len(work.trials)) - len(work.trials)
        trials = [*work.trials, *work.trials[-1:] * spare]
        seeds = [trial.seed for trial in trials]
        hyper = {name: [trial.hyper[name] for trial in trials] for name in trials[0].hyper}
        yield Stacked(program, rule, seeds, hyper, compiled=work.executor == "compiled")


def alone(task: Task, name: str, seed: int, hyper: Mapping[str, Setting]) -> Single | SecondOrder:
    """One run by the rule, or by the Hessian-free optimizer, of that name."""
    if name in SECOND_ORDER:
        return SecondOrder(task, name, seed, hyper)
    return Single(task, rules.get(name), seed, hyper)


def places(runs: int) -> int:
    """The places of a stack for so many runs: few sizes, since each is traced anew. Spare ones repeat the last run."""
    if runs <= 8:
        return int(2 ** math.ceil(math.log2(runs)))
    step = 8 if runs <= 32 else 16 if runs <= 64 else 32
    return step * math.ceil(runs / step)


def _follow(
    task: Task,
    stepper: Stepper,
    work: Work,
    saved: "_Checkpoint | None",
    keep: Callable[[int, list[int], list[Record]], None],
    progress: Progress,
) -> list[Record]:
    """Trains the runs of a stepper to their end, from what was saved of them."""
    evaluations = work.evaluations

    def wanted(alive: list[int]) -> int:
        return sum(run < len(work.trials) for run in alive)  # the others are in spare places

    if saved is not None:
        records, alive, start = saved.records, saved.alive, saved.step
        if len(alive) < len(stepper.seeds):
            stepper.keep(torch.tensor([run in alive for run in range(len(stepper.seeds))]))
        stepper.load(saved.tensors)
        progress(start * wanted(alive))
    else:
        records = [Record(loss) for loss in stepper.evaluate("train")[:, 0].tolist()]
        alive, start = list(range(len(records))), 0
    total, since = torch.zeros(len(alive), dtype=torch.float64, device=task.device), 0
    for step in range(start, work.steps):
        total += stepper.step(step)
        since += 1
        if step + 1 not in evaluations:
            continue
        progress(since * wanted(alive))
        _record(records, alive, step + 1, total / since, stepper, work.test)
        well = [run for run in alive if records[run].diverged_at is None]
        if not well:
            return records
        # Until places are freed, what diverged is only not recorded. A compiled step is of one number of runs, and
        # compiling another costs more than what would be saved.
        if places(len(well)) < len(alive) and work.executor == "stacked":
            lost = [run for run in alive if run not in well]
            kept = {*well, *lost[: places(len(well)) - len(well)]}
            stepper.keep(torch.tensor([run in kept for run in alive]))
            alive = [run for run in alive if run in kept]
        total, since = torch.zeros(len(alive), dtype=torch.float64, device=task.device), 0
        keep(step + 1, alive, records)
    for run, loss in zip(alive, stepper.evaluate("train")[:, 0].tolist(), strict=True):
        if records[run].diverged_at is None:
            records[run].final_train_loss = loss if math.isfinite(loss) else None
    return records


def _record(
    records: list[Record], alive: list[int], step: int, mean_loss: Tensor, stepper: Stepper, test: bool
) -> None:
    """Notes an evaluation of the runs in the places of the stepper, but for those that diverged before."""
    validation = stepper.evaluate("validation").tolist()
    tested = stepper.evaluate("test").tolist() if test else None
    finite = stepper.finite().tolist()
    for position, (run, train_loss) in enumerate(zip(alive, mean_loss.tolist(), strict=True)):
        record = records[run]
        if record.diverged_at is not None:
            continue
        record.step.append(step)
        record.train_loss.append(train_loss)
        record.validation.append(validation[position])
        if tested is not None:
            record.test.append(tested[position])
        if not finite[position] or record.diverges():
            record.diverged_at = step


class _Keeper:
    """Saves a piece of work that is under way, once in `CHECKPOINT_SECONDS`."""

    def __init__(self, path: Path | None, work: Work) -> None:
        self._path, self._work, self._last = path, work, time.monotonic()

    def keep(self, done: list[Record], stepper: Stepper, step: int, alive: list[int], records: list[Record]) -> None:
        if self._path is None or time.monotonic() - self._last < CHECKPOINT_SECONDS:
            return
        _Checkpoint(done, step, alive, records, stepper.state()).save(self._path, self._work)
        self._last = time.monotonic()


@dataclass
class _Checkpoint:
    """A piece of work half done: `done` of the trials before, the rest of those that are trained now.

    Written aside, synced, renamed; read only if it is of exactly this work.
    """

    done: list[Record]
    step: int
    alive: list[int]
    records: list[Record]
    tensors: dict[str, Tensor]

    def save(self, path: Path, work: Work) -> None:
        """Raises WorkError if that cannot be done."""
        done, records = ([asdict(record) for record in some] for some in (self.done, self.records))
        about = {"work": work.digest, "done": done, "step": self.step, "alive": self.alive, "records": records}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        aside = _aside(path)
        try:
            save_file(tensors, aside, {"about": json.dumps(about)})
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(path)
        except (OSError, SafetensorError) as error:
            raise WorkError(
                f"the checkpoint {path} cannot be written ({error}): make room or give access, then `ravine resume`"
            ) from None

    @classmethod
    def load(cls, path: Path, work: Work) -> "_Checkpoint | None":
        """What was saved of this work; None if there is nothing, or nothing that can be read."""
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["about"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            if about["work"] != work.digest:
                return None
            done, records = ([Record(**record) for record in about[name]] for name in ("done", "records"))
            return cls(done, about["step"], about["alive"], records, tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.writing")


def checkpoint_files(checkpoint: Path) -> Sequence[Path]:
    """All files that a piece of work may have left at its checkpoint, to be removed once its chunk is stored."""
    return [path for path in (checkpoint, _aside(checkpoint)) if path.is_file()]
