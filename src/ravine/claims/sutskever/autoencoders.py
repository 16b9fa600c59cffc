"""Deep autoencoders, Sec. 3: Table 1, error by momentum, and Table 2, the tail of low momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from ravine.claims import criteria
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Finding, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Arm, Laboratory, Runs
from ravine.claims.sutskever.shared import PAPER, Scale, beside, curves, edges, notes_of, plans
from ravine.problems import Problem, load
from ravine.schedules import Setting, SutskeverMomentum

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

AUTOENCODERS: Mapping[Budget, Scale] = {
    "quick": Scale(("curves",), 2_000, 4, RATES),
    "evening": Scale(("curves", "mnist-autoencoder", "faces"), 5_000, 3, RATES),
    "paper": Scale(("curves", "mnist-autoencoder", "faces"), UPDATES, 3, RATES, small=False),
}


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


def autoencoder_of(task: str, scale: Scale) -> Problem:
    """The task in the size of a budget."""
    return judged_on_training(load(task + "-small" if scale.small else task))


def autoencoders(laboratory: Laboratory) -> Evidence:
    """Table 1."""
    scale = AUTOENCODERS[laboratory.budget]
    momenta = scale.momenta(MOMENTA)
    findings: list[Finding] = []
    tables, figures, notes = [], {}, notes_of(scale, laboratory)
    for task in scale.tasks:
        problem = autoencoder_of(task, scale)
        arms = autoencoder_arms(momenta, scale.steps)
        rates = laboratory.rates(problem, arms, scale.rates, scale.pilot_seeds, scale.steps)
        runs = laboratory.train(
            problem, [of(rates[label]) for label, of in arms.items()], range(scale.seeds), scale.steps
        )
        findings += _orderings(task, runs, momenta)
        tables.append(beside(problem.name, TASKS[task], arms, runs, rates, UPDATES, scale.steps))
        figures[f"{problem.name}"] = curves(runs, list(arms), "squared error", log=True)
        notes += edges(problem.name, rates, scale.rates)
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
    figures, notes = {}, notes_of(scale, laboratory)
    for task in scale.tasks:
        problem = autoencoder_of(task, scale)
        arms = autoencoder_arms(scale.momenta(MOMENTA), scale.steps)
        rate = laboratory.rates(problem, arms, scale.rates, scale.pilot_seeds, scale.steps)[label]
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
        rows.append([problem.name, *TABLE_2[task], *map(shown, (before, with_tail, without))])
        figures[problem.name] = curves(runs, ["without", "with"], "squared error", log=True)
    columns = ["task", "paper: before", "paper: after", "here: before", "here: after", "here: without a tail"]
    return Evidence(findings, [Table(f"Squared error, NAG at {highest:g}", columns, rows)], figures, notes)


CLAIMS = (
    Claim(
        name="sutskever-autoencoders",
        sentence="Deep autoencoders train to lower errors with more momentum, and with Nesterov's to the lowest.",
        source=f"{PAPER}, Table 1",
        plans=plans(AUTOENCODERS),
        investigate=autoencoders,
    ),
    Claim(
        name="sutskever-tail",
        sentence="Lowering momentum to .9 for the last updates lowers the error further.",
        source=f"{PAPER}, Table 2",
        plans=plans(AUTOENCODERS),
        investigate=tail,
    ),
)
