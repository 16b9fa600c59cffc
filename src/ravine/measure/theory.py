"""Closed forms of momentum on a quadratic with gradient noise: what measurements are compared with.

A mode is one eigenvector of the Hessian, with curvature h. Every function takes the learning rate in the form that it
names; `heavy_ball_lr` turns the others into heavy-ball form, ``v <- b v + g; w <- w - lr v``. With weight decay k (as
a term k w of the gradient) take h + k for h.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

from ravine.errors import UserError
from ravine.schedules.forms import FORMS, Form


def heavy_ball_lr(lr: float, momentum: float, form: Form) -> float:
    """The learning rate of heavy-ball form with the same trajectory, at constant hyper-parameters.

    >>> round(heavy_ball_lr(0.5, momentum=0.9, form="ema"), 12)
    0.05
    """
    check_settings(lr, momentum, form)
    return lr * (1 - momentum) if form == "ema" else lr


def stability_limit(lr: float, momentum: float = 0.0, *, nesterov: bool = False, form: Form = "heavy-ball") -> float:
    """The curvature above which full-batch training of a mode diverges: the edge of stability.

    2 (1 + b) / lr in heavy-ball form, 2 (1 + b) / (lr (1 + 2 b)) for Nesterov's momentum, 2 (1 + b) / (lr (1 - b)) in
    EMA form; without momentum 2 / lr. Infinite for lr = 0. Adam's limit is that of EMA form with beta1, on the
    Hessian preconditioned by its denominators.

    >>> round(stability_limit(0.1, 0.9), 9), round(stability_limit(0.1, 0.9, nesterov=True), 9)
    (38.0, 13.571428571)
    """
    rate = heavy_ball_lr(lr, momentum, form)
    if rate == 0:
        return math.inf
    return 2 * (1 + momentum) / (rate * (1 + 2 * momentum if nesterov else 1))


def sharpness_plateaus(lr: float, momentum: float) -> tuple[float, float]:
    """Where batch sharpness settles in training by heavy-ball momentum: with small batches, with large ones.

    2 (1 - b) / lr and 2 (1 + b) / lr (arXiv 2604.14108). Without momentum both are 2 / lr.
    """
    check_settings(lr, momentum)
    return (2 * (1 - momentum) / lr, 2 * (1 + momentum) / lr) if lr else (math.inf, math.inf)


@dataclass(frozen=True)
class Mode:
    """How one mode moves: w_(t+1) = trace w_t - determinant w_(t-1), with roots r of r^2 - trace r + determinant."""

    trace: float
    determinant: float

    @property
    def modulus(self) -> float:
        """The larger |r|: what a step leaves of the mode in the long run. Below 1 the mode is stable."""
        root = cmath.sqrt(self.trace**2 / 4 - self.determinant)
        return max(abs(self.trace / 2 + root), abs(self.trace / 2 - root))

    @property
    def oscillates(self) -> bool:
        """Whether the roots are complex."""
        return self.trace**2 < 4 * self.determinant

    @property
    def period(self) -> float:
        """Steps of an oscillation, 2 pi / arccos(trace / (2 sqrt(determinant))); 2 if it flips, else infinite."""
        if self.oscillates:
            return 2 * math.pi / math.acos(self.trace / (2 * math.sqrt(self.determinant)))
        return 2.0 if self.trace < 0 else math.inf


def mode(
    curvature: float, lr: float, momentum: float = 0.0, *, nesterov: bool = False, form: Form = "heavy-ball"
) -> Mode:
    """The mode of a curvature: trace 1 + b - lr h and determinant b; for Nesterov's (1 + b)(1 - lr h), b (1 - lr h).

    >>> found = mode(0.5, lr=1.0, momentum=0.81)
    >>> round(found.modulus, 12), round(found.period, 3)
    (0.9, 8.314)
    """
    step = heavy_ball_lr(lr, momentum, form) * curvature
    if nesterov:
        return Mode((1 + momentum) * (1 - step), momentum * (1 - step))
    return Mode(1 + momentum - step, momentum)


def stationary_variance(
    curvature: float, lr: float, momentum: float, noise: float, *, nesterov: bool = False, form: Form = "heavy-ball"
) -> float:
    """The variance of w around the minimum in the long run, with gradients h w + noise of variance `noise`.

    Heavy-ball momentum: lr s^2 (1 + b) / (h (1 - b) (2 (1 + b) - lr h)). For small lr it is lr / (1 - b) s^2 / (2 h):
    at equal effective learning rate, momentum does not change the noise floor. Infinite where the mode is not stable.
    """
    rate, b = heavy_ball_lr(lr, momentum, form), momentum
    found = mode(curvature, lr, momentum, nesterov=nesterov, form=form)
    if curvature <= 0 or found.modulus >= 1:  # nothing pulls back; rounding alone may put a flat mode below 1
        return math.inf
    # w_(t+1) = trace w_t - determinant w_(t-1) + now e_t + before e_(t-1): an ARMA(2, 1) process of white e with
    # variance `noise`, whose variance follows from its Yule-Walker equations.
    now, before = (-rate * (1 + b), rate * b) if nesterov else (-rate, 0.0)
    a, d = found.trace, found.determinant
    driven = now**2 + before**2 + a * now * before * (1 + (1 - d) / (1 + d))
    return noise * driven / ((1 - d**2) - a**2 * (1 - d) / (1 + d))


def gains(momentum: float) -> tuple[float, float, float]:
    """The momentum gain (1 - b) |v| / rms |g| of gradients that agree, of white noise, and of pure sign flips.

    1, sqrt((1 - b) / (1 + b)) and (1 - b) / (1 + b): at b = .9, 1, .229 and .053.
    """
    check_settings(0.0, momentum)
    quiet = (1 - momentum) / (1 + momentum)
    return 1.0, math.sqrt(quiet), quiet


def stationary_gain(curvature: float, lr: float, momentum: float, *, form: Form = "heavy-ball") -> float:
    """The momentum gain of a mode that noise alone keeps moving: (1 - b) / sqrt(1 - b^2 + b lr h).

    From that of white noise at lr h = 0 to that of pure sign flips at the edge of stability. Heavy-ball momentum.
    """
    step = heavy_ball_lr(lr, momentum, form) * curvature
    return (1 - momentum) / math.sqrt(1 - momentum**2 + momentum * step)


def stationary_cosine(curvature: float, lr: float, momentum: float, *, form: Form = "heavy-ball") -> float:
    """The correlation of successive updates of a mode that noise alone keeps moving: b - lr h / 2.

    From b to -1 at the edge of stability; 0 where lr h = 2 b. Heavy-ball momentum.
    """
    return momentum - heavy_ball_lr(lr, momentum, form) * curvature / 2


def effective_batch(batch_size: float, momentum: float) -> float:
    """How many examples the velocity averages over, for a gradient that does not move: b (1 + beta) / (1 - beta)."""
    check_settings(0.0, momentum)
    return batch_size * (1 + momentum) / (1 - momentum)


def check_settings(lr: float, momentum: float, form: Form = "heavy-ball") -> None:
    """Raise UserError unless 0 <= momentum < 1, lr is at least 0 and finite, and there is such a form."""
    if form not in FORMS:
        raise UserError(f"form is {form!r}: choose one of {', '.join(map(repr, FORMS))}")
    if not 0 <= momentum < 1:
        raise UserError(f"momentum is {momentum:g}, and must lie in [0, 1)")
    if not (lr >= 0 and math.isfinite(lr)):
        raise UserError(f"lr is {lr:g}, and must be at least 0 and finite")
