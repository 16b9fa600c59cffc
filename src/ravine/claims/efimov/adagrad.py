"""AdaGrad on rare features: a logistic model, one pass over its examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.criteria import shown
from ravine.claims.efimov.shared import PAPER, SETTINGS
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import every_seed
from ravine.claims.rows import Descent


@dataclass(frozen=True)
class Sparse:
    """One pass over `examples` of a logistic model; feature j of `features` is there with probability .5 / j."""

    features: int
    examples: int
    seeds: int

    @property
    def words(self) -> str:
        """In one line."""
        return f"{self.features} features, one pass over {self.examples:,} examples, {self.seeds} seeds"


SPARSE: Mapping[Budget, Sparse] = {"quick": Sparse(100, 3_000, 10), "evening": Sparse(1_000, 30_000, 20)}
RATES = tuple(10 ** (-2 + k / 4) for k in range(17))  # .01 to 100
BATCH = 4
DECAYING = ", rate / sqrt(t)"
PILOTS = 3


@dataclass(frozen=True)
class Examples:
    """x (seeds, examples, features) of 0 and 1, y (seeds, examples) of 0 and 1."""

    x: Tensor
    y: Tensor


def frequencies(features: int, even: bool) -> Tensor:
    """How often each feature is there: .5 / j, or for the control all as often as these are on average."""
    falling = 0.5 / torch.arange(1, features + 1, dtype=torch.float64)
    return falling.mean().expand(features) if even else falling


def examples(seeds: Sequence[int], features: int, count: int, even: bool) -> Examples:
    """Draws of a logistic model whose weights, one set a seed, are standard normal times 2."""
    x, y = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        weights = 2 * torch.randn(features, dtype=torch.float64, generator=generator)
        there = torch.rand(count, features, dtype=torch.float64, generator=generator) < frequencies(features, even)
        x.append(there.double())
        chance = torch.sigmoid(x[-1] @ weights)
        y.append((torch.rand(count, dtype=torch.float64, generator=generator) < chance).double())
    return Examples(torch.stack(x), torch.stack(y))


def one_pass(method: str, given: Examples) -> tuple[Tensor, Tensor]:
    """(rates, seeds): the mean loss on the second half, after a pass over the first; and the last gradients' sums.

    The second is AdaGrad's s, (rates, seeds, features), and of no meaning for others. With `DECAYING` in its name a
    method's rate falls as 1 / sqrt(t) for all parameters, as AdaGrad's does for each.
    """
    rule, hyper = SETTINGS[method.removesuffix(DECAYING)]
    seeds, count, features = given.x.shape
    half = count // 2
    rates = torch.tensor(RATES, dtype=torch.float64)
    start = torch.zeros(len(rates) * seeds, features, dtype=torch.float64)
    lr = rates.repeat_interleave(seeds)
    descent = Descent(rule, start, lr=lr, **hyper)
    for step in range(half // BATCH):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        x, y = given.x[:, rows], given.y[:, rows]
        weights = descent.rows.view(len(rates), seeds, features)
        slack = torch.sigmoid(torch.einsum("sbf,rsf->rsb", x, weights)) - y
        now = lr / math.sqrt(step + 1) if method.endswith(DECAYING) else lr
        descent.step((torch.einsum("rsb,sbf->rsf", slack, x) / BATCH).flatten(0, 1), lr=now)
    weights = descent.rows.view(len(rates), seeds, features)
    scores = torch.einsum("sbf,rsf->rsb", given.x[:, half:], weights)
    losses = softplus(scores) - given.y[:, half:] * scores
    return losses.mean(2), descent.state.get("sum", descent.rows).view(weights.shape)


def on_rare_features(laboratory: Laboratory) -> Evidence:
    """AdaGrad against gradient descent and momentum, where features are rare and where all are equally frequent."""
    scale = SPARSE[laboratory.budget]
    seeds = every_seed(PILOTS, scale.seeds)
    methods = ("gradient descent", f"gradient descent{DECAYING}", "momentum", f"momentum{DECAYING}", "AdaGrad")
    losses: dict[tuple[str, bool], list[float]] = {}
    rows: list[Sequence[Cell]] = []
    parts, sums = [], torch.empty(0)
    for even in (False, True):
        given = examples(seeds, scale.features, 2 * scale.examples, even)
        for method in methods:
            found, state = one_pass(method, given)
            place = int(found[:, :PILOTS].mean(1).argmin())
            losses[method, even] = found[place, PILOTS:].tolist()
            rows.append([method, "equal" if even else ".5 / j", shown(losses[method, even]), RATES[place]])
            if not even:
                parts.append(series(method, RATES, found[:, PILOTS:].tolist()))
            if method == "AdaGrad" and not even:
                sums = state[place, PILOTS:]
    rare = [one[-scale.features // 10 :].rsqrt().clamp(max=1e5).median().item() for one in sums]
    often = [one[: scale.features // 10].rsqrt().median().item() for one in sums]
    findings = [
        criteria.above(
            "AdaGrad gives rare features larger steps: the rarest tenth against the most frequent",
            [a / b for a, b in zip(rare, often, strict=True)],
            2.0,
            "ratio of median rates at the end",
        ),
        *(
            criteria.lower(
                f"Where features are rare AdaGrad ends below {method}, each at its best rate",
                losses["AdaGrad", False],
                losses[method, False],
            )
            for method in methods[:-1]
        ),
    ]
    table = Table("Loss on new examples", ["", "frequency of feature j", "loss", "best rate"], rows)
    chart = figure(
        [part.filter(pl.col("y") < 1.0) for part in parts],
        "Loss on new examples against the learning rate",
        "learning rate",
        "logistic loss",
        log_x=True,
    )
    notes = [
        f"Rates are the best of {len(RATES)} from .01 to 100, on {PILOTS} other seeds.",
        "The second half of the table is the control: as many features in an example, all equally frequent.",
    ]
    return Evidence(findings, [table], {"Loss against learning rate, features of frequency .5 / j": chart}, notes)


CLAIMS = (
    Claim(
        name="efimov-adagrad",
        sentence="AdaGrad adapts the rate to each parameter, which pays where features are rare.",
        source=f"{PAPER}, AdaGrad",
        plans={budget: scale.words for budget, scale in SPARSE.items()},
        investigate=on_rare_features,
    ),
)
