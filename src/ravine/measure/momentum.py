"""Momentum's own signals: from gradients, velocities and updates that training has anyway."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ravine.errors import UserError
from ravine.measure.estimate import Estimate, ratio_of_means
from ravine.measure.theory import Mode, check_settings, gains, stability_limit
from ravine.schedules import Form


def momentum_gain(
    velocity_norms: Sequence[float], gradient_norms: Sequence[float], momentum: float, form: Form = "heavy-ball"
) -> Estimate:
    """Gamma = (1 - b) rms |v| / rms |g|: how much of the gradients the velocity keeps. 1 if all of them agree.

    velocity_norms, gradient_norms: |v_t| and |g_t| of the same steps, after the first few 1 / (1 - b). In EMA form the
    factor 1 - b is in v. White noise gives sqrt((1 - b) / (1 + b)), pure sign flips (1 - b) / (1 + b).

    The error counts steps as independent in blocks of 2 / (1 - b), the memory of the velocity; where the gradients
    agree it is too large, up to some times, because velocity and gradient then err alike, but not in the same block.
    """
    check_settings(0.0, momentum, form)
    if not len(velocity_norms) or len(velocity_norms) != len(gradient_norms):
        raise UserError("a momentum gain needs as many norms of velocities as of gradients, and at least one")
    factor = 1.0 if form == "ema" else 1 - momentum
    v = (factor * np.asarray(velocity_norms, dtype=np.float64)) ** 2
    g = np.asarray(gradient_norms, dtype=np.float64) ** 2
    if not (np.isfinite(v).all() and np.isfinite(g).all() and g.any()):
        raise UserError("the norms of velocities or gradients are not finite, or all gradients are zero")
    blocks = max(1, int(len(v) * (1 - momentum) / 2))
    square = ratio_of_means(_block_means(v, blocks), _block_means(g, blocks))
    gain = math.sqrt(square.value)
    return Estimate(gain, square.error / (2 * gain) if gain else math.nan, square.draws)


def signal_share(gain: Estimate, momentum: float) -> Estimate:
    """alpha = |G|^2 / E |g|^2 of the mini-batch gradient, from the momentum gain.

    (Gamma^2 - c) / (1 - c) with c = (1 - b) / (1 + b). For a gradient that hardly moves over 1 / (1 - b) steps; the
    batch size times (1 / alpha - 1) is then the noise scale. Clearly below 0 it says that the gradients flip:
    oscillation.
    """
    c = gains(momentum)[2]
    if c == 1:
        raise UserError("without momentum the gain says nothing about the share of the signal")
    return Estimate((gain.value**2 - c) / (1 - c), 2 * gain.value * gain.error / (1 - c), gain.draws)


def cosine(one: Tensor, other: Tensor) -> float:
    """cos(u_t, u_(t-1)) of two updates or gradients; NaN if one is zero."""
    lengths = float(one.norm()) * float(other.norm())
    return float((one * other).sum()) / lengths if lengths else math.nan


@dataclass(frozen=True)
class Oscillation:
    """A mode as its measured positions tell it. `period` is infinite, and `modulus` without error, if it has none."""

    mode: Mode
    modulus: Estimate
    period: Estimate


def oscillation(positions: Sequence[float]) -> Oscillation:
    """The modulus and period of the mode that moved through these positions, one a step, of any origin.

    The positions are w_t' q along an eigenvector q. Heavy-ball momentum on a quadratic with noise is the process
    w_(t+1) = a w_t - d w_(t-1) + level + noise; a and d by least squares, errors by the delta method. What to compare
    with is `theory.mode`. Nesterov's momentum adds a moving average to the noise, which biases this fit; without noise
    it is exact for both.

    Positions that flip exactly, c (-r)^t + level, have period 2.

    Raises UserError when there are fewer than 8 positions, or they do not move, or only fade.
    """
    w = np.asarray(positions, dtype=np.float64)
    if len(w) < 8 or not np.isfinite(w).all() or np.ptp(w) == 0:
        raise UserError("an oscillation needs at least 8 finite positions that move")
    w = (w - w.mean()) / w.std()
    design = np.stack([w[1:-1], w[:-2], np.ones(len(w) - 2)], axis=1)
    solution, _, rank, _ = np.linalg.lstsq(design, w[2:], rcond=None)
    if rank < 3:
        moves = np.diff(w)
        ratio = float(moves[1:] @ moves[:-1] / (moves[:-1] @ moves[:-1]))
        if ratio >= 0:
            raise UserError("the positions lie on a line or a single exponential, so they show no oscillation")
        return Oscillation(Mode(ratio, 0.0), Estimate(-ratio, 0.0, len(moves)), Estimate(2.0, 0.0, len(moves)))
    rest = w[2:] - design @ solution
    spread = float(rest @ rest) / max(len(rest) - 3, 1) * np.linalg.inv(design.T @ design)[:2, :2]
    a, d = float(solution[0]), float(-solution[1])
    found = Mode(a, d)
    draws = len(rest)
    if not found.oscillates:
        return Oscillation(found, Estimate(found.modulus, math.nan, draws), Estimate(found.period, math.nan, draws))
    modulus = math.sqrt(d)
    angle = math.acos(a / (2 * modulus))
    # The slopes of modulus and period in (a, -d), the coefficients of the fit.
    of_modulus = np.array([0.0, -1 / (2 * modulus)])
    of_angle = np.array([-1 / (2 * modulus), -a / (4 * modulus**3)]) / math.sin(angle)
    of_period = -2 * math.pi / angle**2 * of_angle
    errors = [math.sqrt(max(float(slope @ spread @ slope), 0.0)) for slope in (of_modulus, of_period)]
    return Oscillation(found, Estimate(modulus, errors[0], draws), Estimate(2 * math.pi / angle, errors[1], draws))


def stability_margin(
    sharpness: float,
    lr: float,
    momentum: float = 0.0,
    *,
    nesterov: bool = False,
    form: Form = "heavy-ball",
    weight_decay: float = 0.0,
) -> float:
    """1 - (sharpness + weight_decay) / limit: the share of the stable range that is left; below 0 it is left behind.

    The limit is 2 (1 + b) / lr in heavy-ball form, and `theory.stability_limit` for the others.
    """
    return 1 - (sharpness + weight_decay) / stability_limit(lr, momentum, nesterov=nesterov, form=form)


def norm_growth(norms: Sequence[float]) -> Estimate:
    """The growth of |w|^2 per step, relative: the mean of log |w_(t+1)|^2 - log |w_t|^2.

    A scale-invariant weight grows by |update|^2 each step, and its effective learning rate falls as lr / |w|^2.
    """
    w = np.asarray(norms, dtype=np.float64)
    if len(w) < 2 or not (np.isfinite(w).all() and (w > 0).all()):
        raise UserError("a growth needs at least two norms, finite and above zero")
    steps = 2 * np.diff(np.log(w))
    error = float(steps.std(ddof=1)) / math.sqrt(len(steps)) if len(steps) > 1 else math.nan
    return Estimate(float(steps.mean()), error, len(steps))


def _block_means(values: np.ndarray[tuple[int], np.dtype[np.float64]], blocks: int) -> list[float]:
    return [float(block.mean()) for block in np.array_split(values, blocks)]
