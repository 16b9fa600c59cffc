"""Momentum over time, as the papers have it, and the learning rate that goes with it."""

import math
from dataclasses import dataclass

from ravine.schedules.base import Setting, at, register, require, require_count, require_number
from ravine.schedules.shapes import Piecewise


@register
@dataclass(frozen=True)
class SutskeverMomentum:
    """Slowly increasing momentum, ``min(1 - 1 / (2 (floor(step / period) + 1)), highest)``, and low at the end.

    Sutskever et al. 2013, Eq. 5, where the period is 250: momentum .5 at first, .9 from step 1,000, .99 from step
    12,250. A run shorter than that needs a shorter period to see high momentum at all. ``highest`` in [0, 1).

    With ``steps``, the length of the run, its last ``low_steps`` steps have momentum ``low``, or ``highest`` if that
    is less. The paper's autoencoders have .9 in the last 1,000 (Sec. 3): fine convergence needs low momentum, and
    dropping it earlier hurt. Without ``steps`` there is no such phase.
    """

    highest: float
    period: int = 250
    steps: int | None = None
    low: float = 0.9
    low_steps: int = 1000

    def __post_init__(self) -> None:
        require_number("the highest momentum", self.highest, 0, 1)
        require_number("the low momentum", self.low, 0, 1)
        require_count("the period", self.period)
        require_count("the number of steps with low momentum", self.low_steps, 0)
        if self.steps is not None:
            require_count("the number of steps", self.steps)
            require(
                self.low_steps < self.steps,
                f"the last {self.low_steps} of {self.steps} steps have low momentum, which is all of them: "
                "give fewer low_steps, and a shorter period too",
            )

    def __call__(self, step: int) -> float:
        if self.steps is not None and step >= self.steps - self.low_steps:
            return min(self.low, self.highest)
        return min(1 - 0.5 / (step // self.period + 1), self.highest)


@register
@dataclass(frozen=True)
class NesterovMomentum:
    """Nesterov's momentum for convex functions: ``1 - 3 / (step + 5)``.

    Nesterov 1983, as Sutskever et al. 2013 (App. A.1) write it: (a_t - 1) / a_{t+1} with a_{t+1} = (1 + sqrt(4 a_t^2 +
    1)) / 2 and a_0 = 1, to order 1 / t. The exact value is 0 at step 0, where the velocity is 0 anyway, and within
    .001 of this one from step 100 on.
    """

    def __call__(self, step: int) -> float:
        return 1 - 3 / (step + 5)


@register
@dataclass(frozen=True)
class StronglyConvexMomentum:
    """Nesterov's constant for strongly convex functions: ``(sqrt(k) - 1) / (sqrt(k) + 1)``, k the condition number.

    Nesterov 2003, with the learning rate 1 / L of the heavy-ball form, L the largest curvature and k = L / smallest
    curvature >= 1; the error then falls by 1 - 1 / sqrt(k) a step or faster. For classical momentum on a quadratic
    the best value is the *square* of this one (Polyak 1964).
    """

    condition: float

    def __post_init__(self) -> None:
        require_number("the condition number", self.condition, 1)

    def __call__(self, step: int) -> float:
        root = math.sqrt(self.condition)
        return (root - 1) / (root + 1)


@register
@dataclass(frozen=True)
class TwoThirdsMomentum:
    """Momentum that follows the learning rate: ``1 - scale lr^(2/3)``, within [0, highest].

    Cowsik, Can and Glorioso 2022 ("Flatter, faster"): with label noise in heavy-ball form, this exponent reaches flat
    minima in the fewest steps. ``lr`` is the learning rate of the heavy-ball form, a number or the same schedule that
    the optimizer has; the paper predicts no ``scale``. ``highest`` keeps momentum below 1 where lr is 0.
    """

    lr: Setting
    scale: float = 1.0
    highest: float = 1 - 1e-6

    def __post_init__(self) -> None:
        require_number("the learning rate", self.lr, 0)
        require_number("the scale", self.scale, 0, low_open=True)
        require_number("the highest momentum", self.highest, 0, 1)

    def __call__(self, step: int) -> float:
        return max(0.0, min(1 - self.scale * math.pow(at(self.lr, step), 2 / 3), self.highest))


@register
@dataclass(frozen=True)
class EffectiveLearningRate:
    """The learning rate whose effective learning rate is given: ``lr = effective (1 - momentum)``.

    For heavy-ball and Sutskever's form: whatever the momentum does, a constant gradient moves the parameters by
    effective times the gradient a step in the end. In EMA form the learning rate is the effective one as it is.
    ``momentum`` is the number or schedule that the optimizer has.
    """

    effective: Setting
    momentum: Setting

    def __post_init__(self) -> None:
        require_number("the effective learning rate", self.effective, 0)
        require_number("the momentum", self.momentum, 0, 1)

    def __call__(self, step: int) -> float:
        return at(self.effective, step) * (1 - at(self.momentum, step))


def early_momentum(momentum: float, until: int) -> Piecewise:
    """``momentum`` in the first ``until`` steps, then 0: SGDEM (Ramezani-Kebrya et al. 2021); until = 0 is SGD."""
    require_number("the momentum", momentum, 0, 1)
    return Piecewise((momentum, 0.0), (until,))
