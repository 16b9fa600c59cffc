"""Efimov, "Understanding Deep Learning Optimizers: Momentum, AdaGrad, RMSProp & Adam": what is taught of them.

Momentum is in the article's form, v <- b v + (1 - b) g, w <- w - lr v, which is `ravine.rules` "ema-momentum". What
is about quadratics and single steps is float64 without chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import altair as alt
import polars as pl
import torch
from torch import Tensor

from ravine import rules
from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Finding, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import ERROR, SAME, column, every_seed, train
from ravine.claims.rows import Descent
from ravine.report.theme import colours, layered
from ravine.rules import Rule
from ravine.rules.adaptive import Adam

PAPER = 'Efimov, "Understanding Deep Learning Optimizers", Towards Data Science 2023'
SETTINGS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "gradient descent": ("sgd", {}),
    "momentum": ("ema-momentum", {"momentum": 0.9}),
    "AdaGrad": ("adagrad", {}),
    "RMSProp": ("rmsprop", {"alpha": 0.9}),
    "Adam": ("adam", {"beta1": 0.9, "beta2": 0.999}),
}
"""The article's five, at its numbers; for RMSProp Hinton's."""
ADAPTIVE = ("AdaGrad", "RMSProp", "Adam")

# The ravine.

CURVATURES = (1.0, 100.0)
START = (10.0, 1.0)  # where both axes add the same to the loss
TARGET = 1e-4  # share of the first loss
STEPS = 3_000
RATES = tuple(10 ** (-4 + k / 50) for k in range(301))  # 1e-4 to 100
DRAWN = 60  # steps of a path in a figure
ROUNDING = 1e-10


def path(
    method: str, rates: Tensor, steps: int, curvatures: Sequence[float] = CURVATURES, angle: float = 0.0
) -> Tensor:
    """(steps + 1, rates, axes): the iterates of a method on sum of c_i x_i^2 / 2 from `START`, along the axes.

    angle: by which the axes of the quadratic are turned against those of the parameters.
    """
    rule, hyper = SETTINGS[method]
    c, start = torch.tensor(curvatures, dtype=torch.float64), torch.tensor(START, dtype=torch.float64)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    descent = Descent(rule, (start @ turn.T).expand(len(rates), -1), lr=rates, eps=0.0, **hyper)
    seen = [start.expand(len(rates), -1)]
    for _ in range(steps):
        descent.step((seen[-1] * c) @ turn.T)
        seen.append(descent.rows @ turn)
    return torch.stack(seen)


@dataclass(frozen=True)
class Way:
    """How a method went: its rate, iterations after which it stays at the target, and turns until then.

    iterations: infinite if it is not there after `STEPS`. turns: sign changes along the steep axis.
    """

    rate: float
    iterations: float
    turns: int


def ways(method: str, rates: Sequence[float], angle: float = 0.0) -> list[Way]:
    """Of a method at each rate."""
    seen = path(method, torch.tensor(rates, dtype=torch.float64), STEPS, angle=angle)
    loss = (seen.square() * torch.tensor(CURVATURES, dtype=torch.float64)).sum(2) / 2
    away = ~(loss <= TARGET * loss[0])
    first = STEPS + 1 - away.flip(0).int().argmax(0)
    steep = seen[..., 1]
    turned = (steep[1:] * steep[:-1] < 0) & (torch.arange(STEPS).unsqueeze(1) < first)
    return [
        Way(rate, float(k) if k <= STEPS else math.inf, int(turns))
        for rate, k, turns in zip(rates, first, turned.sum(0), strict=True)
    ]


def tuned(method: str, angle: float = 0.0) -> Way:
    """The way with the fewest iterations over all rates."""
    return min(ways(method, RATES, angle), key=lambda way: way.iterations)


def in_the_ravine(laboratory: Laboratory) -> Evidence:
    """Momentum against gradient descent on a ravine along the axes; the others beside them, and on a turned one."""
    best = {method: tuned(method) for method in SETTINGS}
    rate = best["gradient descent"].rate
    same = {method: ways(method, [rate])[0] for method in SETTINGS}
    turned = {method: tuned(method, math.pi / 4) for method in SETTINGS}
    plain, momentum = same["gradient descent"], same["momentum"]
    gain = best["gradient descent"].iterations / best["momentum"].iterations
    findings = [
        criteria.holds(
            "At the best rate of gradient descent, momentum .9 oscillates less along the steep axis",
            "it changes its sign there at most half as often on the way to the target",
            momentum.turns <= plain.turns / 2,
            momentum.turns / plain.turns,
            f"of the sign changes of gradient descent ({momentum.turns} against {plain.turns})",
        ),
        criteria.holds(
            "At that rate it needs fewer iterations",
            "fewer to the target",
            momentum.iterations < plain.iterations,
            momentum.iterations / plain.iterations,
            f"of the iterations ({momentum.iterations:g} against {plain.iterations:g})",
        ),
        criteria.holds(
            "With both at their best rates it needs fewer iterations",
            "fewer to the target",
            gain > 1,
            gain,
            "times as fast",
        ),
        _tolerance(),
        *(_blind(method) for method in ADAPTIVE),
    ]
    rows = [
        [
            method,
            rate,
            *_cells(same[method]),
            best[method].rate,
            *_cells(best[method]),
            _count(turned[method].iterations),
        ]
        for method, rate in ((method, rate) for method in SETTINGS)
    ]
    columns = ["", "equal rate", "iterations", "sign changes", "best rate", "iterations", "sign changes"]
    table = Table(
        f"To {TARGET:g} of the first loss; curvatures 1 and 100, from (10, 1)",
        [*columns, "ravine turned by 45°: iterations at the best rate"],
        rows,
    )
    figures = {
        f"The first {DRAWN} steps, each at its best rate": _paths({m: best[m].rate for m in SETTINGS}),
        f"The first {DRAWN} steps, all at the best rate of gradient descent": _paths(dict.fromkeys(SETTINGS, rate)),
    }
    notes = [
        "The article draws its ravine and names no function: curvatures, start and target are ours.",
        "Rates are the best of 301 from .0001 to 100; momentum is .9, in the article's form.",
        "That AdaGrad, RMSProp and Adam do not see the steep axis holds only for ravines along the axes of the "
        "parameters: the last column of the table turns it.",
    ]
    return Evidence(findings, [table], figures, notes)


def _tolerance() -> Finding:
    """That momentum is stable up to a rate (1 + b) / (1 - b) times as large, on the steep axis."""
    limit = 2 / CURVATURES[1]
    growing, turned = [], torch.tensor([0.99, 1.01], dtype=torch.float64)
    for method, factor in (("gradient descent", 1.0), ("momentum", 1.9 / 0.1)):
        ends = path(method, turned * limit * factor, STEPS)[-1, :, 1].abs()
        growing.append([bool(~(end <= START[1])) for end in ends])
    return criteria.holds(
        "Larger rates are safe with momentum: it is stable up to 19 times that of gradient descent",
        f"in {STEPS:,} steps both shrink at .99 of 2 / 100 and of 38 / 100, and both grow at 1.01 of them",
        growing == [[False, True], [False, True]],
        1.9 / 0.1,
        "times the largest stable rate",
    )


def _blind(method: str) -> Finding:
    """Along an axis the step of an adaptive method does not depend on the axis' curvature."""
    rate = torch.tensor([0.1], dtype=torch.float64)
    alike = [path(method, rate, 100, curvatures)[..., 1] for curvatures in (CURVATURES, (1.0, 1.0))]
    return criteria.exact(
        f"{method} takes the same steps on the steep axis as if its curvature were 1 (100 steps)",
        float((alike[0] - alike[1]).abs().max()),
        ROUNDING,
        "largest deviation",
    )


def _cells(way: Way) -> tuple[Cell, Cell]:
    return _count(way.iterations), float(way.turns)


def _count(iterations: float) -> Cell:
    return iterations if math.isfinite(iterations) else f"more than {STEPS:,}"


def _paths(rates: Mapping[str, float]) -> alt.LayerChart:
    """The paths on the level lines of the ravine."""
    parts = []
    for method, rate in rates.items():
        seen = path(method, torch.tensor([rate], dtype=torch.float64), DRAWN)[:, 0]
        part = {"method": method, "step": range(len(seen)), "x": seen[:, 0].tolist(), "y": seen[:, 1].tolist()}
        parts.append(pl.DataFrame(part).with_columns(pl.col("x", "y").round(4)))
    angle = torch.linspace(0, 2 * math.pi, 121, dtype=torch.float64)
    levels = [
        pl.DataFrame(
            {
                "level": f"{level:g}",
                "step": range(len(angle)),
                "x": (math.sqrt(2 * level) * angle.cos()).round(decimals=3).tolist(),
                "y": (math.sqrt(2 * level / CURVATURES[1]) * angle.sin()).round(decimals=4).tolist(),
            }
        )
        for level in (1.0, 5.0, 15.0, 30.0, 50.0, 75.0, 100.0)
    ]
    x = alt.X("x:Q", title="flat axis, curvature 1", scale=alt.Scale(domain=[-5, 12]))
    y = alt.Y("y:Q", title="steep axis, curvature 100", scale=alt.Scale(domain=[-1.45, 1.45]))
    contours = (
        alt.Chart(pl.concat(levels))
        .mark_line(clip=True, color="#d0d0d0", strokeWidth=1)
        .encode(x, y, detail="level:N", order="step:Q")
    )
    lines = (
        alt.Chart(pl.concat(parts))
        .mark_line(clip=True, point=alt.OverlayMarkDef(size=14), strokeWidth=1.4)
        .encode(x, y, alt.Color("method:N", scale=colours(list(rates)), sort=list(rates)), order="step:Q")
    )
    return layered([contours, lines], "Paths of five methods from (10, 1) over the level lines of the ravine", 340)


# AdaGrad on rare features.


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
SPARSE_RATES = tuple(10 ** (-2 + k / 4) for k in range(17))  # .01 to 100
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
    rates = torch.tensor(SPARSE_RATES, dtype=torch.float64)
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
    losses = torch.nn.functional.softplus(scores) - given.y[:, half:] * scores
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
            rows.append([method, "equal" if even else ".5 / j", shown(losses[method, even]), SPARSE_RATES[place]])
            if not even:
                parts.append(series(method, SPARSE_RATES, found[:, PILOTS:].tolist()))
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
        f"Rates are the best of {len(SPARSE_RATES)} from .01 to 100, on {PILOTS} other seeds.",
        "The second half of the table is the control: as many features in an example, all equally frequent.",
    ]
    return Evidence(findings, [table], {"Loss against learning rate, features of frequency .5 / j": chart}, notes)


# Single steps.

LR = 0.1
LONG = 2_000


def moves(rule: Rule, gradients: Tensor, hyper: Mapping[str, float]) -> Tensor:
    """What each step adds to the parameter, for given gradients (steps, ...), lr = `LR` and eps = 0."""
    h = {name: torch.tensor(value, dtype=torch.float64) for name, value in {"lr": LR, "eps": 0.0, **hyper}.items()}
    w = torch.zeros_like(gradients[0])
    state = {slot: torch.zeros_like(w) for slot in rule.slots}
    seen = []
    for step, gradient in enumerate(gradients, 1):
        before = w.clone()
        rule.update(w, gradient, state, h | {"step": torch.tensor(float(step), dtype=torch.float64)})
        seen.append(w - before)
    return torch.stack(seen)


def lengths(t: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Per method the lengths of steps along a constant gradient, measured and by formula, in learning rates."""
    constant = torch.full((len(t), 1), 3.7, dtype=torch.float64)
    given: dict[str, tuple[Rule, Mapping[str, float], Tensor]] = {
        "AdaGrad": (rules.get("adagrad"), {}, t.rsqrt()),
        "RMSProp": (rules.get("rmsprop"), {"alpha": 0.9}, (1 - 0.9**t).rsqrt()),
        "Adam": (rules.get("adam"), {"beta1": 0.9, "beta2": 0.999}, torch.ones_like(t)),
        "Adam without correction": (
            Adam(bias_correction=False),
            {"beta1": 0.9, "beta2": 0.999},
            (1 - 0.9**t) * (1 - 0.999**t).rsqrt(),
        ),
    }
    return {name: (-moves(rule, constant, hyper)[:, 0] / LR, formula) for name, (rule, hyper, formula) in given.items()}


FORMULAS = {
    "AdaGrad": "AdaGrad's step decays: the t-th along a constant gradient is lr / sqrt(t)",
    "RMSProp": "RMSProp's does not: it is lr / sqrt(1 - b^t), and tends to lr",
    "Adam": "Adam's is lr from the first step on, whatever the gradient's size",
    "Adam without correction": "Without bias correction it is lr (1 - b1^t) / sqrt(1 - b2^t): 3.16 lr at first",
}


def single_steps(laboratory: Laboratory) -> Evidence:
    """Closed forms of steps, and Adam's corrected averages in their first steps."""
    t = torch.arange(1, LONG + 1, dtype=torch.float64)
    found = lengths(t)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(200, 50, dtype=torch.float64, generator=generator)
    wild = drawn * 10 ** (12 * torch.rand(drawn.shape, dtype=torch.float64, generator=generator) - 6)
    signs = moves(rules.get("rmsprop"), wild, {"alpha": 0.0}) + LR * wild.sign()
    averaged = moves(rules.get("ema-momentum"), drawn, {"momentum": 0.9}) - 0.1 * moves(
        rules.get("momentum"), drawn, {"momentum": 0.9}
    )
    findings = [
        *(
            criteria.exact(
                sentence, float((found[name][0] - found[name][1]).abs().max()), 1e-10, "largest deviation, in lr"
            )
            for name, sentence in FORMULAS.items()
        ),
        criteria.exact(
            "RMSProp without averaging is sign descent (gradients of sizes from 1e-6 to 1e6)",
            float(signs.abs().max()),
            ROUNDING,
            "largest deviation",
        ),
        criteria.exact(
            "The article's momentum is torch's with lr (1 - b)",
            float(averaged.abs().max()),
            ROUNDING,
            "largest deviation",
        ),
        *_unbiased(REPLICATES[laboratory.budget]),
    ]
    at = (1, 2, 10, 100, 1_000)
    rows: list[Sequence[Cell]] = [
        [name, *(float(measured[k - 1]) for k in at)] for name, (measured, _) in found.items()
    ]
    table = Table("Length of the t-th step along a constant gradient, in lr", ["t", *map(str, at)], rows)
    kept = sorted({round(10 ** (k / 20)) for k in range(67)})
    curves = [
        pl.DataFrame(
            {"series": name, "x": [float(k) for k in kept], "y": [float(measured[k - 1]) for k in kept]}
        ).with_columns(low=pl.col("y"), high=pl.col("y"))
        for name, (measured, _) in found.items()
    ]
    chart = figure(
        curves, "Length of the steps along a constant gradient", "step", "length, in lr", log_x=True, points=False
    )
    notes = ["eps is 0 here. RMSProp is at .9; it has no bias correction, so its first step is 3.16 lr too."]
    return Evidence(findings, [table], {"Length of a step along a constant gradient": chart}, notes)


REPLICATES: Mapping[Budget, int] = {"quick": 20_000, "evening": 200_000}


def _unbiased(replicates: int) -> Iterator[Finding]:
    """That the corrected averages estimate E g = 1 and E g^2 = 5 (noise of variance 4) from the first steps on."""
    rule, generator = rules.get("adam"), torch.Generator().manual_seed(0)
    gradients = 1 + 2 * torch.randn(3, replicates, dtype=torch.float64, generator=generator)
    h = {name: torch.tensor(value, dtype=torch.float64) for name, value in (("lr", LR), ("eps", 0.0))}
    h |= {name: torch.tensor(value, dtype=torch.float64) for name, value in (("beta1", 0.9), ("beta2", 0.999))}
    w = torch.zeros(replicates, dtype=torch.float64)
    state = {slot: torch.zeros_like(w) for slot in rule.slots}
    for step, gradient in enumerate(gradients, 1):
        rule.update(w, gradient, state, h | {"step": torch.tensor(float(step), dtype=torch.float64)})
        if step in (1, 3):
            for slot, beta, name, truth in (
                ("exp_avg", 0.9, "m / (1 - b1^t)", 1.0),
                ("exp_avg_sq", 0.999, "v / (1 - b2^t)", 5.0),
            ):
                values = (state[slot] / (1 - beta**step)).tolist()
                yield criteria.expected(
                    f"Adam's corrected average {name} is unbiased at t = {step}",
                    values,
                    truth,
                    f"mean of {replicates:,} draws",
                )


# The recommended numbers.


@dataclass(frozen=True)
class Digits:
    """What a budget affords of training on the digits."""

    steps: int
    seeds: int
    pilots: int

    @property
    def words(self) -> str:
        """In one line."""
        return f"digits, {self.steps:,} mini-batches of {SMALL_BATCH}, {self.seeds} seeds"


DIGITS: Mapping[Budget, Digits] = {"quick": Digits(300, 5, 2), "evening": Digits(2_000, 20, 4)}
SMALL_BATCH = 32
BETAS_1 = (0.0, 0.5, 0.9, 0.99)
BETAS_2 = (0.9, 0.99, 0.999)
ADAM_RATES = (0.001, 0.003, 0.01, 0.03)
MOMENTA = (0.0, 0.5, 0.9, 0.99)
MOMENTUM_RATES = (0.1, 0.2, 0.5, 1.0, 2.0)


def defaults(laboratory: Laboratory) -> Evidence:
    """The recommended settings of momentum and Adam against the best others of a grid, each at its best rate."""
    scale = DIGITS[laboratory.budget]
    found = {
        "momentum": _tuned(scale, "ema-momentum", MOMENTUM_RATES, [{"momentum": b} for b in MOMENTA]),
        "Adam": _tuned(scale, "adam", ADAM_RATES, [{"beta1": a, "beta2": b} for a, b in product(BETAS_1, BETAS_2)]),
    }
    recommended = {"momentum": "momentum .9", "Adam": "beta1 .9, beta2 .999"}
    findings, tables = [], []
    for method, tried in found.items():
        name = recommended[method]
        others = {other: one for other, one in tried.items() if other != name}
        best = min(others, key=lambda other: others[other].pilot)
        findings.append(
            criteria.less(
                f"{method}: the recommended {name} is as good as the best other, {best}",
                tried[name].errors,
                others[best].errors,
                ERROR,
                margin=SAME,
            )
        )
        rows: list[Sequence[Cell]] = [[other, shown(one.errors), one.rate] for other, one in tried.items()]
        tables.append(Table(f"{method}: test error on the digits", ["", "share of errors", "best rate"], rows))
    chart = figure(
        [series("momentum", MOMENTA, [one.errors for one in found["momentum"].values()])],
        "Test error against momentum, each at its best learning rate",
        "momentum, EMA form",
        "test error",
    )
    notes = [
        "Of each setting the best learning rate, and of the others the best setting, are chosen on "
        f"{scale.pilots} other seeds; equal is a difference below {SAME:g}.",
        "One small net: it says that the defaults do no harm here, not that they are best elsewhere.",
    ]
    return Evidence(findings, tables, {"Test error against momentum": chart}, notes)


@dataclass(frozen=True)
class _Tuned:
    """A setting at its best rate: the mean error of the pilot, and the errors of the seeds that judge."""

    rate: float
    pilot: float
    errors: list[float]


def _tuned(
    scale: Digits, rule: str, rates: Sequence[float], settings: Sequence[Mapping[str, float]]
) -> dict[str, _Tuned]:
    grid = list(product(settings, rates))
    hyper = {name: column([setting[name] for setting, _ in grid]) for name in settings[0]}
    seeds = every_seed(scale.pilots, scale.seeds)
    error = train(rule, seeds, scale.steps, SMALL_BATCH, {"lr": column([rate for _, rate in grid]), **hyper}).error
    found = {}
    for k, setting in enumerate(settings):
        part = error[k * len(rates) : (k + 1) * len(rates)]
        pilot = part[:, : scale.pilots].mean(1)
        best = int(pilot.argmin())
        errors: list[float] = part[best, scale.pilots :].tolist()
        name = ", ".join(f"{name} {value:g}".replace("0.", ".") for name, value in setting.items())
        found[name] = _Tuned(rates[best], float(pilot[best]), errors)
    return found


CLAIMS = (
    Claim(
        name="efimov-ravine",
        sentence="In a ravine momentum damps the oscillation along the steep axis, is faster, and bears larger rates.",
        source=f"{PAPER}, momentum",
        plans={"quick": "float64, seconds"},
        investigate=in_the_ravine,
    ),
    Claim(
        name="efimov-adagrad",
        sentence="AdaGrad adapts the rate to each parameter, which pays where features are rare.",
        source=f"{PAPER}, AdaGrad",
        plans={budget: scale.words for budget, scale in SPARSE.items()},
        investigate=on_rare_features,
    ),
    Claim(
        name="efimov-steps",
        sentence="AdaGrad's steps decay, RMSProp's do not and are signs without averaging; Adam corrects its first.",
        source=f"{PAPER}, AdaGrad, RMSProp and Adam",
        plans={budget: f"float64, seconds; {count:,} draws" for budget, count in REPLICATES.items()},
        investigate=single_steps,
    ),
    Claim(
        name="efimov-defaults",
        sentence="Momentum .9, and Adam's .9 and .999, are good settings.",
        source=f"{PAPER}, recommendations",
        plans={budget: scale.words for budget, scale in DIGITS.items()},
        investigate=defaults,
    ),
)
