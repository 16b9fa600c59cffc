"""The second half of a step: tensor arithmetic only, so that it compiles into one graph."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from ravine.rules.base import Rule, Tensors, nonzero

BLOCK = 512 * 1024
"""Elements that an elementwise rule takes at a time on the CPU, so that its passes over them stay in the cache."""


Piece: TypeAlias = tuple[Tensor, Tensor, Tensors]
"""Parameter, gradient and state of one shape."""


@dataclass(frozen=True)
class Common:
    """What the pieces that step alike have in common."""

    rule: Rule
    coefficients: Tensors
    dtype: torch.dtype  # of coefficients, state and arithmetic
    maximize: bool


def advance(pieces: list[tuple[Common, Piece]]) -> None:
    """Step every piece."""
    norm = grad_norm(pieces) if any(common.rule.normed for common, _ in pieces) else None
    for common, piece in pieces:
        move(common, piece, norm)


def grad_norm(pieces: Iterable[tuple[Common, Piece]]) -> Tensor:
    """The norm of the whole gradient, weight decay included, as `ravine.rules.base.whole_norm` has it."""
    norms = [torch.linalg.vector_norm(seen(common, param, grad)[1]) for common, (param, grad, _) in pieces]
    wide = functools.reduce(torch.promote_types, (norm.dtype for norm in norms))
    return nonzero(torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device, wide) for norm in norms])))


def move(common: Common, piece: Piece, norm: Tensor | None = None) -> None:
    """Step one piece, block by block if it is large; ``norm``: of the whole gradient, for a rule that needs it."""
    param = piece[0]
    if norm is not None:
        c = {**common.coefficients, "grad_norm": norm.to(param.device, common.dtype)}
        common = replace(common, coefficients=c)
    for block in cut(piece) if param.numel() > BLOCK and may_cut(common.rule, piece) else (piece,):
        apply(common, *block)


def may_cut(rule: Rule, piece: Piece) -> bool:
    """Whether a piece can be updated block by block, and gains by it."""
    param, grad, state = piece
    return (
        rule.elementwise
        and param.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and all(tensor.is_contiguous() for tensor in (param, grad, *state.values()))
    )


def cut(piece: Piece) -> Iterator[Piece]:
    """Views of a piece, `BLOCK` elements at a time."""
    param, grad, state = piece
    tensors = (param, grad, *state.values())
    for point, slope, *slots in zip(*(torch.split(tensor.view(-1), BLOCK) for tensor in tensors), strict=True):
        yield point, slope, dict(zip(state, slots, strict=True))


def seen(common: Common, param: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Parameter and gradient as the rule takes them: in the working dtype, downhill, the weight decay added."""
    point = param if param.dtype == common.dtype else param.to(common.dtype)
    slope = grad if grad.dtype == common.dtype else grad.to(common.dtype)
    if common.maximize:
        slope = -slope
    return point, common.rule.decayed(point, slope, common.coefficients)


def apply(common: Common, param: Tensor, grad: Tensor, state: Tensors) -> None:
    """Apply the rule to one block."""
    point, slope = seen(common, param, grad)
    common.rule.apply(point, slope, state, common.coefficients)
    if point is not param:
        param.copy_(point)
