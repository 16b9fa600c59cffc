"""A hyper-parameter as a function of the step, counted from 0.

A schedule is any function ``step -> float``. Those here are frozen dataclasses, so they print, compare and pickle.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ravine.errors import UserError

Schedule: TypeAlias = Callable[[int], float]


@dataclass(frozen=True)
class SutskeverMomentum:
    """Slowly increasing momentum: min(1 - 1 / (2 (floor(step / period) + 1)), highest).

    Sutskever et al. 2013, Eq. 5, where the period is 250: momentum .5 at first, .9 from step 1,000, .99 from step
    12,250. A run shorter than that needs a shorter period to see high momentum at all. ``highest`` in [0, 1).
    """

    highest: float
    period: int = 250

    def __post_init__(self) -> None:
        if not 0 <= self.highest < 1:
            raise UserError(f"the highest momentum is {self.highest:g}, and must lie in [0, 1)")
        if self.period < 1:
            raise UserError(f"the period is {self.period} steps, and must be at least 1")

    def __call__(self, step: int) -> float:
        return min(1 - 0.5 / (step // self.period + 1), self.highest)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from ``start`` at step 0 to ``end`` at step ``steps``, and ``end`` from there on.

    end + (start - end) (1 + cos(pi step / steps)) / 2; Loshchilov and Hutter 2017, Eq. 5, without restarts.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"the cosine takes {self.steps} steps, and must take at least 1")

    def __call__(self, step: int) -> float:
        done = min(step / self.steps, 1.0)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * done)) / 2
