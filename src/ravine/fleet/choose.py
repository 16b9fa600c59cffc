"""Which executor, and how many runs at once: decided by a parity probe and a short measurement on the problem at hand."""

import resource
import shutil
import sys
import time
from dataclasses import dataclass, field

import torch

from ravine import rules
from ravine.fleet.single import Single
from ravine.fleet.stacked import Program, Stacked
from ravine.fleet.task import Task
from ravine.fleet.train import Executor, Stepper
from ravine.rules import Rule

SIZES = (4, 8, 16, 32, 64, 128)
PROBE_STEPS = 3
SECONDS = 0.3  # of measurement per size
NEAR = 1.05  # sizes whose time is within this factor of the best are equally good: the smallest of them is taken
RELATIVE = 1e-3  # how far displacements may differ in the parity probe, float32


@dataclass(frozen=True)
class Choice:
    """What was chosen and why; `seconds` are per run-step, one worker thread."""

    executor: Executor
    size: int
    reason: str
    seconds: dict[str, float] = field(default_factory=dict)


def choose(task: Task, program: Program, free_bytes: float, forced: Executor | None = None) -> Choice:
    """The executor that trains a run-step fastest here, among those that pass the parity probe.

    A forced executor is taken as it is, but a stack that trains wrongly is refused all the same.
    """
    rule = rules.get("momentum")
    if forced == "single":
        return Choice("single", 1, "forced")
    obstacle = program.obstacle() or parity(task, program, compiled=forced == "compiled")
    if obstacle is not None:
        reason = f"runs cannot be stacked: {obstacle}"
        return Choice("single", 1, reason)
    seconds = {"single": seconds_of(_single(task, rule))}
    spent: dict[int, float] = {}
    for size in SIZES:
        before = _peak_bytes(task.device)
        spent[size] = seconds_of(_stack(task, program, rule, size, forced == "compiled")) / size
        grown = _peak_bytes(task.device) - before
        hopeless = forced is None and min(spent.values()) > 1.5 * seconds["single"]
        if hopeless or spent[size] > 1.3 * min(spent.values()) or 2 * grown > free_bytes:
            break
    best = min(spent.values())
    size = next(size for size in spent if spent[size] <= NEAR * best)
    seconds |= {f"stacked x {size}": value for size, value in spent.items()}
    if forced is not None:
        return Choice(forced, size, "forced", seconds)
    if best < seconds["single"]:
        return Choice("stacked", size, f"{seconds['single'] / best:.1f}x as fast as one run at a time", seconds)
    return Choice("single", 1, f"stacking would be {best / seconds['single']:.2f}x as slow", seconds)


def compiler() -> bool:
    """Whether torch.compile can work here: it calls a C++ compiler at run time."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def parity(task: Task, program: Program, compiled: bool = False) -> str | None:
    """What differs between 3 steps of 3 stacked runs and of the same runs alone; None if nothing does.

    Compared are displacements of parameters and buffers, training losses and evaluations. Stacking can be silently wrong:
    tied weights that came apart, a buffer that `forward` rebinds.
    """
    rule, seeds, rates = rules.get("momentum"), [0, 1, 2], [0.01, 0.02, 0.03]
    hyper = {"lr": rates, "momentum": [0.9, 0.5, 0.0]}
    try:
        stack = Stacked(program, rule, seeds, hyper, compiled=compiled)
        started = {name: value.clone() for name, value in stack.parameters().items()}
        losses = torch.stack([stack.step(step) for step in range(PROBE_STEPS)])
        evaluated, ended = stack.evaluate("validation"), stack.parameters()
    except Exception as error:  # whatever a model raises inside vmap, it still trains one run at a time
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
    for run, seed in enumerate(seeds):
        alone = Single(task, rule, seed, {name: values[run] for name, values in hyper.items()})
        losses_alone = torch.stack([alone.step(step) for step in range(PROBE_STEPS)])
        if not _close(losses[:, run], losses_alone[:, 0], losses_alone.abs().max()):
            return "the training loss differs from that of a run alone"
        for name, value in alone.parameters().items():
            start = started[name][run]
            if not value.is_floating_point():
                same = torch.equal(ended[name][run], value[0])
            else:
                moved = value[0] - start
                scale = moved.abs().max() + start.abs().max() * 64 * torch.finfo(value.dtype).eps / RELATIVE
                same = _close(ended[name][run] - start, moved, scale)
            if not same:
                return f"{name.removeprefix('model.')} does not move as in a run alone"
        evaluated_alone = alone.evaluate("validation")[0]
        # a metric such as an accuracy may flip one row; the loss may not move
        if not _close(evaluated[run, :1], evaluated_alone[:1], evaluated_alone[:1].abs().max()):
            return "its evaluation differs from that of a run alone"
    return None


def _close(a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor) -> bool:
    return bool(((a - b).abs() <= RELATIVE * scale + torch.finfo(b.dtype).tiny).all())


def _single(task: Task, rule: Rule) -> Stepper:
    return Single(task, rule, 0, {"lr": 1e-3, "momentum": 0.9})


def _stack(task: Task, program: Program, rule: Rule, size: int, compiled: bool) -> Stepper:
    hyper = {"lr": [1e-3] * size, "momentum": [0.9] * size}
    return Stacked(program, rule, [run % 8 for run in range(size)], hyper, compiled=compiled)


def seconds_of(stepper: Stepper) -> float:
    """Seconds of a step, over at least 3 steps and `SECONDS`: the lower quartile, since other work only ever adds time."""
    for step in range(2):
        stepper.step(step)
    spent: list[float] = []
    while len(spent) < 3 or (sum(spent) < SECONDS and len(spent) < 200):
        start = time.perf_counter()
        stepper.step(2 + len(spent)).sum().item()
        spent.append(time.perf_counter() - start)
    return sorted(spent)[len(spent) // 4]


def _peak_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
