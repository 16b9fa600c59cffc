"""The second half of a step: tensor arithmetic only, so that it compiles into one graph."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ravine.optim.kernels import plain
from ravine.optim.rounding import to_bfloat16
from ravine.optim.shortcuts import shortcut_of
from ravine.rules.base import Rule, Tensors, nonzero

BLOCK = 512 * 1024
"""Elements that an elementwise rule takes at a time on the CPU, so that its passes over them stay in the cache."""

Piece: TypeAlias = tuple[Tensor, ...]
"""Parameter, gradient and the slots of the rule, of one shape; then in a graph its row rooms and tensor rooms."""


class Room:
    """Memory for the temporaries of a block on the CPU, kept from step to step.

    Without it the allocator returns them to the system, and takes them page by page again: up to half of a step.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype], Tensor] = {}
        self._views: dict[tuple[str, torch.dtype, torch.Size], Tensor] = {}

    def like(self, tensor: Tensor, name: str, dtype: torch.dtype) -> Tensor:
        """Room of that name, in the shape of a tensor: of a block, or of the largest tensor that is stepped whole."""
        if tensor.device.type != "cpu" or not plain(tensor):
            return torch.empty_like(tensor, dtype=dtype)
        place = name, dtype, tensor.shape
        if place not in self._views:
            self._views[place] = self._flat(name, dtype, tensor.numel())[: tensor.numel()].view(tensor.shape)
        return self._views[place]

    def _flat(self, name: str, dtype: torch.dtype, size: int) -> Tensor:
        if (name, dtype) not in self._kept or len(self._kept[name, dtype]) < size:
            self._kept[name, dtype] = torch.empty(max(size, BLOCK), dtype=dtype, device="cpu")
            self._views = {place: view for place, view in self._views.items() if place[:2] != (name, dtype)}
        return self._kept[name, dtype]


@dataclass(frozen=True)
class Common:
    """What the pieces that step alike have in common."""

    rule: Rule
    coefficients: Tensors
    values: Tensor  # the same coefficients, one after the other
    dtype: torch.dtype  # of coefficients, state and arithmetic
    maximize: bool
    room: Room | None  # None: this is traced into a graph, whose compiler sees to temporaries
    draws: torch.Generator | None = None  # of parameters in bfloat16, if they are rounded at random

    def unpacked(self) -> Common:
        """The same with the coefficients out of `values`: a graph then has one input for all of them."""
        return replace(self, coefficients=dict(zip(self.coefficients, self.values.unbind(), strict=True)))

    def knowing(self, norm: Tensor | None) -> Common:
        """The same with the norm of the whole gradient, for a rule that needs it."""
        if norm is None:
            return self
        return replace(self, coefficients={**self.coefficients, "grad_norm": norm.to(self.coefficients["lr"])})

    def temporary(self, tensor: Tensor, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """Memory for a temporary of that name, in the shape of a tensor; of the working dtype, if of no other."""
        if self.room is None:
            return torch.empty_like(tensor, dtype=dtype or self.dtype)
        return self.room.like(tensor, name, dtype or self.dtype)


Batch: TypeAlias = tuple[Common, list[Piece]]
"""Pieces that step alike."""


def advance(batches: list[Batch]) -> None:
    """Step every piece."""
    pieces = [(common.unpacked(), piece) for common, pieces in batches for piece in pieces]
    norm = grad_norm(pieces) if any(common.rule.normed for common, _ in batches) else None
    for common, piece in pieces:
        move(common.knowing(norm), piece)


def grad_norm(pieces: Iterable[tuple[Common, Piece]]) -> Tensor:
    """The norm of the whole gradient, weight decay included, as `ravine.rules.base.whole_norm` has it."""
    norms = [_whole(torch.linalg.vector_norm(seen(common, piece[0], piece[1])[1])) for common, piece in pieces]
    wide = functools.reduce(torch.promote_types, (norm.dtype for norm in norms))
    return nonzero(torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device, wide) for norm in norms])))


def _whole(norm: Tensor) -> Tensor:
    """A norm as a plain tensor: that of a sharded gradient goes with parameters that are not sharded, too."""
    return norm if plain(norm) or not hasattr(norm, "full_tensor") else norm.full_tensor()


def move(common: Common, piece: Piece, alone: bool = True) -> None:
    """Step one piece, block by block if it is large.

    Only a tensor ``alone`` may be stepped by a shortcut, for which small ones gathered into one may be large enough.
    """
    large = common.room is not None and piece[0].numel() > BLOCK
    for block in cut(piece) if large and may_cut(common.rule, piece) else (piece,):
        apply(common, alone and common.room is not None, *block)


def may_cut(rule: Rule, piece: Piece) -> bool:
    """Whether a piece can be updated block by block, and gains by it."""
    lie_well = all(plain(tensor) and tensor.is_contiguous() for tensor in piece)  # parts of a sharded one are copies
    return rule.elementwise and piece[0].device.type == "cpu" and lie_well


def cut(piece: Piece) -> Iterator[Piece]:
    """Views of a piece, at most `BLOCK` elements each."""
    return zip(*(tensor.view(-1).chunk(math.ceil(tensor.numel() / BLOCK)) for tensor in piece), strict=True)


def seen(common: Common, param: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Parameter and gradient as the rule takes them: in the working dtype, downhill, the weight decay added."""
    rule, c, dtype = common.rule, common.coefficients, common.dtype
    point = param if param.dtype == dtype else common.temporary(param, "point").copy_(param)
    if grad.dtype == dtype and not common.maximize and not rule.couples(c):
        return point, grad
    slope = common.temporary(param, "slope")
    if grad.dtype != dtype:
        grad = slope.copy_(grad)
    if common.maximize:
        grad = torch.neg(grad, out=slope)
    return point, rule.decayed(point, grad, c, out=slope)


def apply(common: Common, by_shortcut: bool, param: Tensor, grad: Tensor, *rest: Tensor) -> None:
    """Apply the rule to one block, by its shortcut if it has one and that is allowed."""
    rule = common.rule
    point, slope = seen(common, param, grad)
    if common.room is not None:  # only a graph gains by the rooms of rows, also where one was thought of
        rest = rest[: len(rule.slots)]
    state = dict(zip((*rule.slots, *rule.row_rooms, *rule.tensor_rooms)[: len(rest)], rest, strict=True))
    rooms = {name: common.temporary(point, name) for name in rule.rooms}
    shortcut = shortcut_of(rule, (point, slope, *rest, *rooms.values())) if by_shortcut else None
    (shortcut or rule.apply)(point, slope, state | rooms, common.coefficients)
    if shortcut:
        increment_version(param)  # kernels do not, and autograd would go back through the stepped parameter
    if common.draws is not None:
        to_bfloat16(point, common.draws, common.temporary(point, "noise", torch.int32))
    if point is not param:
        param.copy_(point)
