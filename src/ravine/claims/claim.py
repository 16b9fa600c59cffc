"""What a claim is: a sentence of a paper, what tests it, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import altair as alt

if TYPE_CHECKING:
    from ravine.claims.laboratory import Laboratory

Budget = Literal["quick", "evening", "paper"]
Outcome = Literal["reproduced", "not reproduced", "contradicted"]
Cell = str | float | None


@dataclass(frozen=True)
class Finding:
    """One statement of a claim, put to the test.

    criterion: when it counts as reproduced and when as contradicted, in words; `ravine.claims.criteria` decides by it.
    measured, interval: what was found, and its 95 % interval over seeds, in `unit`; no interval where nothing is drawn.
    """

    statement: str
    criterion: str
    outcome: Outcome
    measured: float
    interval: tuple[float, float] | None
    unit: str


@dataclass(frozen=True)
class Table:
    """The paper's numbers beside ours: rows of cells under columns; None is an empty cell."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Evidence:
    """What an investigation brings: findings, tables, figures by title, and what a reader has to know about them."""

    findings: Sequence[Finding]
    tables: Sequence[Table] = ()
    figures: Mapping[str, alt.LayerChart] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def outcome(self) -> Outcome:
        """Of the claim as a whole: contradicted if a finding is, reproduced if all are, else not reproduced."""
        outcomes = {finding.outcome for finding in self.findings}
        if "contradicted" in outcomes:
            return "contradicted"
        return "reproduced" if outcomes == {"reproduced"} else "not reproduced"


@dataclass(frozen=True)
class Claim:
    """A claim of a paper that anyone can re-run.

    name: as on the command line. sentence: what is claimed, in one. source: the paper and the place in it.
    plans: what each budget runs, in words; a budget that is not there the claim does not have. investigate: does it.
    """

    name: str
    sentence: str
    source: str
    plans: Mapping[Budget, str]
    investigate: Callable[[Laboratory], Evidence]
