"""Shapes over time that fit any hyper-parameter, and their composition."""

import math
from bisect import bisect_right
from dataclasses import dataclass

from ravine.errors import UserError
from ravine.schedules.base import Setting, at, register, require, require_count, require_number


@register
@dataclass(frozen=True)
class Piecewise:
    """One part after the other: ``parts[i]`` from step ``starts[i - 1]`` on, and ``parts[0]`` from step 0.

    Each part is a number or a schedule, and counts its steps from its own start. ``starts`` are increasing steps, one
    fewer than there are parts. The recurrent nets of Sutskever et al. 2013 (Sec. 4.2) have
    ``Piecewise((0.9, 0.98), (1000,))``.
    """

    parts: tuple[Setting, ...]
    starts: tuple[int, ...]

    def __post_init__(self) -> None:
        parts, starts = len(self.parts), len(self.starts)
        require(parts == starts + 1, f"{parts} parts have {starts} starts, and must have {parts - 1}")
        _require_increasing("starts", self.starts)
        for place, part in enumerate(self.parts):
            require_number(f"part {place}", part)

    def __call__(self, step: int) -> float:
        part = bisect_right(self.starts, step)
        return at(self.parts[part], step - (self.starts[part - 1] if part else 0))


@register
@dataclass(frozen=True)
class Polynomial:
    """From ``start`` at step 0 to ``end`` at step ``steps``, and ``end`` from there on: a line, or a power of it.

    end + (start - end) (1 - step / steps)^power. A ``power`` above 1 falls fast at first; SNGM (Zhao et al. 2020) uses
    2 with end = 0.
    """

    start: float
    end: float
    steps: int
    power: float = 1.0

    def __post_init__(self) -> None:
        _require_ends(self)
        require_number("the power", self.power, 0, low_open=True)

    def __call__(self, step: int) -> float:
        return _between(self.end, self.start, math.pow(1 - min(step / self.steps, 1.0), self.power))


@register
@dataclass(frozen=True)
class Cosine:
    """Half a cosine from ``start`` at step 0 to ``end`` at step ``steps``, and ``end`` from there on.

    end + (start - end) (1 + cos(pi step / steps)) / 2; Loshchilov and Hutter 2017, Eq. 5, without restarts.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _require_ends(self)

    def __call__(self, step: int) -> float:
        done = min(step / self.steps, 1.0)
        return _between(self.end, self.start, (1 + math.cos(math.pi * done)) / 2)


@register
@dataclass(frozen=True)
class StepDecay:
    """``start`` times ``factor`` for each of the ``milestones`` that is reached: start factor^k, k of them <= step.

    The same as ``torch.optim.lr_scheduler.MultiStepLR``. Factors that differ are a `Piecewise` of numbers.
    """

    start: float
    factor: float
    milestones: tuple[int, ...]

    def __post_init__(self) -> None:
        require_number("the start", self.start)
        require_number("the factor", self.factor, 0, low_open=True)
        _require_increasing("milestones", self.milestones)

    def __call__(self, step: int) -> float:
        return self.start * math.pow(self.factor, bisect_right(self.milestones, step))


def warm_up(start: float, steps: int, then: Setting) -> Piecewise:
    """A line from ``start`` at step 0 to the first value of ``then`` at step ``steps``, and then ``then``.

    With start = 0 the first step does nothing; then(0) / steps is the usual choice (Goyal et al. 2017, Sec. 2.2).
    """
    return Piecewise((Polynomial(start, at(then, 0), steps), then), (steps,))


def one_cycle(start: float, peak: float, end: float, steps: int, *, warm: float = 0.3) -> Piecewise:
    """Two half cosines over ``steps`` steps: from ``start`` to ``peak`` in a share ``warm`` of them, then to ``end``.

    Smith and Topin 2018, with cosines for lines as in ``torch.optim.lr_scheduler.OneCycleLR``, which has peak / 25 and
    peak / 250,000 for the ends of the learning rate. The momentum goes the other way, such as from .95 to .85 to .95.
    """
    rising = round(warm * steps)
    if not 2 <= rising < steps:
        raise UserError(f"a share {warm:g} of {steps} steps is {rising} steps up, and must be 2 or more, and not all")
    return Piecewise((Cosine(start, peak, rising - 1), Cosine(peak, end, steps - rising)), (rising - 1,))


def _between(low: float, high: float, share: float) -> float:
    """``low + share (high - low)``, and exactly ``low`` and ``high`` at 0 and 1."""
    return (1 - share) * low + share * high


def _require_ends(line: Polynomial | Cosine) -> None:
    require_number("the start", line.start)
    require_number("the end", line.end)
    require_count("the number of steps", line.steps)


def _require_increasing(name: str, steps: tuple[int, ...]) -> None:
    rising = all(earlier < later for earlier, later in zip((-1, *steps), steps, strict=False))
    require(rising, f"the {name} are {steps}, and must be increasing steps from 0")
