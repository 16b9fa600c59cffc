"""Random draws inside a model (dropout, ``torch.rand`` in forward), keyed by run and step instead of by position.

`vmap` draws one sequence by position in the stack, so a run's dropout mask would depend on its neighbours. Here the
draws are taken out of the model: a function mode replaces them by draws that are supplied from outside, in the order in
which the model asks. What the mode does not know (a draw in C++, ``torch.randint`` ...) cannot be keyed inside a stack:
such a model trains one run at a time, with the global generators seeded by the same key at every step.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
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

    def draw(self, generator: np.random.Generator, device: torch.device) -> Tensor:
        """The draw itself, float32: by NumPy, so that it is the same on every device and hidden from `vmap`."""
        sample = generator.random if self.kind == "uniform" else generator.standard_normal
        return torch.from_numpy(sample(self.shape, dtype=np.float32)).to(device)


Supply: TypeAlias = Callable[[Spec], Tensor]


class Supplied(TorchFunctionMode):
    """Replaces draws in a forward pass by `supply(spec)`; with `stacked`, recurrent layers by plain products too."""

    def __init__(self, supply: Supply, stacked: bool = False) -> None:
        super().__init__()
        self._supply, self._stacked = supply, stacked

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Takes over the functions in `_REPLACEMENTS`; everything else passes."""
        kwargs = kwargs or {}
        if self._stacked and func in recurrent.LAYERS:
            dropout = functools.partial(_dropout, self._supply, None)
            return recurrent.replacement(recurrent.LAYERS[func])(dropout, func, *args, **kwargs)
        replacement = _REPLACEMENTS.get(func)
        return func(*args, **kwargs) if replacement is None else replacement(self._supply, func, *args, **kwargs)


def _kept(supply: Supply, input: Tensor, shape: tuple[int, ...], p: float, inplace: bool) -> Tensor:
    """`input` with elements of `shape`, which broadcasts, zeroed with probability p and the rest divided by 1 - p."""
    keep = (supply(Spec("uniform", shape)) >= p).to(input.dtype)
    factor = keep / (1 - p) if p < 1 else keep
    return input.mul_(factor) if inplace else input * factor


def _dropout(
    supply: Supply, func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    return _kept(supply, input, tuple(input.shape), p, inplace) if training and p > 0 else input


def _channel_dropout(unbatched: int | None) -> Callable[..., Tensor]:
    """Zeroes whole channels of (batch, channels, ...); an input of `unbatched` dimensions has no batch, as in torch."""

    def drop(
        supply: Supply, func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        leading = 1 if input.ndim == unbatched else 2
        shape = (*input.shape[:leading], *[1] * (input.ndim - leading))
        return _kept(supply, input, shape, p, inplace) if training and p > 0 else input

    return drop


def _factory(kind: str) -> Callable[..., Tensor]:
    def draw(supply: Supply, func: Any, *size: Any, **words: Any) -> Tensor:
        if words.keys() - {"size", "dtype", "device", "requires_grad"}:  # such as a generator of the model's own
            return func(*size, **words)  # type: ignore[no-any-return]
        shape = words.get("size", size[0] if len(size) == 1 and not isinstance(size[0], int) else size)
        drawn = supply(Spec(kind, tuple(shape))).to(words.get("dtype") or torch.get_default_dtype())
        return drawn.requires_grad_() if words.get("requires_grad") else drawn

    return draw


def _like(kind: str) -> Callable[..., Tensor]:
    def draw(supply: Supply, func: Any, input: Tensor, **words: Any) -> Tensor:
        if words.keys() - {"dtype", "device"}:
            return func(input, **words)  # type: ignore[no-any-return]
        return supply(Spec(kind, tuple(input.shape))).to(words.get("dtype") or input.dtype)

    return draw


def _bernoulli(supply: Supply, func: Any, input: Tensor, p: float | None = None, **words: Any) -> Tensor:
    if words:
        return func(input, **words) if p is None else func(input, p, **words)  # type: ignore[no-any-return]
    return (supply(Spec("uniform", tuple(input.shape))) < (input if p is None else p)).to(input.dtype)


def _attention(
    supply: Supply,
    func: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k' * scale + mask) with dropout on the weights; without dropout, torch's own kernel."""
    if dropout_p == 0:
        words = {"enable_gqa": True} if enable_gqa else {}
        return func(query, key, value, attn_mask, 0.0, is_causal, scale=scale, **words)
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3) for x in (key, value))
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    blind = (scores == -math.inf).all(dim=-1, keepdim=True)  # what sees nothing gives zero, not 0/0
    weights = scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)
    return _dropout(supply, None, weights, dropout_p) @ value


_REPLACEMENTS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.dropout: _dropout,
    F.dropout1d: _channel_dropout(unbatched=2),
    F.dropout2d: _channel_dropout(unbatched=None),
    F.dropout3d: _channel_dropout(unbatched=4),
    F.scaled_dot_product_attention: _attention,
    torch.rand: _factory("uniform"),
    torch.randn: _factory("normal"),
    torch.rand_like: _like("uniform"),
    torch.randn_like: _like("normal"),
    torch.bernoulli: _bernoulli,
}


def from_generator(
    generator: np.random.Generator, device: torch.device, seen: list[Spec] | None = None, stacked: bool = False
) -> Supplied:
    """A mode that draws from `generator` as the model asks, noting what it asked for in `seen`."""

    def supply(spec: Spec) -> Tensor:
        if seen is not None:
            seen.append(spec)
        return spec.draw(generator, device)

    return Supplied(supply, stacked)


def from_list(specs: Sequence[Spec], drawn: Sequence[Tensor]) -> Supplied:
    """A mode for a stack that hands out `drawn` (one run's slices of it), which are the draws of `specs`, in order."""
    rest = iter(zip(specs, drawn, strict=True))

    def supply(spec: Spec) -> Tensor:
        wanted, draw = next(rest, (None, None))
        if spec != wanted or draw is None:
            raise RuntimeError("what the model draws changes from pass to pass")
        return draw

    return Supplied(supply, stacked=True)
