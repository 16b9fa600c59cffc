"""What the table of a monitor says, in plain words: each sentence has a rule, and each rule its thresholds here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import polars as pl

from ravine.errors import UserError
from ravine.measure import (
    Estimate,
    NoiseScale,
    Oscillation,
    gains,
    momentum_gain,
    norm_growth,
    oscillation,
    pooled,
    signal_share,
)


@dataclass(frozen=True)
class Thresholds:
    """When a sentence is said.

    window: watched steps that are judged, the last ones. least: fewer are not judged. warm: the momentum gain is read
    once the average holds this many memories 1 / (1 - b).
    cancels: the share of the signal is below -cancels (1 - b) / (1 + b), which is -1 for pure sign flips.
    quiet, signal: the share of the signal is below, above: noise, agreement. All three with 95 % confidence.
    along: rms movement along the top eigenvector over that of the update. period_error: relative, of a period named.
    residual: |H q - theta q| / theta of a top eigenvalue that counts.
    edge: the margin below which training is at the edge of stability. grown: the factor of growing gradients.
    noise_limited, noise_free: batch size over noise scale below, above. noises: measurements pooled, the last ones;
    noises_least: fewer say nothing.
    unmoved: share of moves rounded away. looks: at layers before one counts as frozen. doubling: steps in which |w|^2
    doubles. thinned: share of steps watched.
    """

    window: int = 512
    least: int = 50
    warm: float = 3.0
    cancels: float = 0.25
    quiet: float = 0.2
    signal: float = 0.5
    along: float = 0.3
    period_error: float = 0.2
    residual: float = 0.1
    edge: float = 0.1
    grown: float = 10.0
    noise_limited: float = 0.2
    noise_free: float = 5.0
    noises: int = 20
    noises_least: int = 3
    unmoved: float = 0.3
    looks: int = 3
    doubling: float = 1000.0
    thinned: float = 0.99


LIMITS = Thresholds()


@dataclass(frozen=True)
class Remark:
    """A sentence, and the name of the rule that said it."""

    rule: str
    text: str

    def __str__(self) -> str:
        return self.text


def says(steps: pl.DataFrame, layers: pl.DataFrame | None = None, passed: int | None = None) -> list[Remark]:
    """What the tables of `monitor.read` show, the gravest first; one remark says so if there is too little to judge.

    passed: the number of the last step of the training, where that is known; else the last one watched counts.
    """
    recent = steps.tail(LIMITS.window)
    seen = recent.drop_nulls("average_norm")
    finite = [_not_finite, _overflows]
    if len(recent) < LIMITS.least:
        few = Remark("few", f"{len(recent)} steps watched: at least {LIMITS.least} are needed to say more")
        return [*_spoken(finite, recent), few]
    remarks = _spoken(finite, recent)
    still = _still(recent)
    if still is not None:
        return [*remarks, still]
    remarks += _spoken([_grows, _stability, _gain], seen, steps)
    remarks += _spoken([_noise, _weights], steps)
    remarks += _spoken([_rounding], recent)
    if layers is not None:
        remarks += _spoken([_frozen], layers)
    if not remarks:
        remarks = [Remark("calm", f"nothing stands out in the last {len(recent)} steps watched")]
    thinned = _thinned(steps, passed)
    return remarks if thinned is None else [*remarks, thinned]


def _spoken(rules: Sequence[Callable[..., Remark | None]], *tables: pl.DataFrame) -> list[Remark]:
    return [remark for rule in rules if (remark := rule(*tables)) is not None]


# What is broken.


def _not_finite(recent: pl.DataFrame) -> Remark | None:
    bad = recent.filter(pl.col("gradient_norm").is_null() & pl.col("lr").is_not_null())
    if bad.is_empty():
        return None
    share = f"{len(bad)} of {len(recent)} steps, first at step {bad['step'][0]:,}"
    return Remark(
        "not finite",
        f"the gradient was not finite in {share}: training diverged or a number overflowed; lower lr, clip the "
        "gradient, or with float16 use a GradScaler",
    )


def _overflows(recent: pl.DataFrame) -> Remark | None:
    counts = recent["overflows"].drop_nulls()
    if counts.is_empty() or not counts[-1]:
        return None
    return Remark(
        "overflow",
        f"float16 gradients overflowed {counts[-1]} times and the GradScaler left those steps out: a few are usual "
        "while it finds its scale; if they go on, lower lr or use bfloat16",
    )


def _still(recent: pl.DataFrame) -> Remark | None:
    moves = recent["update_norm"].drop_nulls()
    if moves.is_empty() or moves.max() != 0:
        return None
    return Remark("still", f"no watched parameter moved in {len(moves)} steps: lr is 0, or no gradient arrives")


def _grows(seen: pl.DataFrame, steps: pl.DataFrame) -> Remark | None:
    if not _grown(seen):
        return None
    limit = _last(seen, "limit")
    more = "" if limit is None else f"; at these settings a curvature above {limit:.3g} diverges"
    return Remark(
        "grows",
        f"the gradients grew more than {LIMITS.grown:g}-fold in the last {len(seen)} steps watched{more}: lower lr",
    )


# Stability and oscillation.


def _stability(seen: pl.DataFrame, steps: pl.DataFrame) -> Remark | None:
    found, limit = _sharpness(steps), _last(steps, "limit")
    if found is None or limit is None:
        return None
    value, preconditioned = found
    what = "preconditioned top curvature" if preconditioned else "top curvature"
    compared = f"the {what} is {value:.3g}, and full-batch training diverges above {limit:.3g} at this lr and momentum"
    if value > limit:
        if _cancels(seen) is not None or _flips(seen) or _grown(seen):
            mend = f"lower lr by a factor of {value / limit:.2g} or more"
            return Remark("beyond the edge", f"{compared}; the updates turn back, as they do there: {mend}")
        return Remark(
            "above the limit",
            f"{compared}, but the updates do not turn back: the rows of batches= are few, or their loss is not the "
            "one that is trained; measure on more rows before lowering lr",
        )
    if value > (1 - LIMITS.edge) * limit:
        return Remark("at the edge", f"{compared}: training is at the edge of stability, so a larger lr will not hold")
    return Remark("headroom", f"{compared}: room for an lr {limit / value:.2g} times as large, if noise allows it")


def _gain(seen: pl.DataFrame, steps: pl.DataFrame) -> Remark | None:
    found = _signal_share(seen)
    if found is None:
        return None
    gain, share, memory = found
    low, high = share.interval()
    own = bool(seen["momentum"][-1])
    _, white, flips = gains(memory)
    shown = f"momentum gain {gain.value:.2g}; white noise gives {white:.2g}, agreement 1"
    if high < -LIMITS.cancels * flips:
        how = _swing(seen)
        if own:
            mend = "lower lr, or raise momentum with the same effective lr, lr / (1 - momentum)"
            return Remark("cancels", f"the velocity cancels: {how} ({shown}); {mend}")
        return Remark("cancels", f"the gradients cancel: {how} ({shown} at momentum {memory:g}); lower lr")
    if low > LIMITS.signal:
        mend = "a larger lr" if own else "momentum or a larger lr"
        return Remark("agrees", f"the gradients agree from step to step ({shown}): {mend} gets along faster")
    if high < LIMITS.quiet:
        return Remark(
            "noise",
            f"noise dominates the gradients ({shown}): at the same effective lr momentum changes little; a larger "
            "batch or a lower lr lowers the noise",
        )
    return None


def _swing(seen: pl.DataFrame) -> str:
    """The oscillation in words: along the top eigenvector where the update lies there, else that of the updates."""
    found = _along_top(seen)
    if found is not None:
        swing, expected = found
        theory = "" if expected is None else f", {expected:.3g} by theory"
        return f"oscillation along the top eigenvector, period {swing.period.value:.3g}{theory}"
    turn = seen["update_cosine"].drop_nulls().mean()
    if isinstance(turn, float) and turn < 0:
        return f"the updates turn back with a period of about {2 * math.pi / math.acos(max(turn, -1.0)):.2g} steps"
    return "the gradients of one memory undo each other"


def _along_top(seen: pl.DataFrame) -> tuple[Oscillation, float | None] | None:
    """The oscillation along the last top eigenvector if the updates lie there, and the period that theory gives."""
    number = _last(seen, "top")
    if number is None:
        return None
    rows = seen.filter(pl.col("top") == number).drop_nulls("top_movement")
    jumps = rows["step"].diff().fill_null(1).ne(1).to_list()
    begin = max((k for k, jump in enumerate(jumps) if jump), default=0)
    rows = rows[begin:]
    if len(rows) < LIMITS.least // 2:
        return None
    share = _rms(rows["top_movement"]) / max(_rms(rows["update_norm"]), 1e-300)
    try:
        swing = oscillation(rows["top_movement"].cum_sum().to_list())
    except UserError:
        return None
    sure = not swing.period.error > LIMITS.period_error * swing.period.value
    if share < LIMITS.along or not sure or not math.isfinite(swing.period.value):
        return None
    return swing, _last(seen, "top_period")


# Noise.


def _noise(steps: pl.DataFrame) -> Remark | None:
    rows = steps.drop_nulls("noise_trace").tail(LIMITS.noises)
    if len(rows) < LIMITS.noises_least:
        return None
    found, batch = _pooled(rows), rows["noise_batch"][-1]
    if found.hidden:
        shown = f"the noise hides the gradient: the noise scale is above {found.at_least:.3g} examples"
        if batch < LIMITS.noise_limited * found.at_least:
            more = "is far below; momentum changes little at the same effective lr, a larger batch helps"
            return Remark("noise scale", f"{shown} and a batch of {batch} {more}")
        return Remark("noise scale", f"{shown}, and more cannot be told of it: give more rows in batches=")
    ratio = found.ratio
    low, high = ratio.interval()
    shown = f"the gradient noise scale is {ratio.value:.3g} examples"
    if math.isfinite(low):
        shown += f" ({max(low, 0.0):.3g} to {high:.3g})"
    if batch < LIMITS.noise_limited * ratio.value:
        return Remark("noise scale", f"{shown}: a batch of {batch} is noise-limited, and a larger one saves steps")
    if batch > LIMITS.noise_free * ratio.value:
        return Remark("noise scale", f"{shown}: a batch of {batch} is far above, and a smaller one saves examples")
    return Remark("noise scale", f"{shown}: a batch of {batch} is near it")


# Weights.


def _weights(steps: pl.DataFrame) -> Remark | None:
    norms = steps.tail(LIMITS.window).select("step", "weight_norm").drop_nulls()
    if len(norms) < LIMITS.least or norms["weight_norm"].min() == 0:
        return None
    apart = (norms["step"][-1] - norms["step"][0]) / (len(norms) - 1)  # the steps between two rows
    growth = norm_growth(norms["weight_norm"].to_list())
    if growth.interval()[0] / apart < math.log(2) / LIMITS.doubling:
        return None
    steps_to_double = math.log(2) * apart / growth.value
    return Remark(
        "weights grow",
        f"|w|^2 doubles in {steps_to_double:.2g} steps: where a layer is normalized, its effective lr falls as "
        "lr / |w|^2; weight decay holds it",
    )


def _rounding(recent: pl.DataFrame) -> Remark | None:
    share = recent["unmoved"].drop_nulls().median()
    if not isinstance(share, float) or share < LIMITS.unmoved:
        return None
    return Remark(
        "rounding",
        f"{share:.0%} of the weights that have a gradient do not move, because their updates round to zero: keep "
        "float32 weights beside the low-precision ones, or raise lr",
    )


def _frozen(layers: pl.DataFrame) -> Remark | None:
    by = layers.group_by("parameter", maintain_order=True).agg(
        pl.col("update_norm").max().alias("most"),
        pl.col("gradient_norm").max().alias("slope"),
        pl.len().alias("looks"),
    )
    frozen = by.filter((pl.col("looks") >= LIMITS.looks) & (pl.col("most") == 0))
    if frozen.is_empty() or len(frozen) == len(by):
        return None
    names = ", ".join(f"'{name}'" for name in frozen["parameter"][:3])
    more = ", ..." if len(frozen) > 3 else ""
    why = "no gradient arrives there" if frozen["slope"].max() in (0, None) else "although a gradient arrives"
    return Remark("frozen", f"{len(frozen)} of {len(by)} parameter tensors never moved, {why}: {names}{more}")


# The monitor itself.


def _thinned(steps: pl.DataFrame, passed: int | None) -> Remark | None:
    watched = steps.drop_nulls("lr")
    if len(watched) < LIMITS.least:
        return None
    first, last = watched["step"][0], watched["step"][-1]
    share = len(watched) / ((passed or last) - first + 1)
    if share > LIMITS.thinned:
        return None
    step = (watched["seconds"][-1] - watched["seconds"][0]) / max(last - first, 1)
    seconds = watched["seconds"][-1] + max((passed or last) - last, 0) * step
    own = watched["overhead_seconds"][-1] / max(seconds, 1e-9)
    return Remark(
        "thinned",
        f"{share:.0%} of the steps were watched, because a step takes {1e3 * step:.2g} ms; the monitor took {own:.1%} "
        "of the training time",
    )


# Readings shared by rules.


def _signal_share(seen: pl.DataFrame) -> tuple[Estimate, Estimate, float] | None:
    """(momentum gain, share of the signal alpha, memory) over the steps whose average is warm."""
    memory = _last(seen, "memory")
    if memory is None or not 0 < memory < 1:
        return None
    warm = seen.filter((pl.col("memory") == memory) & (pl.col("averaged") * (1 - memory) >= LIMITS.warm))
    warm = warm.drop_nulls(["average_norm", "gradient_norm"])
    if len(warm) < LIMITS.least or not warm["gradient_norm"].max():
        return None
    gain = momentum_gain(warm["average_norm"].to_list(), warm["gradient_norm"].to_list(), memory, "ema")
    return gain, signal_share(gain, memory), memory


def _cancels(seen: pl.DataFrame) -> Estimate | None:
    found = _signal_share(seen)
    if found is None or not found[1].interval()[1] < -LIMITS.cancels * gains(found[2])[2]:
        return None
    return found[1]


def _flips(seen: pl.DataFrame) -> bool:
    turn = seen["update_cosine"].drop_nulls().median()
    return isinstance(turn, float) and turn < 0


def _grown(seen: pl.DataFrame) -> bool:
    norms = seen["gradient_norm"].drop_nulls()
    part = LIMITS.least // 2
    if len(norms) < 2 * part:
        return False
    old, new = norms.head(part).median(), norms.tail(part).median()
    return isinstance(old, float) and isinstance(new, float) and new > LIMITS.grown * old > 0


def _sharpness(steps: pl.DataFrame) -> tuple[float, bool] | None:
    """The last top eigenvalue that is settled and above 0, and whether it is preconditioned."""
    rows = steps.drop_nulls("sharpness").filter(
        (pl.col("sharpness") > 0) & (pl.col("sharpness_residual") <= LIMITS.residual * pl.col("sharpness"))
    )
    return None if rows.is_empty() else (rows["sharpness"][-1], rows["sharpness_preconditioned"][-1])


def _pooled(rows: pl.DataFrame) -> NoiseScale:
    """The noise scale of several stored measurements.

    They come back to the same fixed batches: how they differ tells nothing of the chance that chose these. So the
    errors are at least those of single measurements over the root of the number of batches.
    """
    ratio = Estimate(math.nan, math.nan)
    found = pooled(
        [
            NoiseScale(Estimate(signal, math.nan), Estimate(trace, math.nan), ratio, count)
            for signal, trace, count in rows.select("noise_signal", "noise_trace", "noise_rows").iter_rows()
        ]
    )
    known = math.sqrt(rows["noise_on"].n_unique())
    signal_error, trace_error = (_rms(rows[f"noise_{name}_error"]) / known for name in ("signal", "trace"))
    signal, trace = found.squared_norm, found.trace
    relative = math.hypot(
        signal_error / signal.value if signal.value else 0.0, trace_error / trace.value if trace.value else 0.0
    )
    return replace(
        found,
        squared_norm=_wider(signal, signal_error),
        trace=_wider(trace, trace_error),
        ratio=_wider(found.ratio, abs(found.ratio.value) * relative),
    )


def _wider(found: Estimate, error: float) -> Estimate:
    """With at least this error."""
    return replace(found, error=max(found.error, error))


def _last(table: pl.DataFrame, name: str) -> float | None:
    values = table[name].drop_nulls()
    return None if values.is_empty() else float(values[-1])


def _rms(values: pl.Series) -> float:
    numbers = values.drop_nulls().to_list()
    return math.sqrt(math.fsum(v * v for v in numbers) / len(numbers)) if numbers else 0.0
