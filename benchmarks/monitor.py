"""What ravine.Monitor costs on real training loops, against the same loops without it, side by side in one process.

    python benchmarks/monitor.py [--rounds 9] [--case NAME] [--out benchmarks/results/monitor.json]

Both sides train the same model from the same start on the same batches with the same optimizer, in stretches that
alternate; the monitor stays attached to its side all the time, records to Parquet and measures noise and curvature on
its default budget. The overhead is the median over rounds of the ratio of the times of a pair of stretches, less 1, its
interval Student's on the logarithm; by the wall clock, and by the processor time of this single-threaded process, which
other work on the machine hardly enters. After the last round the two models must be equal to the bit.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cases import autoencoder, convolutional, recurrent
from rich.console import Console
from rich.table import Table
from torch import Tensor

import ravine
from fleet import interval
from ravine.monitor import Monitor
from ravine.problems import Problem
from ravine.problems.digits import digits
from ravine.study.declare import machine, versions

Row = dict[str, Any]
SECONDS = 4.0  # that one side of a round should take
LEAST = 20  # steps of a stretch


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


class Side:
    """A plain training loop; with `out`, watched."""

    def __init__(self, case: Case, out: Path | None) -> None:
        problem = case.problem()
        assert problem.loss is not None and isinstance(problem.train, tuple)
        torch.manual_seed(0)
        self.model, self._loss = problem.model(), problem.loss
        self.optimizer = case.optimizer(self.model.parameters())
        self._inputs, self._targets = problem.train
        self._batch = case.batch
        self._draws = torch.Generator().manual_seed(1)
        self.monitor: Monitor | None = None
        if out is not None:
            batches = [self._take(torch.arange(self._batch))]
            self.monitor = ravine.Monitor(self.model, self.optimizer, out, loss=self._loss, batches=batches)

    def _take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self._inputs[rows], self._targets[rows]

    def seconds(self, steps: int) -> tuple[float, float]:
        """Wall and processor time of so many more steps."""
        began, busy = time.perf_counter(), time.process_time()
        for _ in range(steps):
            x, y = self._take(torch.randint(len(self._inputs), (self._batch,), generator=self._draws))
            self.optimizer.zero_grad()
            self._loss(self.model(x), y).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return time.perf_counter() - began, time.process_time() - busy


def measure(name: str, rounds: int, scratch: Path) -> Row:
    """One row of the table."""
    plain, watched = Side(CASES[name], None), Side(CASES[name], scratch / "records")
    assert watched.monitor is not None
    step = plain.seconds(LEAST)[1] / LEAST
    watched.seconds(LEAST)
    steps = max(LEAST, round(SECONDS / step))
    wall: list[float] = []
    busy: list[float] = []
    plain_seconds: list[float] = []
    for k in range(rounds):
        order = (plain, watched) if k % 2 == 0 else (watched, plain)
        spent = {side: side.seconds(steps) for side in order}
        wall.append(spent[watched][0] / spent[plain][0])
        busy.append(spent[watched][1] / spent[plain][1])
        plain_seconds.append(spent[plain][1])
    equal = all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True))
    if not equal:
        raise SystemExit(f"{name}: the monitor changed the training")
    table = watched.monitor.steps
    watched.monitor.close()
    return {
        "case": name,
        "parameters": sum(p.numel() for p in plain.model.parameters()),
        "step_ms": 1e3 * statistics.median(plain_seconds) / steps,
        "overhead": statistics.median(busy) - 1,
        "interval": [bound - 1 for bound in interval(busy)],
        "overhead_wall": statistics.median(wall) - 1,
        "interval_wall": [bound - 1 for bound in interval(wall)],
        "overhead_by_its_own_clock": watched.monitor.budget.overhead,
        "watched": table.drop_nulls("lr").height / watched.monitor.step,
        "steps": watched.monitor.step,
        "noise_scales": table["noise_trace"].drop_nulls().len(),
        "top_eigenvalues": table["sharpness"].drop_nulls().len(),
        "update_curvatures": table["update_curvature"].drop_nulls().len(),
        "rounds": rounds,
    }


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table("case", "step", "overhead", "95 %", "by the wall", "its own clock", "steps watched", "dear signals")
    for row in rows:
        low, high = row["interval"]
        dear = row["noise_scales"] + row["top_eigenvalues"] + row["update_curvatures"]
        shown = (
            f"{row['step_ms']:.2f} ms",
            f"{row['overhead']:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{row['overhead_wall']:.1%}",
        )
        table.add_row(
            row["case"], *shown, f"{row['overhead_by_its_own_clock']:.1%}", f"{row['watched']:.0%}", str(dear)
        )
    Console().print(table)


def main() -> None:
    """Measures, prints, keeps."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=9)
    words.add_argument("--case", choices=list(CASES))
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "monitor.json")
    given = words.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in [given.case] if given.case else list(CASES):
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(measure(name, given.rounds, Path(scratch)))
    show(rows)
    kept = {"machine": machine("cpu"), "versions": versions(), "python": platform.python_version(), "rows": rows}
    given.out.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
