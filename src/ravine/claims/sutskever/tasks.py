"""Hessian-free optimization beside first-order training on every task of the paper: the last columns of Table 1.

Plain SGD, NAG at its best momentum, the momentum-like Hessian-free method and Martens' classic one, at equal cost: the
same number of gradients of an example, all passes counted (`ravine.hessian_free.Step.cost`). The first-order methods
spend it on the paper's small batches, the Hessian-free ones on larger ones, gradient and curvature on the same. On the
recurrent nets the paper has no Hessian-free runs; that they solve all of these tasks is said in Sutskever's thesis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from ravine.claims import criteria
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Finding, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Arm, Laboratory, Runs
from ravine.claims.sutskever import autoencoders, recurrent, shared
from ravine.claims.sutskever.autoencoders import autoencoder_arms, autoencoder_of, judged_on_training
from ravine.claims.sutskever.recurrent import SOLVED, grid_of, level_of, rnn_arms, sequences_of
from ravine.claims.sutskever.second_order import FIRST, USUAL, classic, digits_autoencoder, momentum_like
from ravine.claims.sutskever.shared import PAPER, curves, edges, notes_of
from ravine.problems import Problem

METHODS = ("SGD", "NAG", "momentum-like HF", "classic HF")
DAMPINGS = (0.1, 1.0, 10.0)
"""1 / damping at the start."""
HESSIAN_FREE: Mapping[str, tuple[float, float]] = {
    "curves": (0.058, 0.11),
    "mnist-autoencoder": (0.69, 1.40),
    "faces": (7.5, 12.0),
}
"""Table 1: HF-dagger, which is the momentum-like method, and HF*, which is Martens' of 2010."""
DIGITS = "digits"  # a stand-in that trains in seconds


@dataclass(frozen=True)
class Scale(shared.Scale):
    """Beside what first-order runs need: the rows of a Hessian-free batch, and steps of conjugate gradients an update.

    The momentum-like method takes `few` of them, the classic one at most `many`. Short runs afford fewer than the
    paper's: with its numbers they would end after a handful of updates.
    """

    batch: int = 500
    few: int = 10
    many: int = 30

    @property
    def words(self) -> str:
        """In one line."""
        return f"{super().words}, the Hessian-free ones as many gradients on batches of {self.batch:,}"


SCALES: Mapping[Budget, tuple[Scale, ...]] = {
    "quick": (Scale((DIGITS,), 5_000, 3, autoencoders.RATES[:3], pilot_seeds=3, batch=512),),
    "evening": (
        Scale(("curves", "mnist-autoencoder", "faces"), 5_000, 3, autoencoders.RATES),
        Scale(("addition", "multiplication", "memorize-5", "memorize-20"), 16_000, 3, recurrent.RATES[2:4]),
    ),
    # Ten times the paper's updates of its recurrent nets: those of Hessian-free optimization were that long.
    "paper": (
        Scale(
            ("curves", "mnist-autoencoder", "faces"),
            autoencoders.UPDATES,
            3,
            autoencoders.RATES,
            small=False,
            batch=5_000,
            few=USUAL,
            many=250,
        ),
        Scale(
            ("addition", "multiplication", "memorize-5", "memorize-20"),
            10 * recurrent.UPDATES,
            4,
            recurrent.RATES,
            small=False,
            batch=1_000,
            few=USUAL,
            many=250,
        ),
    ),
}


@dataclass(frozen=True)
class Trained:
    """All methods on a problem: their runs, and what other seeds chose (NAG's momentum, and the rates)."""

    name: str
    runs: Runs
    momentum: str
    rates: Mapping[str, float]

    @property
    def errors(self) -> list[list[float]]:
        """The errors at the end, in the order of `METHODS`."""
        return [self.runs.errors(method) for method in METHODS]


def problem_of(task: str, scale: Scale) -> Problem:
    """The task in the size of a budget."""
    if task == DIGITS:
        return judged_on_training(digits_autoencoder())
    return sequences_of(task, scale) if task in recurrent.MAKERS else autoencoder_of(task, scale)


def rates_of(task: str, scale: Scale) -> Sequence[float]:
    """The learning rates that the first-order methods try on a task."""
    return grid_of(task, scale) if task in recurrent.MAKERS else scale.rates


def first_order(task: str, scale: Scale) -> dict[str, Callable[[float], Arm]]:
    """Label -> learning rate -> arm: no momentum ("0"), and NAG with the two largest that the run can tell apart."""
    recurrently = task in recurrent.MAKERS
    momenta = scale.momenta(recurrent.MOMENTA if recurrently else autoencoders.MOMENTA)
    arms = (rnn_arms if recurrently else autoencoder_arms)(momenta[-2:], scale.steps)
    return {label: of for label, of in arms.items() if not label.endswith("M")}


def train(laboratory: Laboratory, task: str, scale: Scale) -> Trained:
    """All methods on a task, each with the settings that were best on other seeds."""
    problem = problem_of(task, scale)
    large = replace(problem, batch_size=scale.batch, name=f"{problem.name}, batches of {scale.batch}")
    small_rows, large_rows = (one.batch_rows(len(problem.train[0])) for one in (problem, large))
    gradients = scale.steps * small_rows // large_rows
    first = first_order(task, scale)
    rates = laboratory.rates(problem, first, rates_of(task, scale), scale.pilot_seeds, scale.steps)
    best = laboratory.best(problem, [label for label in first if label != "0"], scale.steps)
    second = {METHODS[2]: momentum_like(METHODS[2], scale.few, FIRST), METHODS[3]: classic(scale.many)}
    dampings = laboratory.rates(large, second, DAMPINGS, scale.pilot_seeds, gradients)
    winners = [replace(first[k](rates[k]), label=method) for method, k in ((METHODS[0], "0"), (METHODS[1], best))]
    others = [of(dampings[method]) for method, of in second.items()]
    runs = together(
        laboratory.train(problem, winners, range(scale.seeds), scale.steps),
        laboratory.train(large, others, range(scale.seeds), gradients),
        small_rows,
        large_rows,
    )
    return Trained(problem.name, runs, best[:-1], {METHODS[0]: rates["0"], METHODS[1]: rates[best], **dampings})


def together(first: Runs, second: Runs, small_rows: int, large_rows: int) -> Runs:
    """The runs of both, the steps of the second counted in gradients on batches of the first."""
    counts = pl.col("steps", "diverged_at") * large_rows // small_rows
    along = pl.col("step").list.eval(pl.element() * large_rows // small_rows)
    return replace(first, frame=pl.concat([first.frame, second.frame.with_columns(counts, along)]))


def judged(task: str, trained: Trained) -> Iterator[Finding]:
    """What paper and thesis say of a task."""
    sgd, nag, few, many = trained.errors
    if task not in recurrent.MAKERS:
        yield criteria.lower(f"{task}: classic HF is better than SGD without momentum", many, sgd)
        yield criteria.not_above(f"{task}: NAG is at or below classic HF", nag, many)
        yield criteria.not_above(f"{task}: momentum-like HF is at or below NAG", few, nag)
        return
    unit, solved = trained.runs.endpoint, SOLVED * level_of(task)
    yield criteria.below(f"{task}: classic HF solves it", many, solved, unit)
    yield criteria.less(f"{task}: classic HF has fewer errors than SGD without momentum", many, sgd, unit)
    yield criteria.less(f"{task}: NAG is as good as classic HF", nag, many, unit, margin=solved)


def published(task: str) -> list[Cell]:
    """The paper's SGD, best NAG, momentum-like and classic HF."""
    table = {**autoencoders.TASKS, **recurrent.TABLE_5}.get(task)
    if table is None:
        return [None] * len(METHODS)
    best = min(error for label, error in table.items() if label.endswith("N"))
    return [table["0"], best, *HESSIAN_FREE.get(task, (None, "thesis: solved"))]


def investigate(laboratory: Laboratory) -> Evidence:
    """Every method on every task of the budget: one table, the paper's numbers beside."""
    findings: list[Finding] = []
    errors: list[Sequence[Cell]] = []
    settings: list[Sequence[Cell]] = []
    figures, notes = {}, []
    for scale in SCALES[laboratory.budget]:
        notes += notes_of(scale, laboratory)
        for task in scale.tasks:
            trained = train(laboratory, task, scale)
            name, rates, unit = trained.name, trained.rates, trained.runs.endpoint
            findings += judged(task, trained)
            errors.append([name, *map(shown, trained.errors), *published(task)])
            settings.append([name, float(trained.momentum), *(rates[method] for method in METHODS)])
            figures[name] = curves(trained.runs, METHODS, unit, log=task not in recurrent.MAKERS)
            notes += edges(name, {method: rates[method] for method in METHODS[:2]}, rates_of(task, scale))
            notes += edges(name, {method: rates[method] for method in METHODS[2:]}, DAMPINGS)
    columns = ["task", *METHODS, "paper: SGD", "best NAG", "momentum-like HF", "HF of 2010"]
    tables = [
        Table("Error at equal cost: squared training error, wrong answers on new sequences", columns, errors),
        Table("Learning rate, or 1 / damping", ["task", "momentum of NAG", *METHODS], settings),
    ]
    return Evidence(findings, tables, figures, [*notes, *NOTES])


NOTES = (
    "Figures count in updates of the first-order methods, or as many gradients.",
    "The paper's Hessian-free runs are not at equal cost with its others; HF of 2010 has weight decay, here nothing.",
    "Gradient and curvature of a Hessian-free step are on the same batch, without structural damping.",
)

CLAIMS = (
    Claim(
        name="sutskever-hf-tasks",
        sentence="On deep autoencoders and recurrent nets momentum reaches what Hessian-free optimization does.",
        source=f"{PAPER}, Table 1 and App. A.6; Sutskever's thesis, 2013, on the recurrent nets",
        plans={budget: "; ".join(scale.words for scale in scales) for budget, scales in SCALES.items()},
        investigate=investigate,
    ),
)
