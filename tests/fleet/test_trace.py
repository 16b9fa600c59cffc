"""Each rewrite of a traced graph gives what the function gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.func import grad, vmap

from ravine.fleet.trace import NARROW, aten, drop_untouched, reuse_memory, trace

Function = Callable[..., list[Tensor]]


def randoms(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def rewritten(function: Function, arguments: list[Tensor]) -> fx.GraphModule:
    graph = trace(function, arguments)
    reuse_memory(graph)
    return graph


def assert_exact(function: Function, arguments: list[Tensor]) -> fx.GraphModule:
    """Against the function itself, twice, with other values than those of the trace; the arguments stay as they are."""
    graph = rewritten(function, arguments)
    for factor in (1.0, -1.5):
        given = [factor * argument for argument in arguments]
        kept = [argument.clone() for argument in given]
        wanted = function(*(argument.clone() for argument in given))
        for value, right in zip(graph(*given), wanted, strict=True):
            torch.testing.assert_close(value, right)
        assert all(map(torch.equal, given, kept))
    return graph


def targets(graph: fx.GraphModule) -> list[Any]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("columns", [1, 10, NARROW, NARROW + 1])
@pytest.mark.parametrize("dim", [1, 2])
def test_log_softmax(columns: int, dim: int) -> None:
    def function(x: Tensor) -> list[Tensor]:
        def one(x: Tensor) -> Tensor:
            return (F.log_softmax(x, dim - 1) * x.sin()).sum()

        return [vmap(one)(x), vmap(grad(one))(x)]

    graph = assert_exact(function, randoms((3, columns, columns)))
    assert (aten._log_softmax.default in targets(graph)) == (columns > NARROW)
    assert (aten._log_softmax_backward_data.default in targets(graph)) == (columns > NARROW)


def test_log_softmax_of_large_values_does_not_overflow() -> None:
    graph = rewritten(lambda x: [F.log_softmax(x, 1)], randoms((3, 10)))
    large = torch.tensor([[1000.0, -1000.0, 0.0] + [0.0] * 7]).double()
    torch.testing.assert_close(graph(large)[0], F.log_softmax(large, 1))


@pytest.mark.parametrize(("m", "n"), [(64, 10), (10, 64), (8, 8), (5, 6), (40, NARROW), (40, NARROW - 1)])
def test_bmm(m: int, n: int) -> None:
    graph = assert_exact(lambda a, b: [torch.bmm(a, b), torch.bmm(a, b).relu() + 1], randoms((3, m, 4), (3, 4, n)))
    turned = [node for node in graph.graph.nodes if node.target is aten.bmm.default and node.args[0].name != "a_1"]
    assert len(turned) <= 1


NASTY: dict[str, Function] = {
    "read later": lambda a, b: [(a * b).relu(), (y := a * b) + 1, y * 2],
    "view read later": lambda a, b: [(y := a @ b).relu() + 1, y.t()],
    "view of a view": lambda a, b: [(y := a @ b).t().relu(), y.view(-1) * 1],
    "view made first": lambda a, b: [(v := (y := a @ b).view(-1)), y + 1, v * 1],
    "two unsafe views": lambda a, b: [(y := a @ b).reshape(-1) + 1, y.reshape(2, 8) * 3],
    "itself": lambda a, b: [(y := a @ b) + y, (z := a - b) * z],
    "both expendable": lambda a, b: [(a @ b) + (a * b)],
    "second expendable": lambda a, b: [a + (a @ b), b * (a @ b)],
    "other strides": lambda a, b: [(a + (a @ b).t()).view(16), ((a @ b).t() + a).reshape(16)],
    "broadcast": lambda a, b: [a.sum(0) + a, (a.sum(0) * 2) + b],
    "expanded": lambda a, b: [a.sum(0).expand(4, 4) + b, a[:1].expand(4, 4).relu()],
    "output and input": lambda a, b: [(y := a @ b), y.relu()],
    "argument": lambda a, b: [a.relu(), a + b, a.t() + b, a.view(-1).exp()],
    "chain": lambda a, b: [((a @ b + 1).relu() * b - a).tanh().exp()],
    "chain read": lambda a, b: [(z := (a @ b + 1).relu()) - a, z * b],
    "types": lambda a, b: [(a > 0) * 1, (a > 0) * 1.0, ((a > 0) & (b > 0)).int() * 1 + a, a.float() + b],
    "ones": lambda a, b: [torch.addmm(a[0], a, b), 1 * a, (1 * a).t() + 1],
    "constants": lambda a, b: [torch.ones(4) * torch.arange(4) + a, torch.eye(4).double().cumsum(0) @ b],
    "split": lambda a, b: [x + y for x, y in zip((a * 1.5).chunk(2), b.chunk(2), strict=True)],
    "in place": lambda a, b: [(a @ b).add_(b).relu_(), a.clone().mul_(2), b],
    "copies": lambda a, b: [a.clone(), b.clone().t(), a.clone().t().contiguous()],
    "gradient": lambda a, b: list(grad(lambda a, b: ((a @ b).relu() * (a @ b).tanh()).sum(), (0, 1))(a, b)),
}


@pytest.mark.parametrize("name", NASTY)
def test_nasty_graphs(name: str) -> None:
    assert_exact(NASTY[name], randoms((4, 4), (4, 4)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12))
def test_random_graphs(plan: list[tuple[int, int, int]]) -> None:
    """Random operations on random earlier results, a few of which are returned."""

    def function(a: Tensor, b: Tensor) -> list[Tensor]:
        made = [a, b]
        for operation, left, right in plan:
            x, y = made[left % len(made)], made[right % len(made)]
            made.append(
                [
                    lambda x, y: x + y,
                    lambda x, y: x * y,
                    lambda x, y: x - y,
                    lambda x, y: x.tanh(),
                    lambda x, y: x.relu(),
                    lambda x, y: x.t(),
                    lambda x, y: (x @ y).tanh(),
                    lambda x, y: x.reshape(-1).view(4, 4),
                    lambda x, y: x.sum(0, keepdim=True).expand(4, 4).tanh(),
                ][operation](x, y)
            )
        return [made[-1], made[len(made) // 2]]

    assert_exact(function, randoms((4, 4), (4, 4)))


def test_memory_is_reused() -> None:
    graph = rewritten(NASTY["chain"], randoms((4, 4), (4, 4)))
    in_place = {target for target in targets(graph) if target._schema.name.endswith("_")}
    assert {aten.add_.Tensor, aten.relu_.default, aten.mul_.Tensor, aten.sub_.Tensor, aten.exp_.default} <= in_place


def test_constants_are_computed_once() -> None:
    graph = rewritten(lambda a: [a + torch.arange(4).double().exp().sum()], randoms((4,)))
    assert targets(graph) == [aten.add.Tensor]


def test_repeated_work_is_done_once() -> None:
    graph = rewritten(lambda a: [a.exp() + 1, a.exp() * 2], randoms((4,)))
    assert targets(graph).count(aten.exp.default) == 1


def test_untouched_outputs_are_dropped() -> None:
    def function(a: Tensor, b: Tensor, c: Tensor) -> list[Tensor]:
        return [a.clone().detach(), b.clone().add_(1), c.clone()]

    graph = trace(function, randoms((2,), (2,), (2,)))
    assert drop_untouched(graph, {0: 0, 1: 1, 2: 2}) == [1]
    (b,) = graph(*[torch.zeros(2, dtype=torch.float64)] * 3)
    assert b.tolist() == [1, 1]


def test_an_output_that_is_another_argument_stays() -> None:
    graph = trace(lambda a, b: [b.clone(), a + b], randoms((2,), (2,)))
    assert drop_untouched(graph, {0: 0, 1: 1}) == [0, 1]
