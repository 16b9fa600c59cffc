"""The report of a study: one HTML file that opens offline.

`write` makes the file; `drawings` are its charts, which `export` saves as SVG or PNG. How to read it: docs/report.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from ravine.report.figures import Material, figures, maps
from ravine.report.page import render
from ravine.report.theme import export

__all__ = ["drawings", "export", "write"]


def write(
    verdict: Mapping[str, Any],
    runs: pl.DataFrame,
    study: Mapping[str, Any],
    cost: Mapping[str, Mapping[str, float]],
    path: Path,
) -> Path:
    """Write the report to `path` and return it; equal arguments give equal bytes.

    verdict, study: the contents of verdict.json and study.json; runs: the rows of runs/*.parquet; cost: per method
    "gradient_equivalents" (of one step) and "seconds_per_step" (of one run trained alone), each of them optional.
    """
    path.write_text(render(Material(verdict, runs, study), cost, path.resolve().parent.name), encoding="utf-8")
    return path


def drawings(verdict: Mapping[str, Any], runs: pl.DataFrame, study: Mapping[str, Any]) -> dict[str, alt.LayerChart]:
    """The charts of the report; the arguments are those of `write`.

    Keys: "differences", "curves", "gaps" (the difference along the training), "expected" (best of k trials) and the
    name of each method for the map of its search. A chart without data is left out.
    """
    material = Material(verdict, runs, study)
    return {key: figure.chart for key, figure in figures(material).items()} | {
        figure.title: figure.chart for figure in maps(material)
    }
