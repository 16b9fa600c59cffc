"""From a solution of the quadratic model to a step: backtracking over iterates, line search, and the damping."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ravine.hessian_free.cg import Iterate

Loss = Callable[[Tensor], float]
"""A change of the parameters (P,) -> the loss with it."""


def backtrack(iterates: Sequence[Iterate], loss: Loss) -> tuple[Iterate, float]:
    """The saved iterate where walking back from the last stops to improve, and its loss (Martens 2010, section 4.6)."""
    best, lowest = iterates[-1], loss(iterates[-1].x)
    for iterate in reversed(iterates[:-1]):
        value = loss(iterate.x)
        if not value < lowest and lowest == lowest:  # an overflow (NaN) is walked away from
            break
        best, lowest = iterate, value
    return best, lowest


def line_search(
    loss_at: Callable[[float], float],
    loss: float,
    slope: float,
    *,
    first: float = 1.0,
    shrink: float = 0.8,
    armijo: float = 0.01,
    tries: int = 60,
) -> tuple[float, float]:
    """The first rate in first * shrink^j with loss_at(rate) <= loss + armijo rate slope, and the loss there.

    slope: the derivative of the loss along the direction, below 0. (0, loss) after `tries` rates, or if slope >= 0.
    """
    rate = first
    if slope < 0:
        for _ in range(tries):
            value = loss_at(rate)
            if value <= loss + armijo * rate * slope:
                return rate, value
            rate *= shrink
    return 0.0, loss


def levenberg_marquardt(damping: float, ratio: float, factor: float) -> float:
    """The next damping: times `factor` if the reduction ratio is below 1/4 or NaN, by `factor` if above 3/4.

    ratio: the reduction of the loss over the one that the undamped model predicted.
    """
    if not ratio >= 0.25:
        return damping * factor
    return damping / factor if ratio > 0.75 else damping
