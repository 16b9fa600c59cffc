"""What a step needs of the parameters and their state, kept from step to step while nothing changes.

Small tensors cost more to call than to compute. So those that step alike are gathered into a flat piece, stepped as
one tensor and scattered again: three calls a tensor instead of one for each operation of the rule, and the graph of a
compiled step does not grow with them. Their state lives in flat pieces, of which the tensors in ``optimizer.state``
are parts.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from ravine.optim.arithmetic import Common, Piece, grad_norm, move
from ravine.rules.base import Rule, Tensors

State: TypeAlias = dict[str, Tensor]

SMALL = 8 * 1024
"""Elements of the largest tensor that is gathered with others."""

PIECE = 32 * 1024
"""Elements that are gathered into one piece, so that it stays in the cache until it is scattered."""

ONE = torch.tensor(1.0, device="cpu")
"""What counters are added: a tensor, which is added four times as fast as the number."""


def working_dtype(param: Tensor) -> torch.dtype:
    """The dtype of the state and of the arithmetic: float32 for half precision, else that of the parameter."""
    return torch.float32 if param.dtype in (torch.float16, torch.bfloat16) else param.dtype


def begin(rule: Rule, param: Tensor, state: State) -> None:
    """Add what the state of a parameter lacks before its first step."""
    for name in rule.slots:
        if name not in state:
            state[name] = torch.zeros_like(param, dtype=working_dtype(param))
    for name, value in rule.scalars.items():
        if name not in state:
            state[name] = torch.tensor(value, dtype=torch.float64, device="cpu")
    if rule.counts and "step" not in state:
        state["step"] = torch.tensor(0.0, device="cpu")


@lru_cache(maxsize=64)
def coefficients(
    rule: Rule, given: tuple[tuple[str, float], ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensors, dict[str, float]]:
    """The coefficients of a step as tensors, which nobody changes, and the scalars of the state after it.

    Kept, because most steps use those of the last.
    """
    c = rule.coefficients(dict(given))  # in Python's numbers, so that 1 - momentum loses nothing
    there = torch.tensor(list(c.values()), dtype=dtype, device=device).unbind()  # one copy takes all of them
    return dict(zip(c, there, strict=True)), {name: c[name] for name in rule.scalars}


class Source(Protocol):
    """Where a piece comes from, and goes to."""

    def gather(self) -> Piece:
        """Parameter, gradient and state, to be stepped in place."""

    def scatter(self) -> None:
        """Write what was stepped to where it belongs, if it was a copy."""


class Whole:
    """One parameter as it is; a sparse gradient is made dense."""

    def __init__(self, rule: Rule, param: Tensor, grad: Tensor, state: State) -> None:
        self.param, self.grad, self.slots = param, grad, {name: state[name] for name in rule.slots}

    def gather(self) -> Piece:
        return self.param, self.grad if self.grad.layout is torch.strided else self.grad.to_dense(), self.slots

    def scatter(self) -> None: ...


class Rows:
    """The rows of a parameter that its sparse gradient has, for a rule that leaves the others alone."""

    def __init__(self, rule: Rule, param: Tensor, grad: Tensor, state: State) -> None:
        self.grad, self.names = grad, rule.slots
        self.wholes = [param, *(state[name] for name in rule.slots)]

    def gather(self) -> Piece:
        grad = self.grad.coalesce()
        self.rows = tuple(grad.indices())
        self.parts = [whole[self.rows] for whole in self.wholes]
        return self.parts[0], grad.values(), dict(zip(self.names, self.parts[1:], strict=True))

    def scatter(self) -> None:
        for whole, part in zip(self.wholes, self.parts, strict=True):
            whole.index_put_(self.rows, part)


class Pack:
    """Small parameters as one flat piece. ``point``, ``slope``: flat room for parameter and gradient."""

    def __init__(self, rule: Rule, params: list[Tensor], states: list[State], point: Tensor, slope: Tensor) -> None:
        self.params, self.grads = params, list[Tensor]()
        size = sum(param.numel() for param in params)
        self.point, self.slope = point[:size], slope[:size]
        self.points, self.slopes = parts(self.point, params), parts(self.slope, params)
        self.slots = {name: torch.empty_like(self.point) for name in rule.slots}
        for name, whole in self.slots.items():
            for part, state in zip(parts(whole, params), states, strict=True):
                part.copy_(state[name])
                state[name].data = part  # the same tensor to whoever holds it

    def gather(self) -> Piece:
        torch._foreach_copy_(self.points, self.params)
        torch._foreach_copy_(self.slopes, self.grads)
        return self.point, self.slope, self.slots

    def scatter(self) -> None:
        torch._foreach_copy_(self.params, self.points)
        self.grads = []


def parts(whole: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a flat tensor that belong to the parameters, in their shapes."""
    cuts = torch.split_with_sizes(whole, [param.numel() for param in params])
    return [part.view(param.shape) for part, param in zip(cuts, params, strict=True)]


def may_pack(rule: Rule, param: Tensor, layout: torch.layout) -> bool:
    """Whether a parameter, and its gradient of that layout, may be gathered with others, and gain by it."""
    plain = type(param) in (Tensor, torch.nn.Parameter) and layout is torch.strided
    return rule.elementwise and plain and param.numel() <= SMALL


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


@dataclass
class Given:
    """The parameters of a group that have a gradient, and what a step is arranged by.

    ``at_once``: all pieces are gathered before the first is stepped.
    """

    rule: Rule
    params: list[Tensor]
    grads: list[Tensor]
    states: list[State]
    at_once: bool

    def __post_init__(self) -> None:
        self.dtypes = [param.dtype for param in self.params]
        self.devices = [param.device for param in self.params]
        self.layouts = [grad.layout for grad in self.grads]


class Alike:
    """Parameters of a group with one device, one dtype, and one number of steps: they share their coefficients."""

    def __init__(self, given: Given, places: list[int]) -> None:
        self.rule, first = given.rule, places[0]
        self.device, self.dtype = given.devices[first], working_dtype(given.params[first])
        self.states = [given.states[k] for k in places]
        self.count = float(self.states[0]["step"]) if self.rule.counts else 0.0
        self.scalars = {name: float(self.states[0][name]) for name in self.rule.scalars}
        small = [k for k in places if may_pack(self.rule, given.params[k], given.layouts[k])]
        small = small if len(small) > 1 else []
        self.alone = [k for k in places if k not in set(small)]
        params = [given.params[k] for k in small]
        self.cuts = [small[cut] for cut in runs(params, math.inf if given.at_once else PIECE)]
        size = max((sum(given.params[k].numel() for k in cut) for cut in self.cuts), default=0)
        room = tuple(torch.empty(size, dtype=self.dtype, device=self.device) for _ in range(2))
        self.packs = [
            Pack(self.rule, [given.params[k] for k in cut], [given.states[k] for k in cut], *room) for cut in self.cuts
        ]

    def next(self, given: Given, values: dict[str, float], maximize: bool) -> tuple[Common, list[Source]]:
        """What the next step takes; it counts as taken."""
        numbers = {name: value for name, value in values.items() if name != "weight_decay" or value} | self.scalars
        if self.rule.counts:
            self.count += 1
            numbers["step"] = self.count
            torch._foreach_add_([state["step"] for state in self.states], ONE, alpha=1.0)
        c, self.scalars = coefficients(self.rule, tuple(numbers.items()), self.device, self.dtype)
        for name, value in self.scalars.items():
            for state in self.states:
                state[name].fill_(value)
        for pack, cut in zip(self.packs, self.cuts, strict=True):
            pack.grads = [given.grads[k] for k in cut]
        sources: list[Source] = [*self.packs]
        for k in self.alone:
            rests = self.rule.rests and "weight_decay" not in numbers and given.layouts[k] is not torch.strided
            sources.append((Rows if rests else Whole)(self.rule, given.params[k], given.grads[k], given.states[k]))
        return Common(self.rule, c, self.dtype, maximize), sources


Taken: TypeAlias = list[tuple[Common, list[Source]]]
"""All that a step takes."""


def stream(taken: Taken) -> None:
    """Step piece by piece: each is gathered, stepped and scattered while it is in the cache."""
    norm = grad_norm(pieces(taken)) if any(common.rule.normed for common, _ in taken) else None
    for common, sources in taken:
        for source in sources:
            move(common, source.gather(), norm)
            source.scatter()


def pieces(taken: Taken) -> Iterator[tuple[Common, Piece]]:
    """Every piece, gathered when it is its turn."""
    return ((common, source.gather()) for common, sources in taken for source in sources)


def gathered(taken: Taken) -> list[tuple[Common, Piece]]:
    """Every piece, gathered at once."""
    return list(pieces(taken))


def scatter(taken: Taken) -> None:
    """Every piece to where it belongs."""
    for _, sources in taken:
        for source in sources:
            source.scatter()


class Arrangement:
    """The parameters of a group that have a gradient, arranged for stepping."""

    def __init__(self, given: Given) -> None:
        alike: dict[Any, list[int]] = {}
        for k, (param, state) in enumerate(zip(given.params, given.states, strict=True)):
            begin(given.rule, param, state)
            taken = [float(state[name]) for name in state if name == "step" or name in given.rule.scalars]
            alike.setdefault((param.device, working_dtype(param), *taken), []).append(k)
        self.parts = [Alike(given, places) for places in alike.values()]
        self.held = [(state, name, tensor) for state in given.states for name, tensor in state.items()]
        self.numbers = [tensor for _, name, tensor in self.held if name not in given.rule.slots]
        self.versions: list[int] = []
        self.layouts = given.layouts
        self.given = replace(given, grads=[])  # gradients are not kept
        self.settle()

    def next(self, given: Given, values: dict[str, float], maximize: bool) -> Taken:
        """What the next step takes; it counts as taken."""
        taken = [part.next(given, values, maximize) for part in self.parts]
        self.settle()
        return taken

    def settle(self) -> None:
        """Remember the numbers of the state as they are now."""
        self.versions = [tensor._version for tensor in self.numbers]

    def fits(self, given: Given) -> bool:
        """Whether nothing has changed, so that the arrangement holds."""
        old = self.given
        return (
            given.rule is old.rule
            and given.at_once == old.at_once
            and same(given.params, old.params)
            and same(given.states, old.states)
            and given.dtypes == old.dtypes
            and given.devices == old.devices
            and given.layouts == self.layouts
            and all(state.get(name) is tensor for state, name, tensor in self.held)
            and [tensor._version for tensor in self.numbers] == self.versions
        )


def same(left: Sequence[object], right: Sequence[object]) -> bool:
    """Whether both hold the same objects."""
    return len(left) == len(right) and all(map(operator.is_, left, right))
