"""Curvature along a direction: of the update, of the gradient, of each mini-batch along its own gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from ravine.curvature import Objective, require_finite
from ravine.errors import UserError
from ravine.measure.estimate import Estimate, mean, ratio_of_means


def curvature_along(objective: Objective, direction: Tensor) -> Estimate:
    """u' H u / |u|^2 along a direction u (P,), such as the last update; its error from how the parts differ.

    One Hessian product a part. Raises UserError when the direction is zero or not finite, or a product is not finite.
    """
    u = direction.to(objective.device, objective.dtype)
    if u.shape != (objective.size,):
        raise UserError(f"a direction has one number per parameter, ({objective.size},), not {tuple(u.shape)}")
    length = float(u.square().sum())
    if not 0 < length < float("inf"):
        raise UserError("the direction is zero or not finite, so there is no curvature along it")
    values = [float(u @ objective.part_hessian(part)(u[None])[0]) / length for part in objective.parts]
    if not all(map(math.isfinite, values)):
        raise UserError("a product with the curvature matrix is not finite: training has diverged or divides by 0")
    rows = [part.rows * len(objective.parts) / objective.rows for part in objective.parts]
    return ratio_of_means([a * b for a, b in zip(values, rows, strict=True)], rows)


def batch_sharpness(
    objective: Objective,
    *,
    tolerance: float = 0.005,
    at_least: int = 20,
    velocity: Tensor | None = None,
    momentum: float = 0.0,
) -> Estimate:
    """E[g' H g / |g|^2], each mini-batch's curvature along its own gradient: the mean of ratios over the parts.

    Andreyev and Beneventano. Each part of the objective is one mini-batch, of the size trained with; the first ones
    are taken, until the standard error is at most tolerance |value| and there were `at_least`, or there are no more.
    At the edge of stability plain SGD holds it at 2 / lr.

    velocity (P,), momentum: the velocity v before the step and its factor b, in heavy-ball form. Then the ratio is
    s' H s / s' g along the step s = b v + g that the mini-batch would take.

    Raises UserError when there is one part only, or a gradient is zero or not finite.
    """
    if velocity is None and momentum:
        raise UserError(f"batch sharpness at momentum {momentum:g} needs the velocity before the step: give velocity=")
    if len(objective.parts) < 2:
        raise UserError(
            "batch sharpness is a mean over mini-batches, and the objective has one: give micro_batch=, the batch size"
        )
    draws: list[float] = []
    for value in _ratios(objective, velocity, momentum):
        draws.append(value)
        so_far = mean(draws)
        if len(draws) >= max(at_least, 2) and so_far.error <= tolerance * abs(so_far.value):
            break
    return mean(draws)


def _ratios(objective: Objective, velocity: Tensor | None, momentum: float) -> Iterator[float]:
    for number, part in enumerate(objective.parts):
        gradient = objective.part_gradient(part)
        require_finite(objective, gradient, f"in mini-batch {number}")
        step = gradient if velocity is None else momentum * velocity + gradient
        below = float(step @ gradient)
        if below == 0:
            raise UserError(f"the gradient of mini-batch {number} is zero along its step, so it has no batch sharpness")
        yield float(step @ objective.part_hessian(part)(step[None])[0]) / below
