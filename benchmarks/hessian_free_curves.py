"""Hessian-free optimization on surrogate CURVES, logged like Martens' published run on the real data.

    python benchmarks/hessian_free_curves.py [--iterations 300] [--hours H] [--seed 0]
        [--out benchmarks/results/hessian-free-curves.jsonl]

The settings are those of his run: sparse initialization, weight decay 2e-5, damping from 45, at most 250 steps of
conjugate gradients, gradient, line search and backtracking on all 20,000 pictures, curvature and reduction ratio on
5,000 in turn. After every iteration one line is written, and a checkpoint beside it (`.safetensors`, 6.7 MB: weights,
start of the next conjugate gradients, a few numbers). Killed at any moment, or stopped by `--hours`, the run goes on
where it was, on another machine too that has both files, and ends as an unbroken one. With `--table` it only compares
what there is with the reference, iteration by iteration.

The reference (iteration, total steps of conjugate gradients, squared training error) is the log that came with Martens'
code of 2010, on the real CURVES; on the surrogate (`ravine.problems.curves`) errors mean the same to about a tenth.
"""

import argparse
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ravine.errors import UserError
from ravine.hessian_free import HessianFree
from ravine.metrics import squared_error
from ravine.problems import Problem
from ravine.problems.autoencoders import cross_entropy
from ravine.problems.curves import curves

REFERENCE = {
    1: (13, 107.2),
    2: (26, 42.88),
    5: (63, 17.48),
    10: (123, 16.90),
    30: (481, 16.41),
    50: (1003, 12.21),
    60: (1784, 8.54),
    75: (4043, 1.98),
    100: (10221, 0.383),
    150: (22721, 0.171),
    200: (35221, 0.138),
    300: (60221, 0.1253),
}
CHUNKS = 4
SETTINGS: dict[str, Any] = {"damping": 45.0, "cg_steps": 250, "weight_decay": 2e-5, "micro_batch": 5_000}
Line = dict[str, Any]


@torch.no_grad()
def error(model: nn.Module, pictures: Tensor) -> float:
    """The squared error, summed over pixels, mean over pictures."""
    metric = squared_error(784, logistic=True)
    parts = torch.split(pictures, SETTINGS["micro_batch"])
    return sum(float(metric(model(part), part)) * len(part) for part in parts) / len(pictures)


def lines(log: Path) -> list[Line]:
    """What a log holds; a line that was cut off is left out."""
    if not log.exists():
        return []
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


@dataclass(frozen=True)
class Numbers:
    """What a checkpoint holds beside tensors: iterations done, all steps of conjugate gradients, damping, seed."""

    iteration: int
    cg_steps_total: int
    damping: float
    seed: int


def save(path: Path, model: nn.Module, optimizer: HessianFree, total: int) -> None:
    """Write a checkpoint aside, then rename it: there is a whole one at any moment."""
    (group,) = optimizer.param_groups
    numbers = Numbers(group["step"], total, group["damping"], group["seed"])
    tensors: dict[str, Tensor] = {}
    for name, p in model.named_parameters():
        tensors |= {f"weight.{name}": p.detach(), f"start.{name}": optimizer.state[p]["direction"]}
    aside = path.with_suffix(".aside")
    save_file(tensors, aside, {"numbers": json.dumps(asdict(numbers))})
    aside.replace(path)


@torch.no_grad()
def load(path: Path, model: nn.Module, optimizer: HessianFree) -> Numbers:
    """The inverse of `save`: model and optimizer as they were."""
    (group,) = optimizer.param_groups
    with safe_open(path, "pt") as saved:
        numbers = Numbers(**json.loads(saved.metadata()["numbers"]))
        if numbers.seed != group["seed"]:
            raise UserError(f"{path} is of seed {numbers.seed}, not {group['seed']}: give --seed or another --out")
        for name, p in model.named_parameters():
            p.copy_(saved.get_tensor(f"weight.{name}"))
            optimizer.state[p]["direction"] = saved.get_tensor(f"start.{name}")
    group |= {"step": numbers.iteration, "damping": numbers.damping}
    return numbers


def run(problem: Problem, iterations: int, log: Path, seed: int, hours: float = math.inf) -> None:
    """Train up to a number of iterations, or until so many hours have passed, from the checkpoint if there is one."""
    train, test = problem.train[0], problem.test[0]
    torch.manual_seed(seed)
    model = problem.model()
    optimizer = HessianFree(model, cross_entropy, **SETTINGS, seed=seed)
    chunks = train.chunk(CHUNKS)
    checkpoint = log.with_suffix(".safetensors")
    done, total = 0, 0
    if checkpoint.exists():
        numbers = load(checkpoint, model, optimizer)
        done, total = numbers.iteration, numbers.cg_steps_total
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines(log)[:done]))
    started = time.perf_counter()
    for iteration in track(range(done + 1, iterations + 1), "HF on curves", completed=done, total=iterations):
        chunk = chunks[(iteration - 1) % CHUNKS]
        began = time.perf_counter()
        result = optimizer.step(train, train, curvature=(chunk, chunk))
        seconds = time.perf_counter() - began
        total += result.cg_steps
        line = {
            "iteration": iteration,
            "cg_steps_total": total,
            "train_error": error(model, train),
            "test_error": error(model, test),
            "objective": result.new_loss,
            "damping_after": result.next_damping,
            "ratio": result.ratio,
            "cg_steps": result.cg_steps,
            "cg_stop": result.cg_stop,
            "cg_step_taken": result.cg_step,
            "rate": result.rate,
            "gradients": result.cost,
            "seconds": round(seconds, 2),
        }
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        save(checkpoint, model, optimizer, total)
        if time.perf_counter() - started >= 3600 * hours:
            break


def table(log: Path) -> Table:
    """The run beside the reference: by iteration, and by steps of conjugate gradients."""
    found = {line["iteration"]: line for line in lines(log)}
    shown = Table(
        "iteration", "CG steps", "reference", "error", "reference", "error at its CG steps", "test", "damping"
    )
    for iteration, (steps, reference) in REFERENCE.items():
        if iteration not in found:
            break
        line = found[iteration]
        reached = [one["train_error"] for one in found.values() if one["cg_steps_total"] <= steps]
        shown.add_row(
            str(iteration),
            str(line["cg_steps_total"]),
            str(steps),
            f"{line['train_error']:.4g}",
            f"{reference:.4g}",
            f"{reached[-1]:.4g}" if reached else "",
            f"{line['test_error']:.4g}",
            f"{line['damping_after']:.3g}",
        )
    return shown


def main() -> None:
    """Trains, logs, compares."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--iterations", type=int, default=300)
    words.add_argument("--hours", type=float, default=math.inf, help="stop after the iteration under way by then")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--table", action="store_true")
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "hessian-free-curves.jsonl")
    given = words.parse_args()
    if not given.table:
        run(curves(), given.iterations, given.out, given.seed, given.hours)
    Console().print(table(given.out))


if __name__ == "__main__":
    main()
