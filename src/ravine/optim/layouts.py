"""How parameters and gradients lie in memory: whether what was arranged for the last step holds for the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ravine.optim.native import NativeLayouts
from ravine.optim.sources import Pack

if TYPE_CHECKING:
    from ravine.optim.batches import Given


class Layouts(Protocol):
    """What may change of a parameter that stays the same object, and of a gradient, which comes anew at every step."""

    def hold(self, params: list[Tensor], grads: list[Tensor]) -> bool:
        """Whether as many tensors lie as those did that the arrangement was made for."""

    def pack(self, given: Given, places: list[int], point: Tensor, slope: Tensor) -> Pack:
        """A pack of small parameters, with room for them and their gradients."""


def layouts_of(given: Given) -> Layouts:
    """Those of a step: looked at by Python, and in C if the step is compiled anyway and it is worth while."""
    return (given.way == "graph" and NativeLayouts.of(given)) or PythonLayouts(given.params, given.grads)


class PythonLayouts:
    """`Layouts` by Python."""

    def __init__(self, params: list[Tensor], grads: list[Tensor]) -> None:
        self.shapes, self.traits = [param.shape for param in params], _traits(params, grads)

    def hold(self, params: list[Tensor], grads: list[Tensor]) -> bool:
        # One shape after the other: a thousand at a time would set off Python's garbage collector at every step.
        return _traits(params, grads) == self.traits and all(
            [param.shape == shape for param, shape in zip(params, self.shapes, strict=True)]
        )

    def pack(self, given: Given, places: list[int], point: Tensor, slope: Tensor) -> Pack:
        return Pack(given, places, point, slope)


def in_line(grad: Tensor) -> bool:
    """Whether the elements of a gradient lie one after the other in memory."""
    return grad.layout is torch.strided and grad.is_contiguous()


def _traits(params: list[Tensor], grads: list[Tensor]) -> tuple[list[Any], ...]:
    """All but the shapes."""
    layouts = [grad.layout for grad in grads]
    strided = layouts.count(torch.strided) == len(layouts)
    return (
        [param.dtype for param in params],
        [param.device for param in params],
        [param.is_contiguous() for param in params],
        [grad.dtype for grad in grads],
        layouts,
        [grad.is_contiguous() for grad in grads] if strided else [in_line(grad) for grad in grads],
    )
