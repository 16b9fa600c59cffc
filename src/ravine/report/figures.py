"""Which figures a report has, and from which tables; a figure without data is left out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import altair as alt
import polars as pl

from ravine.report import charts, frames
from ravine.report.words import Numbers


@dataclass(frozen=True)
class Figure:
    """A chart with the id of its place in the page, its title and what its axes are."""

    key: str
    title: str
    chart: alt.LayerChart
    note: str = ""

    @property
    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification without the address of its schema: the page names no outside resource.

        The tests check it against the schema, a report need not wait for that.
        """
        spec: dict[str, Any] = self.chart.to_dict(validate=False)
        del spec["$schema"]
        return spec


@dataclass(frozen=True)
class Material:
    """A study as its figures need it."""

    verdict: Mapping[str, Any]
    runs: pl.DataFrame
    study: Mapping[str, Any]

    @cached_property
    def endpoint(self) -> frames.Endpoint:
        return frames.Endpoint.of(self.study)

    @cached_property
    def numbers(self) -> Numbers:
        return Numbers(str(self.verdict.get("unit") or self.verdict["endpoint"]), float(self.verdict["margin"]))

    @cached_property
    def baseline(self) -> str:
        return str(self.verdict["baseline"])

    @cached_property
    def methods(self) -> dict[str, frames.Facts]:
        """What the verdict says of each method: the baseline, then the others as the contrasts name them."""
        facts = {**(self.verdict.get("methods") or {}), **self._current}
        names = [self.baseline, *(name for pair in self.pairs for name in pair), *facts]
        return {name: facts.get(name) or {} for name in names}

    @property
    def _current(self) -> dict[str, frames.Facts]:
        """What the user runs now, which no search chose."""
        found, declared = self.verdict.get("current"), self.study.get("current")
        return {"current": {**found, "trained_as": declared["method"]}} if found and declared else {}

    @cached_property
    def pairs(self) -> list[frames.Pair]:
        return [(c["method"], c["versus"]) for c in self.verdict["contrasts"]]

    @cached_property
    def evaluated(self) -> dict[str, frames.Evaluated]:
        found = {m: frames.evaluated(self.runs, m, facts, self.endpoint) for m, facts in self.methods.items()}
        return {method: of for method, of in found.items() if of is not None}

    @cached_property
    def seeds(self) -> pl.DataFrame:
        return frames.differences(self.evaluated, self.pairs)

    @cached_property
    def trials(self) -> dict[str, pl.DataFrame]:
        found = {m: frames.trials(self.runs, m, facts, self.endpoint) for m, facts in self.methods.items()}
        return {method: table for method, table in found.items() if len(table) and "lr" in table.columns}

    def settings(self, method: str) -> Mapping[str, float] | None:
        """The chosen settings of a method, None if none was chosen."""
        chosen: Mapping[str, float] | None = self.methods[method].get("settings")
        return chosen


def figures(study: Material) -> dict[str, Figure]:
    """The figures by key, in the order of the page."""
    return {figure.key: figure for figure in _figures(study, list(study.methods))}


def _figures(study: Material, methods: Sequence[str]) -> Iterator[Figure]:
    contrasts, unit, margin = study.verdict["contrasts"], study.numbers.unit, study.numbers.margin
    if len(study.seeds) or any(c.get("interval") for c in contrasts):
        chart = charts.differences(contrasts, study.seeds, methods, unit, margin)
        yield Figure("differences", "Paired differences", chart)
    curves = frames.curves(study.evaluated, study.endpoint)
    if len(curves):
        yield Figure("curves", "Learning curves", charts.curves(curves, methods, study.endpoint))
    gaps = frames.gaps(study.evaluated, [pair for pair in study.pairs if pair[1] == study.baseline])
    if len(gaps):
        yield Figure("gaps", "The difference along the training", charts.gaps(gaps, methods, unit, margin))
    if study.trials:
        tables = [frames.expected(table, method, study.endpoint) for method, table in study.trials.items()]
        chart = charts.expected(pl.concat(tables), methods, study.endpoint)
        yield Figure("expected", "Expected best against the number of trials", chart)


def maps(study: Material) -> list[Figure]:
    """The search of every method: a map for those with momentum, a slice for the others.

    Colours mean the same in all of them; the baseline and the heavy-ball forms share their learning rate axis.
    """
    return [_map(study, index, method) for index, method in enumerate(study.trials)]


def _map(study: Material, index: int, method: str) -> Figure:
    table, settings, endpoint = study.trials[method], study.settings(method), study.endpoint
    related = [m for m in study.trials if m == study.baseline or m in frames.HEAVY_BALL]
    rates = _rate_domain([study.trials[m] for m in (related if method in related else [method])])
    shades = _shade_domain(list(study.trials.values()), endpoint)
    momentum = frames.momentum_name(table.columns)
    if momentum is None:
        chart = charts.rates(table, method, settings, endpoint, shades, rates)
        return Figure(f"map-{index}", method, chart, "no momentum: learning rate against the score")
    reference = (study.settings(study.baseline) or {}).get("lr")
    chart = charts.search(table, method, settings, endpoint, shades, rates, reference)
    return Figure(f"map-{index}", method, chart, f"learning rate against 1 − {momentum}")


def _rate_domain(tables: Sequence[pl.DataFrame]) -> list[float]:
    """Smallest and largest learning rate of all the tables."""
    rates = pl.concat([table["lr"] for table in tables]).to_numpy()
    return [float(rates.min()), float(rates.max())]


def _shade_domain(tables: Sequence[pl.DataFrame], endpoint: frames.Endpoint) -> list[float]:
    """From the lower quartile to the best of all configurations: differences among the good ones are what matters."""
    scores = pl.concat([table.filter(pl.col("diverged") == 0)["score"] for table in tables]).sort().to_numpy()
    if not len(scores):
        return [0.1, 1.0]  # nothing to colour
    ends = scores[[len(scores) // 4, -1]]
    if ends[0] == ends[1]:
        ends = ends - [max(abs(ends[1]), 1.0) * 1e-3, 0.0]
    return sorted(float(value) for value in endpoint.value(ends))
