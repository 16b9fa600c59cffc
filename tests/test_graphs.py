"""What is smaller than what it goes into is computed once."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch._inductor.utils import run_and_get_code
from torch.fx.experimental.proxy_tensor import make_fx

from ravine.graphs import once


def by_rows(x: Tensor, c: Tensor) -> Tensor:
    """A number a row, seen through a view; two coefficients that are computed, and one that is there."""
    lr, momentum = c.unbind()
    excess = x.square().sum(1).sqrt() / (1 + momentum)
    return x.mul_(excess.view(-1, 1)).add_(x, alpha=2).mul_(1 - momentum).sub_(lr)


def alike(x: Tensor, c: Tensor) -> Tensor:
    """Nothing that is computed is smaller than what it goes into."""
    return (x.tanh() * c[0]).lerp_(x, c[1])


def joined(x: Tensor, c: Tensor) -> Tensor:
    """Two that go into something larger, each element once; one of which a column, and one of which a row goes far."""
    y = x.tanh()
    return torch.cat([x.relu(), x.relu() * c[0]]) * y[:, :1].repeat(2, 1) + y[0]


@pytest.mark.parametrize(("function", "kept"), [(by_rows, 3), (alike, 0), (joined, 2)])
@pytest.mark.parametrize("tracing", ["fake", "real"])
def test_what_is_small_is_kept_and_the_result_is_the_same(
    function: Callable[[Tensor, Tensor], Tensor], kept: int, tracing: Literal["fake", "real"]
) -> None:
    x, c = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.75])
    graph = once(make_fx(function, tracing_mode=tracing)(x.clone(), c), [x, c])
    strided = [node for node in graph.graph.nodes if node.target is torch.ops.aten.as_strided.default]
    assert len(strided) == kept
    assert all(node.args[0].op == "call_function" and len(node.args[0].users) == 1 for node in strided)
    assert torch.equal(graph(x.clone(), c), function(x.clone(), c))


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_inductor_keeps_it() -> None:
    x, c = torch.randn(50, 70, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.75])
    rooms = []
    for prepare in (once, lambda graph, _: graph):
        made, code = run_and_get_code(torch._inductor.compile, prepare(make_fx(by_rows)(x.clone(), c), [x, c]), [x, c])
        torch.testing.assert_close(made(x.clone(), c), by_rows(x.clone(), c))
        rooms.append(str(code).count("empty_strided_cpu(("))
    assert rooms[0] > rooms[1]
