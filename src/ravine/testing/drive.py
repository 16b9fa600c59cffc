"""Parameters, gradients and steps, so plain that a reproduction can write them down in a line."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def line(steps: str) -> str:
    """`go` on one parameter ``p`` with the optimizer ``opt``, as a line of a reproduction."""
    return f"for t in range({steps}): torch.manual_seed(t); p.grad = torch.randn_like(p); opt.step()"


def both(one: str, two: str, steps: str) -> list[str]:
    """`go` on ``p`` with the one optimizer and on ``q`` with the other, as lines of a reproduction."""
    return [
        f"for x, opt in ((p, {one}), (q, {two})):",
        f"    for t in range({steps}): torch.manual_seed(t); x.grad = torch.randn_like(x); opt.step()",
    ]


def vector(size: int = 9, dtype: torch.dtype = torch.float32) -> Tensor:
    """A parameter from -1 to 1."""
    return torch.linspace(-1, 1, size, dtype=dtype).requires_grad_()


def give(params: Iterable[Tensor], t: int) -> None:
    """Standard normal gradients, keyed by the step. The seed also fixes what an optimizer draws from torch."""
    torch.manual_seed(t)
    for param in params:
        param.grad = torch.randn_like(param)


def go(optimizer: Optimizer, params: Sequence[Tensor], steps: Iterable[int]) -> None:
    """Take steps."""
    for t in steps:
        give(params, t)
        optimizer.step()


def snapshot(params: Iterable[Tensor]) -> list[Tensor]:
    """Copies of the values."""
    return [param.detach().clone() for param in params]


def tensors_of(optimizer: Optimizer, param: Tensor) -> dict[str, Tensor]:
    """The tensors in the state of a parameter that hold a number for each of its elements."""
    return {
        name: value
        for name, value in leaves(optimizer.state.get(param, {}))
        if value.numel() == param.numel() and value.dim() > 0
    }


def leaves(state: dict[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a state with its name; some libraries nest a dictionary for each part of a parameter."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield from leaves(value)
        elif isinstance(value, Tensor):
            yield str(name), value


def through_bytes(state: dict[str, Any]) -> dict[str, Any]:
    """The state saved to bytes and loaded from them."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=False)
    return loaded


def same(left: Iterable[Tensor], right: Iterable[Tensor], tolerance: float = 0.0) -> bool:
    """Whether values agree, bit for bit or to a relative tolerance of the larger of the two tensors and 1."""
    return all(apart(a, b) <= tolerance for a, b in zip(left, right, strict=True))


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value or 1; infinite where one is finite and the other not."""
    a, b = a.detach().double(), b.detach().double()
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0 or torch.equal(a, b):
        return 0.0
    difference = (a - b).abs().max() / max(1.0, float(b.abs().max()))
    return float(torch.nan_to_num(difference, nan=float("inf")))


# `raises`, in the lines of a reproduction: a refusal may be any error, for libraries agree on no class of it.
REFUSED = "except Exception"


def raises(action: Callable[[], object]) -> bool:
    """Whether an action raises an error, whichever: libraries have errors of their own."""
    with suppress(Exception):
        action()
        return False
    return True


def clone(grad: Tensor | None, dtype: torch.dtype | None = None) -> Tensor | None:
    """A gradient of its own for a second optimizer, because the first may write into what it gets."""
    return None if grad is None else grad.to(dtype or grad.dtype, copy=True)


def word(dtype: torch.dtype) -> str:
    """The name of a dtype without its module."""
    return str(dtype).removeprefix("torch.")
