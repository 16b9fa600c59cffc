"""Structural damping: keeps the hidden states of a recurrent net from changing too much in a step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ravine.curvature.products import Parts
from ravine.errors import UserError


def tanh_matching(states: Tensor) -> Tensor:
    """The curvature of the matching loss of tanh units by their states: 1 / (4 (1 - h^2)).

    By the input s of a unit, h = tanh(s), it is (1 - h^2) / 4, as in Sutskever's code of 2011.
    """
    slope = 1 - states.square()
    return 0.25 / slope.clamp(min=torch.finfo(states.dtype).eps)


def squared_distance(states: Tensor) -> Tensor:
    """The curvature of half the squared distance between the states before and after: 1."""
    return torch.ones_like(states)


@dataclass(frozen=True)
class StructuralDamping:
    """Adds damping * weight * mean over rows of sum over times and units of D(h) dh^2 / 2 to the quadratic model.

    Martens and Sutskever 2011; dh is the change of the states h to first order, and D as below. The term has no
    gradient at the present point, and its product costs nothing beside that of the Gauss-Newton matrix.

    modules: those that return the states (a tensor with a row per example, or a tuple that begins with one, such as
        nn.RNN with batch_first; of several layers only the last one's states are seen).
    weight: in units of the damping, above 0; 1/30 is usual.
    curvature: D, a function of the states: `tanh_matching` or `squared_distance`, or your own.
    """

    modules: tuple[nn.Module, ...]
    weight: float = 1 / 30
    curvature: Callable[[Tensor], Tensor] = tanh_matching

    def __post_init__(self) -> None:
        if not self.modules:
            raise UserError("structural damping has no modules: give those that return hidden states")
        if not self.weight > 0:
            raise UserError(f"the weight of structural damping is {self.weight}, and must be above 0")


@dataclass(frozen=True)
class Structure:
    """Structural damping with its present factor, a 0-dim tensor."""

    damping: StructuralDamping
    factor: Tensor

    def bend(self, states: Sequence[Tensor], rows: int) -> Parts:
        """Tangents of the states -> factor / rows * D(h) * tangent."""
        weights = [self.factor / rows * self.damping.curvature(h.detach()) for h in states]
        return lambda tangents: [weight * tangent for weight, tangent in zip(weights, tangents, strict=True)]


@contextlib.contextmanager
def recorded(structure: Structure | None) -> Iterator[list[Tensor]]:
    """The hidden states that the modules of structural damping return inside it, in order."""
    states: list[Tensor] = []

    def record(module: nn.Module, given: Any, returned: Any) -> None:
        states.append(returned[0] if isinstance(returned, tuple) else returned)

    modules = () if structure is None else structure.damping.modules
    hooks = [module.register_forward_hook(record) for module in modules]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def require_states(states: Sequence[Tensor]) -> None:
    """Raise UserError unless there are hidden states that depend on the parameters."""
    if not any(state.requires_grad for state in states):
        raise UserError(
            "the modules of structural damping were not called: give modules of the model that return states"
        )
