"""A step of the optimizer as one compiled graph, without TorchDynamo.

TorchDynamo looks at every argument at every call, which takes 0.1 ms for forty tensors: a third of a step of a million
elements. The arrangement of a step already knows that parameters and state are those of the last one, so that only
their layout, and that of the gradients, is left to look at.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, islice
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from ravine.graphs import once
from ravine.optim.arithmetic import Batch, Piece, advance
from ravine.optim.batches import Kind, Taken, gathered, same
from ravine.optim.kernels import plain

Compiler: TypeAlias = Callable[[fx.GraphModule, list[Tensor]], Callable[..., Any]]
"""What makes a graph, with examples of its arguments, into a function of them."""

GRAPHS = 8
"""Arrangements of an optimizer that are compiled; steps in further ones are eager."""


def inductor(graph: fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
    """Torch's compiler; the layouts that it would assert at every call are known to be right.

    What two kernels need is computed by both: to keep it between them would take memory, and passes over it.
    """
    write_where_kept()
    options = {"size_asserts": False, "realize_reads_threshold": 64, "realize_opcount_threshold": 256}
    made: Callable[..., Any] = torch._inductor.compile(once(graph, examples), list[Any](examples), options=options)
    return made


@cache
def write_where_kept() -> None:
    """Have Inductor write what `ravine.rules.base.kept` keeps where it is kept; it would copy it there.

    How it does so is no public part of torch: with another torch it is copied.
    """
    try:
        from torch._inductor.lowering import mutate_to, register_lowering
    except ImportError:
        return

    def keep(room: Any, value: Any) -> None:
        # Safe, because nothing else is written there, and nobody else holds the value.
        mutate_to(room, value, unsafe_alias=True)  # type: ignore[no-untyped-call]

    register_lowering(torch.ops.ravine.keep.default, type_promotion_kind=None)(keep)


PIECES = 512
"""Tensors that a graph may step one by one: with more it takes minutes to compile. Small ones are packed before."""


class Program:
    """The arithmetic of steps, compiled once for each arrangement: the parameters with gradients, and their layout."""

    def __init__(self, compiler: Compiler | None = None) -> None:
        self.compiler = compiler or inductor
        self._graphs: dict[tuple[Kind, ...], Callable[..., Any]] = {}
        self._last: tuple[list[Kind | None], Callable[..., Any]] | None = None  # the graph of the last step

    def step(self, taken: list[Taken]) -> bool:
        """Step all that is taken in one call of a graph, which is made if it is the first of its kind.

        False if nothing was stepped, because it is not worth a graph.
        """
        graph = self._graph([each.kind for each in taken], taken)
        if graph is None:
            return False
        graph(*chain.from_iterable((each.common.values, *chain.from_iterable(each.pieces())) for each in taken))
        for each in taken:
            for source in each.sources:
                source.scatter()
        return True

    def _graph(self, kinds: list[Kind | None], taken: list[Taken]) -> Callable[..., Any] | None:
        """The graph of steps of these kinds; None if they are not worth one."""
        if self._last and same(kinds, self._last[0]):  # to compare them takes longer
            return self._last[1]
        known = tuple(kind for kind in kinds if kind is not None)
        graph = self._graphs.get(known) if len(known) == len(kinds) else None
        if graph is None:
            many = sum(len(each.sources) for each in taken) > PIECES
            if len(known) < len(kinds) or len(self._graphs) == GRAPHS or many:
                return None
            graph = self._graphs[known] = self._made(gathered(taken))
        self._last = kinds, graph
        return graph

    def _made(self, batches: list[Batch]) -> Callable[..., Any]:
        def step(*given: Tensor) -> list[Tensor]:
            advance(list(filled(batches, given)))
            return []

        examples = apart(
            tensor for common, pieces in batches for tensor in (common.values, *chain.from_iterable(pieces))
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torch")  # its own, on what it traces
            return self.compiler(make_fx(step, tracing_mode="fake")(*examples), examples)


def apart(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors, those that were there before as others that lie alike.

    In a graph of one tensor in two places there would be one argument for both, and the next step may have two.
    """
    found: list[Tensor] = []
    seen: set[int] = set()
    for tensor in tensors:
        place = (tensor.data_ptr() if plain(tensor) else 0) or id(tensor)  # what is empty has no address
        if place not in seen:
            found.append(tensor)
        elif plain(tensor):
            size, stride = tensor.shape, tensor.stride()
            found.append(torch.empty_strided(size, stride, dtype=tensor.dtype, device=tensor.device))
        else:
            found.append(tensor.detach())
        seen.add(place)
    return found


def filled(batches: Sequence[Batch], given: Sequence[Tensor]) -> Iterator[Batch]:
    """The batches with other tensors in their places: the coefficients of each, and its pieces."""
    rest = iter(given)
    for common, pieces in batches:
        values = next(rest)
        others: list[Piece] = [tuple(islice(rest, len(piece))) for piece in pieces]
        yield replace(common, values=values), others
