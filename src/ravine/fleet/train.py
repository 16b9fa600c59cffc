"""Trains a piece of work (many runs of one rule) and records what happened; the same loop for every executor."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ravine import rules
from ravine.fleet.single import Single
from ravine.fleet.stacked import Program, Stacked
from ravine.fleet.task import Task

DIVERGED = 3.0  # a loss above this multiple of the loss at initialization ...
PATIENCE = 3  # ... at this many evaluations in a row is certified divergence
CHECKPOINT_SECONDS = 60.0

Executor = Literal["stacked", "compiled", "single"]
Progress = Callable[[int], None]  # called with the number of run-steps done since the last call


@dataclass(frozen=True)
class Trial:
    """One run of the work: its seed and its own value of every hyper-parameter of the rule."""

    seed: int
    hyper: dict[str, float]


@dataclass(frozen=True)
class Work:
    """What is trained at once: runs of one rule, for `steps` steps; the test split is touched only if `test`."""

    rule: str
    trials: tuple[Trial, ...]
    steps: int
    test: bool
    executor: Executor

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
        """Whether the last evaluations certify divergence: a non-finite loss, or a loss that stays above the threshold."""
        losses = [max(train, values[0]) for train, values in zip(self.train_loss, self.validation, strict=True)]
        if not all(map(_finite, (self.train_loss[-1], self.validation[-1][0]))):
            return True
        threshold = DIVERGED * self.initial_loss
        return threshold > 0 and len(losses) >= PATIENCE and min(losses[-PATIENCE:]) > threshold


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


def train(task: Task, program: Program, work: Work, checkpoint: Path | None = None, progress: Progress | None = None) -> list[Record]:
    """Trains all trials of `work` and returns their records in order. With `checkpoint`, goes on from there if it can."""
    return [record for records in _pieces(task, program, work, checkpoint, progress or (lambda steps: None)) for record in records]


def _pieces(task: Task, program: Program, work: Work, checkpoint: Path | None, progress: Progress) -> Iterator[list[Record]]:
    rule = rules.get(work.rule)
    if work.executor == "single":
        for number, trial in enumerate(work.trials):
            file = checkpoint.with_suffix(f".{number}") if checkpoint else None
            yield _follow(task, Single(task, rule, trial.seed, trial.hyper), work, file, progress)
    else:
        seeds = [trial.seed for trial in work.trials]
        hyper = {name: [trial.hyper[name] for trial in work.trials] for name in work.trials[0].hyper}
        stepper = Stacked(program, rule, seeds, hyper, compiled=work.executor == "compiled")
        yield _follow(task, stepper, work, checkpoint, progress)


def _follow(task: Task, stepper: Stepper, work: Work, checkpoint: Path | None, progress: Progress) -> list[Record]:
    evaluations = set(evaluation_steps(work.steps))
    saved = _Checkpoint.load(checkpoint, work) if checkpoint else None
    if saved is not None:
        records, alive, start = saved.records, saved.alive, saved.step
        everyone = range(len(stepper.seeds))
        if len(alive) < len(everyone):
            stepper.keep(torch.tensor([run in set(alive) for run in everyone]))
        stepper.load(saved.tensors)
    else:
        records = [Record(loss) for loss in stepper.evaluate("train")[:, 0].tolist()]
        alive, start = list(range(len(records))), 0
    total, since, last_saved = torch.zeros(len(alive), device=task.device), 0, time.monotonic()
    for step in range(start, work.steps):
        total += stepper.step(step)
        since += 1
        if step + 1 not in evaluations:
            continue
        progress(since * len(alive))
        _record(records, alive, step + 1, total / since, stepper, work.test)
        alive = _drop_diverged(records, alive, stepper)
        if not alive:
            break
        total, since = torch.zeros(len(alive), device=task.device), 0
        if checkpoint and time.monotonic() - last_saved > CHECKPOINT_SECONDS:
            _Checkpoint(step + 1, alive, records, stepper.state()).save(checkpoint, work)
            last_saved = time.monotonic()
    if alive:
        for run, loss in zip(alive, stepper.evaluate("train")[:, 0].tolist(), strict=True):
            if records[run].diverged_at is None:
                records[run].final_train_loss = loss if _finite(loss) else None
    return records


def _record(records: list[Record], alive: list[int], step: int, mean_loss: Tensor, stepper: Stepper, test: bool) -> None:
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


def _drop_diverged(records: list[Record], alive: list[int], stepper: Stepper) -> list[int]:
    """Frees the places of diverged runs once they are a quarter of the stack: until then they are only not recorded."""
    well = [records[run].diverged_at is None for run in alive]
    if not any(well):
        return []
    if sum(well) <= 0.75 * len(alive):
        stepper.keep(torch.tensor(well))
        return [run for run, kept in zip(alive, well, strict=True) if kept]
    return alive


def _finite(value: float) -> bool:
    return value - value == 0.0


@dataclass
class _Checkpoint:
    """A long piece of work half done: written aside, synced, renamed; read only if it is of exactly this work."""

    step: int
    alive: list[int]
    records: list[Record]
    tensors: dict[str, Tensor]

    def save(self, path: Path, work: Work) -> None:
        about = {"work": work.digest, "step": self.step, "alive": self.alive, "records": [asdict(r) for r in self.records]}
        aside = path.with_name(path.name + ".writing")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        save_file(tensors, aside, {"about": json.dumps(about)})
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)

    @classmethod
    def load(cls, path: Path, work: Work) -> "_Checkpoint | None":
        if not path.exists():
            return None
        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        if about["work"] != work.digest:
            return None
        return cls(about["step"], about["alive"], [Record(**record) for record in about["records"]], tensors)


def checkpoint_files(checkpoint: Path) -> Sequence[Path]:
    """All files that a piece of work may have left beside its checkpoint, to be removed once its chunk is stored."""
    return [path for path in checkpoint.parent.glob(f"{checkpoint.stem}.*") if path.is_file()]
