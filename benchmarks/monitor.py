"""What ravine.Monitor costs on real training loops: steps with it and without it, in short blocks of one training.

    python benchmarks/monitor.py [--seconds 100] [--case NAME] [--out benchmarks/results/monitor.json]

One model is trained by two optimizers that share parameters and state, so that memory, caches and allocator are the
same; the monitor watches one of them, records to Parquet and measures noise and curvature on its default budget. They
take turns in blocks of about half a second, in pairs of random order, and the monitor's clock stands still while it is
away. The overhead is the ratio of the sums of their times, less 1: by the wall clock, and by the processor time of the
process, which other work on the machine hardly enters. It has two parts. What the monitor's own clock shows is held by
its budget, and is known; the rest, what it leaves behind for the training, is measured, and the 95 % interval is its
bootstrap over pairs. "A/A" is the same with no monitor at all: what this benchmark can tell.

Before it, a training watched with a budget of all its time must equal one without a monitor to the bit.

A run of one case keeps the others of the file, if the machine and the versions are the same.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from cases import autoencoder, convolutional, recurrent
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

import ravine
from fleet import merged
from ravine.monitor import Monitor
from ravine.monitor.budget import Budget
from ravine.problems import Problem
from ravine.problems.digits import digits
from ravine.study.declare import machine, versions

Row = dict[str, Any]
BLOCK_SECONDS = 0.5
LEAST = 16  # steps of a block
WARM_SECONDS = 10.0  # before anything counts, watched
EQUAL = 40  # steps that must be the same to the bit
DRAWS = 4000  # of the bootstrap


@dataclass(frozen=True)
class Case:
    """A problem, the rows of a batch, and an optimizer."""

    problem: Callable[[], Problem]
    batch: int
    optimizer: Callable[[Any], torch.optim.Optimizer]


def heavy_ball(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


CASES: dict[str, Case] = {
    "autoencoder, 2.8 M parameters, batch 200": Case(autoencoder, 200, heavy_ball),
    "autoencoder, 2.8 M parameters, batch 200, Adam": Case(autoencoder, 200, adam),
    "convolutional, batch 64": Case(convolutional, 64, heavy_ball),
    "recurrent, T = 80, batch 100": Case(recurrent, 100, heavy_ball),
    "digits 64-64-64-10, batch 64": Case(digits, 64, heavy_ball),
}


class Seconds(NamedTuple):
    """By the wall clock, and of the processor."""

    wall: float
    processor: float


def now() -> Seconds:
    return Seconds(time.perf_counter(), time.process_time())


class Metered(Budget):
    """A budget that also adds up the processor time of the monitor."""

    processor = 0.0
    _entered = 0.0

    def enter(self, wait: bool = False) -> None:
        self._entered = time.process_time()
        super().enter(wait)

    def leave(self, wait: bool = False) -> float:
        seconds = super().leave(wait)
        self.processor += time.process_time() - self._entered
        return seconds


class Loop:
    """A training loop whose steps either of two optimizers takes, on the same parameters and state."""

    def __init__(self, case: Case) -> None:
        problem = case.problem()
        assert problem.loss is not None and isinstance(problem.train, tuple)
        torch.manual_seed(0)
        self.model, self.loss = problem.model(), problem.loss
        self.optimizers = [case.optimizer(self.model.parameters()) for _ in range(2)]
        self.optimizers[1].state = self.optimizers[0].state
        self._inputs, self._targets = problem.train
        self._batch = case.batch
        self._draws = torch.Generator().manual_seed(1)

    def watch(self, out: Path, budget: float = 0.05) -> Monitor:
        """A monitor of the first optimizer."""
        batches = [self._take(torch.arange(self._batch))]
        return ravine.Monitor(self.model, self.optimizers[0], out, loss=self.loss, batches=batches, budget=budget)

    def _take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self._inputs[rows], self._targets[rows]

    def run(self, steps: int, optimizer: torch.optim.Optimizer) -> Seconds:
        """How long so many more steps take."""
        began = now()
        for _ in range(steps):
            x, y = self._take(torch.randint(len(self._inputs), (self._batch,), generator=self._draws))
            optimizer.zero_grad()
            self.loss(self.model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        ended = now()
        return Seconds(ended.wall - began.wall, ended.processor - began.processor)


def require_equal(case: Case, scratch: Path) -> None:
    """Stop unless a training is the same with the monitor, which has all the time it likes, and without it."""
    plain, watched = Loop(case), Loop(case)
    with watched.watch(scratch / "equal", budget=1.0):
        for loop in (plain, watched):
            loop.run(EQUAL, loop.optimizers[0])
    for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        if not torch.equal(a, b):
            raise SystemExit("the monitor changed the training")


def measure(name: str, seconds: float, monitored: bool, scratch: Path) -> Row:
    """One row of the table."""
    loop = Loop(CASES[name])
    first, second = loop.optimizers
    step = min(loop.run(LEAST, second).wall for _ in range(3)) / LEAST
    steps = max(LEAST, round(BLOCK_SECONDS / step))
    monitor = loop.watch(scratch / "records") if monitored else None
    meter = Metered(0.05, torch.device("cpu"))
    if monitor is not None:
        monitor.budget = meter
        meter.begin()
        loop.run(round(WARM_SECONDS / step), first)
    warm = monitor.step if monitor is not None else 0
    order = np.random.default_rng(0)
    times: list[tuple[Seconds, Seconds, Seconds]] = []  # with the monitor, its own, without it
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        taken: dict[bool, Seconds] = {}
        own = Seconds(meter.spent, meter.processor)
        for watched in order.permutation([True, False]).tolist():
            meter.begin()
            taken[watched] = loop.run(steps, first if watched else second)
        own = Seconds(meter.spent - own.wall, meter.processor - own.processor)
        times.append((taken[True], own, taken[False]))
    parameters = sum(p.numel() for p in loop.model.parameters())
    row: Row = {"case": name, "monitored": monitored, "parameters": parameters, "block": steps, "pairs": len(times)}
    row["step_ms"] = 1e3 * sum(plain.wall for _, _, plain in times) / (steps * len(times))
    for k, clock in enumerate(Seconds._fields):
        row[clock] = overhead(np.array([[one[k] for one in pair] for pair in times]))
    if monitor is not None:
        table = monitor.steps.filter(monitor.steps["step"] > warm)
        monitor.close()
        row["watched"] = table.height / (steps * len(times))
        row["taken"] = {
            name: table[name].drop_nulls().len() for name in ("noise_trace", "sharpness", "update_curvature")
        }
    return row


def overhead(times: NDArray[np.float64]) -> Row:
    """Of pairs (with the monitor, its own time, without it): the overhead, its interval, and its two parts."""
    watched, own, plain = times.T
    known = float(own.sum() / (watched - own).sum())
    left = (watched - own).sum() / plain.sum()
    drawn = np.random.default_rng(0).integers(len(times), size=(DRAWS, len(times)))
    low, high = np.quantile((watched - own)[drawn].sum(1) / plain[drawn].sum(1), (0.025, 0.975))
    return {
        "overhead": float(left * (1 + known) - 1),
        "interval": [float(bound * (1 + known) - 1) for bound in (low, high)],
        "own": known,
        "left_behind": float(left - 1),
        "left_behind_interval": [float(low - 1), float(high - 1)],
    }


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table("case", "step", "by", "overhead", "95 %", "its own clock", "left behind", "watched", "dear signals")
    for row in rows:
        for clock in Seconds._fields:
            found = row[clock]
            low, high = found["interval"]
            cells = [f"{found['overhead']:.1%}", f"{low:.1%} to {high:.1%}"]
            if row["monitored"]:
                cells += [f"{found['own']:.1%}", f"{found['left_behind']:.1%}"]
                cells += [f"{row['watched']:.0%}", str(sum(row["taken"].values()))]
            name = row["case"] if row["monitored"] else f"A/A: {row['case']}"
            table.add_row(name, f"{row['step_ms']:.2f} ms", clock, *cells)
    Console(width=150).print(table)


def main() -> None:
    """Measures, prints, keeps."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seconds", type=float, default=100.0, help="a row")
    words.add_argument("--case", choices=list(CASES))
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "monitor.json")
    given = words.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, monitored in itertools.product([given.case] if given.case else CASES, (True, False)):
        with tempfile.TemporaryDirectory() as scratch:
            if monitored:
                require_equal(CASES[name], Path(scratch))
            rows.append(measure(name, given.seconds, monitored, Path(scratch)))
    show(rows)
    where = {"machine": machine("cpu"), "versions": versions()}
    every = merged(given.out, where, rows, lambda row: (row["case"], row["monitored"]))
    given.out.write_text(json.dumps({**where, "rows": every}, indent=2) + "\n")


if __name__ == "__main__":
    main()
