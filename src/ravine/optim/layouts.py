"""How parameters and gradients lie in memory: whether what was arranged for the last step holds for the next."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ravine.optim.kernels import is_itself


class Layouts(Protocol):
    """What may change of a parameter that stays the same object, and of a gradient, which comes anew at every step."""

    def hold(self, params: list[Tensor], grads: list[Tensor]) -> bool:
        """Whether as many tensors lie as those did that they are the layouts of."""


def layouts_of(params: list[Tensor], grads: list[Tensor]) -> Layouts:
    """How parameters and their gradients lie."""
    if all(tensor.layout in GUARDED for tensors in (params, grads) for tensor in tensors):
        try:
            return GuardedLayouts(params, grads)
        except (ImportError, TypeError):  # another torch
            pass
    return PlainLayouts(params, grads)


GUARDED = (torch.strided, torch.sparse_coo)
"""Layouts that torch's guards know; asked to guard another they end the process (torch 2.13)."""


class GuardedLayouts:
    """By what TorchDynamo looks at the arguments of a compiled function: in C++, so that it takes a tenth of the time.

    It is no public part of torch, and may go or change. Where a gradient is that of two parameters, it never holds, and
    each step is arranged anew.
    """

    def __init__(self, params: list[Tensor], grads: list[Tensor]) -> None:
        from torch._C._dynamo.guards import TensorGuards

        of_params, of_grads = (
            TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None) for tensors in (params, grads)
        )
        self.params_hold, self.grads_hold = of_params.check, of_grads.check

    def hold(self, params: list[Tensor], grads: list[Tensor]) -> bool:
        return bool(self.params_hold(*params) and self.grads_hold(*grads))


class PlainLayouts:
    """By the attributes of tensors."""

    def __init__(self, params: list[Tensor], grads: list[Tensor]) -> None:
        self.traits = _traits(params, grads)

    def hold(self, params: list[Tensor], grads: list[Tensor]) -> bool:
        return _traits(params, grads) == self.traits


def _traits(params: list[Tensor], grads: list[Tensor]) -> list[Any]:
    found: list[Any] = [[param.device for param in params]]
    for tensors in (params, grads):
        layouts = [tensor.layout for tensor in tensors]
        found += (
            layouts,
            [tensor.dtype for tensor in tensors],
            [tensor.shape for tensor in tensors],
            [layout is torch.strided and tensor.stride() for layout, tensor in zip(layouts, tensors, strict=True)],
            [is_itself(tensor) for tensor in tensors],
            [type(tensor) for tensor in tensors],
        )
    return found
