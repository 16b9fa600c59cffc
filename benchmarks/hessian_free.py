"""Gauss-Newton products: their cost in gradients, their speed against curvlinops and BackPACK, and the peak memory.

    pip install -e ".[bench]"
    python benchmarks/hessian_free.py [--rounds 9] [--case NAME] [--out benchmarks/results/hessian-free.json]

All sides multiply the same matrix, of one net on one batch, with the same vectors, which conjugate gradients do
hundreds of times at one point; what a side can prepare once (a linearization, a graph) it prepares before the clock
starts, and that time is reported as well. They alternate within one process; a ratio is the median over rounds, its
interval Student's on the logarithm. All products are first compared with each other. Peak memory is that of a
process of its own for each side, over what the process held before. A peer that cannot do a case, or is not
installed, has no number there, and its error is kept.
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import Tensor, nn

from ravine.curvature import Linearizer, Objective
from ravine.problems.autoencoders import network
from ravine.study.declare import machine, versions

Row = dict[str, Any]
Product = Callable[[Tensor], Tensor]
SECONDS = 0.5  # that one side of a round should take


@dataclass(frozen=True)
class Case:
    """A net, a loss that is a mean over the batch, and a batch."""

    model: Callable[[], nn.Module]
    loss: nn.Module
    batch: Callable[[], tuple[Tensor, Tensor]]


class Recurrent(nn.Module):
    """100 tanh units over 80 steps, as in the addition task."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.RNN(2, 100, batch_first=True), nn.Linear(100, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 80, 2) -> (batch, 1)."""
        return self.out(self.rnn(x)[0][:, -1])  # type: ignore[no-any-return]


def convolutional() -> nn.Module:
    first = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(32 * 49, 10))


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 10))


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


CURVES = (784, 400, 200, 100, 50, 25, 6)
CASES = {
    "dense 64-100-100-10, batch 256": Case(
        dense, nn.CrossEntropyLoss(), lambda: (uniform(256, 64), torch.arange(256) % 10)
    ),
    "curves autoencoder, batch 1250": Case(
        lambda: network(CURVES), nn.BCEWithLogitsLoss(), lambda: (uniform(1250, 784), uniform(1250, 784))
    ),
    "convolutions, batch 64": Case(
        convolutional, nn.CrossEntropyLoss(), lambda: (uniform(64, 1, 28, 28), torch.arange(64) % 10)
    ),
    "recurrent, 80 steps, batch 100": Case(Recurrent, nn.MSELoss(), lambda: (uniform(100, 80, 2), uniform(100, 1))),
}


# What a side prepares once, and then calls with a vector.


def gradient(model: nn.Module, loss: nn.Module, x: Tensor, y: Tensor) -> Product:
    parameters = list(model.parameters())

    def call(vector: Tensor) -> Tensor:
        slopes = torch.autograd.grad(loss(model(x), y), parameters)
        return torch.cat([slope.flatten() for slope in slopes])

    return call


def ours(model: nn.Module, loss: nn.Module, x: Tensor, y: Tensor) -> Product:
    return Linearizer().at(Objective(model, [(x, y)], loss=loss, check=False))


def curvlinops(model: nn.Module, loss: nn.Module, x: Tensor, y: Tensor) -> Product:
    from curvlinops import GGNLinearOperator

    operator = GGNLinearOperator(
        model, loss, list(model.parameters()), [(x, y)], check_deterministic=False, progressbar=False
    )
    return lambda vector: operator @ vector


def backpack(model: nn.Module, loss: nn.Module, x: Tensor, y: Tensor) -> Product:
    from backpack.hessianfree.ggnvp import ggn_vector_product_from_plist

    parameters = list(model.parameters())
    outputs = model(x)
    value = loss(outputs, y)

    def call(vector: Tensor) -> Tensor:
        pieces = [
            piece.view(p.shape)
            for piece, p in zip(torch.split(vector, [p.numel() for p in parameters]), parameters, strict=True)
        ]
        found = ggn_vector_product_from_plist(value, outputs, parameters, pieces)
        return torch.cat([one.flatten() for one in found])

    return call


SIDES = {"gradient": gradient, "ravine": ours, "curvlinops": curvlinops, "backpack": backpack}


def prepared(case: str, side: str) -> tuple[Product, Tensor]:
    torch.manual_seed(0)
    of = CASES[case]
    model = of.model()
    size = sum(p.numel() for p in model.parameters())
    vector = torch.randn(size, generator=torch.Generator().manual_seed(1))
    return SIDES[side](model, of.loss, *of.batch()), vector


def peak(case: str, side: str) -> float:
    """MiB that a side's preparation and three products add to the peak of a fresh process."""
    before = highest()
    product, vector = prepared(case, side)
    for _ in range(3):
        product(vector)
    return highest() - before


def highest() -> float:
    """The largest resident memory of this process so far, MiB; by /proc, since getrusage's outlives exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def compare(case: str, rounds: int) -> Row:
    """One row of the table."""
    products: dict[str, Product] = {}
    row: Row = {"case": case, "rounds": rounds, "preparation_s": {}, "unable": {}}
    vector = torch.empty(0)
    for side in SIDES:
        began = time.perf_counter()
        try:
            product, vector = prepared(case, side)
            product(vector)
        except Exception as error:  # a peer may fail in any way: that is a result
            row["unable"][side] = f"{type(error).__name__}: {error}"[:300]
            continue
        products[side] = product
        row["preparation_s"][side] = time.perf_counter() - began
    wanted = products["ravine"](vector)
    row["apart"] = {
        side: float((product(vector) - wanted).norm() / wanted.norm())
        for side, product in products.items()
        if side not in ("gradient", "ravine")
    }
    calls = {side: max(1, round(SECONDS / seconds(product, vector, 3))) for side, product in products.items()}
    times: dict[str, list[float]] = {side: [] for side in products}
    for k in range(rounds):
        order = list(products) if k % 2 == 0 else list(products)[::-1]
        for side in order:
            times[side].append(seconds(products[side], vector, calls[side]))
    row["products_per_second"] = {side: 1 / statistics.median(spent) for side, spent in times.items()}
    row["cost_in_gradients"] = ratio(times["ravine"], times["gradient"])
    row["speed_against"] = {
        side: ratio(times[side], times["ravine"]) for side in products if side not in ("gradient", "ravine")
    }
    row["peak_mib"] = {}
    for side in products:
        with get_context("spawn").Pool(1) as alone:
            row["peak_mib"][side] = alone.apply(peak, (case, side))
    return row


def seconds(product: Product, vector: Tensor, calls: int) -> float:
    """Mean seconds of a call."""
    began = time.perf_counter()
    for _ in range(calls):
        product(vector)
    return (time.perf_counter() - began) / calls


def ratio(above: Sequence[float], below: Sequence[float]) -> Row:
    """The median of the ratios by rounds, and Student's 95 % interval of their mean logarithm."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    logs = np.log(ratios)
    half = float(stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    centre = float(logs.mean())
    return {"median": statistics.median(ratios), "interval": [math.exp(centre - half), math.exp(centre + half)]}


def shown(found: Row | None) -> str:
    return "" if found is None else f"{found['median']:.2f} ({found['interval'][0]:.2f} to {found['interval'][1]:.2f})"


def main() -> None:
    """Measures, prints, keeps."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=9)
    words.add_argument("--case", choices=list(CASES))
    words.add_argument("--threads", type=int, default=torch.get_num_threads())
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "hessian-free.json")
    given = words.parse_args()
    torch.set_num_threads(given.threads)
    rows = [compare(name, given.rounds) for name in ([given.case] if given.case else CASES)]
    table = Table("case", "products/s", "cost in gradients", "against curvlinops", "against BackPACK", "peak MiB")
    for row in rows:
        against = [shown(row["speed_against"].get(peer)) for peer in ("curvlinops", "backpack")]
        memory = ", ".join(f"{side} {mib:.0f}" for side, mib in row["peak_mib"].items())
        rate = f"{row['products_per_second']['ravine']:,.0f}"
        table.add_row(row["case"], rate, shown(row["cost_in_gradients"]), *against, memory)
    Console().print(table)
    kept = {
        "machine": machine("cpu"),
        "versions": versions() | peers(),
        "python": platform.python_version(),
        "threads": given.threads,
        "rows": rows,
    }
    given.out.write_text(json.dumps(kept, indent=2) + "\n")


def peers() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("curvlinops-for-pytorch", "backpack-for-pytorch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


if __name__ == "__main__":
    main()
