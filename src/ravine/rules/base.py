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
from typing import Any, TypeAlias

from torch import Tensor, addcmul, empty_like, linalg, ops, where
from torch.library import Library

from ravine.errors import UserError

Tensors: TypeAlias = Mapping[str, Tensor]

Numbers: TypeAlias = Mapping[str, Any]
"""Numbers by name, all of one type: floats or tensors."""


def hint(name: str, known: Iterable[str], command: str = "") -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all of them, or the command that lists."""
    near = get_close_matches(name, known := list(known), n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"`{command}` shows those there are" if command else f"there are {', '.join(known)}"


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
DECOUPLED_DECAY = Hyper(0.0, 0.0, math.inf, meaning="share of the parameters, times lr, that a step takes away")


class Rule(ABC):
    """An update rule: gradient + state + hyper-parameters -> new parameters.

    ``name``: as on the command line. ``hyper``: every hyper-parameter but the weight decay, which all rules share.
    ``slots``: names of the state tensors, each shaped like the parameter and zero at the start. ``scalars``: names and
    first values of the state that hyper-parameters alone move, one float64 number a parameter.

    What else a rule may need, all off unless it says so:
    ``elementwise`` (on): each element is updated from its own gradient and state alone (and the norm of all), so a
    large tensor may be updated block by block; a rule that is not must see each parameter in its own shape.
    ``counts``: ``h["step"]``, the number of this step, from 1. ``foresees``: for each of these hyper-parameters
    ``h["next_<name>"]``, its value at the next step. ``random``: hyper-parameters of which each step takes a new
    variate of Exp(1), one for all parameters. ``normed``: ``c["grad_norm"]``, see `whole_norm`. ``decoupled``: weight
    decay shrinks the parameters, and `apply` does it; else it is added to the gradient before `apply`. ``rests``: where
    the gradient is zero, and without weight decay, parameter and state stay as they are. ``rooms``: names of the
    temporaries of `apply`, shaped like the parameter; a caller may keep memory for them in ``state``, see `room`.
    ``row_rooms``: those with a number for each row, of shape (..., rows), and ``tensor_rooms``: with one for all rows,
    of shape (..., 1), see `kept`.
    """

    name: str
    hyper: Mapping[str, Hyper]
    slots: tuple[str, ...] = ()
    scalars: Mapping[str, float] = {}
    elementwise: bool = True
    counts: bool = False
    foresees: tuple[str, ...] = ()
    random: tuple[str, ...] = ()
    normed: bool = False
    decoupled: bool = False
    rests: bool = False
    rooms: tuple[str, ...] = ()
    row_rooms: tuple[str, ...] = ()
    tensor_rooms: tuple[str, ...] = ()

    @property
    def weight_decay(self) -> Hyper:
        """The hyper-parameter ``weight_decay``."""
        return DECOUPLED_DECAY if self.decoupled else WEIGHT_DECAY

    def coefficients(self, h: Numbers) -> Numbers:
        """The arithmetic among hyper-parameters, done once a step however many tensors follow.

        It takes floats as well as tensors of any shape and dtype, so it uses operators only: ``** 0.5`` is the root.
        ``h`` also holds the scalars before the step, and what is returned holds them after it.
        """
        return h

    @abstractmethod
    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        """The equation, in place on ``param`` and ``state``; ``c`` are the coefficients, in the dtype of ``param``."""

    def couples(self, c: Tensors) -> bool:
        """Whether there is weight decay that is added to the gradient."""
        return "weight_decay" in c and not self.decoupled

    def decayed(self, param: Tensor, grad: Tensor, c: Tensors, out: Tensor | None = None) -> Tensor:
        """What `apply` takes as the gradient: with coupled weight decay grad + weight_decay * param, else ``grad``."""
        return addcmul(grad, param, c["weight_decay"], out=out) if self.couples(c) else grad

    def update(self, param: Tensor, grad: Tensor, state: Tensors, h: Tensors) -> None:
        """One step, in place on ``param`` and ``state``; ``grad`` is only read.

        ``param``, ``grad`` and the slots of ``state`` have one shape and one floating dtype. ``h`` maps each name in
        ``hyper`` and ``"step"`` (the number of this step, from 1) to a tensor that broadcasts against ``param``: 0-dim,
        or (runs, 1, ..., 1) with one value per run, as the scalars of ``state``. Its dtype is free: float64 loses
        nothing in 1 - momentum. A key ``"weight_decay"`` brings weight decay; without ``"next_<name>"`` the next value
        is the present one. For a rule that is ``normed``, ``param`` holds all parameters.
        """
        ahead = {f"next_{name}": h[name] for name in self.foresees}
        found = self.coefficients({**ahead, **h, **{name: state[name] for name in self.scalars}})
        for name in self.scalars:
            state[name].copy_(found[name])
        c = {name: value.to(param.dtype) for name, value in found.items()}
        grad = self.decayed(param, grad, c)
        if self.normed:
            c["grad_norm"] = whole_norm(grad, per_run=c["lr"].dim() > 0)
        self.apply(param, grad, state, c)


def whole_norm(grad: Tensor, per_run: bool) -> Tensor:
    """The Euclidean norm by which a ``normed`` rule divides: of the whole gradient, all parameters at once, 0-dim.

    Per run for a gradient (runs, ...), of shape (runs, 1, ..., 1). It is 1 where the gradient is zero.
    """
    return nonzero(linalg.vector_norm(grad, dim=tuple(range(1, grad.dim())) if per_run else None, keepdim=per_run))


def room(state: Tensors, name: str, like: Tensor) -> Tensor:
    """Memory for a temporary of `Rule.apply`, shaped like the parameter: what the caller keeps for it, else new."""
    return state[name] if name in state else empty_like(like)


LIBRARY = Library("ravine", "FRAGMENT")  # type: ignore[no-untyped-call]
LIBRARY.define("keep(Tensor(a!) room, Tensor value) -> ()")  # type: ignore[no-untyped-call]


def _keep(room: Tensor, value: Tensor) -> None:
    room.copy_(value)


LIBRARY.impl("keep", _keep, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]


def kept(state: Tensors, name: str, value: Tensor) -> Tensor:
    """``value``, in the memory that the caller keeps for it in ``state``, if there is any.

    An operation of its own, so that a compiler cannot see that it might as well take memory of its own at every step.
    The value is a fresh result, which is used from there only: so a compiler may compute it there.
    """
    if name not in state:
        return value
    ops.ravine.keep(state[name], value)
    return state[name]


def nonzero(norm: Tensor) -> Tensor:
    """``norm``, and 1 where it is zero, so that it divides."""
    return where(norm == 0, 1, norm)


def retained(h: Numbers) -> Numbers:
    """The coefficient ``"retained"`` = 1 - lr weight_decay of decoupled decay, if there is a decay."""
    return {"retained": 1 - h["lr"] * h["weight_decay"]} if "weight_decay" in h else {}


def shrink(param: Tensor, c: Tensors) -> None:
    """Decoupled weight decay: ``w <- (1 - lr weight_decay) w``, before the rest of the step."""
    if "retained" in c:
        param.mul_(c["retained"])
