"""Hessian-free optimizers on one deep autoencoder: training error against gradient equivalents and against seconds.

    pip install --target PEERS/numpy hessianfree==0.4.0 matplotlib
    python benchmarks/hessian_free_peers.py [--peers PEERS/numpy PEERS/torch] [--seeds 5] [--gradients 1600]

The digits autoencoder 64-40-20-10-4 of the claim `sutskever-hf`, all 1,437 pictures at every step. All sides start from
the same weights of a seed, with the same loss, damping 1, at most 250 steps of conjugate gradients and whatever else is
their own default, in float32 on one thread. Both public peers are called `hessianfree` when imported, so that each has
a folder of its own and runs in a process of its own; one that is installed beside ravine is found without `--peers`:

- hessianfree 0.4.0 (D. Rasmussen; numpy, its own networks; no preconditioner);
- PyTorchHessianFree (L. Tatzel; a checkout of its repository, beside which BackPACK must be), as it is and with its
  preconditioner.

Gradients are counted alike, by wrapping the calls: a pass forward 1/3, back 2/3, a curvature product 4/3 (the least
that it takes; a side whose product costs more pays in seconds), a preconditioner 1; of ravine `Step.cost`. Measuring
the error is not counted, and the clock stops for it; seconds are the processor's, so that a shared machine does not
count either. Sides take turns seed by seed. Means are geometric over seeds, the intervals Student's on the logarithm;
ratios to ravine are paired. A side that fails has its words kept in its place.
"""

import argparse
import functools
import importlib
import importlib.util
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats
from scipy.special import expit
from torch import Tensor, nn

from ravine.claims.sutskever.second_order import digits_autoencoder
from ravine.hessian_free import HessianFree
from ravine.hessian_free.base import LOSS_COST, PRODUCT_COST
from ravine.metrics import squared_error
from ravine.problems.autoencoders import cross_entropy
from ravine.study.declare import machine, versions

Count = Callable[[float], None]
Side = Callable[[nn.Sequential, Tensor, Count], Callable[[], None]]
"""(model, pictures, what counts gradients) -> a step, after which the model has its weights."""
Row = dict[str, Any]

DAMPING, CG_STEPS = 1.0, 250
BACKWARD_COST = 1 - LOSS_COST
OURS = "ravine"


# The sides.


def ravine(power: float, model: nn.Sequential, pictures: Tensor, count: Count) -> Callable[[], None]:
    optimizer = HessianFree(model, cross_entropy, damping=DAMPING, cg_steps=CG_STEPS, preconditioner_power=power)
    return lambda: count(optimizer.step(pictures, pictures).cost)


def in_numpy(model: nn.Sequential, pictures: Tensor, count: Count) -> Callable[[], None]:
    peer = importlib.import_module("hessianfree")
    data = pictures.numpy()

    class CrossEntropy(peer.loss_funcs.LossFunction):  # type: ignore[misc, name-defined]  # its own has no logits
        @peer.loss_funcs.output_loss  # type: ignore[untyped-decorator]
        def loss(self, logits: Any, targets: Any) -> Any:
            return (np.logaddexp(0, logits) - targets * logits).sum(axis=1)

        @peer.loss_funcs.output_loss  # type: ignore[untyped-decorator]
        def d_loss(self, logits: Any, targets: Any) -> Any:
            return expit(logits) - targets

        @peer.loss_funcs.output_loss  # type: ignore[untyped-decorator]
        def d2_loss(self, logits: Any, targets: Any) -> Any:
            return expit(logits) * expit(-logits)

    class Counted(peer.FFNet):  # type: ignore[misc, name-defined]
        def forward(self, *given: Any, **named: Any) -> Any:
            count(LOSS_COST)
            return super().forward(*given, **named)

        def calc_grad(self) -> Any:
            count(BACKWARD_COST)
            return super().calc_grad()

        def calc_G(self, *given: Any, **named: Any) -> Any:
            count(PRODUCT_COST)
            return super().calc_G(*given, **named)

    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    kinds = ["Linear"]  # of the inputs
    for layer in model:
        if isinstance(layer, nn.Linear):
            kinds.append("Linear")
        else:
            kinds[-1] = "Logistic"
    start = np.concatenate([p.detach().numpy().ravel() for layer in layers for p in (layer.weight.T, layer.bias)])
    shape = [layers[0].in_features, *(layer.out_features for layer in layers)]
    net = Counted(shape, layers=kinds, loss_type=CrossEntropy(), load_weights=start)
    net.optimizer = peer.opt.HessianFree(CG_iter=CG_STEPS, init_damping=DAMPING, plotting=False)
    everything = np.arange(len(data))

    def step() -> None:
        net.cache_minibatch(data, data, everything)
        net.W += net.optimizer.compute_update()
        with torch.no_grad():
            for k, layer in enumerate(layers):
                weight, bias = net.get_weights(net.W, (k, k + 1))
                layer.weight.copy_(torch.from_numpy(weight.T))
                layer.bias.copy_(torch.from_numpy(bias))

    return step


class PixelCrossEntropy(nn.Module):
    """`cross_entropy` as a module, which BackPACK extends."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets)


def in_torch(preconditioned: bool, model: nn.Sequential, pictures: Tensor, count: Count) -> Callable[[], None]:
    theirs = importlib.import_module("hessianfree.optimizer").HessianFree
    diagonal = importlib.import_module("hessianfree.preconditioners").diag_EF_preconditioner

    class Counted(theirs):  # type: ignore[misc, valid-type]
        @staticmethod
        def _Gv(*given: Any) -> Any:
            count(PRODUCT_COST)
            return theirs._Gv(*given)

    optimizer = Counted(model.parameters(), damping=DAMPING, cg_max_iter=CG_STEPS)
    loss = PixelCrossEntropy()

    def forward() -> tuple[Tensor, Tensor]:
        count(LOSS_COST)
        outputs = model(pictures)
        return loss(outputs, pictures), outputs

    def step() -> None:
        inverse = None
        if preconditioned:
            count(1.0)
            inverse = diagonal(model, loss, pictures, pictures, "mean", optimizer.param_groups[0]["damping"])
        count(BACKWARD_COST)  # from the first of the passes forward
        optimizer.step(forward, M_func=inverse)

    return step


# A process for each folder.


def enter(folder: str | None) -> None:
    """Let this process import the peer of a folder."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # peers warn at every step
    if folder is not None:
        sys.path.insert(0, folder)


@functools.cache
def sides(folder: str | None) -> dict[str, Side]:
    """By name, of this process."""
    found: dict[str, Side] = {}
    if folder is None:
        found[OURS] = functools.partial(ravine, 0.75)
        found[f"{OURS}, no preconditioner"] = functools.partial(ravine, 0.0)
    if importlib.util.find_spec("hessianfree") is not None:
        peer = importlib.import_module("hessianfree")
        if hasattr(peer, "FFNet"):
            found[f"hessianfree {peer.__version__}"] = in_numpy
        else:
            found["PyTorchHessianFree"] = functools.partial(in_torch, False)
            found["PyTorchHessianFree, its preconditioner"] = functools.partial(in_torch, True)
    return found


def names(folder: str | None) -> list[str]:
    return list(sides(folder))


def train(folder: str | None, side: str, seed: int, gradients: float) -> Row:
    """A run: after every step gradients, seconds and training error, up to a number of gradients."""
    problem = digits_autoencoder()
    pictures = problem.train[0]
    metric = squared_error(pictures.shape[1], logistic=True)
    torch.manual_seed(seed)
    model = problem.model()
    assert isinstance(model, nn.Sequential)
    spent, seconds = [0.0], 0.0

    def count(amount: float) -> None:
        spent[0] += amount

    row: Row = {"side": side, "seed": seed, "gradients": [], "seconds": [], "error": []}
    try:
        step = sides(folder)[side](model, pictures, count)
        while spent[0] < gradients:
            began = time.process_time()
            step()
            seconds += time.process_time() - began
            with torch.no_grad():
                error = float(metric(model(pictures), pictures))
            for name, value in (("gradients", spent[0]), ("seconds", seconds), ("error", error)):
                row[name].append(float(f"{value:.5g}"))
    except Exception as failure:  # a peer may fail in any way: that is a result
        row["unable"] = f"{type(failure).__name__}: {failure}"[:300]
    return row


# What is made of the runs.


def error_at(row: Row, gradients: float) -> float:
    """The error of the last step that was paid for by then, at least the first."""
    paid = [error for spent, error in zip(row["gradients"], row["error"], strict=True) if spent <= gradients]
    return float(paid[-1] if paid else row["error"][0])


def until(row: Row, axis: str, target: float) -> float:
    """Gradients or seconds until the error was at the target, or infinity."""
    reached = (spent for spent, error in zip(row[axis], row["error"], strict=True) if error <= target)
    return float(next(reached, math.inf))


def mean(values: Sequence[float]) -> Row | None:
    """The geometric mean with its interval; None where a value is missing."""
    if len(values) < 2 or not all(math.isfinite(value) and value > 0 for value in values):
        return None
    logs = np.log(values)
    half = float(stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    centre = float(logs.mean())
    return {"mean": math.exp(centre), "interval": [math.exp(centre - half), math.exp(centre + half)]}


def summary(runs: Sequence[Row], ours: Sequence[Row], gradients: float, target: float) -> Row:
    """A side's numbers, and against ours on the same seeds."""
    failed = [row["unable"] for row in runs if "unable" in row]
    if failed:
        return {"unable": failed[0]}
    grid = [round(gradients * share) for share in (0.1, 0.3, 1.0)]

    def against(of: Callable[[Row], float]) -> Row | None:
        pairs = [(of(one), of(other)) for one, other in zip(runs, ours, strict=True)]
        return mean([a / b for a, b in pairs if b > 0 and math.isfinite(b)])

    return {
        "error": {str(budget): mean([error_at(row, budget) for row in runs]) for budget in grid},
        "error_over_ours": against(lambda row: error_at(row, gradients)),
        "gradients_to_target": mean([until(row, "gradients", target) for row in runs]),
        "gradients_over_ours": against(lambda row: until(row, "gradients", target)),
        "seconds_to_target": mean([until(row, "seconds", target) for row in runs]),
        "seconds_over_ours": against(lambda row: until(row, "seconds", target)),
        "reached": sum(math.isfinite(until(row, "gradients", target)) for row in runs),
        "seconds_per_gradient": mean([row["seconds"][-1] / row["gradients"][-1] for row in runs]),
        "steps": [len(row["error"]) for row in runs],
    }


def shown(found: Row | None) -> str:
    return "" if found is None else f"{found['mean']:.3g} ({found['interval'][0]:.3g} to {found['interval'][1]:.3g})"


def table(found: dict[str, Row], target: float) -> Table:
    budgets = list(next(iter(found.values()))["error"])
    columns = [f"error at {int(budget):,} gradients" for budget in budgets]
    end = [f"gradients to {target:g}", "over ravine", f"seconds to {target:g}", "over ravine"]
    made = Table("side", *columns, "last over ravine", *end)
    for side, one in found.items():
        if "unable" in one:
            made.add_row(side, one["unable"])
            continue
        spans = ["gradients_to_target", "gradients_over_ours", "seconds_to_target", "seconds_over_ours"]
        numbers = [*(one["error"][budget] for budget in budgets), one["error_over_ours"], *(one[k] for k in spans)]
        made.add_row(side, *map(shown, numbers))
    return made


def main() -> None:
    """Measures, prints, keeps."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--peers", nargs="*", default=[], help="folders that hold a peer each")
    words.add_argument("--seeds", type=int, default=5)
    words.add_argument("--gradients", type=float, default=1_600)
    words.add_argument("--target", type=float, default=2.0, help="a stated training error")
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "hessian-free-peers.json")
    given = words.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of the processes to come
    folders = [None, *given.peers]
    processes = {f: ProcessPoolExecutor(1, get_context("spawn"), enter, (f,)) for f in folders}
    whose = {side: f for f, process in processes.items() for side in process.submit(names, f).result()}
    turns = [(seed, side) for seed in range(given.seeds) for side in whose]
    runs: dict[str, list[Row]] = {side: [] for side in whose}
    for seed, side in track(turns, "training"):
        runs[side].append(processes[whose[side]].submit(train, whose[side], side, seed, given.gradients).result())
    for process in processes.values():
        process.shutdown()
    found = {side: summary(rows, runs[OURS], given.gradients, given.target) for side, rows in runs.items()}
    Console(width=200).print(table(found, given.target))
    kept = {
        "machine": machine("cpu"),
        "versions": versions(),
        "threads": 1,
        "damping": DAMPING,
        "cg_steps": CG_STEPS,
        "gradients": given.gradients,
        "target": given.target,
        "sides": found,
        "runs": [row for rows in runs.values() for row in rows],
    }
    given.out.write_text(json.dumps(kept) + "\n")


if __name__ == "__main__":
    main()
