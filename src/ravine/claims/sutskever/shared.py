"""What the tables share: how much a budget affords, the paper's row above ours, the curves and the notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import altair as alt
import polars as pl

from ravine.claims.claim import Budget, Cell, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory, Runs
from ravine.report.theme import colours, dashes, layered

PAPER = "Sutskever, Martens, Dahl and Hinton, ICML 2013"
SHARE = 20  # a momentum needs as many updates as this times 1 / (1 - momentum)


@dataclass(frozen=True)
class Scale:
    """What a budget affords: tasks, updates of a run, seeds that judge, and the search of the learning rates.

    rates: those tried. pilot_seeds: the seeds that choose among them.
    """

    tasks: tuple[str, ...]
    steps: int
    seeds: int
    rates: tuple[float, ...]
    pilot_seeds: int = 1
    small: bool = True

    def momenta(self, wanted: Sequence[float]) -> list[float]:
        """The momenta that a run of so many steps can tell apart."""
        return [momentum for momentum in wanted if SHARE / (1 - momentum) <= self.steps * (1 + 1e-9)]

    @property
    def words(self) -> str:
        """In one line."""
        size = " (small)" if self.small else ""
        return f"{', '.join(self.tasks)}{size}; {self.steps:,} updates, {self.seeds} seeds"


def beside(
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
    ours: list[Cell] = [level if label == "biases" else shown(runs.errors(label)) for label in labels]
    rows: list[Sequence[Cell]] = [
        [f"paper, {updates:,} updates", *(paper[label] for label in labels)],
        [f"here, {steps:,} updates", *ours],
        ["learning rate here", *(rates.get(label) for label in labels)],
    ]
    return Table(name, ["", *labels], rows)


def curves(runs: Runs, labels: Sequence[str], title: str, *, log: bool) -> alt.LayerChart:
    """The endpoint along the training: a thin line a seed."""
    axis = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=True)
    lines = (
        alt.Chart(runs.curves().with_columns(pl.col("error").round_sig_figs(5)))
        .mark_line(strokeWidth=1.4, opacity=0.8)
        .encode(
            alt.X("step:Q", title="update"),
            alt.Y("error:Q", title=title, scale=axis),
            alt.Color("arm:N", scale=colours(labels), sort=labels),
            alt.StrokeDash("arm:N", scale=dashes(labels), sort=labels),
            alt.Detail("seed:N"),
        )
    )
    return layered([lines], f"{title} along the training, by arm and seed", 300)


def notes_of(scale: Scale, laboratory: Laboratory) -> list[str]:
    """What a reader of the numbers must know: the budget, and what stands in for the paper's data."""
    notes = [f"Budget {laboratory.budget}: {scale.words}; learning rates chosen on {scale.pilot_seeds} other seed(s)."]
    if "curves" in scale.tasks:
        notes.append("curves is a surrogate of the CURVES data, see docs/data.md: compare orderings, not digits.")
    if "faces" in scale.tasks:
        notes.append("faces is made anew from the same photographs: the scale of the paper's errors is not known.")
    return notes


def edges(name: str, rates: Mapping[str, float], grid: Sequence[float]) -> Iterator[str]:
    """A sentence for best learning rates that lie at an end of the grid."""
    for end, word in ((max(grid), "largest"), (min(grid), "smallest")):
        if at := [label for label, rate in rates.items() if rate == end]:
            yield f"{name}: the best learning rate of {', '.join(at)} is the {word} of the grid."


def plans(scales: Mapping[Budget, Scale]) -> dict[Budget, str]:
    """What each budget runs, in words."""
    return {budget: scale.words for budget, scale in scales.items()}
