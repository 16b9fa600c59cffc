"""Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in deep learning", ICML 2013.

The claims train as the paper did, shorter: the period of its momentum schedule, its first updates and its tail are
compressed in proportion, and a momentum mu is tried only where 1 / (1 - mu) is at most a twentieth of the updates. The
learning rate of every arm is the best of a grid, chosen on other seeds (the pilot). Errors are those at the look-ahead
point of Nesterov's method, one gradient step from the paper's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import altair as alt
import polars as pl
import torch
from torch import Tensor

from ravine import rules
from ravine.claims import criteria
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Finding, Table
from ravine.claims.laboratory import Arm, Laboratory, Runs
from ravine.problems import Problem, load
from ravine.problems.curves import curves_autoencoder, small_curves_autoencoder
from ravine.problems.sequences import addition, memorize_5, memorize_20, multiplication
from ravine.report.theme import colours, dashes, layered
from ravine.schedules import Piecewise, Setting, SutskeverMomentum

PAPER = "Sutskever, Martens, Dahl and Hinton, ICML 2013"
SHARE = 20  # a momentum needs as many updates as this times 1 / (1 - momentum)

ROUNDING = 1e-20  # products of neighbouring positions, in float64 from a start of 1

# Autoencoders: Sec. 3, Tables 1 to 3.
UPDATES = 750_000
PERIOD = 250
TAIL = 1_000
LEAST_TAIL = 100  # updates: ten times 1 / (1 - .9), without which a tail of momentum .9 does nothing
RATES = (0.05, 0.01, 0.005, 0.001, 0.0005, 0.0001)
MOMENTA = (0.9, 0.99, 0.995, 0.999)
TASKS: Mapping[str, Mapping[str, float]] = {
    "curves": {
        **{"0": 0.48, "0.9N": 0.16, "0.99N": 0.096, "0.995N": 0.091, "0.999N": 0.074},
        **{"0.9M": 0.15, "0.99M": 0.10, "0.995M": 0.10, "0.999M": 0.10},
    },
    "mnist-autoencoder": {
        **{"0": 2.1, "0.9N": 1.0, "0.99N": 0.73, "0.995N": 0.75, "0.999N": 0.80},
        **{"0.9M": 1.0, "0.99M": 0.77, "0.995M": 0.84, "0.999M": 0.90},
    },
    "faces": {
        **{"0": 36.4, "0.9N": 14.2, "0.99N": 8.5, "0.995N": 7.8, "0.999N": 7.7},
        **{"0.9M": 15.3, "0.99M": 8.7, "0.995M": 8.3, "0.999M": 9.3},
    },
}
"""Table 1: the training error by momentum, N for Nesterov's and M for classical momentum."""
TABLE_2 = {"curves": (0.096, 0.074), "mnist-autoencoder": (1.20, 0.73), "faces": (10.83, 7.7)}
TABLE_3 = {0.25: 16.0, 0.5: 16.0, 1.0: 0.074, 2.0: 0.083, 4.0: 0.35}

# Recurrent nets: Sec. 4, Table 5.
RNN_UPDATES = 50_000
RNN_FIRST = 1_000  # updates with momentum .9
RNN_MOMENTA = (0.9, 0.98, 0.995)
RNN_RATES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0001)
"""The paper's are 1e-3 to 1e-6; how its losses were normalized is not known. Ours are means over sequences."""
TABLE_5: Mapping[str, Mapping[str, float]] = {
    "addition": {
        **{"biases": 0.82, "0": 0.39, "0.9N": 0.02, "0.98N": 0.21, "0.995N": 0.00025},
        **{"0.9M": 0.43, "0.98M": 0.62, "0.995M": 0.036},
    },
    "multiplication": {
        **{"biases": 0.84, "0": 0.48, "0.9N": 0.36, "0.98N": 0.22, "0.995N": 0.0013},
        **{"0.9M": 0.029, "0.98M": 0.025, "0.995M": 0.37},
    },
    "memorize-5": {
        **{"biases": 2.5, "0": 1.27, "0.9N": 1.02, "0.98N": 0.96, "0.995N": 0.63},
        **{"0.9M": 1.12, "0.98M": 1.09, "0.995M": 0.92},
    },
    "memorize-20": {
        **{"biases": 8.0, "0": 5.37, "0.9N": 2.77, "0.98N": 0.0144, "0.995N": 0.00005},
        **{"0.9M": 1.75, "0.98M": 0.0017, "0.995M": 0.053},
    },
}
LEVELS = {  # exact errors of outputs that depend on no input: (thesis, release)
    "addition": (0.8464, 0.9216),
    "multiplication": (0.8888, 0.8888),
    "memorize-5": (5.0, 2.5),
    "memorize-20": (10.0, 8.0),
}


@dataclass(frozen=True)
class Scale:
    """What a budget affords: tasks, updates of a run, seeds that judge and seeds that choose learning rates."""

    tasks: tuple[str, ...]
    steps: int
    seeds: int
    pilot_seeds: int
    small: bool = True

    def momenta(self, wanted: Sequence[float]) -> list[float]:
        """The momenta that a run of so many steps can tell apart."""
        return [momentum for momentum in wanted if SHARE / (1 - momentum) <= self.steps * (1 + 1e-9)]

    @property
    def words(self) -> str:
        """In one line."""
        size = " (small)" if self.small else ""
        return f"{', '.join(self.tasks)}{size}; {self.steps:,} updates, {self.seeds} seeds"


AUTOENCODERS: Mapping[Budget, Scale] = {
    "quick": Scale(("curves",), 2_000, 4, 1),
    "evening": Scale(("curves", "mnist-autoencoder", "faces"), 10_000, 3, 1),
    "paper": Scale(("curves", "mnist-autoencoder", "faces"), UPDATES, 3, 1, small=False),
}
INITIALIZATIONS: Mapping[Budget, Scale] = {
    "quick": Scale(("curves",), 2_000, 4, 1),
    "evening": Scale(("curves",), 20_000, 4, 1),
    "paper": Scale(("curves",), UPDATES, 3, 1, small=False),
}
SEQUENCES: Mapping[Budget, Scale] = {
    "quick": Scale(("addition",), 2_000, 4, 1),
    "evening": Scale(("addition", "multiplication", "memorize-5", "memorize-20"), 10_000, 4, 1),
    "paper": Scale(("addition", "multiplication", "memorize-5", "memorize-20"), RNN_UPDATES, 4, 1, small=False),
}


# Theorem 2.1.


def theorem(laboratory: Laboratory) -> Evidence:
    """Nesterov's and classical momentum on random quadratics, by the rules of the library, in float64."""
    deviation, plain, rotated = 0.0, math.inf, 0.0
    for seed in range(20):
        a, basis, curvatures, start = _quadratic(seed)
        lr, momentum = 0.9 / float(curvatures.max()), 0.95
        nesterov = _trajectory("sutskever-nesterov", lambda w, a=a: a @ w, start, lr, momentum)  # type: ignore[misc]
        classical = _trajectory("sutskever-momentum", lambda w, a=a: a @ w, start, lr, momentum)  # type: ignore[misc]
        each = lambda w, c=curvatures: c * w  # noqa: E731
        along = start @ basis
        scaled = _trajectory("sutskever-momentum", each, along, lr, momentum * (1 - lr * curvatures))
        alone = _trajectory("sutskever-momentum", each, along, lr, momentum)
        size = float(start.norm())
        deviation = max(deviation, float((nesterov @ basis - scaled).abs().max()) / size)
        rotated = max(rotated, float((classical @ basis - alone).abs().max()) / size)
        plain = min(plain, float((nesterov @ basis - alone).abs().max()) / size)
    gaps = [_gap(lr) for lr in (1e-3, 1e-4)]
    steep = {rule: _ravine(rule)[:, 1] for rule in ("sutskever-momentum", "sutskever-nesterov")}
    # At lr lambda = 1 NAG is at 0 after a step, up to rounding, whose signs mean nothing.
    turns = {rule: int(((path[1:] * path[:-1]) < -ROUNDING).sum()) for rule, path in steep.items()}
    findings = [
        criteria.exact(
            "NAG is CM with momentum mu (1 - lr lambda) in every eigen-direction (20 quadratics in 6-d, 200 steps)",
            deviation,
            1e-11,
            "largest deviation, relative to the start",
        ),
        criteria.exact(
            "CM itself commutes with the change to the eigenbasis (Proposition 6.1)",
            rotated,
            1e-11,
            "largest deviation, relative to the start",
        ),
        criteria.holds(
            "The factor matters: CM with mu alone is another method",
            "on each quadratic the paths differ by more than .001 of the start",
            plain > 1e-3,
            plain,
            "least of the largest gaps",
        ),
        criteria.holds(
            "NAG and CM coincide as lr lambda vanishes",
            "with a tenth of lr their largest gap is at most a fifth",
            gaps[1] <= 0.2 * gaps[0],
            gaps[1],
            f"largest gap at lr lambda = .0001, and {gaps[0]:.3g} at .001",
        ),
        criteria.holds(
            "On the ravine (curvatures 1 and 100, lr .01, mu .9) CM oscillates along the steep axis, NAG does not",
            "CM changes its sign there at least ten times as often",
            turns["sutskever-momentum"] >= 10 * turns["sutskever-nesterov"],
            turns["sutskever-momentum"] - turns["sutskever-nesterov"],
            "more sign changes in 100 steps",
        ),
    ]
    row: list[Cell] = [turns["sutskever-momentum"], turns["sutskever-nesterov"]]
    table = Table("Sign changes along the steep axis in 100 steps", ["CM", "NAG"], [row])
    return Evidence(findings, [table], {"Paths on the ravine": _paths()})


Gradient = Callable[[Tensor], Tensor]


def _quadratic(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A positive definite matrix, its eigenvectors, its eigenvalues, and a start."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))
    curvatures = 10 ** (3 * torch.rand(6, dtype=torch.float64, generator=generator) - 2)
    start = torch.randn(6, dtype=torch.float64, generator=generator)
    return basis @ torch.diag(curvatures) @ basis.T, basis, curvatures, start


def _trajectory(
    rule: str, gradient: Gradient, start: Tensor, lr: float, momentum: float | Tensor, steps: int = 200
) -> Tensor:
    """theta after every step, (steps, ...); the rule of NAG keeps theta + mu v, from which theta is taken."""
    body = rules.get(rule)
    h = {"lr": torch.tensor(lr, dtype=torch.float64), "momentum": torch.as_tensor(momentum, dtype=torch.float64)}
    w, state, seen = start.clone(), {"momentum_buffer": torch.zeros_like(start)}, []
    for _ in range(steps):
        body.update(w, gradient(w), state, h)
        ahead = h["momentum"] * state["momentum_buffer"] if rule == "sutskever-nesterov" else 0.0
        seen.append(w - ahead)
    return torch.stack(seen)


def _gap(lr: float) -> float:
    """The largest distance of NAG from CM on a curvature of 1, mu = .9, relative to the start."""
    start = torch.ones(1, dtype=torch.float64)
    paths = [_trajectory(rule, lambda w: w, start, lr, 0.9) for rule in ("sutskever-nesterov", "sutskever-momentum")]
    return float((paths[0] - paths[1]).abs().max())


def _ravine(rule: str, momentum: float = 0.9) -> Tensor:
    curvatures = torch.tensor([1.0, 100.0], dtype=torch.float64)
    start = torch.tensor([10.0, 1.0], dtype=torch.float64)
    return torch.cat([start.unsqueeze(0), _trajectory(rule, lambda w: curvatures * w, start, 0.01, momentum, 100)])


def _paths() -> alt.LayerChart:
    """As the paper's Figure 2, whose numbers it does not give."""
    named = {"GD": ("sutskever-momentum", 0.0), "CM": ("sutskever-momentum", 0.9), "NAG": ("sutskever-nesterov", 0.9)}
    parts = []
    for name, (rule, momentum) in named.items():
        path = _ravine(rule, momentum)
        parts.append(
            pl.DataFrame({"method": name, "step": range(len(path)), "x": path[:, 0].tolist(), "y": path[:, 1].tolist()})
        )
    lines = (
        alt.Chart(pl.concat(parts))
        .mark_line(point=alt.OverlayMarkDef(size=12))
        .encode(
            alt.X("x:Q", title="flat direction, curvature 1"),
            alt.Y("y:Q", title="steep direction, curvature 100"),
            alt.Color("method:N", scale=colours(list(named))),
            order="step:Q",
        )
    )
    return layered([lines], "Paths of gradient descent, CM and NAG from (10, 1) to the minimum at the origin", 260)


# Tables 1 and 2.


def autoencoder_momentum(highest: float, steps: int, *, tail: bool = True) -> Setting:
    """The paper's schedule, Eq. 5 and its tail, compressed to a run of `steps` updates."""
    if highest == 0:
        return 0.0
    period = max(1, round(PERIOD * steps / UPDATES))
    if not tail:
        return SutskeverMomentum(highest, period)
    return SutskeverMomentum(highest, period, steps, low_steps=tail_steps(steps))


def tail_steps(steps: int) -> int:
    """The length of the tail: in proportion, but long enough to do something, and never above a tenth."""
    return max(round(TAIL * steps / UPDATES), min(LEAST_TAIL, steps // 10))


def autoencoder_arms(momenta: Sequence[float], steps: int) -> dict[str, Callable[[float], Arm]]:
    """Label -> learning rate -> arm: no momentum, then each momentum with NAG (N) and with CM (M)."""

    def arm(label: str, rule: str, highest: float) -> Callable[[float], Arm]:
        return lambda lr: Arm(label, rule, {"lr": lr, "momentum": autoencoder_momentum(highest, steps)})

    made = {"0": arm("0", "sutskever-momentum", 0.0)}
    made |= {f"{m:g}N": arm(f"{m:g}N", "sutskever-nesterov", m) for m in momenta}
    return made | {f"{m:g}M": arm(f"{m:g}M", "sutskever-momentum", m) for m in momenta}


def judged_on_training(problem: Problem) -> Problem:
    """The same problem, its error taken on all training rows: the paper reports no other."""
    return replace(problem, validation=problem.train, test=problem.train, name=f"{problem.name}, training error")


def autoencoders(laboratory: Laboratory) -> Evidence:
    """Table 1."""
    scale = AUTOENCODERS[laboratory.budget]
    momenta = scale.momenta(MOMENTA)
    findings: list[Finding] = []
    tables, figures, notes = [], {}, _notes(scale, laboratory)
    for task in scale.tasks:
        problem = judged_on_training(load(task + "-small" if scale.small else task))
        arms = autoencoder_arms(momenta, scale.steps)
        rates = laboratory.rates(problem, arms, RATES, scale.pilot_seeds, scale.steps)
        runs = laboratory.train(
            problem, [of(rates[label]) for label, of in arms.items()], range(scale.seeds), scale.steps
        )
        findings += _orderings(task, runs, momenta)
        tables.append(_beside(problem.name, TASKS[task], arms, runs, rates, UPDATES, scale.steps))
        figures[f"{problem.name}"] = _curves(runs, list(arms), "squared error", log=True)
        notes += _edges(problem.name, rates, RATES)
    return Evidence(findings, tables, figures, notes)


def _orderings(task: str, runs: Runs, momenta: Sequence[float]) -> Iterator[Finding]:
    """Every step of momentum at which the paper's error falls, and NAG against CM from .99 on."""
    paper = TASKS[task]
    for kind in "NM":
        labels = ["0", *(f"{m:g}{kind}" for m in momenta)]
        for before, after in pairwise(labels):
            if paper[after] < paper[before]:
                statement = f"{task}: error falls from momentum {before} to {after}"
                yield criteria.lower(statement, runs.errors(after), runs.errors(before))
    for m in momenta:
        if m >= 0.99:
            statement = f"{task}: NAG is at or below CM at momentum {m:g}"
            yield criteria.not_above(statement, runs.errors(f"{m:g}N"), runs.errors(f"{m:g}M"))


def tail(laboratory: Laboratory) -> Evidence:
    """Table 2."""
    scale = AUTOENCODERS[laboratory.budget]
    highest = max(scale.momenta(MOMENTA))
    label, length = f"{highest:g}N", tail_steps(scale.steps)
    findings: list[Finding] = []
    rows: list[Sequence[Cell]] = []
    figures, notes = {}, _notes(scale, laboratory)
    for task in scale.tasks:
        problem = judged_on_training(load(task + "-small" if scale.small else task))
        arms = autoencoder_arms(scale.momenta(MOMENTA), scale.steps)
        rate = laboratory.rates(problem, arms, RATES, scale.pilot_seeds, scale.steps)[label]
        hyper: Mapping[str, Setting] = {"lr": rate, "momentum": autoencoder_momentum(highest, scale.steps, tail=False)}
        both = [replace(arms[label](rate), label="with"), Arm("without", "sutskever-nesterov", hyper)]
        runs = laboratory.train(problem, both, range(scale.seeds), scale.steps)
        before, with_tail, without = (
            runs.errors("with", scale.steps - length),
            runs.errors("with"),
            runs.errors("without"),
        )
        findings.append(
            criteria.lower(f"{task}: the last {length} updates with momentum .9 lower the error", with_tail, before)
        )
        findings.append(criteria.lower(f"{task}: they lower it more than as many at {highest:g}", with_tail, without))
        rows.append([problem.name, *TABLE_2[task], *map(_shown, (before, with_tail, without))])
        figures[problem.name] = _curves(runs, ["without", "with"], "squared error", log=True)
    columns = ["task", "paper: before", "paper: after", "here: before", "here: after", "here: without a tail"]
    return Evidence(findings, [Table(f"Squared error, NAG at {highest:g}", columns, rows)], figures, notes)


# Table 3.


def init_scale(laboratory: Laboratory) -> Evidence:
    """Table 3."""
    scale = INITIALIZATIONS[laboratory.budget]
    highest = max(scale.momenta(MOMENTA))
    label = f"{highest:g}N"
    made = small_curves_autoencoder if scale.small else curves_autoencoder
    standard = judged_on_training(made())
    arms = autoencoder_arms(AUTOENCODERS[laboratory.budget].momenta(MOMENTA), scale.steps)
    wanted = arms if label in arms else autoencoder_arms([highest], scale.steps)
    rate = laboratory.rates(standard, {label: wanted[label]}, RATES, scale.pilot_seeds, scale.steps)[label]
    errors: dict[float, list[float]] = {}
    frames = []
    for factor in TABLE_3:
        problem = replace(judged_on_training(made(factor)), name=f"{standard.name}, scale {factor:g}")
        arm = replace(wanted[label](rate), label=f"{factor:g}")
        runs = laboratory.train(problem, [arm], range(scale.seeds), scale.steps)
        errors[factor] = runs.errors(arm.label)
        frames.append(runs.frame)
    pictures = standard.train[0].double()
    mean = float((pictures - pictures.mean(0)).square().sum(1).mean())
    share = {factor: [error / mean for error in of] for factor, of in errors.items()}
    unit = "share of the mean picture's error"
    findings = [
        *(criteria.above(f"Scale {factor:g} fails", share[factor], 0.75, unit) for factor in (0.25, 0.5)),
        *(criteria.below(f"Scale {factor:g} works", share[factor], 0.5, unit) for factor in (1.0, 2.0)),
        *(criteria.lower(f"Scale 1 is better than {f:g}", errors[1.0], errors[f]) for f in (0.25, 0.5, 4.0)),
    ]
    rows: list[Sequence[Cell]] = [["paper", *TABLE_3.values()], ["here", *map(_shown, errors.values())]]
    runs = Runs(pl.concat(frames), runs.endpoint, runs.worst)
    figure = _curves(runs, [f"{factor:g}" for factor in TABLE_3], "squared error", log=True)
    table = Table(
        f"Squared error by the scale of the initialization, NAG at {highest:g}",
        ["scale", *(f"{f:g}" for f in TABLE_3)],
        rows,
    )
    notes = [
        *_notes(scale, laboratory),
        f"The mean picture's error is {mean:.4g}; the learning rate is {rate:g}, chosen at scale 1.",
    ]
    return Evidence(findings, [table], {"Training by scale": figure}, notes)


# Table 5.

MAKERS: Mapping[str, Callable[..., Problem]] = {
    "addition": addition,
    "multiplication": multiplication,
    "memorize-5": memorize_5,
    "memorize-20": memorize_20,
}
FULL_LENGTHS = {"addition": 80, "multiplication": 80, "memorize-5": 200, "memorize-20": 80}
SMALL_LENGTH = 30
ENCODINGS: Mapping[str, tuple[str, int]] = {  # whose level of biases is the published one, or the nearer
    "addition": ("thesis", 0),
    "multiplication": ("thesis", 0),
    "memorize-5": ("release", 1),
    "memorize-20": ("release", 1),
}
SOLVED = 0.05  # share of the level of biases
FAILED = 0.25


def rnn_arms(momenta: Sequence[float], steps: int) -> dict[str, Callable[[float], Arm]]:
    """Label -> learning rate -> arm; all have momentum .9 in their first updates, that without momentum too."""
    first = max(1, round(RNN_FIRST * steps / RNN_UPDATES))

    def arm(label: str, rule: str, momentum: float) -> Callable[[float], Arm]:
        schedule: Setting = 0.9 if momentum == 0.9 else Piecewise((0.9, momentum), (first,))
        return lambda lr: Arm(label, rule, {"lr": lr, "momentum": schedule})

    made = {"0": arm("0", "sutskever-momentum", 0.0)}
    made |= {f"{m:g}N": arm(f"{m:g}N", "sutskever-nesterov", m) for m in momenta}
    return made | {f"{m:g}M": arm(f"{m:g}M", "sutskever-momentum", m) for m in momenta}


def rnn(laboratory: Laboratory) -> Evidence:
    """Table 5."""
    scale = SEQUENCES[laboratory.budget]
    momenta = scale.momenta(RNN_MOMENTA)
    findings: list[Finding] = []
    tables, figures, notes = [], {}, _notes(scale, laboratory)
    for task in scale.tasks:
        encoding, place = ENCODINGS[task]
        problem = MAKERS[task](SMALL_LENGTH if scale.small else FULL_LENGTHS[task], encoding)
        level, unit = LEVELS[task][place], next(iter(problem.metrics))
        arms = rnn_arms(momenta, scale.steps)
        rates = laboratory.rates(problem, arms, RNN_RATES, scale.pilot_seeds, scale.steps)
        runs = laboratory.train(
            problem, [of(rates[label]) for label, of in arms.items()], range(scale.seeds), scale.steps
        )
        best = f"{max(momenta):g}N"
        findings += [
            _level(task, problem, level, unit),
            criteria.above(f"{task}: training without momentum fails", runs.errors("0"), FAILED * level, unit),
            criteria.less(
                f"{task}: NAG at {best[:-1]} has fewer errors than no momentum",
                runs.errors(best),
                runs.errors("0"),
                unit,
            ),
            criteria.below(f"{task}: NAG at {best[:-1]} solves it", runs.errors(best), SOLVED * level, unit),
        ]
        tables.append(
            _beside(problem.name, TABLE_5[task], {"biases": None, **arms}, runs, rates, RNN_UPDATES, scale.steps, level)
        )
        figures[problem.name] = _curves(runs, list(arms), unit, log=False)
        notes += _edges(problem.name, rates, RNN_RATES)
    return Evidence(findings, tables, figures, notes)


def _level(task: str, problem: Problem, level: float, unit: str) -> Finding:
    """The error of the mean of the targets, whatever the input, on the rows that judge."""
    inputs, targets = problem.validation
    torch.manual_seed(0)
    net = problem.build()
    output = net.get_submodule("output")
    with torch.no_grad():
        next(iter(output.parameters())).zero_()
        each = [problem.evaluate(net, (inputs[k : k + 1], targets[k : k + 1]))[unit].item() for k in range(len(inputs))]
    return criteria.expected(f"{task}: outputs that depend on no input have the known error", each, level, unit)


# What the tables share.


def _beside(
    name: str,
    paper: Mapping[str, float],
    labels: Mapping[str, object],
    runs: Runs,
    rates: Mapping[str, float],
    updates: int,
    steps: int,
    level: float | None = None,
) -> Table:
    """The paper's row of a table above ours."""
    ours: list[Cell] = [level if label == "biases" else _shown(runs.errors(label)) for label in labels]
    rows: list[Sequence[Cell]] = [
        [f"paper, {updates:,} updates", *(paper[label] for label in labels)],
        [f"here, {steps:,} updates", *ours],
        ["learning rate here", *(rates.get(label) for label in labels)],
    ]
    return Table(name, ["", *labels], rows)


def _shown(errors: Sequence[float]) -> str:
    """Mean and half the width of its interval."""
    mean, (low, high) = criteria.interval(errors)
    return f"{mean:.4g} ± {(high - low) / 2:.2g}"


def _curves(runs: Runs, labels: Sequence[str], title: str, *, log: bool) -> alt.LayerChart:
    """The endpoint along the training: a thin line a seed."""
    axis = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=True)
    lines = (
        alt.Chart(runs.curves().with_columns(pl.col("error").round_sig_figs(5)))
        .mark_line(strokeWidth=1.4, opacity=0.8)
        .encode(
            alt.X("step:Q", title="update"),
            alt.Y("error:Q", title=title, scale=axis),
            alt.Color("arm:N", scale=colours(labels)),
            alt.StrokeDash("arm:N", scale=dashes(labels), legend=None),
            alt.Detail("seed:N"),
        )
    )
    return layered([lines], f"{title} along the training, by arm and seed", 300)


def _notes(scale: Scale, laboratory: Laboratory) -> list[str]:
    notes = [f"Budget {laboratory.budget}: {scale.words}; learning rates chosen on {scale.pilot_seeds} other seed(s)."]
    if "curves" in scale.tasks:
        notes.append("curves is a surrogate of the CURVES data, see docs/data.md: compare orderings, not digits.")
    if "faces" in scale.tasks:
        notes.append("faces is made anew from the same photographs: the scale of the paper's errors is not known.")
    return notes


def _edges(name: str, rates: Mapping[str, float], grid: Sequence[float]) -> Iterator[str]:
    """A sentence for best learning rates that lie at an end of the grid."""
    largest = [label for label, rate in rates.items() if rate == max(grid)]
    if largest:
        yield f"{name}: the best learning rate of {', '.join(largest)} is the largest of the grid."


def _plans(scales: Mapping[Budget, Scale]) -> dict[Budget, str]:
    return {budget: scale.words for budget, scale in scales.items()}


EXACT: dict[Budget, str] = dict.fromkeys(("quick", "evening", "paper"), "float64, seconds")

CLAIMS = (
    Claim(
        name="sutskever-theorem",
        sentence="On quadratics NAG is classical momentum with mu (1 - lr lambda) in every eigen-direction.",
        source=f"{PAPER}, Theorem 2.1",
        plans=EXACT,
        investigate=theorem,
    ),
    Claim(
        name="sutskever-autoencoders",
        sentence="Deep autoencoders train to lower errors with more momentum, and with Nesterov's to the lowest.",
        source=f"{PAPER}, Table 1",
        plans=_plans(AUTOENCODERS),
        investigate=autoencoders,
    ),
    Claim(
        name="sutskever-tail",
        sentence="Lowering momentum to .9 for the last updates lowers the error further.",
        source=f"{PAPER}, Table 2",
        plans=_plans(AUTOENCODERS),
        investigate=tail,
    ),
    Claim(
        name="sutskever-init-scale",
        sentence="Sparse initialization works at scale 1 and 2; training fails at 1/2 and 1/4, and is worse at 4.",
        source=f"{PAPER}, Table 3",
        plans=_plans(INITIALIZATIONS),
        investigate=init_scale,
    ),
    Claim(
        name="sutskever-rnn",
        sentence="Recurrent nets learn long delays from a good initialization with large momentum, and not without.",
        source=f"{PAPER}, Table 5",
        plans=_plans(SEQUENCES),
        investigate=rnn,
    ),
)
