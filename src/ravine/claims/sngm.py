"""Zhao, Xie and Li, "Stochastic normalized gradient descent with momentum for large-batch training" (2007.13985).

SNGM: u <- b u + g / |g|, w <- w - lr u, with one norm over all parameters; MSGD has g for g / |g|. Both in heavy-ball
form, b = .9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Finding, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import ERROR, LOSS, SAME, Field, Sweep, sweep
from ravine.claims.rows import Descent
from ravine.schedules import Polynomial

PAPER = "Zhao, Xie and Li (arXiv 2007.13985)"
MOMENTUM = 0.9
METHODS = {"MSGD": "momentum", "SNGM": "sngm"}

# Stability.

START = 10.0
STEPS = 2_000
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SAFE, UNSAFE = 0.005, 0.02  # rates up to which MSGD converges on the quartic, and from which it overflows
ROUNDING = 1e-12


def quartic(rule: str, rates: Sequence[float]) -> Tensor:
    """(steps + 1, rates): the iterates on w^4 / 4 from `START`; infinite once they overflow."""
    start = torch.full((len(rates), 1), START, dtype=torch.float64)
    descent = Descent(rule, start, lr=torch.tensor(rates, dtype=torch.float64), momentum=MOMENTUM)
    seen = [descent.rows.clone()]
    for _ in range(STEPS):
        descent.step(descent.rows**3)
        seen.append(torch.where(descent.rows.isfinite(), descent.rows, torch.inf))
    return torch.stack(seen)[..., 0]


def stability(laboratory: Laboratory) -> Evidence:
    """The quartic, whose curvature grows with the distance, and the length of steps along wild gradients."""
    ends = {name: quartic(rule, RATES).abs() for name, rule in METHODS.items()}
    msgd, sngm = ends.values()
    lost = [rate for rate, end in zip(RATES, msgd[-1].isinf(), strict=True) if end]
    lengths, gap = _steps()
    findings = [
        criteria.holds(
            "On w^4 / 4 from 10, MSGD overflows at all but the smallest rates",
            f"infinite at every rate from {UNSAFE:g} on, and below .2 at rates up to {SAFE:g}",
            lost == [rate for rate in RATES if rate >= UNSAFE]
            and all(end < 0.2 for rate, end in zip(RATES, msgd[-1].tolist(), strict=True) if rate <= SAFE),
            min(lost, default=0.0),
            "the smallest rate that overflows",
        ),
        criteria.holds(
            "SNGM stays bounded at every rate up to 1",
            f"never beyond its start, and below 1 after {STEPS:,} steps",
            bool((sngm <= START).all() and (sngm[-1] < 1).all()),
            float(sngm[-1].max()),
            "the largest |w| at the end",
        ),
        criteria.exact(
            "A step of SNGM is at most lr / (1 - b) long, whatever the gradients",
            max(lengths - 1, 0.0),
            ROUNDING,
            "largest excess, relative",
        ),
        criteria.exact(
            "Scaling every gradient, each by its own factor from 1e-6 to 1e6, changes nothing",
            gap,
            1e-9,
            "largest deviation of a path of 200 steps",
        ),
    ]
    rows: list[Sequence[Cell]] = [
        [f"{rate:g}", *(_end(float(end[-1, place])) for end in ends.values())] for place, rate in enumerate(RATES)
    ]
    table = Table(f"|w| after {STEPS:,} steps on w^4 / 4 from 10", ["learning rate", *METHODS], rows)
    kept = torch.tensor(sorted({round(10 ** (k / 15)) for k in range(50)}))
    curves = []
    for name, rate in (("MSGD", 0.001), ("MSGD", 0.01), ("SNGM", 0.01), ("SNGM", 0.1), ("SNGM", 1.0)):
        path = ends[name][:, RATES.index(rate)][kept[kept <= STEPS]]
        curves.append(series(f"{name}, {rate:g}", kept[kept <= STEPS].tolist(), [[v, v] for v in path.tolist()]))
    chart = figure(
        curves, "Distance from the minimum along the path", "step", "|w|", log_x=True, log_y=True, points=False
    )
    notes = [
        "At a constant rate SNGM does not settle: its last |w| grows with the rate. One that falls is part of it.",
        "The paper's formula has no epsilon, nor has ours.",
    ]
    return Evidence(findings, [table], {"Distance from the minimum on w^4 / 4": chart}, notes)


def _steps() -> tuple[float, float]:
    """The longest step in units of lr / (1 - b), and what scaling the gradients changes; gradients of 20 numbers."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(200, 1, 20, dtype=torch.float64, generator=generator)
    drawn = drawn + 2.0  # a common direction, so that steps grow long
    factors = 10 ** (12 * torch.rand(200, 1, 1, dtype=torch.float64, generator=generator) - 6)
    lr, paths, longest = torch.tensor([0.3], dtype=torch.float64), [], 0.0
    for gradients in (drawn, factors * drawn):
        descent = Descent("sngm", torch.zeros(1, 20, dtype=torch.float64), lr=lr, momentum=MOMENTUM)
        path = [descent.rows.clone()]
        for gradient in gradients:
            descent.step(gradient)
            path.append(descent.rows.clone())
        paths.append(torch.stack(path))
        longest = max(longest, float(paths[-1].diff(dim=0).norm(dim=2).max() * (1 - MOMENTUM) / 0.3))
    return longest, float((paths[0] - paths[1]).abs().max())


def _end(value: float) -> Cell:
    return value if value < torch.inf else "overflow"


# Large batches.


@dataclass(frozen=True)
class Scale:
    """Large batches for two lengths of training, and small ones for as many epochs as the shorter."""

    short: Field
    long: Field
    small: Field

    @property
    def words(self) -> str:
        """In one line."""
        beside = f"{self.small.steps:,} of {self.small.batch_size}"
        return f"{self.short.words}, or {self.long.steps:,} of them; beside {beside}"


SCALES: Mapping[Budget, Scale] = {
    "quick": Scale(Field("digits", None, 30, 5), Field("digits", None, 100, 5), Field("digits", 32, 1_350, 5)),
    "evening": Scale(
        Field("fashion-mnist", 8_192, 22, 3, 1),
        Field("fashion-mnist", 8_192, 44, 3, 1),
        Field("fashion-mnist", 64, 2_800, 3, 1),
    ),
    "paper": Scale(
        Field("cifar10", 4_096, 488, 3, 1), Field("cifar10", 4_096, 1_953, 3, 1), Field("cifar10", 128, 15_600, 3, 1)
    ),
}
LARGE_RATES = (0.05, 0.2, 0.4, 0.6, 1.0, 1.5, 2.0, 4.0)
SMALL_RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
USABLE = 1.5  # a rate is of use if its test error is below so many times that of small batches


def large_batch(laboratory: Laboratory) -> Evidence:
    """SNGM against MSGD on few steps of large batches, and against MSGD on many of small ones."""
    scale = SCALES[laboratory.budget]

    def swept(field: Field, method: str, rates: Sequence[float]) -> Sweep:
        shape = Polynomial(1.0, 0.0, field.steps, 2.0)
        return sweep(laboratory, field, METHODS[method], rates, shape, momentum=MOMENTUM)

    small = swept(scale.small, "MSGD", SMALL_RATES)
    lengths = (scale.short, scale.long)
    found = {(field.steps, name): swept(field, name, LARGE_RATES) for field in lengths for name in METHODS}
    findings: list[Finding] = []
    for field in lengths:
        msgd, sngm = (found[field.steps, name] for name in METHODS)
        where = f"{field.steps:,} steps of large batches"
        findings += [
            criteria.less(f"{where}: SNGM's training loss is lower, each at its best rate", sngm.loss, msgd.loss, LOSS),
            criteria.less(f"{where}: SNGM has fewer test errors, each at its best rate", sngm.error, msgd.error, ERROR),
        ]
    limit = USABLE * sum(small.error) / len(small.error)
    few, many = (_usable(found[scale.long.steps, name], limit) for name in METHODS)
    findings += [
        criteria.less(
            f"More learning rates are of use to SNGM ({scale.long.steps:,} steps)", few, many, "usable rates"
        ),
        criteria.less(
            f"In {scale.short.steps:,} steps of large batches SNGM is as good as MSGD in as many epochs of small ones",
            found[scale.short.steps, "SNGM"].error,
            small.error,
            ERROR,
            margin=SAME,
        ),
    ]
    rows: list[Sequence[Cell]] = [
        [name, f"{steps:,} large", shown(one.loss), *one.shown] for (steps, name), one in found.items()
    ]
    rows.append(["MSGD", f"{scale.small.steps:,} of {scale.small.batch_size}", shown(small.loss), *small.shown])
    table = Table(scale.short.problem, ["", "steps", "training loss", "test error", "its best rate"], rows)
    chart = figure(
        [one.errors(f"{name}, {steps:,} steps") for (steps, name), one in found.items()],
        "Test error against the learning rate, large batches",
        "learning rate",
        "test error",
        log_x=True,
    )
    notes = [
        f"Momentum {MOMENTUM:g} in heavy-ball form, the rate falls as (1 - t / T)^2, no weight decay. Rates are "
        f"chosen on {scale.short.pilots} other seed(s), for training loss and test error each its own.",
        f"A rate is of use if its test error is below {limit:.3g}, {USABLE:g} times that of small batches; "
        f"{len(LARGE_RATES)} were tried. As good is less than {SAME:g} worse.",
        "The paper trained ResNets on CIFAR-10 at batches of 128 and 4,096 and compared with LARS too.",
    ]
    return Evidence(findings, [table], {"Test error against the learning rate": chart}, notes)


def _usable(found: Sweep, limit: float) -> list[float]:
    """How many rates have test errors below a limit, by seed."""
    counts: list[float] = (found.judged.error < limit).double().sum(0).tolist()
    return counts


CLAIMS = (
    Claim(
        name="sngm-stability",
        sentence="SNGM stays bounded at learning rates at which momentum SGD diverges: no gradient is too large.",
        source=f"{PAPER}, Algorithm 1 and its analysis",
        plans={"quick": "float64, seconds"},
        investigate=stability,
    ),
    Claim(
        name="sngm-large-batch",
        sentence="In few steps of large batches SNGM trains better than MSGD, and as well as MSGD on small ones.",
        source=f"{PAPER}, experiments",
        plans={budget: scale.words for budget, scale in SCALES.items()},
        investigate=large_batch,
    ),
)
