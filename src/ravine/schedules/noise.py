"""Schedules about noise: a random scale, and the decay of the noise of the search direction."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from scipy.optimize import brentq

from ravine.errors import UserError
from ravine.schedules.base import Schedule, register, require, require_count, require_number


@register
@dataclass(frozen=True)
class ExponentialScale:
    """A random factor of the step with mean 1: Exp(1), drawn anew at each step.

    The scalar s of Zhang and Cutkosky 2024 ("Random scaling and momentum for non-smooth non-convex optimization").
    A pure function of (seed, step), the key of a counter-based generator: the same on every machine, in any order, and
    again after a checkpoint. ``seed`` in [0, 2^64).
    """

    seed: int

    def __post_init__(self) -> None:
        require_count("the seed", self.seed, 0)
        require(self.seed < 2**64, f"the seed is {self.seed}, and must be below 2^64")

    def __call__(self, step: int) -> float:
        # The generator's own bits, because NumPy may change its distributions from version to version.
        key = np.array([self.seed, step], dtype=np.uint64)
        bits = int(np.random.Philox(key=key).random_raw())
        return -math.log1p(-(bits >> 11) * 2.0**-53)


def degree_of_smoothing(lr: float, momentum: float, batch_size: float, variance: float, bound: float) -> float:
    """The degree of smoothing of classical momentum in heavy-ball form: the noise of its direction times lr.

    lr sqrt((1 + h) variance / batch_size + h bound^2), h = momentum (momentum^2 - momentum + 1) / (1 - momentum)^2.
    Sato and Iiduka 2024 ("Role of momentum in smoothing the objective function"). ``variance``: of the gradient of one
    example; ``bound``: of the norm of the full gradient. It is an upper bound, and a loose one; momentum 0 is SGD.
    """
    noise = variance / batch_size
    return lr * math.sqrt(noise + _excess(momentum) * (noise + bound**2))


def _excess(momentum: float) -> float:
    """The factor h of `degree_of_smoothing`: increasing, 0 without momentum."""
    return momentum * (momentum**2 - momentum + 1) / (1 - momentum) ** 2


@lru_cache(maxsize=1024)
def _momentum_with(excess: float) -> float:
    """The momentum in [0, 1) with that h; 0 if h is negative."""
    if excess <= 0:
        return 0.0
    return float(brentq(lambda x: x * (x * x - x + 1) - excess * (1 - x) ** 2, 0.0, 1.0, xtol=1e-15, rtol=1e-14))


Lever: TypeAlias = Literal["lr", "momentum", "lr+batch_size", "momentum+batch_size", "lr+momentum"]
LEVERS: tuple[Lever, ...] = ("lr", "momentum", "lr+batch_size", "momentum+batch_size", "lr+momentum")


@register
@dataclass(frozen=True)
class NoiseDecay:
    """Sato and Iiduka's noise schedule: `degree_of_smoothing` falls as ``(1 - stage / stages)^power``.

    Implicit graduated optimization (arXiv 2402.02325, 2412.11501). The stages, ``stage_steps`` steps each (the paper:
    one epoch), count from 0, and the last one goes on. What moves is chosen by ``by``; b is the batch size:

    - ``lr``: the learning rate falls with the degree of smoothing;
    - ``momentum``: it falls so far that the degree of smoothing does as told, but not below 0;
    - ``lr+batch_size``: b grows as (1 - stage / stages)^(-power balance), to whole numbers, the learning rate does
      the rest;
    - ``momentum+batch_size``: b grows likewise, momentum does the rest;
    - ``lr+momentum``: the learning rate falls with half the power, momentum does the rest.

    One plan gives three schedules, which go together: ``plan.lr``, ``plan.momentum`` (classical, heavy-ball form) and
    ``plan.batch_size`` (for `ScheduledBatchSampler`). ``variance`` and ``bound`` as in `degree_of_smoothing`, not
    needed by ``lr``. The authors use power .9, and balance 1.503, 1.335, 1.169, 1, .835, .667, .5 for batches of 16,
    32, ..., 1024. Their code makes a new optimizer, with no velocity, at each stage; here the velocity stays.
    """

    by: Lever
    stages: int
    stage_steps: int
    start_lr: float
    start_momentum: float
    start_batch_size: int
    variance: float | None = None
    bound: float | None = None
    power: float = 0.9
    balance: float = 1.0
    gives: Literal["lr", "momentum", "batch_size"] = "lr"

    def __post_init__(self) -> None:
        require(self.by in LEVERS, f"the noise cannot fall by {self.by!r}: choose one of {', '.join(LEVERS)}")
        require(
            self.gives in ("lr", "momentum", "batch_size"), f"a plan gives lr, momentum, batch_size, not {self.gives!r}"
        )
        require_count("the number of stages", self.stages)
        require_count("the number of steps of a stage", self.stage_steps)
        require_number("the learning rate", self.start_lr, 0)
        require_number("the momentum", self.start_momentum, 0, 1)
        require_count("the batch size", self.start_batch_size)
        require(0 < self.power <= 1, f"the power is {self.power:g}, and must lie in (0, 1]")
        require_number("the balance", self.balance, 0, low_open=True)
        if self.by != "lr":
            for name, value in (("variance", self.variance), ("bound", self.bound)):
                if value is None:
                    raise UserError(
                        f"the {name} of the gradient is not given, and noise that falls by {self.by} needs it"
                    )
                require_number(f"the {name} of the gradient", value, 0)
            require(bool(self.variance or self.bound), "variance and bound are both 0: there is no noise to decay")

    @property
    def lr(self) -> Schedule:
        """The learning rate over time."""
        return replace(self, gives="lr")

    @property
    def momentum(self) -> Schedule:
        """The momentum over time."""
        return replace(self, gives="momentum")

    @property
    def batch_size(self) -> Schedule:
        """The batch size over time, in whole numbers."""
        return replace(self, gives="batch_size")

    def __call__(self, step: int) -> float:
        left = 1 - min(step // self.stage_steps, self.stages - 1) / self.stages
        if self.gives == "batch_size":
            return self._batch_size(left)
        return self._lr(left) if self.gives == "lr" else self._momentum(left)

    def _batch_size(self, left: float) -> float:
        growth = math.pow(left, -self.power * self.balance) if "batch_size" in self.by else 1.0
        return round(self.start_batch_size * growth)

    def _lr(self, left: float) -> float:
        if self.by == "lr+batch_size":
            return self._target(left) / self._smoothing(1.0, self._batch_size(left))
        exponent = {"lr": self.power, "lr+momentum": self.power / 2}.get(self.by, 0.0)
        return self.start_lr * math.pow(left, exponent)

    def _momentum(self, left: float) -> float:
        if "momentum" not in self.by or left == 1:
            return self.start_momentum
        lr, (variance, bound) = self._lr(left), self._constants()
        noise = variance / self._batch_size(left)
        return _momentum_with(((self._target(left) / lr) ** 2 - noise) / (noise + bound**2)) if lr else 0.0

    def _target(self, left: float) -> float:
        """The degree of smoothing when a share ``left`` of the stages is left."""
        return self._smoothing(self.start_lr, self.start_batch_size) * math.pow(left, self.power)

    def _smoothing(self, lr: float, batch_size: float) -> float:
        return degree_of_smoothing(lr, self.start_momentum, batch_size, *self._constants())

    def _constants(self) -> tuple[float, float]:
        assert self.variance is not None and self.bound is not None  # checked for every lever that asks
        return self.variance, self.bound
