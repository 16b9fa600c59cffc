"""Which executor, and how many runs at once: decided by a parity probe and a short measurement on the problem."""

import math
import resource
import shutil
import sys
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ravine import rules
from ravine.errors import UserError
from ravine.fleet.single import Single
from ravine.fleet.stacked import Program, Stacked
from ravine.fleet.task import Task
from ravine.fleet.train import Executor, Stepper
from ravine.problems.usercode import UserCode
from ravine.rules import Rule

SIZES = (4, 8, 16, 32, 64, 128)
PROBE_STEPS = 3
SECONDS = 0.3  # of measurement per size
NEAR = 1.05  # sizes whose time is within this factor of the best are equally good: the smallest of them is taken
SLOW = 0.05  # seconds: a stack whose step takes longer is not doubled again for less than a gain of `NEAR`
HOPELESS = 1.5  # times as slow as one run at a time: larger stacks, and the compiler, will not make up for that
WORTH_COMPILING = 300.0  # seconds of training in each worker above which the compiler is tried
RELATIVE = {torch.float64: 1e-8}  # how far displacements may differ in the parity probe; 1e-3 in float32


@dataclass(frozen=True)
class Choice:
    """What was chosen and why; `seconds` are per run-step, one worker thread."""

    executor: Executor
    size: int
    reason: str
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def run_step(self) -> float:
        """Seconds of a run-step as chosen; where a forced executor was not measured, those of the nearest that was."""
        names = (f"{self.executor} x {self.size}", f"stacked x {self.size}", "single")
        return next(self.seconds[name] for name in names if name in self.seconds)


def choose(
    task: Task, program: Program, free_bytes: float, forced: Executor | None = None, run_steps: int = 0
) -> Choice:
    """The executor that is fastest here, among those that pass the parity probe and fit in `free_bytes`.

    A forced executor is taken as it is, but a stack that trains wrongly is refused all the same. Compiling is tried
    only where the `run_steps` that this worker has before it are many, and a C++ compiler is there.
    """
    rule = rules.get("momentum")
    if forced == "single":
        return Choice("single", 1, "forced")
    if forced == "compiled" and task.device.type == "cpu" and not compiler():
        return Choice("single", 1, "runs cannot be compiled: there is no C++ compiler (c++, g++ or clang++)")
    obstacle = program.obstacle() or parity(task, program, compiled=forced == "compiled")
    if obstacle is not None:
        return Choice("single", 1, f"runs cannot be stacked: {obstacle}")
    seconds = {"single": seconds_of(_single(task, rule))}
    spent: dict[int, float] = {}
    before = _peak_bytes(task.device)
    for size in SIZES:
        stack = _stack(task, program, rule, size)
        stack.evaluate("validation")  # for the memory that it takes
        taken = seconds_of(stack) / size
        grown = _peak_bytes(task.device) - before
        if grown > free_bytes:
            break
        enough = bool(spent) and size * taken > SLOW and NEAR * taken > min(spent.values())
        spent[size] = taken
        hopeless = forced is None and min(spent.values()) > HOPELESS * seconds["single"]
        if enough or hopeless or taken > 1.3 * min(spent.values()) or 2 * grown > free_bytes:
            break
    if not spent:
        return Choice(
            forced or "single", 1, f"{SIZES[0]} runs at once do not fit into the memory that is free", seconds
        )
    best = min(spent.values())
    size = next(size for size in spent if spent[size] <= NEAR * best)
    seconds |= {f"stacked x {size}": value for size, value in spent.items()}
    if forced is not None:
        return Choice(forced, size, "forced", seconds)
    executor: Executor = "stacked" if best < seconds["single"] else "single"
    least = min(best, seconds["single"])
    # Compiled, a stack that is only at par may win: its passes over elements become one.
    hopeful = best <= HOPELESS * seconds["single"] and least * run_steps > WORTH_COMPILING
    if hopeful and compiler() and parity(task, program, compiled=True) is None:
        compiled = seconds_of(_stack(task, program, rule, size, compiled=True)) / size
        seconds[f"compiled x {size}"] = compiled
        if compiled * NEAR < least:
            executor, least = "compiled", compiled
    if executor == "single":
        return Choice("single", 1, f"stacking would be {best / least:.2f}x as slow", seconds)
    return Choice(executor, size, f"{seconds['single'] / least:.1f}x as fast as one run at a time", seconds)


def compiler() -> bool:
    """Whether torch.compile can work here: it calls a C++ compiler at run time."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def parity(task: Task, program: Program, compiled: bool = False) -> str | None:
    """What differs between 3 steps of 3 stacked runs and of the same runs alone; None if nothing does.

    Compared are displacements of parameters and buffers, training losses and evaluations. Stacking can be silently
    wrong: tied weights that came apart, a buffer that `forward` rebinds.
    """
    rule, seeds, rate = rules.get("momentum"), [0, 1, 2], _rate(task, program)
    hyper = {"lr": [rate, 2 * rate, 3 * rate], "momentum": [0.9, 0.5, 0.0]}
    try:
        with UserCode("in a stack"):  # whatever a model raises there, it still trains one run at a time
            stack = Stacked(program, rule, seeds, hyper, compiled=compiled)
            started = {name: value.clone() for name, value in stack.parameters().items()}
            losses = torch.stack([stack.step(step) for step in range(PROBE_STEPS)])
            evaluated, ended = stack.evaluate("validation"), stack.parameters()
    except UserError as error:
        return str(error)
    for run, seed in enumerate(seeds):
        alone = Single(task, rule, seed, {name: values[run] for name, values in hyper.items()})
        losses_alone = torch.stack([alone.step(step) for step in range(PROBE_STEPS)])
        if not _close(losses[:, run], losses_alone[:, 0]):
            return "the training loss differs from that of a run alone"
        farthest = max((alone.parameters()[n][0] - started[n][run]).abs().max() for n in program.start.parameters)
        for name, value in alone.parameters().items():
            if not _moves_alike(started[name][run], ended[name][run], value[0], farthest):
                return f"{name.removeprefix('model.')} does not move as in a run alone"
        # a metric such as an accuracy may flip one row; the loss may not move
        if not _close(evaluated[run, :1].to(losses.dtype), alone.evaluate("validation")[0, :1].to(losses.dtype)):
            return "its evaluation differs from that of a run alone"
    return None


def _rate(task: Task, program: Program) -> float:
    """A learning rate whose first step moves the parameters by a hundredth of their norm, whatever their scale."""
    size = math.hypot(*(tensor.norm().item() for tensor in program.start.parameters.values()))
    slope = min(task.in_training.slope, task.problem.clip or math.inf)
    return 0.01 * max(size, 1.0) / slope if slope > 0 else 0.01


def _moves_alike(start: Tensor, end: Tensor, alone: Tensor, farthest: Tensor) -> bool:
    """Whether a tensor went from `start` to `end` as in a run alone, whose parameters went `farthest` at most."""
    if not (alone.is_floating_point() and alone.numel()):
        return torch.equal(end, alone)
    # rounding of the tensor, and of a gradient that is zero but for it (a bias before a normalization)
    return _close(end - start, alone - start, 64 * (start.abs().max() + farthest).item())


def _close(a: Tensor, b: Tensor, floor: float = 0.0) -> bool:
    """Whether the largest difference is small beside the largest value; `floor`, in units of rounding, adds to it."""
    allowed = RELATIVE.get(b.dtype, 1e-3) * b.abs().max() + floor * torch.finfo(b.dtype).eps
    return bool(((a - b).abs() <= allowed).all())


def _single(task: Task, rule: Rule) -> Stepper:
    return Single(task, rule, 0, {"lr": 1e-3, "momentum": 0.9})


def _stack(task: Task, program: Program, rule: Rule, size: int, compiled: bool = False) -> Stepper:
    hyper = {"lr": [1e-3] * size, "momentum": [0.9] * size}
    return Stacked(program, rule, [run % 8 for run in range(size)], hyper, compiled=compiled)


def seconds_of(stepper: Stepper) -> float:
    """Seconds of a step, over at least 3 steps and `SECONDS`: the lower quartile, since other work only adds time."""
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
