"""The figures of claims: series of points with their intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from ravine.claims import criteria
from ravine.report.theme import colours, dashes, layered, rounded


def series(name: str, x: Sequence[float], samples: Sequence[Sequence[float]]) -> pl.DataFrame:
    """A series of a figure: at each x the mean of its sample of seeds with Student's 95 % interval."""
    found = [criteria.interval(sample) for sample in samples]
    return pl.DataFrame(
        {
            "series": name,
            "x": [float(value) for value in x],
            "y": [mean for mean, _ in found],
            "low": [low for _, (low, _) in found],
            "high": [high for _, (_, high) in found],
        }
    )


def line(name: str, x: Sequence[float], y: Sequence[float]) -> pl.DataFrame:
    """A series of a figure in which nothing is drawn."""
    at, values = ([float(value) for value in of] for of in (x, y))
    return pl.DataFrame({"series": name, "x": at, "y": values, "low": values, "high": values})


def figure(
    parts: Sequence[pl.DataFrame],
    description: str,
    x: str,
    y: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    points: bool = True,
    height: int = 280,
) -> alt.LayerChart:
    """Lines through the series, the first one grey, with bars (a band without points) for the intervals.

    parts: of `series` or `line`. x, y: titles of the axes. On a logarithmic axis what is not above 0 is left out.
    """
    table = pl.concat(parts)
    if log_y:
        table = table.filter(pl.col("y") > 0).with_columns(
            pl.when(pl.col("low") > 0).then(pl.col("low")).otherwise(pl.col("y"))
        )
    names = table["series"].unique(maintain_order=True).to_list()
    horizontal = alt.X("x:Q", title=x, scale=alt.Scale(type="log" if log_x else "linear", zero=False))
    kind = alt.Scale(type="log" if log_y else "linear", zero=False)
    colour = alt.Color("series:N", scale=colours(names), sort=names)
    base = alt.Chart(rounded(table))
    lines = base.mark_line(point=points).encode(
        horizontal,
        alt.Y("y:Q", title=y, scale=kind),
        colour,
        alt.StrokeDash("series:N", scale=dashes(names), sort=names),
    )
    ends = {"x": horizontal, "y": alt.Y("low:Q", title=y, scale=kind), "y2": "high:Q", "color": colour}
    spread = base.mark_rule().encode(**ends) if points else base.mark_area(opacity=0.15).encode(**ends)
    return layered([spread, lines], description, height)
