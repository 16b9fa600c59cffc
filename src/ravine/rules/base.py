"""What every update rule is: hyper-parameters with their ranges, state, and one equation.

A rule is stateless. It is tensor arithmetic only, so that one body serves the drop-in optimizer (one parameter, 0-dim
hyper-parameters), the fleet (a buffer of shape (runs, P), hyper-parameters of shape (runs, 1)) and a compiled step
(one graph, whatever the values). Hence: no ``.item()``, no ``alpha=``, no Python branch on a value.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar, TypeAlias

from torch import Tensor, addcmul

from ravine.errors import UserError

Tensors: TypeAlias = Mapping[str, Tensor]


def hint(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all of them."""
    near = get_close_matches(name, known := list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


@dataclass(frozen=True)
class Hyper:
    """One hyper-parameter: its default (None: must be given), the range it must lie in, and what it means."""

    default: float | None
    low: float
    high: float
    low_open: bool = False
    high_open: bool = True
    meaning: str = ""

    @property
    def range(self) -> str:
        """The range in the usual notation, such as ``[0, 1)``."""
        return f"{'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"

    def check(self, name: str, value: float) -> None:
        """Raise `UserError` unless ``value`` lies in the range (NaN lies in none)."""
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        if not (above and below):
            raise UserError(f"{name} is {value:g}, and must lie in {self.range}: it is the {self.meaning}")


def learning_rate(default: float) -> Hyper:
    """The hyper-parameter ``lr``."""
    return Hyper(default, 0.0, math.inf, meaning="learning rate")


def fraction(default: float, meaning: str) -> Hyper:
    """A hyper-parameter in [0, 1), such as the momentum."""
    return Hyper(default, 0.0, 1.0, meaning=meaning)


def floor(default: float) -> Hyper:
    """The hyper-parameter ``eps``."""
    return Hyper(default, 0.0, math.inf, meaning="term added to the denominator, outside the root")


WEIGHT_DECAY = Hyper(0.0, 0.0, math.inf, meaning="factor of the parameters that is added to their gradient")


class Rule(ABC):
    """An update rule: gradient + state + hyper-parameters -> new parameters.

    ``name``: as on the command line. ``hyper``: every hyper-parameter but the weight decay, which all rules share.
    ``slots``: names of the state tensors, each shaped like the parameter and zero at the start. ``elementwise``: each
    element is updated from its own gradient and state alone, so a large tensor may be updated block by block.
    ``counts``: the rule uses ``h["step"]``.
    """

    name: ClassVar[str]
    hyper: ClassVar[Mapping[str, Hyper]]
    slots: ClassVar[tuple[str, ...]] = ()
    elementwise: ClassVar[bool] = True
    counts: ClassVar[bool] = False

    def coefficients(self, h: Tensors) -> Tensors:
        """The arithmetic among hyper-parameters, done once a step however many tensors follow; any shape, any dtype."""
        return h

    @abstractmethod
    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        """The equation, in place on ``param`` and ``state``; ``c`` are the coefficients, in the dtype of ``param``."""

    def update(self, param: Tensor, grad: Tensor, state: Tensors, h: Tensors) -> None:
        """One step, in place on ``param`` and ``state``; ``grad`` is only read.

        ``param``, ``grad`` and the slots of ``state`` have one shape and one floating dtype. ``h`` maps each name in
        ``hyper`` and ``"step"`` (the number of this step, from 1) to a tensor that broadcasts against ``param``: 0-dim,
        or (runs, 1, ..., 1) with one value per run. Its dtype is free: float64 loses nothing in 1 - momentum. With a
        key ``"weight_decay"``, grad + weight_decay * param takes the place of grad.
        """
        c = {name: value.to(param.dtype) for name, value in self.coefficients(h).items()}
        self.apply(param, decayed(param, grad, c), state, c)


def decayed(param: Tensor, grad: Tensor, c: Tensors) -> Tensor:
    """The gradient with coupled weight decay, grad + weight_decay * param, if ``c`` has one; else ``grad`` itself."""
    return addcmul(grad, param, c["weight_decay"]) if "weight_decay" in c else grad
