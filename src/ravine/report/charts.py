"""The charts of the report, one function each: a table of `frames` in, an Altair chart out.

Views named `ink_...` follow the colour of the text in the page's light and dark theme (style.css).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from ravine.report.frames import HEAVY_BALL, Endpoint, effective_lr, momentum_name
from ravine.report.theme import BASELINE, FAINT, INK, PALETTE, colours, dashes, layered, rounded

ROW = 84  # height of one contrast in `differences`
BETTER = "positive: better"


def differences(
    contrasts: Sequence[Mapping[str, Any]], seeds: pl.DataFrame, methods: Sequence[str], unit: str, margin: float
) -> alt.LayerChart:
    """A dot per seed, the mean, the unadjusted (thick) and adjusted (thin) interval, the margin band and zero.

    contrasts: as in the verdict; seeds: `frames.differences`.
    """
    lines = pl.DataFrame([_line(c, index) for index, c in enumerate(contrasts)], schema=_LINE, orient="row")
    # Dots of one contrast take turns on five levels, so that equal differences do not cover each other.
    turn = pl.int_range(pl.len()).over("method", "versus") * 2 % 5
    dots = seeds.join(lines.select("method", "versus", "at"), on=["method", "versus"], maintain_order="left")
    dots = dots.with_columns(at=pl.col("at") + 0.16 + 0.08 * turn)
    reach = _reach([*lines.select("mean", "low", "high").to_numpy().ravel(), *dots["difference"], -margin, margin])
    y = alt.Y("at:Q", axis=None, scale=alt.Scale(domain=[0, len(contrasts)], reverse=True, nice=False))
    title = f"difference in {unit} ({BETTER})"
    colour = alt.Color("method:N", scale=colours(methods), legend=None)
    data = rounded(lines)
    interval = alt.Chart(data).transform_filter("isValid(datum.low)")
    layers = [
        *_margin(margin, "x", lines.select(pl.col("at").alias("from") - 0.14, pl.col("at").alias("to") + 0.56)),
        interval.mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q", y=y, color=colour),
        interval.transform_filter("isValid(datum.inner_low)")
        .mark_rule(strokeWidth=5)
        .encode(x="inner_low:Q", x2="inner_high:Q", y=y, color=colour),
        alt.Chart(rounded(dots))
        .mark_point(filled=True, size=34, opacity=0.75)
        .encode(
            x=alt.X(
                "difference:Q",
                title=title,
                axis=alt.Axis(format="+~g", tickCount=6),
                scale=alt.Scale(domain=reach, nice=False),
            ),
            y=y,
            color=colour,
            shape=alt.Shape(
                "diverged:N", scale=alt.Scale(domain=[False, True], range=["circle", "cross"]), legend=None
            ),
            tooltip=["method:N", "versus:N", "seed:N", alt.Tooltip("difference:Q", format="+.5~g"), "diverged:N"],
        ),
        alt.Chart(data, name="ink_mean")
        .transform_filter("isValid(datum.mean)")
        .mark_point(shape="diamond", size=110, filled=True, opacity=1, stroke=INK, strokeWidth=1.2)
        .encode(
            x="mean:Q",
            y=y,
            color=colour,
            tooltip=["label:N", *(alt.Tooltip(f"{name}:Q", format="+.5~g") for name in ("mean", "low", "high"))],
        ),
        alt.Chart(data)
        .mark_text(align="left", baseline="top", fontSize=13, fontWeight=600, color=INK)
        .encode(x=alt.value(2), y=alt.Y("top:Q", axis=None), text="label:N"),
    ]
    description = (
        f"Paired differences in {unit}, one dot per evaluation seed, with mean and interval, "
        f"against zero and the margin of {margin:g}: {', '.join(_label(c) for c in contrasts)}."
    )
    return layered(layers, description, ROW * max(len(contrasts), 1) + 40)


def _reach(values: Iterable[float]) -> list[float]:
    """The span of what is finite, with a little room on both sides."""
    finite = [float(value) for value in values if math.isfinite(value)]
    room = 0.03 * (max(finite) - min(finite)) or 1.0
    return [min(finite) - room, max(finite) + room]


_LINE = {
    "label": pl.String,
    "method": pl.String,
    "versus": pl.String,
    "top": pl.Float64,
    "at": pl.Float64,
} | dict.fromkeys(("mean", "low", "high", "inner_low", "inner_high"), pl.Float64)


def _label(contrast: Mapping[str, Any]) -> str:
    return f"{contrast['method']} versus {contrast['versus']}"


def _line(contrast: Mapping[str, Any], row: int) -> tuple[Any, ...]:
    outer = contrast.get("interval") or (None, None)
    inner = contrast.get("interval_unadjusted") or (None, None)
    label = f"{_label(contrast)}: {contrast['verdict']}"
    return (
        label,
        contrast["method"],
        contrast["versus"],
        row + 0.08,
        row + 0.4,
        contrast.get("difference"),
        *outer,
        *inner,
    )


def _margin(margin: float, axis: str, rows: pl.DataFrame | None = None) -> list[alt.Chart]:
    """The margin band and zero, across the whole chart or only from `from` to `to` of the rows."""
    one = pl.DataFrame({"from": [0.0]}) if rows is None else rows
    band = one.with_columns(low=pl.lit(-margin), high=pl.lit(margin), zero=pl.lit(0.0))
    ends = {axis: "low:Q", f"{axis}2": "high:Q"}
    across = {} if rows is None else {"y": alt.Y("from:Q", axis=None), "y2": "to:Q"}
    return [
        alt.Chart(band).mark_rect(color=FAINT, opacity=0.22).encode(**ends, **across),
        alt.Chart(band, name="ink_zero").mark_rule(color=INK, strokeWidth=1).encode(**{axis: "zero:Q"}, **across),
    ]


def curves(table: pl.DataFrame, methods: Sequence[str], endpoint: Endpoint) -> alt.LayerChart:
    """The endpoint along the training: median over the evaluation seeds, with the quartiles as a band."""
    low, high = table["low"].to_numpy(), table["high"].to_numpy()
    # All of the good end is shown; of the bad end, where the training begins, a tenth is not.
    up = endpoint.higher_is_better
    scale = _value_scale(endpoint, [np.quantile(low, 0.1 if up else 0), np.quantile(high, 1 if up else 0.9)])
    base = alt.Chart(rounded(table)).encode(x=alt.X("step:Q", title="step", axis=alt.Axis(format=",d", tickCount=8)))
    band = base.mark_area(opacity=0.18, clip=True).encode(
        color=alt.Color("method:N", scale=colours(methods)), y=alt.Y("low:Q", scale=scale), y2="high:Q"
    )
    line = base.mark_line(strokeWidth=2, clip=True).encode(
        y=alt.Y("median:Q", title=endpoint.name, scale=scale, axis=alt.Axis(format="~g", tickCount=6)),
        color=alt.Color("method:N", scale=colours(methods)),
        strokeDash=alt.StrokeDash("method:N", scale=dashes(methods)),
        tooltip=["method:N", "step:Q", *(alt.Tooltip(f"{n}:Q", format=".4~g") for n in ("median", "low", "high"))],
    )
    description = f"Learning curves: {endpoint.name} against the step, median and quartiles over the evaluation seeds."
    return layered([band, line], description, 300)


def _value_scale(endpoint: Endpoint, domain: Sequence[float]) -> alt.Scale:
    """Losses are read on a logarithmic axis; what lies outside of the domain is not shown."""
    ends = sorted(float(end) for end in domain) if len(set(domain)) == 2 else alt.Undefined
    return alt.Scale(type="log", domain=ends) if endpoint.is_loss else alt.Scale(zero=False, domain=ends)


def gaps(table: pl.DataFrame, methods: Sequence[str], unit: str, margin: float) -> alt.LayerChart:
    """The paired difference to the baseline along the training with its pointwise 95 % interval.

    The axis is linear inside the margin and logarithmic far beyond it: early differences are large, late ones decide.
    """
    key = alt.Legend(values=table["method"].unique(maintain_order=True).to_list())  # the baseline has no line
    colour = alt.Color("method:N", scale=colours(methods), legend=key)
    steps = [m * margin for m in (-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100)]
    scale = alt.Scale(type="symlog", constant=margin) if margin > 0 else alt.Scale()
    axis = alt.Axis(format="+.2~g", values=steps) if margin > 0 else alt.Axis(format="+.2~g")
    base = alt.Chart(rounded(table)).encode(x=alt.X("step:Q", title="step", axis=alt.Axis(format=",d", tickCount=8)))
    band = base.mark_area(opacity=0.18).encode(color=colour, y=alt.Y("low:Q", scale=scale, axis=axis), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("mean:Q", title=f"difference in {unit}", scale=scale, axis=axis),
        color=colour,
        strokeDash=alt.StrokeDash("method:N", scale=dashes(methods), legend=key),
        tooltip=[
            "method:N",
            "versus:N",
            "step:Q",
            *(alt.Tooltip(f"{name}:Q", format="+.4~g") for name in ("mean", "low", "high")),
        ],
    )
    description = f"Paired difference in {unit} to the baseline against the step, mean with pointwise 95 % interval."
    return layered([*_margin(margin, "y"), band, line], description, 300)


def search(
    table: pl.DataFrame,
    method: str,
    settings: Mapping[str, float] | None,
    endpoint: Endpoint,
    shades: Sequence[float],
    rates: Sequence[float],
    reference: float | None,
) -> alt.LayerChart:
    """Learning rate against 1 - momentum: configurations coloured by score, diverged ones crossed, the winner ringed.

    shades: domain of the colours (values of the endpoint); rates: domain of the learning rate axis; reference: the
    baseline's learning rate, drawn as the line of equal effective learning rate for methods in heavy-ball form.
    """
    name = momentum_name(table.columns)
    if name is None:
        raise ValueError(f"{method} has no momentum axis: draw `rates`")
    data = _configurations(table, method, endpoint).with_columns(gap=1 - pl.col(name))
    title = f"1 − {name}"
    x = alt.X("gap:Q", title=title, scale=alt.Scale(type="log", nice=False, padding=12), axis=_decades(data["gap"]))
    y = _rate_axis(rates)
    layers = _marks(data, x, y, settings, endpoint, shades, name)
    if reference is not None and method in HEAVY_BALL:
        low, high = data["gap"].min(), data["gap"].max()
        line = pl.DataFrame({"gap": [low, high]}).with_columns(lr=reference * pl.col("gap"))
        layers.insert(
            0,
            alt.Chart(rounded(line)).mark_line(clip=True, strokeDash=[5, 4], color=BASELINE).encode(x=x, y=y),
        )
    return layered(layers, _describe(table, method, f"learning rate against {title}", settings), 300)


def rates(
    table: pl.DataFrame,
    method: str,
    settings: Mapping[str, float] | None,
    endpoint: Endpoint,
    shades: Sequence[float],
    rates: Sequence[float],
) -> alt.LayerChart:
    """The one-dimensional slice of a method without momentum: value (to the right) against learning rate (upwards)."""
    data = _configurations(table, method, endpoint)
    x = alt.X(
        "shown:Q", title=endpoint.name, scale=_value_scale(endpoint, shades), axis=alt.Axis(format="~g", tickCount=4)
    )
    layers = _marks(data, x, _rate_axis(rates), settings, endpoint, shades, None)
    return layered(layers, _describe(table, method, "the learning rate", settings), 300)


def _configurations(table: pl.DataFrame, method: str, endpoint: Endpoint) -> pl.DataFrame:
    """`table` of `frames.trials` with what the tooltips show."""
    effective = [effective_lr(method, row) for row in table.iter_rows(named=True)]
    return table.with_columns(
        value=pl.Series(endpoint.value(table["score"].to_numpy()), dtype=pl.Float64),
        effective=pl.Series(effective, dtype=pl.Float64),
    )


def _rate_axis(domain: Sequence[float]) -> alt.Y:
    return alt.Y(
        "lr:Q",
        title="learning rate",
        scale=alt.Scale(type="log", domain=list(domain), nice=False, padding=12),
        axis=_decades(pl.Series(domain)),
    )


def _decades(values: pl.Series) -> alt.Axis:
    """Ticks at the powers of ten inside the data, at 1, 2, 5 where that is less than two."""
    low, high = float(values.to_numpy().min()), float(values.to_numpy().max())
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**k for k in exponents if low <= 10.0**k <= high]
    fine = [m * 10.0**k for k in exponents for m in (1, 2, 5) if low <= m * 10.0**k <= high]
    return alt.Axis(values=tens if len(tens) > 2 else fine, format="~g", gridOpacity=0.4)


def _marks(
    data: pl.DataFrame,
    x: alt.X,
    y: alt.Y,
    settings: Mapping[str, float] | None,
    endpoint: Endpoint,
    shades: Sequence[float],
    momentum: str | None,
) -> list[alt.Chart]:
    """Configurations as discs, diverged ones as crosses, the winner ringed."""
    data = data.with_columns(shown=pl.col("value").clip(min(shades), max(shades)))
    scale = alt.Scale(
        scheme="viridis",
        domain=sorted(shades),
        clamp=True,
        reverse=not endpoint.higher_is_better,
        type="log" if endpoint.is_loss else "linear",
    )
    has_effective = data["effective"].null_count() < len(data)
    tip = [
        alt.Tooltip("lr:Q", title="learning rate", format=".3~g"),
        *([alt.Tooltip(f"{momentum}:Q", format=".5~g")] if momentum else []),
        *([alt.Tooltip("effective:Q", title="effective lr/(1 − momentum)", format=".3~g")] if has_effective else []),
        alt.Tooltip("value:Q", title=f"{endpoint.name} (mean of the tuning seeds)", format=".5~g"),
        alt.Tooltip("diverged:Q", title="diverged seeds"),
    ]
    base = alt.Chart(rounded(data)).encode(x=x, y=y, tooltip=tip)
    layers = [
        base.transform_filter("datum.diverged == 0")
        .mark_point(filled=True, size=75, opacity=1, stroke="#8a8a8a", strokeWidth=0.6)
        .encode(color=alt.Color("value:Q", scale=scale, legend=None)),
        base.transform_filter("datum.diverged > 0").mark_point(
            shape="M-1,-1L1,1M-1,1L1,-1", size=26, color=PALETTE[1], strokeWidth=1.6, filled=False, opacity=0.9
        ),
    ]
    if settings and set(settings) <= set(data.columns):
        face = {momentum: 0.0} if momentum else {}  # a setting without momentum is one of the contained method
        winner = data.filter(*(pl.col(name) == value for name, value in {**face, **settings}.items()))
        layers.append(
            alt.Chart(rounded(winner), name="ink_winner")
            .mark_point(size=330, filled=False, strokeWidth=2.4, color=INK, opacity=1)
            .encode(x=x, y=y, tooltip=tip)
        )
    return layers


def _describe(table: pl.DataFrame, method: str, axes: str, settings: Mapping[str, float] | None) -> str:
    chosen = ", ".join(f"{name} {value:.3g}" for name, value in settings.items()) if settings else "nothing"
    lost = int((table["diverged"] > 0).sum())
    return f"Search of {method} over {axes}: {len(table)} configurations, {lost} with a diverged run; chosen: {chosen}."


def expected(table: pl.DataFrame, methods: Sequence[str], endpoint: Endpoint) -> alt.LayerChart:
    """The expected best of k tuning trials against k: what a smaller search would have found."""
    late = table.filter(pl.col("trials") >= min(2, len(table)))["value"].to_numpy()
    lines = alt.Chart(rounded(table))
    line = lines.mark_line(strokeWidth=2, clip=True).encode(
        x=alt.X(
            "trials:Q",
            title="tuning trials",
            scale=alt.Scale(type="log", base=2, nice=False),
            axis=alt.Axis(values=[2**k for k in range(11)], format="d"),
        ),
        y=alt.Y(
            "value:Q",
            title=f"expected best {endpoint.name}",
            scale=_value_scale(endpoint, [late.min(), late.max()]),
            axis=alt.Axis(format="~g", tickCount=6),
        ),
        color=alt.Color("method:N", scale=colours(methods)),
        strokeDash=alt.StrokeDash("method:N", scale=dashes(methods)),
        tooltip=["method:N", "trials:Q", alt.Tooltip("value:Q", format=".4~g")],
    )
    description = f"Expected best {endpoint.name} on validation against the number of tuning trials, per method."
    return layered([line], description, 280)
