"""Run-steps per second of the fleet against plain torch loops, side by side in one run on one machine.

    python benchmarks/fleet.py [--rounds 9] [--case NAME] [--out benchmarks/results/fleet.json]

The peer is the best that a user would do by hand: plain loops with torch.optim.SGD(momentum=0.9, fused=True), one
single-threaded process per core. Both sides train the same runs on the same data and evaluate them on the same
validation rows after the same steps, and on the first training rows before and after; both have warm processes; they
alternate. The ratio is the median over rounds, its interval Student's on the logarithm.

For the dense net also the share that the step reaches of its own limit: the summed times of its matrix products, each
at its best layout, measured in the same process.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import CASES, EVERY
from loky.process_executor import ProcessPoolExecutor
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import nn

from ravine.fleet import train
from ravine.fleet.choose import Choice, compiler
from ravine.fleet.task import TRAIN_ROWS
from ravine.problems import Problem, prepare
from ravine.study import worker
from ravine.study.declare import machine, versions
from ravine.study.engine import LocalEngine, cores
from ravine.study.worker import Assignment

Row = dict[str, Any]
SECONDS = 4.0  # that one side of a round should take
RATE = 1e-5  # learning rate: so small that no case diverges, since the fleet drops what does


def plain_runs(case: str, runs: int, steps: int) -> float:
    """The peer: trains `runs` runs one after the other by hand, and judges them where the fleet judges its own.

    Returns a sum of losses, so that nothing is optimized away.
    """
    torch.set_num_threads(1)
    problem = EVERY[case]()
    data = prepare(problem)
    inputs, targets = data.train.tensors
    first = inputs[:TRAIN_ROWS], targets[:TRAIN_ROWS]
    evaluations = set(train.evaluation_steps(steps))
    total = 0.0
    for seed in range(runs):
        torch.manual_seed(seed)
        model = problem.model()
        assert problem.loss is not None
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, fused=True)
        order = torch.randperm(len(inputs))
        place = 0
        total += judged(model, problem, first)
        for step in range(1, steps + 1):
            if place + problem.batch_size > len(inputs):
                order, place = torch.randperm(len(inputs)), 0
            rows = order[place : place + problem.batch_size]
            place += problem.batch_size
            optimizer.zero_grad()
            loss = problem.loss(model(inputs[rows]), targets[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step in evaluations:
                total += judged(model, problem, data.validation.tensors)
        total += judged(model, problem, first)
    return total


@torch.no_grad()
def judged(model: nn.Module, problem: Problem, rows: Sequence[torch.Tensor]) -> float:
    """The loss and the metrics on rows, summed."""
    inputs, targets = rows
    assert problem.loss is not None
    model.eval()
    outputs = model(inputs)
    model.train()
    return float(problem.loss(outputs, targets)) + sum(float(of(outputs, targets)) for of in problem.metrics.values())


class Peer:
    """One single-threaded process per core, in an ordinary environment."""

    def __init__(self, case: str, workers: int) -> None:
        self._case, self._workers = case, workers
        self._pool = ProcessPoolExecutor(max_workers=workers, env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

    def seconds(self, runs: int, steps: int) -> float:
        """Wall time of `runs` runs in all, shared among the processes."""
        began = time.perf_counter()
        shares = [runs // self._workers] * self._workers
        list(self._pool.map(plain_runs, [self._case] * self._workers, shares, [steps] * self._workers))
        return time.perf_counter() - began

    def close(self) -> None:
        """Ends the processes."""
        self._pool.shutdown()


def fleet_seconds(engine: LocalEngine, choice: Choice, runs: int, steps: int, scratch: Path) -> float:
    """Wall time of `runs` runs in all, in chunks as a study cuts them."""
    trials = [train.Trial(run % 20, {"lr": RATE, "momentum": 0.9}) for run in range(runs)]  # as on the evaluation seeds
    count = engine.workers * math.ceil(runs / engine.workers / choice.size)
    parts = [tuple(part) for part in np.array_split(np.array(trials, dtype=object), count) if len(part)]
    works = [
        (f"chunk-{k}", train.Work("momentum", part, steps, False, choice.executor)) for k, part in enumerate(parts)
    ]
    began = time.perf_counter()
    for _ in engine.train(works, scratch, lambda steps: None):
        pass
    return time.perf_counter() - began


def compare(case: str, rounds: int, workers: int, forced: train.Executor | None, scratch: Path) -> Row:
    """One row of the table."""
    problem = EVERY[case]()
    steps = problem.steps
    assignment = Assignment.of(
        problem, batch_size=problem.batch_size, steps=steps, study_seed=0, device="cpu", threads=1, progress=""
    )
    peer = Peer(case, workers)
    with LocalEngine(assignment, workers) as engine:
        choice = engine.choose(forced, 0)
        unit = workers * choice.size  # runs that fill the fleet once
        fleet_seconds(engine, choice, unit, 10, scratch)
        speed = unit * steps / fleet_seconds(engine, choice, unit, steps, scratch)
        peer.seconds(workers, 2)
        plain_speed = workers * steps / peer.seconds(workers, steps)
        runs = unit * max(1, round(SECONDS * speed / steps / unit))
        plain = workers * max(1, round(SECONDS * plain_speed / steps / workers))
        rates: list[tuple[float, float]] = []
        for k in range(rounds):
            ours, theirs = 0.0, 0.0
            for side in ("fleet", "plain") if k % 2 == 0 else ("plain", "fleet"):
                if side == "fleet":
                    ours = runs * steps / fleet_seconds(engine, choice, runs, steps, scratch)
                else:
                    theirs = plain * steps / peer.seconds(plain, steps)
            rates.append((ours, theirs))
        products = engine.ask(product_seconds, choice.size) if case.startswith("dense") else None
        alone = engine.ask(step_seconds, choice.size, choice.executor == "compiled") if products else None
    peer.close()
    ratios = [a / b for a, b in rates]
    row: Row = {
        "case": case,
        "executor": f"{choice.executor} x {choice.size}",
        "fleet": statistics.median(a for a, _ in rates),
        "plain": statistics.median(b for _, b in rates),
        "ratio": statistics.median(ratios),
        "interval": interval(ratios),
        "rounds": rounds,
        "reason": choice.reason,
    }
    if products is not None and alone is not None:
        row |= {"products_us": 1e6 * products, "step_us": 1e6 * alone, "share": products / alone, "mflop": 2.87}
    return row


def interval(ratios: Sequence[float]) -> list[float]:
    """Student's 95 % interval of the mean logarithm, as ratios."""
    logs = np.log(ratios)
    half = float(stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    return [math.exp(float(logs.mean()) - half), math.exp(float(logs.mean()) + half)]


def product_seconds(size: int) -> float:
    """Summed times of the eight matrix products of a step of the dense net, per run, each at its best layout."""

    def best(a: tuple[int, int], b: tuple[int, int]) -> float:
        """(A B) with A and B stored either way, or as (B' A')'."""
        times = []
        for transpose_a in (False, True):
            for transpose_b in (False, True):
                left = _stored(size, a, transpose_a)
                right = _stored(size, b, transpose_b)
                times.append(_lowest(left, right))
                times.append(_lowest(right.transpose(1, 2), left.transpose(1, 2)))
        return min(times)

    batch, wide, classes = 64, 64, 10
    forward = 2 * best((batch, wide), (wide, wide)) + best((batch, wide), (wide, classes))
    weights = 2 * best((wide, batch), (batch, wide)) + best((wide, batch), (batch, classes))
    inputs = best((batch, wide), (wide, wide)) + best((batch, classes), (classes, wide))
    return (forward + weights + inputs) / size


def _stored(size: int, shape: tuple[int, int], transposed: bool) -> torch.Tensor:
    return torch.randn(size, *shape[::-1]).transpose(1, 2) if transposed else torch.randn(size, *shape)


def _lowest(left: torch.Tensor, right: torch.Tensor) -> float:
    """Lower quartile of the seconds that a product takes."""
    spent = []
    for _ in range(60):
        began = time.perf_counter()
        torch.bmm(left, right)
        spent.append(time.perf_counter() - began)
    return sorted(spent)[len(spent) // 4]


def step_seconds(size: int, compiled: bool) -> float:
    """Seconds of a training step per run, in the worker that this runs in."""
    return worker.stack_seconds("momentum", {"lr": 0.01, "momentum": 0.9}, size, compiled)


def main() -> None:
    """Measures, prints, keeps."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=9)
    words.add_argument("--case", choices=list(CASES))
    words.add_argument("--executor", choices=["stacked", "compiled", "single"])
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fleet.json")
    given = words.parse_args()
    scratch = Path(os.environ.get("TMPDIR", "/tmp"))
    if given.case or given.executor:
        wanted = [(name, given.executor) for name in ([given.case] if given.case else CASES)]
    else:  # a study compiles only where that is paid back: the dense net is measured both ways
        wanted = [(name, None) for name in CASES] + ([("dense 64-64-64-10", "compiled")] if compiler() else [])
    rows = [compare(name, given.rounds, cores(), executor, scratch) for name, executor in wanted]
    report(
        rows, "share of its products", products_share, given.out, lambda row: (row["case"], row["executor"].split()[0])
    )


def products_share(row: Row) -> str:
    """The share of a step that its matrix products take, where they were measured."""
    return f"{row['share']:.2f} ({row['products_us']:.1f} of {row['step_us']:.1f} us)" if "share" in row else ""


def report(
    rows: Sequence[Row], column: str, share: Callable[[Row], str], out: Path, key: Callable[[Row], Hashable]
) -> None:
    """Prints a table of rows, the last column as `share` says, and keeps them in the file, by `key`."""
    table = Table("case", "executor", "run-steps/s", "plain loops", "ratio", "95 %", column)
    for row in rows:
        low, high = row["interval"]
        rates = (f"{row['fleet']:,.1f}", f"{row['plain']:,.1f}", f"{row['ratio']:.2f}", f"{low:.2f} to {high:.2f}")
        table.add_row(row["case"], row["executor"], *rates, share(row))
    Console(width=140).print(table)
    where = {"machine": machine("cpu"), "versions": versions()}
    every = merged(out, where, rows, key)
    every.sort(key=lambda row: list(EVERY).index(row["case"]))
    out.write_text(json.dumps({**where, "rows": every}, indent=2) + "\n")


def merged(
    out: Path, where: Mapping[str, Any], rows: Sequence[Row], key: Callable[[Row], Hashable], table: str = "rows"
) -> list[Row]:
    """The rows with those of a file that they do not replace, if it is of the same machine and versions."""
    kept = json.loads(out.read_text()) if out.exists() else {}
    old = kept.get(table, []) if {name: kept.get(name) for name in where} == where else []
    return list({key(row): row for row in [*old, *rows]}.values())


if __name__ == "__main__":
    main()
