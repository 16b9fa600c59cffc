"""What a pass through a model must leave alone, and the kernels that it must take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Inside it the model works on copies of its buffers; after it buffers, mode and attributes are as before."""
    before = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    copies: dict[int, Tensor] = {}
    for module, _, buffers in before:
        for name, buffer in buffers.items():
            if buffer is not None:  # a buffer with two names stays one tensor
                module._buffers[name] = copies.setdefault(id(buffer), buffer.clone())
    try:
        yield
    finally:
        for module, attributes, buffers in before:
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)


@contextlib.contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Inside it attention and recurrent layers run by kernels whose backward pass has a backward pass."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(torch.backends.mkldnn.flags(False, None, None, None))  # leaves all but `enabled`
        yield
