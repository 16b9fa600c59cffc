"""The door of the advice: `advise`."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ravine import measure
from ravine.advice import predictor
from ravine.advice.forecast import CAREFUL, MOMENTA, Forecast, best
from ravine.advice.survey import Point, metric_slope, survey
from ravine.errors import UserError
from ravine.problems import Problem, prepare
from ravine.problems.checking import check
from ravine.problems.loading import load
from ravine.study import declare
from ravine.study.infer import Verdict

Regime: TypeAlias = Literal["curvature-limited", "noise-limited", "between"]

SECONDS = 60.0
AT_EDGE, WELL_BELOW = 0.5, 0.1  # of the largest stable learning rate of plain SGD


@dataclass(frozen=True)
class Setting:
    """A setting for `torch.optim.SGD`: heavy-ball form."""

    method: Literal["sgd", "momentum", "nesterov"]
    lr: float
    momentum: float

    @property
    def effective_lr(self) -> float:
        """lr / (1 - momentum), which compares across momenta."""
        return self.lr / (1 - self.momentum)


@dataclass(frozen=True)
class Measured:
    """A point of the short run. noise_scale: B_simple; None where noise hides the gradient or there is none."""

    step: int
    loss: float
    sharpness: float
    noise_scale: float | None
    noise_scale_error: float | None
    noise_scale_at_least: float | None


@dataclass(frozen=True)
class Advice:
    """What short measurements say before a comparison is paid for.

    regime: what limits the step of plain SGD. noise: batch size over noise scale (None: not known); headroom: effective
    learning rate of the recommended momentum over the largest stable one of plain SGD. verdict, probability,
    probabilities: of what `compare` would find for momentum against plain SGD. gain: the forecast difference in the
    unit of the endpoint, positive if momentum is better. recommended: the setting to take; with_momentum,
    without_momentum: the best of either in the forecast, momentum at no more than a quarter of its largest stable
    learning rate and with a memory 1 / (1 - b) within the steps that are left. matched_lr: the learning rate that gives
    the momentum of with_momentum the effective learning rate of without_momentum, for who keeps momentum where the
    verdict is `equal`. memory_saved: bytes of the velocity, which plain SGD does without. batch_size_advised: rows
    beyond which a step gains little. rows: of training that were measured on, fewer where a gradient is slow. caveats:
    what the forecast left out.
    """

    problem: str
    batch_size: int
    steps: int
    endpoint: str
    margin: float
    regime: Regime
    noise: float | None
    headroom: float
    gain: float
    verdict: Verdict
    probability: float
    probabilities: dict[Verdict, float]
    recommended: Setting
    with_momentum: Setting
    without_momentum: Setting
    batch_size_advised: int | None
    memory_saved: int
    rows: int
    points: tuple[Measured, ...]
    caveats: tuple[str, ...]
    seconds: float

    @property
    def matched_lr(self) -> float:
        """What the learning rate of plain SGD becomes where momentum is kept."""
        return self.without_momentum.lr * (1 - self.with_momentum.momentum)

    def as_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        return {**asdict(self), "matched_lr": self.matched_lr}


def advise(
    problem: str | Path | Problem,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    endpoint: str | None = None,
    margin: float | None = None,
    seconds: float = SECONDS,
) -> Advice:
    """Measures noise and curvature on a short run, and predicts whether momentum pays before a comparison is paid for.

    problem: a built-in name, the path of a problem file, or a `ravine.Problem`. steps, batch_size: in place of the
    problem's. endpoint, margin: as in `compare`. seconds: after which no further point is measured.

    Raises UserError where the words or the problem are wrong, WorkError where nothing can be measured.
    """
    if isinstance(seconds, str) or not seconds > 0:
        raise UserError(f"seconds is {seconds!r}: give a time above 0")
    declare.check_numbers(steps=steps, batch_size=batch_size, margin=margin)
    began = time.monotonic()
    asked = load(problem, batch_size=batch_size, steps=steps)
    data = prepare(asked)
    ending = declare.endpoint_of(asked, endpoint, margin, check(asked, data))
    factor, mean_factor = _schedule(asked)
    surveyed = survey(asked, data, seconds)
    points = surveyed.points
    last = points[-1]
    budget = max(round((asked.steps - last.step) * mean_factor), 1)
    landscape = last.landscape
    plain = best(landscape, budget, (0.0,))
    heavy = best(landscape, budget, MOMENTA)
    ahead = best(landscape, budget, MOMENTA, nesterov=True)
    slope = _slope(asked, points, ending)
    momentum = ahead if _gain(slope, heavy, ahead) > ending.margin else heavy
    gain = _gain(slope, plain, momentum)
    # Told is less than forecast: the coefficients were fitted to gains without these limits.
    remembered = tuple(b for b in MOMENTA if 1 / (1 - b) < max(budget, 2) + 0.5)  # within the steps that are left
    careful = best(landscape, budget, remembered, nesterov=momentum.nesterov, share=CAREFUL)
    chances = predictor.probabilities(predictor.feature(gain, ending.margin), predictor.committed())
    verdict = max(chances, key=lambda one: chances[one])
    edge = measure.stability_limit(1.0) / landscape.sharpness
    without, with_momentum = _setting(plain, factor), _setting(careful, factor)
    noise = last.noise
    known = noise is not None and not noise.hidden
    drawn = asked.batch_rows(data.train.rows)
    return Advice(
        problem=asked.name,
        batch_size=drawn,
        steps=asked.steps,
        endpoint=ending.name,
        margin=ending.margin,
        regime=_regime(plain.lr / edge),
        noise=drawn / noise.ratio.value if noise is not None and known and noise.ratio.value > 0 else None,
        headroom=careful.effective_lr / edge,
        gain=gain,
        verdict=verdict,
        probability=chances[verdict],
        probabilities=chances,
        recommended=with_momentum if verdict == "pays" else without,
        with_momentum=with_momentum,
        without_momentum=without,
        batch_size_advised=_batch_size(noise, data.train.rows),
        memory_saved=surveyed.memory,
        rows=surveyed.rows,
        points=tuple(_measured(point) for point in points),
        caveats=tuple(_caveats(asked, points, verdict)),
        seconds=time.monotonic() - began,
    )


def _slope(problem: Problem, points: list[Point], ending: declare.Endpoint) -> float | None:
    """Of the endpoint per unit of loss; None if the loss itself is the endpoint."""
    if ending.name == "loss":
        return None
    bounded = problem.metrics[ending.name].bounded
    return metric_slope(points, ending.name, float(ending.higher_is_better) if bounded else None)


def _gain(slope: float | None, base: Forecast, other: Forecast) -> float:
    """How much better `other` is forecast than `base`, in the unit of the endpoint."""
    if slope is None:
        smallest = 1e-300  # a deterministic quadratic can be forecast to underflow
        return math.log(max(base.loss, smallest)) - math.log(max(other.loss, smallest))
    return slope * (base.loss - other.loss)


def _regime(share_of_edge: float) -> Regime:
    if share_of_edge >= AT_EDGE:
        return "curvature-limited"
    return "noise-limited" if share_of_edge < WELL_BELOW else "between"


def _schedule(problem: Problem) -> tuple[float, float]:
    """(the largest factor of the problem's schedule, the mean factor over it): a step counts by its learning rate."""
    if problem.schedule is None:
        return 1.0, 1.0
    factors = [float(problem.schedule(step)) for step in range(problem.steps)]
    largest = max(factors)
    return (largest, sum(factors) / len(factors) / largest) if largest > 0 else (1.0, 1.0)


def _setting(found: Forecast, factor: float) -> Setting:
    name: Literal["sgd", "momentum", "nesterov"] = (
        "sgd" if found.momentum == 0 else "nesterov" if found.nesterov else "momentum"
    )
    return Setting(name, float(f"{found.lr / factor:.3g}"), found.momentum)


def _batch_size(noise: measure.NoiseScale | None, rows: int) -> int | None:
    """The power of two nearest to the noise scale (or to its lower bound), at most the rows that there are."""
    if noise is None:
        return None
    scale = noise.at_least if noise.hidden else noise.ratio.value
    if not scale > 1:
        return 1
    return rows if scale >= rows else min(2 ** round(math.log2(scale)), rows)


def _measured(point: Point) -> Measured:
    noise = point.noise
    if noise is None:
        return Measured(point.step, point.loss, point.sharpness, None, None, None)
    if noise.hidden:
        bound = noise.at_least if math.isfinite(noise.at_least) else None
        return Measured(point.step, point.loss, point.sharpness, None, None, bound)
    error = noise.ratio.error if math.isfinite(noise.ratio.error) else None
    return Measured(point.step, point.loss, point.sharpness, noise.ratio.value, error, None)


def _caveats(problem: Problem, points: list[Point], verdict: Verdict) -> list[str]:
    found = ["The forecast is that of a quadratic with gradient noise around the last point measured."]
    if verdict == "pays":
        found.append(
            "On most of the larger nets it was tried on, 'pays' did not come true, while 'equal' did: let "
            "`ravine compare` confirm it."
        )
    if not predictor.fitted():
        found.append("The probability is a rule of theory, not yet held against studies: take it as a guess.")
    if problem.clip is not None:
        found.append("Clipping is left out of the forecast.")
    if problem.schedule is not None:
        found.append("The schedule enters the forecast by its mean alone.")
    if problem.loss is None:
        found.append("Without loss= there is no Gauss-Newton matrix: the positive part of the Hessian stands for it.")
    if len(points) == 1:
        found.append("Only the start was measured: the time was over, or no learning rate trained.")
    return found
