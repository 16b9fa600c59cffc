"""Random draws inside a model (dropout, ``torch.rand`` in forward), keyed by run and step instead of by position.

`vmap` draws one sequence by position in the stack, so a run's dropout mask would depend on its neighbours. Here the draws are
taken out of the model: a function mode replaces them by draws that are supplied from outside, in the order the model asks.
What the mode does not know (a draw in C++, ``torch.randint`` ...) cannot be keyed inside a stack: such a model trains one run
at a time, with torch's own generator seeded by the same key at every step.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ravine.fleet import recurrent


@dataclass(frozen=True)
class Spec:
    """One draw: `kind` is "uniform" on [0, 1) or "normal" (0, 1); `shape` is that of one run."""

    kind: str
    shape: tuple[int, ...]

    def draw(self, generator: torch.Generator, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The draw itself: made on the CPU, so that it is the same on every device."""
        sample = torch.rand if self.kind == "uniform" else torch.randn
        return sample(self.shape, generator=generator).to(device=device, dtype=dtype)


class Supplied(TorchFunctionMode):
    """Replaces the draws inside a forward pass by `supply(spec)`; with `stacked`, recurrent layers by plain products too."""

    def __init__(self, supply: Callable[[Spec], Tensor], stacked: bool = False) -> None:
        super().__init__()
        self._supply, self._stacked = supply, stacked

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Takes over the functions in `_REPLACEMENTS`; everything else passes."""
        replacement = _REPLACEMENTS.get(func)
        if self._stacked and func in recurrent.CELLS:
            dropout = functools.partial(_dropout, self._supply, None)
            return recurrent.replacement(recurrent.CELLS[func])(dropout, func, *args, **(kwargs or {}))
        if replacement is None:
            return func(*args, **(kwargs or {}))
        return replacement(self._supply, func, *args, **(kwargs or {}))


def _dropout(
    supply: Callable[[Spec], Tensor], func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training or p == 0:
        return input
    keep = supply(Spec("uniform", tuple(input.shape))) >= p
    return input.mul_(keep / (1 - p)) if inplace else input * (keep / (1 - p))


def _channel_dropout(
    supply: Callable[[Spec], Tensor], func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training or p == 0:
        return input
    shape = (*input.shape[:2], *(1 for _ in input.shape[2:]))
    keep = supply(Spec("uniform", shape)) >= p
    return input.mul_(keep / (1 - p)) if inplace else input * (keep / (1 - p))


def _factory(kind: str) -> Callable[..., Tensor]:
    def draw(supply: Callable[[Spec], Tensor], func: Any, *size: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("generator") is not None:  # a generator of the model's own: not ours to replace
            return func(*size, **kwargs)  # type: ignore[no-any-return]
        shape = kwargs.get("size", size[0] if len(size) == 1 and not isinstance(size[0], int) else size)
        drawn = supply(Spec(kind, tuple(shape)))
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        return drawn.to(dtype).requires_grad_(True) if kwargs.get("requires_grad") else drawn.to(dtype)

    return draw


def _like(kind: str) -> Callable[..., Tensor]:
    def draw(supply: Callable[[Spec], Tensor], func: Any, input: Tensor, *, dtype: Any = None, **_: Any) -> Tensor:
        return supply(Spec(kind, tuple(input.shape))).to(dtype or input.dtype)

    return draw


def _bernoulli(supply: Callable[[Spec], Tensor], func: Any, input: Tensor, *, generator: Any = None, **_: Any) -> Tensor:
    return (supply(Spec("uniform", tuple(input.shape))) < input).to(input.dtype)


def _attention(
    supply: Callable[[Spec], Tensor],
    func: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **kwargs: Any,
) -> Tensor:
    """softmax(q k' * scale + mask) with dropout on the weights; without dropout, torch's own kernel."""
    if dropout_p == 0:
        return func(query, key, value, attn_mask, 0.0, is_causal, scale=scale, **kwargs)
    scores = query @ key.transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return _dropout(supply, None, scores.softmax(-1), dropout_p) @ value


_REPLACEMENTS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.dropout: _dropout,
    F.dropout1d: _channel_dropout,
    F.dropout2d: _channel_dropout,
    F.dropout3d: _channel_dropout,
    F.scaled_dot_product_attention: _attention,
    torch.rand: _factory("uniform"),
    torch.randn: _factory("normal"),
    torch.rand_like: _like("uniform"),
    torch.randn_like: _like("normal"),
    torch.bernoulli: _bernoulli,
}


def from_generator(
    generator: torch.Generator,
    device: torch.device,
    dtype: torch.dtype,
    seen: list[Spec] | None = None,
    stacked: bool = False,
) -> Supplied:
    """A mode that draws from `generator` as the model asks, noting what it asked for in `seen`."""

    def supply(spec: Spec) -> Tensor:
        if seen is not None:
            seen.append(spec)
        return spec.draw(generator, device, dtype)

    return Supplied(supply, stacked)


def from_list(drawn: Sequence[Tensor]) -> Supplied:
    """A mode that hands out `drawn` in order (inside a stack: one run's slice of each)."""
    rest: Iterator[Tensor] = iter(drawn)
    return Supplied(lambda spec: next(rest), stacked=True)
