"""What a step needs of the parameters and their state, kept from step to step while nothing changes.

Where torch has a kernel, one call of it steps all parameters that step alike. The pieces of the others come from
`ravine.optim.sources`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ravine.optim.arithmetic import Batch, Common, Piece, Room, grad_norm, move
from ravine.optim.kernels import FEW, MANY, Kernel, in_turn, is_itself, kernel_of, may_add, takes
from ravine.optim.layouts import layouts_of
from ravine.optim.native import pack_of
from ravine.optim.rounding import draws
from ravine.optim.sources import (
    Moves,
    Pack,
    Rows,
    Source,
    Whole,
    in_row,
    joined,
    may_pack,
    runs,
    state_dtype,
    working_dtype,
)
from ravine.rules.base import Rule, Tensors

State: TypeAlias = dict[str, Tensor]

Way: TypeAlias = Literal["eager", "graph", "traced"]
"""How a step is taken: piece by piece, by a graph of our own, or within one that ``torch.compile`` makes."""


PIECE = 256 * 1024
"""Elements that are gathered into one piece: few enough to stay in the cache, and enough to be worth the calls."""


def begin(rule: Rule, param: Tensor, state: State) -> None:
    """Add what the state of a parameter lacks before its first step."""
    for name in rule.slots:
        if name not in state:
            state[name] = torch.zeros_like(param, dtype=state_dtype(param))
    for name, value in rule.scalars.items():
        if name not in state:
            state[name] = torch.tensor(value, dtype=torch.float64, device="cpu")
    if rule.counts and "step" not in state:
        state["step"] = torch.tensor(0.0, device="cpu")


@lru_cache(maxsize=64)
def coefficients(
    rule: Rule, given: tuple[tuple[str, float], ...], device: torch.device, dtype: torch.dtype, dims: int
) -> tuple[Tensors, Tensor, dict[str, float]]:
    """The coefficients of a step as tensors that nobody changes, by name and as one, and the scalars after the step.

    Each has ``dims`` dimensions of size 1. Kept, because most steps use those of the last.
    """
    c = rule.coefficients(dict(given))  # in Python's numbers, so that 1 - momentum loses nothing
    values = torch.tensor(list(c.values()), dtype=dtype, device=device)  # one copy takes all of them
    values = values.view(-1, *[1] * dims)
    return dict(zip(c, values.unbind(), strict=True)), values, {name: c[name] for name in rule.scalars}


class Given(NamedTuple):
    """The parameters of a group that have a gradient, and what a step is arranged by.

    ``state``: of all parameters of the optimizer. ``rounding``: the key of the step's draws, if bfloat16 is rounded at
    random.
    """

    rule: Rule
    params: list[Tensor]
    grads: list[Tensor]
    state: Mapping[Tensor, State]
    way: Way
    rounding: tuple[int, ...] | None = None

    def rounds(self, place: int) -> bool:
        """Whether a parameter is rounded at random."""
        return self.rounding is not None and self.params[place].dtype == torch.bfloat16

    def kernel(self, place: int) -> Kernel | None:
        """Torch's kernel that may step a parameter; within ``torch.compile`` there is none."""
        param, grad = self.params[place], self.grads[place]
        kernel = kernel_of(self.rule, param.numel())
        if kernel is None or self.way == "traced":
            return None
        slots = (self.state[param][name] for name in self.rule.slots)
        fits = grad.dtype == param.dtype and grad.shape == param.shape
        as_it_lies = grad.layout is not torch.strided or (grad.is_contiguous() and is_itself(grad))
        return kernel if fits and as_it_lies and takes((param, *slots)) else None

    def stack(self, place: int) -> torch.Size | None:
        """The shape that a parameter is to share with those that it is gathered with, if it is to share one."""
        param = self.params[place]
        return None if self.rule.elementwise or not may_pack(param, self.grads[place]) else param.shape


Kind: TypeAlias = tuple[Any, ...]
"""All that a graph of a step depends on."""


class Taken(NamedTuple):
    """What a step takes of the parameters that share their coefficients, and the gradients of their group.

    ``kind``: None if it is not worth a graph, or if none was asked for.
    """

    common: Common
    sources: list[Source]
    grads: list[Tensor]
    kind: Kind | None

    def pieces(self) -> Iterator[Piece]:
        """Every piece, gathered when it is its turn."""
        return (source.gather(self.grads) for source in self.sources)


class Called(NamedTuple):
    """What torch's kernel steps, and the gradients of the group.

    ``kernel``: with its numbers. ``columns``: parameters with a strided gradient, and each slot of theirs. ``places``:
    where their gradients are. ``small``: how many of them, the first, are stepped by one thread. ``sources``: those of
    the other parameters.
    """

    kernel: Kernel
    columns: list[list[Tensor]]
    places: list[int]
    small: int
    sources: list[Source]
    grads: list[Tensor]

    def step(self) -> None:
        """Step all of it."""
        params, *slots = self.columns
        columns = [params, [self.grads[k] for k in self.places], *slots]
        if self.sources:
            pieces = [source.gather(self.grads) for source in self.sources]
            columns = [[*column, *rest] for column, rest in zip(columns, zip(*pieces, strict=True), strict=True)]
        if self.small:
            in_turn(self.kernel, *(column[: self.small] for column in columns))
        if len(columns[0]) > self.small:
            self.kernel(*(column[self.small :] for column in columns))
        for source in self.sources:
            source.scatter()


class Alike:
    """Parameters of a group with one device, one dtype, and one number of steps: they share their coefficients.

    All of them are stepped by torch's ``kernel``, or none.
    """

    def __init__(self, given: Given, places: list[int], kernel: Kernel | None) -> None:
        self.rule, self.kernel, first = given.rule, kernel, given.params[places[0]]
        self.device, self.dtype = first.device, working_dtype(first)
        states = [given.state[given.params[k]] for k in places]
        names = (*self.rule.scalars, *(("step",) if self.rule.counts else ()))
        self.values = {name: float(states[0][name]) for name in names}
        self.numbers = {
            name: joined([state[name] for state in states], states[0][name].new_empty(len(states))) for name in names
        }
        layouts = [grad.layout for grad in given.grads]
        packs = [] if kernel else self._packs(given, places)
        self.places = [k for k in places if kernel and layouts[k] is torch.strided]
        self.places.sort(key=lambda k: given.params[k].numel() > FEW)
        few = sum(given.params[k].numel() <= FEW for k in self.places)
        self.small = few if few >= MANY else 0
        self.columns = [
            [given.params[k] for k in self.places],
            *([given.state[given.params[k]][name] for k in self.places] for name in self.rule.slots),
        ]
        together = {*self.places, *(k for pack in packs for k in pack.places)}
        alone = [Whole(given, k) for k in places if k not in together]
        rest = [one for one in alone if layouts[one.place] is not torch.sparse_coo]
        self.sources: list[Source] = [*packs, *rest]
        self.undecayed: list[Source] = [*(map(Moves, packs) if self._moves(packs) else packs), *rest]
        self.sparse = [one for one in alone if layouts[one.place] is torch.sparse_coo]
        self.dims = 0 if self.rule.elementwise or not packs else 1 + first.dim()
        self.rounded_from = places[0] if given.rounds(places[0]) else None  # tells its draws from those of other parts
        self.kinds: dict[tuple[bool, bool], Kind | None] = {}  # by whether there is weight decay, and maximize
        self.given: tuple[dict[str, float], bool] | None = None  # what `common` or `call` was made of
        self.common: Common
        self.call: Kernel

    def _packs(self, given: Given, places: list[int]) -> list[Pack]:
        """The small parameters, if they are more than one, in pieces of flat room that they share."""
        small = [k for k in places if may_pack(given.params[k], given.grads[k])]
        small.sort(key=lambda k: in_row(given.params[k]))
        if len(small) < 2:
            return []
        cuts = runs([given.params[k] for k in small], PIECE if given.way == "eager" else math.inf)
        cuts_of = [small[cut] for cut in cuts]
        size = max(sum(given.params[k].numel() for k in cut) for cut in cuts_of)
        room = tuple(torch.empty(size, dtype=self.dtype, device=self.device) for _ in range(2))
        return [pack_of(given, cut, *room) for cut in cuts_of]

    def _moves(self, packs: list[Pack]) -> bool:
        """Whether packs are stepped as `Moves` if there is no weight decay: all, so that all are rounded alike."""
        many = sum(len(pack.params) for pack in packs) >= MANY * len(packs)
        return many and all(may_add(self.rule, pack.params, self.dtype) for pack in packs)

    def next(self, given: Given, values: dict[str, float], maximize: bool, room: Room) -> Taken | Called:
        """What the next step takes; it counts as taken."""
        sources = self.sources if values["weight_decay"] else self.undecayed
        if self.sparse:
            rests = self.rule.rests and not values["weight_decay"]
            sources = [*sources, *(Rows(whole) if rests else whole for whole in self.sparse)]
        if self.values or not self.given or values is not self.given[0] or maximize != self.given[1]:
            self._renew(values, maximize, room)
        if self.kernel:
            return Called(self.call, self.columns, self.places, self.small, sources, given.grads)
        common = self.common
        if given.rounding is not None and self.rounded_from is not None:
            common = replace(common, draws=draws(self.device, *given.rounding, self.rounded_from))
        kind = self._kind(values, maximize, sources, given.grads) if given.way == "graph" else None
        return Taken(common, sources, given.grads, kind)

    def _kind(
        self, values: dict[str, float], maximize: bool, sources: list[Source], grads: list[Tensor]
    ) -> Kind | None:
        """The kind of the next step, which is that of the last one like it: nothing lies otherwise."""
        key = values["weight_decay"] != 0, maximize
        if key not in self.kinds:
            common, layouts = self.common, [source.layout(grads) for source in sources]
            kind = common.rule, common.dtype, common.values.device, common.maximize, *common.coefficients, *layouts
            self.kinds[key] = None if None in layouts else kind
        return self.kinds[key]

    def _renew(self, values: dict[str, float], maximize: bool, room: Room) -> None:
        """Make what depends on the numbers of the next step, which is counted; no weight decay if it is zero."""
        self.given = values, maximize
        if self.rule.counts:
            self.values["step"] += 1
        numbers = {name: value for name, value in values.items() if name != "weight_decay" or value} | self.values
        if self.kernel:
            self.call = partial(self.kernel, **numbers, maximize=maximize)
        else:
            c, of_c, after = coefficients(self.rule, tuple(numbers.items()), self.device, self.dtype, self.dims)
            self.values |= after
            self.common = Common(self.rule, c, of_c, self.dtype, maximize, room)
        for name, flat in self.numbers.items():
            flat.fill_(self.values[name])


def stream(taken: list[Taken]) -> None:
    """Step piece by piece: each is gathered, stepped and scattered while it is in the cache."""
    norm = grad_norm(every(taken)) if any(each.common.rule.normed for each in taken) else None
    for each in taken:
        common = each.common.knowing(norm)
        for source in each.sources:
            move(common, source.gather(each.grads), alone=not source.copied)
            source.scatter()


def every(taken: list[Taken]) -> Iterator[tuple[Common, Piece]]:
    """Every piece with what it has in common with others."""
    return ((each.common, piece) for each in taken for piece in each.pieces())


def gathered(taken: list[Taken]) -> list[Batch]:
    """Every piece, gathered at once, to be traced into a graph."""
    return [(replace(each.common, room=None), list(each.pieces())) for each in taken]


def copied(taken: list[Taken]) -> list[Source]:
    """The sources whose pieces are copies, and are to be scattered."""
    return [source for each in taken for source in each.sources if source.copied]


class Arrangement:
    """The parameters of a group that have a gradient, arranged for stepping."""

    def __init__(self, given: Given) -> None:
        rule, alike, numbers = given.rule, dict[Any, list[int]](), list[Tensor]()
        for k, param in enumerate(given.params):
            state = given.state[param]
            begin(rule, param, state)
            numbers += (of_it := [state[name] for name in state if name in {*rule.scalars, "step"}])
            kind = given.kernel(k), given.stack(k), param.device, working_dtype(param), given.rounds(k)
            alike.setdefault((*kind, *map(float, of_it)), []).append(k)
        self.layouts = layouts_of(given.params, given.grads)
        self.parts = [Alike(given, places, kernel) for (kernel, *_), places in alike.items()]
        self.numbers = numbers
        self.versions = [tensor._version for tensor in numbers]  # our own steps write to what they are parts of
        self.given = given._replace(grads=[])  # gradients are not kept

    def next(self, given: Given, values: dict[str, float], maximize: bool, room: Room) -> list[Taken | Called]:
        """What the next step takes; it counts as taken."""
        return [part.next(given, values, maximize, room) for part in self.parts]

    def fits(self, given: Given) -> bool:
        """Whether nothing has changed, so that the arrangement holds, if the tensors of the state are the same."""
        old = self.given
        return (
            given.rule is old.rule
            and given.way == old.way
            and (given.rounding is None) == (old.rounding is None)
            and same(given.params, old.params)
            and self.layouts.hold(given.params, given.grads)
            and [tensor._version for tensor in self.numbers] == self.versions
        )


def same(left: Sequence[object], right: Sequence[object]) -> bool:
    """Whether both hold the same objects."""
    return len(left) == len(right) and all(map(operator.is_, left, right))
