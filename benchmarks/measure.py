"""Seconds to the same accuracy: `ravine.measure` against curvlinops and PyHessian, in one process on one machine.

    python benchmarks/measure.py [--rounds 7] [--case NAME] [--out benchmarks/results/measure.json]

Peers: the `bench` extra. Every side measures the Hessian of the same trained float32 model on the same rows, one
thread, and pays for what it needs before its first product. Its own knob (a tolerance, a number of products) is taken
from a ladder, loosest first: the first rung on which its root mean square error over six seeds is at most the one
asked for (0.1 % of the largest eigenvalue, 3 % of the trace). Then the sides alternate. The spectral density is the
same algorithm everywhere, so there the numbers of starts and nodes are equal. The ratio is the median over rounds, peer
over ours; its interval Student's on the logarithm.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cases import CASES
from curvlinops import (
    HessianLinearOperator,
    hutchinson_trace,
    hutchpp_trace,
    lanczos_approximate_spectrum,
    xtrace,
)
from pyhessian import hessian as PyHessian
from rich.console import Console
from rich.table import Table
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from fleet import interval
from ravine import measure
from ravine.problems import prepare
from ravine.study.declare import machine, versions

Row = dict[str, Any]
EIGENVALUE_ERROR, TRACE_ERROR = 1e-3, 0.03
SEEDS = 6
STARTS, NODES = 8, 30
TOLERANCES = (0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)
PRODUCTS = (12, 24, 48, 96, 192, 384, 768)  # three and two divide each, as Hutch++ and XTrace want


@dataclass(frozen=True, eq=False)
class Scene:
    """A trained model, its loss, and the rows it is measured on, in one batch or in several."""

    name: str
    model: nn.Module
    loss: nn.Module
    batches: list[tuple[Tensor, Tensor]]

    def ours(self, seed: int) -> measure.Operator:
        """Our Hessian."""
        return measure.hessian(measure.Objective(self.model, self.batches, loss=self.loss, seed=seed))

    def curvlinops(self) -> HessianLinearOperator:
        """The Hessian of curvlinops."""
        return HessianLinearOperator(self.model, self.loss, list(self.model.parameters()), self.batches)

    def pyhessian(self) -> PyHessian:
        """The Hessian of PyHessian, which leaves gradients and mode of the model changed."""
        one = len(self.batches) == 1
        given = {"data": self.batches[0]} if one else {"dataloader": self.batches}
        self.model.zero_grad(set_to_none=True)
        return PyHessian(self.model, self.loss, cuda=False, **given)


def scene(name: str) -> Scene:
    """A case of the benchmarks after 150 steps of momentum; "..., in parts" cuts its rows into five batches."""
    case = name.removesuffix(", in parts")
    problem = CASES[case]()
    assert problem.loss is not None
    inputs, targets = (tensor[:1000] for tensor in prepare(problem).train.tensors)
    if case.startswith("conv"):
        inputs, targets = inputs[:64], targets[:64]
    torch.manual_seed(0)
    model = problem.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(150):
        rows = torch.randint(len(inputs), (64,))
        optimizer.zero_grad()
        problem.loss(model(inputs[rows]), targets[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    count = 5 if name.endswith("in parts") else 1
    batches = list(zip(inputs.chunk(count), targets.chunk(count), strict=True))
    return Scene(name, model, nn.CrossEntropyLoss(), batches)


Side = Callable[[Scene, float, int], float]
"""(scene, rung, seed) -> the estimate."""


def our_eigenvalue(at: Scene, tolerance: float, seed: int) -> float:
    return float(measure.top_eigenvalues(at.ours(seed), tolerance=tolerance, seed=seed, max_products=1000).values[0])


def curvlinops_eigenvalue(at: Scene, tolerance: float, seed: int) -> float:
    matrix = at.curvlinops()
    start = torch.randn(matrix.shape[0], generator=torch.Generator().manual_seed(seed)).numpy()
    return float(eigsh(matrix.to_scipy(), k=1, which="LA", tol=tolerance, v0=start, return_eigenvectors=False)[0])


def pyhessian_eigenvalue(at: Scene, tolerance: float, seed: int) -> float:
    torch.manual_seed(seed)
    found = float(at.pyhessian().eigenvalues(maxIter=1000, tol=tolerance)[0][0])
    at.model.train()
    return found


def our_trace(at: Scene, products: float, seed: int) -> float:
    sketch = min(8, int(products) // 3)
    probes = int(products) - 2 * sketch
    return measure.trace(at.ours(seed), probes=probes, at_least=probes, sketch=sketch, seed=seed).value


def _curvlinops_trace(estimator: Callable[..., Tensor]) -> Side:
    def side(at: Scene, products: float, seed: int) -> float:
        torch.manual_seed(seed)
        return float(estimator(at.curvlinops(), int(products)))

    return side


def pyhessian_trace(at: Scene, products: float, seed: int) -> float:
    torch.manual_seed(seed)
    draws = at.pyhessian().trace(maxIter=int(products), tol=-math.inf)  # its stopping rule is off: it is not of errors
    at.model.train()
    return statistics.fmean(draws)


def our_density(at: Scene, _: float, seed: int) -> float:
    return measure.spectral_density(at.ours(seed), starts=STARTS, nodes=NODES, seed=seed).moment(1).value


def curvlinops_density(at: Scene, _: float, seed: int) -> float:
    torch.manual_seed(seed)
    bounds = (-1.0, 1.0)  # given, so that no products are spent on them; they do not enter the Lanczos process
    grid, density = lanczos_approximate_spectrum(at.curvlinops(), NODES, num_repeats=STARTS, boundaries=bounds)
    return float((grid * density).mean())


SIDES: dict[str, dict[str, Side]] = {
    "top eigenvalue": {
        "ravine": our_eigenvalue,
        "curvlinops + eigsh": curvlinops_eigenvalue,
        "PyHessian": pyhessian_eigenvalue,
    },
    "trace": {
        "ravine": our_trace,
        "curvlinops Hutchinson": _curvlinops_trace(hutchinson_trace),
        "curvlinops Hutch++": _curvlinops_trace(hutchpp_trace),
        "curvlinops XTrace": _curvlinops_trace(xtrace),
        "PyHessian": pyhessian_trace,
    },
    "density": {"ravine": our_density, "curvlinops": curvlinops_density},
}
LADDERS: dict[str, Sequence[float]] = {"top eigenvalue": TOLERANCES, "trace": PRODUCTS, "density": (NODES,)}


def rung(side: Side, at: Scene, ladder: Sequence[float], truth: float, allowed: float) -> tuple[float, float] | None:
    """(the first rung of the ladder that is accurate enough, its root mean square relative error); None without one."""
    for step in ladder:
        errors = [side(at, step, seed) / truth - 1 for seed in range(SEEDS)]
        error = math.sqrt(statistics.fmean(e * e for e in errors))
        if error <= allowed:
            return step, error
    return None


def compare(at: Scene, quantity: str, rounds: int) -> list[Row]:
    """A row for each peer."""
    ladder = LADDERS[quantity]
    found: dict[str, tuple[float, float] | None]
    if quantity == "density":
        found = dict.fromkeys(SIDES[quantity], (float(NODES), math.nan))
    else:
        matrix = at.ours(0)
        if quantity == "trace":
            truth, allowed = true_trace(matrix), TRACE_ERROR
        else:
            truth = float(measure.top_eigenvalues(matrix, tolerance=1e-5, max_products=3000).values[0])
            allowed = EIGENVALUE_ERROR
        found = {name: rung(side, at, ladder, truth, allowed) for name, side in SIDES[quantity].items()}
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for k in range(rounds):
        for name in list(found) if k % 2 == 0 else list(found)[::-1]:
            if (at_rung := found[name]) is not None:
                began = time.perf_counter()
                SIDES[quantity][name](at, at_rung[0], k)
                seconds[name].append(time.perf_counter() - began)
    rows: list[Row] = []
    ours = found["ravine"]
    assert ours is not None, f"no rung of ours reaches the {quantity} of {at.name}"
    for name, chosen in found.items():
        if name == "ravine":
            continue
        row: Row = {"case": at.name, "quantity": quantity, "peer": name, "rounds": rounds}
        row |= {"ravine": {"knob": ours[0], "error": _number(ours[1]), "seconds": statistics.median(seconds["ravine"])}}
        if chosen is None:
            rows.append(row | {"reached": False})
            continue
        ratios = [theirs / mine for theirs, mine in zip(seconds[name], seconds["ravine"], strict=True)]
        rows.append(
            row
            | {
                "reached": True,
                "theirs": {"knob": chosen[0], "error": _number(chosen[1]), "seconds": statistics.median(seconds[name])},
                "ratio": statistics.median(ratios),
                "interval": interval(ratios),
            }
        )
    return rows


def true_trace(matrix: measure.Operator, block: int = 64) -> float:
    """The sum of the diagonal, by a product with every unit vector; of a large matrix to a tenth of TRACE_ERROR."""
    if matrix.size > 10_000:
        return measure.trace(matrix, tolerance=TRACE_ERROR / 10, probes=100_000, sketch=32, seed=SEEDS).value
    total = 0.0
    for begin in range(0, matrix.size, block):
        count = min(block, matrix.size - begin)
        units = torch.zeros(count, matrix.size)
        units[torch.arange(count), begin + torch.arange(count)] = 1.0
        total += float(matrix(units)[torch.arange(count), begin + torch.arange(count)].double().sum())
    return total


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


SCENES = ("dense 64-64-64-10", "dense 64-64-64-10, in parts", "convolutional 16-32")


def main() -> None:
    """Measures, prints, keeps."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--case", choices=SCENES)
    words.add_argument("--quantity", choices=list(SIDES))
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "measure.json")
    given = words.parse_args()
    torch.set_num_threads(1)
    quantities = [given.quantity] if given.quantity else list(SIDES)
    rows: list[Row] = []
    for name in [given.case] if given.case else SCENES:
        at = scene(name)
        for quantity in quantities:
            rows += compare(at, quantity, given.rounds)
    table = Table("case", "quantity", "peer", "ours", "theirs", "ratio", "95 %")
    for row in rows:
        ours = f"{row['ravine']['seconds']:.3f} s"
        if not row["reached"]:
            table.add_row(row["case"], row["quantity"], row["peer"], ours, "accuracy not reached", "", "")
            continue
        low, high = row["interval"]
        theirs = f"{row['theirs']['seconds']:.3f} s"
        ratio = f"{row['ratio']:.2f}", f"{low:.2f} to {high:.2f}"
        table.add_row(row["case"], row["quantity"], row["peer"], ours, theirs, *ratio)
    Console().print(table)
    given.out.write_text(json.dumps({"machine": machine("cpu"), "versions": versions(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
