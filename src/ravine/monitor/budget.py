"""What the monitor may cost: a share of the training time, measured by the clock."""

from __future__ import annotations

import math
import statistics
import time

import torch

from ravine.errors import UserError

CHEAP_SHARE = 0.5
"""The part of the budget that the cheap signals may take by the clock; beyond it steps are left out."""
AIM = 0.7
"""The part of the budget that the clock may show. What it cannot see, such as colder caches, comes on top."""
BURST = 64
"""Steps watched in a row. Between bursts the monitor rests, if it must."""


class Budget:
    """A clock of two parts, training and monitoring, and what follows from them.

    Time passes as training from `leave` to `enter`, as monitoring from `enter` to `leave`. With ``wait`` the device
    finishes its work first, so that what it costs is counted where it belongs.
    """

    def __init__(self, share: float, device: torch.device) -> None:
        if isinstance(share, str) or not 0 < share <= 1:
            raise UserError(f"budget is {share!r}: give the share of the training time, above 0 and at most 1")
        self.share = share
        self.training = 0.0
        self.spent = 0.0
        self._device = device
        self._mark = time.perf_counter()
        self._steps: list[float] = []  # training seconds of the steps of this burst
        self._looks: list[float] = []  # monitoring seconds of its cheap signals

    def begin(self) -> None:
        """The clock begins."""
        self._lap(False)

    def enter(self, wait: bool = False) -> None:
        """The training loop has been at work until now."""
        self.training += self._lap(wait)

    def leave(self, wait: bool = False) -> float:
        """The monitor has been at work until now; returns the seconds since `enter`."""
        seconds = self._lap(wait)
        self.spent += seconds
        return seconds

    @property
    def overhead(self) -> float:
        """Monitoring seconds per training second so far."""
        return self.spent / self.training if self.training else 0.0

    def allows(self, seconds: float) -> bool:
        """Whether so much more monitoring stays inside the budget."""
        return self.spent + seconds <= AIM * self.share * self.training

    def looked(self, step: float, look: float) -> None:
        """A watched step took `step` seconds of training and `look` seconds of monitoring."""
        self._steps.append(step)
        self._looks.append(look)

    def rest(self, watched: int) -> int:
        """Steps to leave out after a burst of `watched`, so that the cheap signals keep to their part of the budget."""
        step = max(statistics.median(self._steps), 1e-9)
        used = statistics.median(self._looks) / (CHEAP_SHARE * self.share * step)
        self._steps, self._looks = [], []
        return max(0, math.ceil(watched * (used - 1)))

    def _lap(self, wait: bool) -> float:
        if wait and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        return seconds
