"""The page: what the template is given, in the order in which it is read."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
import vl_convert
from markupsafe import Markup

from ravine.report import charts, frames, words
from ravine.report.theme import Chart, method_colour

HERE = Path(__file__).parent
BUNDLE = "window.vegaEmbed = vegaEmbed;"
HIDDEN = ("chunks", "chunk_table", "plan")  # long tables of the declaration that no reader of a report needs


@dataclass(frozen=True)
class Figure:
    """One chart with its heading and what to see in it."""

    key: str
    title: str
    chart: Chart
    note: str = ""

    @property
    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification without the address of its schema: the page names no outside resource."""
        spec: dict[str, Any] = self.chart.to_dict()
        del spec["$schema"]
        return spec


@dataclass(frozen=True)
class Scale:
    """The common axis of the drawings in the verdict strip, in per cent of their width."""

    low: float
    high: float

    @classmethod
    def over(cls, contrasts: Sequence[Mapping[str, Any]], margin: float) -> "Scale":
        """Wide enough for every interval, the margin band and zero."""
        ends = [end for c in contrasts for end in (c.get("interval") or [c.get("difference")]) if end is not None]
        low, high = min([-1.5 * margin, *ends]), max([1.5 * margin, *ends])
        pad = 0.06 * (high - low) or 1.0
        return cls(low - pad, high + pad)

    def at(self, value: float) -> float:
        """Where `value` lies."""
        return round(100 * (value - self.low) / (self.high - self.low), 3)


def render(
    verdict: Mapping[str, Any],
    runs: pl.DataFrame,
    study: Mapping[str, Any],
    cost: Mapping[str, Mapping[str, float]],
    directory: str,
) -> str:
    """The report as one HTML text; the arguments are those of `ravine.report.write`."""
    numbers = words.Numbers(str(verdict.get("unit") or verdict["endpoint"]), float(verdict["margin"]))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": words.plain, "seconds": words.seconds}
    methods = method_order(verdict)
    sections, maps = figures(verdict, runs, study, methods, numbers)
    return environment.get_template("template.html.jinja").render(
        verdict=verdict,
        study=study,
        cost=cost,
        n=numbers,
        words=words,
        strip=Scale.over(verdict["contrasts"], numbers.margin),
        methods={name: verdict["methods"].get(name) or {} for name in methods},
        colours={name: method_colour(index) for index, name in enumerate(methods)},
        effective=frames.effective_lr,
        steps=study.get("steps"),
        figures=sections,
        maps=maps,
        contrast_tables=list(contrast_tables(verdict)),
        targets=target_table(verdict),
        seeds=seed_table(verdict, runs, study),
        declaration=list(leaves(study)),
        identity=identity(study),
        command=study.get("command"),
        directory=directory,
        specs=script_json({figure.key: figure.spec for figure in [*sections.values(), *maps]}),
        css=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        js=Markup((HERE / "script.js").read_text(encoding="utf-8")),
        bundle=Markup(vl_convert.javascript_bundle(BUNDLE)),
    )


def method_order(verdict: Mapping[str, Any]) -> list[str]:
    """The baseline, then the others as the contrasts name them: the order of the colours."""
    names = [verdict["baseline"], *(c["method"] for c in verdict["contrasts"]), *(verdict.get("methods") or {})]
    return list(dict.fromkeys(names))


def settings_of(verdict: Mapping[str, Any], method: str) -> Mapping[str, float] | None:
    """The chosen settings of a method, None if none was chosen."""
    return (verdict["methods"].get(method) or {}).get("settings")


def evaluation(
    verdict: Mapping[str, Any], runs: pl.DataFrame, endpoint: frames.Endpoint
) -> dict[str, frames.Evaluated]:
    """The evaluation runs per method, at its chosen settings."""
    found = {m: frames.evaluated(runs, m, settings_of(verdict, m), endpoint) for m in method_order(verdict)}
    return {method: runs_of for method, runs_of in found.items() if runs_of is not None}


def pairs(verdict: Mapping[str, Any]) -> list[frames.Pair]:
    return [(c["method"], c["versus"]) for c in verdict["contrasts"]]


def figures(
    verdict: Mapping[str, Any],
    runs: pl.DataFrame,
    study: Mapping[str, Any],
    methods: Sequence[str],
    numbers: words.Numbers,
) -> tuple[dict[str, Figure], list[Figure]]:
    """The figures that there are data for, by key, and the map of the search per method."""
    endpoint = frames.Endpoint.of(verdict, study)
    found = evaluation(verdict, runs, endpoint)
    baseline = verdict["baseline"]
    made: list[Figure] = []
    seeds = frames.differences(found, pairs(verdict))
    if len(seeds) or any(c.get("interval") for c in verdict["contrasts"]):
        chart = charts.differences(verdict["contrasts"], seeds, methods, numbers.unit, numbers.margin)
        made.append(Figure("differences", "Paired differences", chart))
    curves = frames.curves(found)
    if len(curves):
        made.append(Figure("curves", "Learning curves", charts.curves(curves, methods, endpoint)))
    gaps = frames.gaps(found, [pair for pair in pairs(verdict) if pair[1] == baseline], endpoint)
    if len(gaps):
        made.append(Figure("gaps", "Difference along the training", charts.gaps(gaps, methods, numbers.unit, numbers.margin)))
    tables = {m: frames.trials(runs, m, frames.hypers_of(verdict["methods"].get(m) or {}), endpoint) for m in methods}
    tables = {method: table for method, table in tables.items() if len(table) and "lr" in table.columns}
    best = [frames.expected(table, method, endpoint) for method, table in tables.items()]
    if any(len(table) for table in best):
        chart = charts.expected(pl.concat(best, how="vertical_relaxed"), methods, endpoint)
        made.append(Figure("expected", "Expected best against the number of trials", chart))
    return {figure.key: figure for figure in made}, list(search_maps(verdict, tables, endpoint))


def search_maps(
    verdict: Mapping[str, Any], tables: Mapping[str, pl.DataFrame], endpoint: frames.Endpoint
) -> Iterator[Figure]:
    """A map for every method with momentum, a slice for the others.

    Colours mean the same in all of them; the learning rate axes of the baseline and of the heavy-ball forms are the same.
    """
    shades = shade_domain(list(tables.values()), endpoint)
    related = [m for m in tables if m == verdict["baseline"] or m in frames.HEAVY_BALL]
    for index, (method, table) in enumerate(tables.items()):
        together = [tables[m] for m in related] if method in related else [table]
        rates = rate_domain(together)
        settings = settings_of(verdict, method)
        if frames.momentum_name(table.columns) is None:
            chart = charts.rates(table, method, settings, endpoint, shades, rates)
            yield Figure(f"map-{index}", method, chart, "learning rate, no momentum")
            continue
        reference = (settings_of(verdict, verdict["baseline"]) or {}).get("lr")
        chart = charts.search(table, method, settings, endpoint, shades, rates, reference)
        note = "learning rate against 1 − " + str(frames.momentum_name(table.columns))
        yield Figure(f"map-{index}", method, chart, note)


def rate_domain(tables: Sequence[pl.DataFrame]) -> list[float]:
    """Smallest and largest learning rate of all the tables."""
    rates = pl.concat([table["lr"] for table in tables])
    return [float(rates.min()), float(rates.max())]  # type: ignore[arg-type]


def shade_domain(tables: Sequence[pl.DataFrame], endpoint: frames.Endpoint) -> list[float]:
    """From the lower quartile to the best value of all configurations: differences among the good ones are what matters."""
    scores = [s for t in tables for s in t.filter(pl.col("diverged") == 0)["score"].to_list() if s is not None]
    finite = sorted(s for s in scores if math.isfinite(s))
    if not finite:
        return [0.0, 1.0] if not endpoint.is_loss else [0.1, 1.0]
    low, high = finite[len(finite) // 4], finite[-1]
    if low == high:
        low = high - max(abs(high), 1.0) * 1e-3
    return sorted(float(v) for v in endpoint.value([low, high]))


def contrast_tables(verdict: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Mapping[str, Any]]]]:
    """Title, explanation and contrasts of the secondary comparisons that the verdict holds."""
    if verdict.get("equal_dimension"):
        text = "Momentum fixed, only the learning rate tuned: every method searched equally many dimensions."
        yield "Equal dimension", text, verdict["equal_dimension"]
    if verdict.get("defaults"):
        yield "Defaults", "Nothing tuned but what has no default.", verdict["defaults"]
    for horizon in verdict.get("horizons") or []:
        text = "Settings chosen at this step and judged at this step: what you would have if you stopped here."
        yield f"Stopping after {horizon['steps']:,} steps", text, horizon["contrasts"]


def target_table(verdict: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]] | None:
    """Columns and rows of the time to target, whatever columns the verdict has."""
    rows = verdict.get("time_to_target") or []
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return (columns, [[row.get(key) for key in columns] for row in rows]) if rows else None


def seed_table(
    verdict: Mapping[str, Any], runs: pl.DataFrame, study: Mapping[str, Any]
) -> tuple[list[str], list[list[Any]]]:
    """The dots of the paired differences as numbers: a row per seed, a column per contrast."""
    endpoint = frames.Endpoint.of(verdict, study)
    table = frames.differences(evaluation(verdict, runs, endpoint), pairs(verdict))
    labels = [f"{method} versus {versus}" for method, versus in pairs(verdict)]
    cells = {(f"{r['method']} versus {r['versus']}", r["seed"]): r["difference"] for r in table.iter_rows(named=True)}
    seeds = table["seed"].unique().sort().to_list()
    return ["seed", *labels], [[seed, *(cells.get((label, seed)) for label in labels)] for seed in seeds]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The declaration as rows: nested keys joined by dots, long tables left out."""
    for key, item in tree.items():
        if key in HIDDEN:
            continue
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from leaves(item, f"{name}.")
        elif isinstance(item, list) and item and all(isinstance(part, Mapping) for part in item):
            for index, part in enumerate(item):
                yield from leaves(part, f"{name}[{index}].")
        else:
            yield name, item


def identity(study: Mapping[str, Any]) -> str:
    """Short digest of the declaration: two reports with the same one show the same study."""
    text = json.dumps(study, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def script_json(tree: Any) -> Markup:
    """JSON that is safe inside a script element."""
    text = json.dumps(tree, separators=(",", ":"), allow_nan=False, sort_keys=True)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
