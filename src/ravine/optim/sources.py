"""Where the pieces that are stepped come from: a parameter, rows of one, or many small ones together.

Small tensors cost more to call than to compute. So those that step alike are gathered into one piece, stepped as one
tensor and scattered again: three copies a tensor, not a call for each operation of the rule, and the graph of a
compiled step does not grow with them. Where nothing looks at the parameters, what is added to them is stepped instead.
Their state lives in such pieces, of which the tensors in ``optimizer.state`` are parts. A piece is flat, or a stack of
tensors of one shape for a rule that looks at shapes: a stack of runs to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from ravine.optim.arithmetic import Piece
from ravine.optim.kernels import add, is_itself, plain

if TYPE_CHECKING:
    from ravine.optim.batches import Given

SMALL = 8 * 1024
"""Elements of the largest tensor that is gathered with others."""


def state_dtype(param: Tensor) -> torch.dtype:
    """The dtype of the state: float32 for half precision, else that of the parameter."""
    return torch.float32 if param.dtype in (torch.float16, torch.bfloat16) else param.dtype


def working_dtype(param: Tensor) -> torch.dtype:
    """The dtype of the arithmetic: that of the state, whose complex numbers are two real ones to it."""
    return state_dtype(param).to_real()


def real(tensor: Tensor) -> Tensor:
    """A tensor as the rules see it: complex numbers as their real and imaginary parts, side by side."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


class Source(Protocol):
    """Where a piece comes from, and goes to; ``copied``: it is no view of what it comes from."""

    copied: ClassVar[bool]

    def gather(self, grads: Sequence[Tensor]) -> Piece:
        """Parameter, gradient and state, to be stepped in place; ``grads`` are those of the group."""

    def scatter(self) -> None:
        """Write what was stepped to where it belongs, if it was a copy."""

    def layout(self, grads: Sequence[Tensor]) -> tuple[Any, ...] | None:
        """Shapes, strides and dtypes that a graph of the step depends on; None if it is not worth a graph.

        They stay as long as the arrangement, of which this is a part, holds.
        """


class Whole:
    """One parameter as it is, complex numbers as pairs of real ones; a sparse gradient is made dense."""

    copied: ClassVar[bool] = False

    def __init__(self, given: Given, place: int) -> None:
        self.place, self.param, grad = place, given.params[place], given.grads[place]
        slots = [given.state[self.param][name] for name in given.rule.slots]
        self.rest = [*slots, *small_rooms(given, self.param, 1)]
        self.as_it_lies = grad.layout is torch.strided and is_itself(grad) and not grad.is_complex()
        self.fixed = (self.param.dtype, len(self.rest), *(slot.stride() for slot in slots))

    def gather(self, grads: Sequence[Tensor]) -> Piece:
        grad = grads[self.place]
        if self.as_it_lies:
            return self.param, grad, *self.rest
        if grad.layout is not torch.strided:
            grad = grad.to_dense()
        elif not is_itself(grad):
            grad = grad.clone()
        return tuple(real(tensor) for tensor in (self.param, grad, *self.rest))

    def scatter(self) -> None: ...

    def layout(self, grads: Sequence[Tensor]) -> tuple[Any, ...]:
        param, grad = self.param, grads[self.place]
        of_grad = grad.stride() if grad.layout is torch.strided else None
        itself = is_itself(grad)  # else it is copied, and the copy may lie otherwise
        return param.shape, param.stride(), grad.shape, of_grad, grad.dtype, itself, *self.fixed


class Rows:
    """The rows of a parameter that its sparse gradient has, for a rule that leaves the others alone."""

    copied: ClassVar[bool] = True

    def __init__(self, whole: Whole) -> None:
        self.whole = whole

    def gather(self, grads: Sequence[Tensor]) -> Piece:
        grad = grads[self.whole.place].coalesce()
        self.rows = tuple(grad.indices())
        self.point, *self.slots = (tensor[self.rows] for tensor in (self.whole.param, *self.whole.rest))
        return tuple(real(tensor) for tensor in (self.point, grad.values().contiguous(), *self.slots))

    def scatter(self) -> None:
        for tensor, part in zip((self.whole.param, *self.whole.rest), (self.point, *self.slots), strict=True):
            tensor.index_put_(self.rows, part)

    def layout(self, grads: Sequence[Tensor]) -> None:
        """The number of rows may be another at every step."""


class Pack:
    """Small parameters as one piece. ``point``, ``slope``: flat room for parameter and gradient."""

    copied: ClassVar[bool] = True

    def __init__(self, given: Given, places: list[int], point: Tensor, slope: Tensor) -> None:
        self.places, self.params = places, [given.params[k] for k in places]
        size = sum(param.numel() for param in self.params)
        shape = (size,) if given.rule.elementwise else (len(places), *self.params[0].shape)
        self.point, self.slope = point[:size].view(shape), slope[:size].view(shape)
        self.points = parts(point[:size], self.params)
        self.cuts = list(neighbours(self.params))
        self.into_point, self.into_slope = (rows(room[:size], self.params, self.cuts) for room in (point, slope))
        slots = (
            joined([given.state[param][name] for param in self.params], torch.empty_like(point[:size])).view(shape)
            for name in given.rule.slots
        )
        self.rest = [*slots, *small_rooms(given, self.point, 2)]

    def gather(self, grads: Sequence[Tensor]) -> Piece:
        for cut, point in zip(self.cuts, self.into_point, strict=True):
            together(self.params[cut], point)
        return self.from_point(grads)

    def from_point(self, grads: Sequence[Tensor]) -> Piece:
        """The piece at what ``point`` holds."""
        for cut, slope in zip(self.cuts, self.into_slope, strict=True):
            together([grads[k] for k in self.places[cut]], slope)
        return self.point, self.slope, *self.rest

    def scatter(self) -> None:
        torch._foreach_copy_(self.params, self.points)

    def add(self) -> None:
        """Add to the parameters what ``point`` holds."""
        add(self.params, self.points)

    def layout(self, grads: Sequence[Tensor]) -> tuple[Any, ...]:
        return (self.point.shape,)


class Moves:
    """What the rule adds to the parameters of a pack: it steps from zero, and one call adds that to all of them.

    For the rules of `ravine.optim.kernels.ADD`, without weight decay.
    """

    copied: ClassVar[bool] = True

    def __init__(self, pack: Pack) -> None:
        self.pack = pack

    def gather(self, grads: Sequence[Tensor]) -> Piece:
        self.pack.point.zero_()
        return self.pack.from_point(grads)

    def scatter(self) -> None:
        self.pack.add()

    def layout(self, grads: Sequence[Tensor]) -> tuple[Any, ...]:
        return self.pack.layout(grads)


def small_rooms(given: Given, whole: Tensor, dims: int) -> list[Tensor]:
    """Memory for the rule's row rooms, of ``dims`` dimensions, and its tensor rooms, if that is less than a tensor has.

    Only for a graph, which would take it at every step.
    """
    if given.way != "graph" or whole.dim() <= dims or whole.device.type != "cpu" or not plain(whole):
        return []
    rule, shape = given.rule, whole.shape[:dims]
    shapes = [shape for _ in rule.row_rooms] + [(*shape[:-1], 1) for _ in rule.tensor_rooms]
    return [torch.empty(shape, dtype=working_dtype(whole)) for shape in shapes]


def in_row(tensor: Tensor) -> tuple[int, ...]:
    """What tensors have in common that can be put one after the other: all but the length of the first dimension."""
    return tensor.dim(), *tensor.shape[1:]


def neighbours(tensors: Sequence[Tensor]) -> Iterator[slice]:
    """The longest runs of tensors that can be put one after the other in one call."""
    first = 0
    for _, run in groupby(tensors, in_row):
        last = first + sum(1 for _ in run)
        yield slice(first, last)
        first = last


def rows(whole: Tensor, tensors: Sequence[Tensor], cuts: Sequence[slice]) -> list[Tensor]:
    """The parts of a flat tensor into which each of the runs goes."""
    shapes = [(sum(len(one) if one.dim() else 1 for one in tensors[cut]), *tensors[cut][0].shape[1:]) for cut in cuts]
    room = torch.split_with_sizes(whole, [math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(room, shapes, strict=True)]


def together(tensors: list[Tensor], whole: Tensor) -> None:
    """Copy tensors into ``whole``, one after the other: less than half the time of a copy of each."""
    join = torch.cat if tensors[0].dim() else torch.stack
    join(tensors, out=whole)


def joined(tensors: Sequence[Tensor], whole: Tensor) -> Tensor:
    """``whole``, of which the given tensors are parts from now on: the same objects to whoever holds them."""
    for part, tensor in zip(parts(whole, tensors), tensors, strict=True):
        part.copy_(tensor)
        tensor.data = part
    return whole


def parts(whole: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a flat tensor that belong to the given tensors, in their shapes."""
    cuts = torch.split_with_sizes(whole, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(cuts, tensors, strict=True)]


def may_pack(param: Tensor, grad: Tensor) -> bool:
    """Whether a parameter and its gradient may be gathered with others, and gain by it."""
    return plain(param) and not param.is_complex() and grad.layout is torch.strided and param.numel() <= SMALL


def runs(params: Sequence[Tensor], limit: float) -> Iterator[slice]:
    """Runs of parameters that have at most ``limit`` elements together, or are alone."""
    first, size = 0, 0
    for k, param in enumerate(params):
        if k > first and size + param.numel() > limit:
            yield slice(first, k)
            first, size = k, 0
        size += param.numel()
    if params:
        yield slice(first, len(params))
