"""How charts look: colours for colour-blind eyes and both themes, one configuration, and export to a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from ravine.errors import UserError

# Every colour has a contrast of at least 3:1 on white and on the dark page. The baseline is grey and dashed.
BASELINE = "#7d7d7d"
PALETTE = ("#2f7fd6", "#d55e00", "#009e73", "#b867a8", "#9a7d0a", "#0d98a8", "#c2504a", "#6b74d6")
DASHES: tuple[list[int], ...] = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3])
BASELINE_DASH = [4, 3]
FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', 'DejaVu Sans', sans-serif"
INK, FAINT = "#333333", "#8a8a8a"
SUFFIXES = (".svg", ".png")


def colours(methods: Sequence[str]) -> alt.Scale:
    """A colour per method, the baseline first."""
    return alt.Scale(domain=list(methods), range=[method_colour(index) for index in range(len(methods))])


def method_colour(index: int) -> str:
    """The colour of the method at `index`, the baseline at 0."""
    return BASELINE if index == 0 else PALETTE[(index - 1) % len(PALETTE)]


def dashes(methods: Sequence[str]) -> alt.Scale:
    """A dash pattern per method, so that lines are told apart without colour."""
    rest = [DASHES[index % len(DASHES)] for index in range(len(methods) - 1)]
    return alt.Scale(domain=list(methods), range=[BASELINE_DASH, *rest])


def rounded(table: pl.DataFrame) -> pl.DataFrame:
    """Six significant digits are more than a screen shows; NaN and infinities become null, which JSON can say."""
    floats = pl.selectors.float()
    return table.with_columns(pl.when(floats.is_finite()).then(floats.round_sig_figs(6)).otherwise(None))


CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "padding": {"left": 2, "top": 4, "right": 6, "bottom": 2},
    "autosize": {"type": "fit", "contains": "padding"},
    "view": {"stroke": None},
    "mark": {"aria": False},  # the description of the chart and the tables say it better than a thousand dots
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": "#d9d9d9",
        "gridOpacity": 0.7,
        "domainColor": FAINT,
        "tickColor": FAINT,
        "labelSeparation": 8,
        "labelFlush": True,
    },
    # Fitting goes by the labels of a first layout; where wider ones come in the second, the title would be cut off.
    "axisLeft": {"minExtent": 32},
    "legend": {
        "orient": "top",
        "direction": "horizontal",
        "title": None,
        "labelColor": INK,
        "labelFontSize": 13,
        "labelLimit": 260,
        "symbolType": "stroke",
        "symbolStrokeWidth": 3,
        "symbolFillColor": "transparent",
        "symbolOpacity": 1,
        "symbolSize": 220,
        "columns": {"expr": "width < 420 ? 2 : 4"},
        "columnPadding": 16,
    },
}


def layered(layers: Sequence[alt.Chart], description: str, height: int) -> alt.LayerChart:
    """The layers as one chart, as wide as the page lets it be, with a description for screen readers."""
    return alt.LayerChart(layer=list(layers), width="container", height=height, description=description, config=CONFIG)


def export(chart: alt.LayerChart, path: Path, width: int = 760) -> Path:
    """Write `chart` as a picture (.svg or .png) of `width` points; raises UserError for another ending."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"a chart is written as {' or '.join(SUFFIXES)}, not as '{path.name}'")
    fixed: Any = chart.copy(deep=True)
    fixed.width, fixed.background = width, "white"
    fixed.save(path, scale_factor=2 if path.suffix == ".png" else 1)
    return path
