"""Seconds to the same accuracy: `ravine.measure` against curvlinops and PyHessian, in one process on one machine.

    python benchmarks/measure.py [--rounds 7] [--case NAME] [--quantity NAME] [--out benchmarks/results/measure.json]
    python benchmarks/measure.py --only-search    # what needs no quiet machine

Peers: the `bench` extra. Every side measures the Hessian, or the Gauss-Newton matrix, of the same trained float32
model on the same rows, one thread, and pays for what it needs before its first product.

First the accuracy: the knob of a side (a tolerance, a number of products) is taken from a ladder, loosest first: the
first rung on which its root mean square error over 12 seeds (48 for a trace) is at most the one asked for (0.1 % of
the largest eigenvalue, 3 % of the trace). Plain Hutchinson needs no search: the error of m products is the deviation
of one, measured over 400, over the root of m. Knobs do not depend on the machine's load and are kept in the file.

Then the sides alternate. The ratio is the median over rounds, peer over ours; its interval Student's on the logarithm.
The spectral density is the same algorithm everywhere, so there the numbers of starts and nodes are equal; PyHessian's
calls torch.eig, which torch has no more.

A run of a part keeps the other rows of the file, if the machine and the versions are the same.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from cases import CASES
from curvlinops import (
    GGNLinearOperator,
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

from fleet import interval, merged
from ravine import measure
from ravine.problems import prepare
from ravine.study.declare import machine, versions

Row = dict[str, Any]
EIGENVALUE_ERROR, TRACE_ERROR = 1e-3, 0.03
SEEDS, TRACE_SEEDS = 12, 48  # of traces more, because their error is all chance
DRAWS = 400  # for the deviation of one draw of Hutchinson's
STARTS, NODES = 8, 30
TOLERANCES = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6)
BASIS = 8  # of eigsh: its usual 20 are 20 products before it first looks, and with 6 it misses once in three
PRODUCTS = (12, 24, 36, 48, 72, 96, 144, 192, 288, 384)  # three and two divide each, as Hutch++ and XTrace want


@dataclass(frozen=True, eq=False)
class Scene:
    """A trained model, its loss, and the rows it is measured on, in one batch or in several."""

    name: str
    model: nn.Module
    loss: nn.Module
    batches: list[tuple[Tensor, Tensor]]

    @property
    def matrix(self) -> str:
        """The name of its Hessian, which does not depend on how the rows are cut."""
        return self.name.removesuffix(IN_PARTS)

    def ours(self, seed: int) -> measure.Operator:
        """Our Hessian."""
        return measure.hessian(self.objective(seed))

    def objective(self, seed: int) -> measure.Objective:
        """What we measure."""
        return measure.Objective(self.model, self.batches, loss=self.loss, seed=seed)

    def curvlinops(self, kind: type = HessianLinearOperator) -> Any:
        """The Hessian of curvlinops, or another matrix."""
        return kind(self.model, self.loss, list(self.model.parameters()), self.batches)

    def pyhessian(self) -> PyHessian:
        """The Hessian of PyHessian, which leaves gradients and mode of the model changed."""
        one = len(self.batches) == 1
        given = {"data": self.batches[0]} if one else {"dataloader": self.batches}
        self.model.zero_grad(set_to_none=True)
        return PyHessian(self.model, self.loss, cuda=False, **given)


IN_PARTS = ", in parts"


def scene(name: str) -> Scene:
    """A case of the benchmarks after 150 steps of momentum; "..., in parts" cuts its rows into five batches."""
    case = name.removesuffix(IN_PARTS)
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
    count = 5 if name.endswith(IN_PARTS) else 1
    batches = list(zip(inputs.chunk(count), targets.chunk(count), strict=True))
    return Scene(name, model, nn.CrossEntropyLoss(), batches)


Side = Callable[[Scene, float, int], float]
"""(scene, rung, seed) -> the estimate."""


def our_eigenvalue(at: Scene, tolerance: float, seed: int) -> float:
    return _our_top(at.ours(seed), tolerance, seed)


def our_gauss_newton(at: Scene, tolerance: float, seed: int) -> float:
    return _our_top(measure.gauss_newton(at.objective(seed)), tolerance, seed)


def _our_top(matrix: measure.Operator, tolerance: float, seed: int) -> float:
    return float(measure.top_eigenvalues(matrix, tolerance=tolerance, seed=seed, max_products=1000).values[0])


def _curvlinops_top(kind: type) -> Side:
    def side(at: Scene, tolerance: float, seed: int) -> float:
        matrix = at.curvlinops(kind)
        start = torch.randn(matrix.shape[0], generator=torch.Generator().manual_seed(seed)).numpy()
        found = eigsh(matrix.to_scipy(), k=1, which="LA", ncv=BASIS, tol=tolerance, v0=start, return_eigenvectors=False)
        return float(found[0])

    return side


def pyhessian_eigenvalue(at: Scene, tolerance: float, seed: int) -> float:
    torch.manual_seed(seed)
    found = float(at.pyhessian().eigenvalues(maxIter=1000, tol=tolerance)[0][0])
    at.model.train()
    return found


def our_trace(at: Scene, products: float, seed: int) -> float:
    probes = int(products) // 2
    return measure.trace(at.ours(seed), probes=probes, at_least=probes, sketch=probes, seed=seed).value


@dataclass(frozen=True, eq=False)
class Columns:
    """A matrix of ours as curvlinops' estimators take it: what they estimate does not depend on who multiplies."""

    matrix: measure.Operator

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.size, self.matrix.size

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    def __matmul__(self, columns: Tensor) -> Tensor:
        return self.matrix(columns.T).T


def _curvlinops_trace(estimator: Callable[..., Tensor], ours: bool = False) -> Side:
    def side(at: Scene, products: float, seed: int) -> float:
        matrix = Columns(at.ours(0)) if ours else at.curvlinops()
        torch.manual_seed(seed)
        return float(estimator(matrix, int(products)))

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
        "curvlinops + eigsh": _curvlinops_top(HessianLinearOperator),
        "PyHessian": pyhessian_eigenvalue,
    },
    "top Gauss-Newton eigenvalue": {
        "ravine": our_gauss_newton,
        "curvlinops + eigsh": _curvlinops_top(GGNLinearOperator),
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
QUICK = {  # by our products, which are faster, for the search
    "curvlinops Hutch++": _curvlinops_trace(hutchpp_trace, ours=True),
    "curvlinops XTrace": _curvlinops_trace(xtrace, ours=True),
}
PLAIN = ("curvlinops Hutchinson", "PyHessian")  # the traces that are means of independent draws


def accuracy(at: Scene, quantity: str) -> list[Row]:
    """For each side the loosest knob that is accurate enough, and its root mean square relative error, or None."""
    about = {"matrix": at.matrix, "quantity": quantity}
    if quantity == "density":
        return [{**about, "side": side, "knob": NODES, "error": None} for side in SIDES[quantity]]
    trace = quantity == "trace"
    truth = true_trace(at.ours(0)) if trace else true_top(at, quantity)
    ladder, allowed = (PRODUCTS, TRACE_ERROR) if trace else (TOLERANCES, EIGENVALUE_ERROR)
    rows: list[Row] = []
    for name, side in SIDES[quantity].items():
        knob: float | None
        if trace and name in PLAIN:
            spread = measure.trace(at.ours(0), probes=DRAWS, at_least=DRAWS, sketch=0).error * math.sqrt(DRAWS)
            products = math.ceil((spread / truth / allowed) ** 2)
            knob, error = float(products), spread / truth / math.sqrt(products)
        else:
            seeds = TRACE_SEEDS if trace else SEEDS
            knob, error = rung(QUICK.get(name, side), at, ladder, truth, allowed, seeds)
        rows.append({**about, "side": name, "knob": knob, "error": error})
    return rows


def rung(
    side: Side, at: Scene, ladder: Sequence[float], truth: float, allowed: float, seeds: int
) -> tuple[float | None, float]:
    """(the first rung of the ladder that is accurate enough, None without one; its root mean square relative error)."""
    error = math.inf
    for step in ladder:
        errors = [side(at, step, seed) / truth - 1 for seed in range(seeds)]
        error = math.sqrt(statistics.fmean(e * e for e in errors))
        if error <= allowed:
            return step, error
    return None, error


def compare(at: Scene, quantity: str, knobs: Sequence[Row], rounds: int) -> list[Row]:
    """A row for each peer, at the knobs that `accuracy` found."""
    found = {row["side"]: row for row in knobs if row["knob"] is not None}
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for k in range(rounds):
        for name in list(found) if k % 2 == 0 else list(found)[::-1]:
            began = time.perf_counter()
            SIDES[quantity][name](at, found[name]["knob"], k)
            seconds[name].append(time.perf_counter() - began)

    def told(name: str) -> Row:
        return {"knob": found[name]["knob"], "error": found[name]["error"], "seconds": statistics.median(seconds[name])}

    rows: list[Row] = []
    for name in SIDES[quantity]:
        row: Row = {"case": at.name, "quantity": quantity, "peer": name, "rounds": rounds, "ravine": told("ravine")}
        if name in found and name != "ravine":
            ratios = [theirs / mine for theirs, mine in zip(seconds[name], seconds["ravine"], strict=True)]
            row |= {"theirs": told(name), "ratio": statistics.median(ratios), "interval": interval(ratios)}
        if name != "ravine":
            rows.append(row)
    return rows


def true_top(at: Scene, quantity: str) -> float:
    """The largest eigenvalue, to a hundredth of EIGENVALUE_ERROR."""
    matrix = at.ours(0) if quantity == "top eigenvalue" else measure.gauss_newton(at.objective(0))
    return float(measure.top_eigenvalues(matrix, tolerance=1e-5, max_products=3000).values[0])


def true_trace(matrix: measure.Operator, block: int = 64) -> float:
    """The sum of the diagonal, by a product with every unit vector; of a large matrix to a fifth of TRACE_ERROR."""
    if matrix.size > 10_000:
        return measure.trace(matrix, tolerance=TRACE_ERROR / 5, probes=100_000, sketch=256, seed=TRACE_SEEDS).value
    total = 0.0
    for begin in range(0, matrix.size, block):
        count = min(block, matrix.size - begin)
        units = torch.zeros(count, matrix.size)
        units[torch.arange(count), begin + torch.arange(count)] = 1.0
        total += float(matrix(units)[torch.arange(count), begin + torch.arange(count)].double().sum())
    return total


SCENES = ("dense 64-64-64-10", "dense 64-64-64-10, in parts", "convolutional 16-32")


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table("case", "quantity", "peer", "ours", "theirs", "ratio", "95 %")
    for row in rows:
        ours = f"{row['ravine']['seconds']:.3f} s"
        if "theirs" not in row:
            table.add_row(row["case"], row["quantity"], row["peer"], ours, "accuracy not reached", "", "")
            continue
        low, high = row["interval"]
        theirs = f"{row['theirs']['seconds']:.3f} s"
        ratio = f"{row['ratio']:.2f}", f"{low:.2f} to {high:.2f}"
        table.add_row(row["case"], row["quantity"], row["peer"], ours, theirs, *ratio)
    Console(width=140).print(table)


def main() -> None:
    """Searches, measures, prints, keeps."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--case", choices=SCENES)
    words.add_argument("--quantity", choices=list(SIDES))
    words.add_argument("--only-search", action="store_true")
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "measure.json")
    given = words.parse_args()
    torch.set_num_threads(1)
    for name in [given.case] if given.case else SCENES:
        at = scene(name)
        for quantity in [given.quantity] if given.quantity else SIDES:
            known = keep(given.out, "accuracy", [])
            knobs = [row for row in known if (row["matrix"], row["quantity"]) == (at.matrix, quantity)]
            if not knobs:
                knobs = accuracy(scene(at.matrix), quantity)
                keep(given.out, "accuracy", knobs)
            if not given.only_search:
                rows = compare(at, quantity, knobs, given.rounds)
                keep(given.out, "rows", rows)
                show(rows)


def keep(out: Path, table: str, rows: Sequence[Row]) -> list[Row]:
    """Put rows into a table of the file; returns the whole table."""
    where = {"machine": machine("cpu"), "versions": versions()}
    names = {"accuracy": ("matrix", "quantity", "side"), "rows": ("case", "quantity", "peer")}
    tables = {
        one: merged(out, where, rows if one == table else [], itemgetter(*key), one) for one, key in names.items()
    }
    out.write_text(json.dumps({**where, **tables}, indent=2) + "\n")
    return tables[table]


if __name__ == "__main__":
    main()
