"""What ravine.Monitor costs on real training loops: steps with it and without it, in short blocks of one training.

    python benchmarks/monitor.py [--processes 5] [--seconds 30] [--case NAME] [--out benchmarks/results/monitor.json]

One model is trained by two optimizers that share parameters and state, so that memory, caches and allocator are the
same; the monitor watches one of them, records to Parquet and measures noise and curvature on its default budget. They
take turns in blocks of a third of a second, one watched and two plain in random order, and the monitor's clock stands
still while it is away. Times are those of the wall clock and of the processor; other work on the machine hardly enters
the latter. Where a process finds its memory alone moves a step by some percent, so everything is done in several
processes, one after the other, and each gives one ratio of sums.

The overhead has two parts. What the monitor's own clock shows is held by its budget: in a window as short as this it
may be more or less, by a dear signal that fell into it or not, so the overhead is also told for the most that the
budget lets the clock show in the long run. The rest, what it leaves behind for the training, is what the watched steps
take longer than plain ones, the monitor's own time left out. A/A is one plain block over the other: what this benchmark
can tell. Means over processes, Student's 95 % intervals, on the logarithm.

Before it, a training watched with a budget of all its time must equal one without a monitor to the bit.

A run of one case keeps the others of the file, if the machine and the versions are the same.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from cases import autoencoder, convolutional, recurrent
from rich.console import Console
from rich.table import Table
from torch import Tensor

import ravine
from fleet import interval, merged
from ravine.monitor import Monitor
from ravine.monitor.budget import AIM, Budget
from ravine.problems import Problem
from ravine.problems.digits import digits
from ravine.study.declare import machine, versions

Row = dict[str, Any]
SHARE = 0.05  # the budget
BLOCK_SECONDS = 0.33
LEAST = 8  # steps of a block
WARM_SECONDS = 6.0  # before anything counts, watched
EQUAL = 40  # steps that must be the same to the bit
SIGNALS = ("noise_trace", "sharpness", "update_curvature")  # the dear ones


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
    "convolutional, batch 28": Case(convolutional, 28, heavy_ball),  # about the 10 ms from which the 5 % are promised
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

    def watch(self, out: Path, budget: float = SHARE) -> Monitor:
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


def measure(name: str, seconds: float) -> Row:
    """What one process finds."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        require_equal(CASES[name], Path(scratch))
        loop = Loop(CASES[name])
        watched, plain = loop.optimizers
        step = min(loop.run(LEAST, plain).wall for _ in range(3)) / LEAST
        steps = max(LEAST, round(BLOCK_SECONDS / step))
        monitor = loop.watch(Path(scratch) / "records")
        monitor.budget = meter = Metered(SHARE, torch.device("cpu"))
        meter.begin()
        loop.run(round(WARM_SECONDS / step), watched)
        warm = monitor.step
        own = Seconds(meter.spent, meter.processor)
        blocks: dict[str, list[Seconds]] = {"watched": [], "plain": [], "again": []}
        order = np.random.default_rng()
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            for which in order.permutation(list(blocks)).tolist():
                meter.begin()
                blocks[which].append(loop.run(steps, watched if which == "watched" else plain))
        own = Seconds(meter.spent - own.wall, meter.processor - own.processor)
        table = monitor.steps.filter(monitor.steps["step"] > warm)
        monitor.close()
    count = steps * len(blocks["plain"])
    found: Row = {
        "parameters": sum(p.numel() for p in loop.model.parameters()),
        "steps": count,
        "step_ms": 1e3 * sum(block.wall for block in blocks["plain"]) / count,
        "watched": table.height / count,
        "dear": sum(table[signal].drop_nulls().len() for signal in SIGNALS),
    }
    for k, clock in enumerate(Seconds._fields):
        total = {which: sum(block[k] for block in of) for which, of in blocks.items()}
        training = total["watched"] - own[k]
        found[clock] = {
            "own": own[k] / training,
            "left_behind": 2 * training / (total["plain"] + total["again"]),
            "a_a": total["again"] / total["plain"],
        }
    return found


def summary(name: str, found: Sequence[Row]) -> Row:
    """A row of the table from what the processes found."""
    row: Row = {"case": name, "parameters": found[0]["parameters"], "processes": len(found)}
    row |= {column: statistics.fmean(one[column] for one in found) for column in ("step_ms", "watched")}
    row |= {column: sum(one[column] for one in found) for column in ("steps", "dear")}
    row["step_ms_range"] = [of(one["step_ms"] for one in found) for of in (min, max)]
    for clock in Seconds._fields:
        own = statistics.fmean(one[clock]["own"] for one in found)
        left, noise = ([one[clock][what] for one in found] for what in ("left_behind", "a_a"))
        low, high = interval(left)
        row[clock] = {
            "own": own,
            "left_behind": statistics.geometric_mean(left) - 1,
            "left_behind_interval": [low - 1, high - 1],
            "overhead": statistics.geometric_mean(left) * (1 + own) - 1,
            "overhead_interval": [low * (1 + own) - 1, high * (1 + own) - 1],
            "in_the_long_run": statistics.geometric_mean(left) * (1 + AIM * SHARE) - 1,
            "in_the_long_run_interval": [bound * (1 + AIM * SHARE) - 1 for bound in (low, high)],
            "a_a": statistics.geometric_mean(noise) - 1,
            "a_a_interval": [bound - 1 for bound in interval(noise)],
        }
    return row


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table(
        "case", "step", "by", "overhead", "at most", "its own clock", "left behind", "A/A", "watched", "dear signals"
    )
    for row in rows:
        for clock in Seconds._fields:
            found = row[clock]

            def told(what: str, found: Row = found) -> str:
                low, high = found[f"{what}_interval"]
                return f"{found[what]:.1%} [{100 * low:.1f}, {100 * high:.1f}]"

            cells = told("overhead"), told("in_the_long_run"), f"{found['own']:.1%}", told("left_behind"), told("a_a")
            shown = f"{row['watched']:.0%}", str(row["dear"])
            table.add_row(row["case"], f"{row['step_ms']:.2f} ms", clock, *cells, *shown)
    Console(width=170).print(table)


def main() -> None:
    """Measures, prints, keeps."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--processes", type=int, default=5)
    words.add_argument("--seconds", type=float, default=30.0, help="of a process")
    words.add_argument("--case", choices=list(CASES))
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "monitor.json")
    given = words.parse_args()
    fresh = multiprocessing.get_context("spawn")
    for name in [given.case] if given.case else CASES:
        with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as one_by_one:
            found = one_by_one.map(measure, [name] * given.processes, [given.seconds] * given.processes)
            rows = [summary(name, list(found))]
        show(rows)
        where = {"machine": machine("cpu"), "versions": versions()}
        every = merged(given.out, where, rows, itemgetter("case"))
        given.out.write_text(json.dumps({**where, "rows": every}, indent=2) + "\n")


if __name__ == "__main__":
    main()
