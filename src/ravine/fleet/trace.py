"""Tracing a stacked function once into a graph of plain tensor operations, and making that graph cheaper.

`torch.func.vmap` interprets every operation anew at every step (108 us a run-step on the small dense net of the benchmark);
the traced graph runs the same operations without it (76 us) and, rewritten as below, in 59 us: no compiler is needed.
Shapes are fixed by the trace, so there is one graph per number of runs. Each rewrite is exact up to float rounding.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.dialect.common.cse_pass import CSEPass

aten = torch.ops.aten
NARROW = 32  # columns below which a product or a softmax over the last dimension is slow on a CPU


def trace(function: Callable[..., list[Tensor]], arguments: list[Tensor]) -> fx.GraphModule:
    """The graph of `function(*arguments)`: free of mutation, of repeated work and of constants computed anew."""
    graph = make_fx(functionalize(function), decomposition_table=_DECOMPOSITIONS)(*arguments)
    result = CSEPass()(graph)
    assert result is not None
    _drop_identities(result.graph_module)
    _fold_constants(result.graph_module)
    _reuse_memory(result.graph_module)
    return result.graph_module


def untouched(graph: fx.GraphModule, argument: int, output: int) -> bool:
    """Whether an output is only a copy of an argument: a buffer that the forward pass does not update."""
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    results = next(node for node in graph.graph.nodes if node.op == "output").args[0]
    node = results[output]
    while node.target in (aten.clone.default, aten.alias.default, aten.detach.default):
        node = node.args[0]
    return node is placeholders[argument]


def _log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Any:
    """torch's own kernel takes 5x as long as these vectorized passes when the dimension is narrow."""
    if x.shape[dim] > NARROW or half_to_float:
        return NotImplemented
    shifted = x - x.amax(dim, True)
    return shifted - shifted.exp().sum(dim, True).log()


def _log_softmax_backward(grad: Tensor, output: Tensor, dim: int, input_dtype: torch.dtype) -> Any:
    if output.shape[dim] > NARROW or input_dtype != grad.dtype:
        return NotImplemented
    return grad - output.exp() * grad.sum(dim, True)


def _bmm(a: Tensor, b: Tensor) -> Any:
    """A B as (B' A')': 2.5x faster where B has few columns (a layer of ten outputs)."""
    if b.shape[2] < NARROW and b.shape[2] < a.shape[1]:
        return aten.bmm.default(b.transpose(1, 2), a.transpose(1, 2)).transpose(1, 2)
    return NotImplemented


_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten._log_softmax.default: _log_softmax,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten.bmm.default: _bmm,
}


def _shape(node: fx.Node) -> list[int]:
    return list(node.meta["val"].shape) if "val" in node.meta else list(node.meta["tensor_meta"].shape)


def _drop_identities(module: fx.GraphModule) -> None:
    """Expansions to the same shape, products with one, additions of zero that vmap and autograd leave behind."""
    for node in list(module.graph.nodes):
        same_shape = (aten.expand.default, aten.view.default, aten._unsafe_view.default)
        if (node.target in same_shape and _shape(node.args[0]) == _shape(node)) or (
            node.target is aten.mul.Scalar and node.args[1] == 1
        ):
            node.replace_all_uses_with(node.args[0])
    module.graph.eliminate_dead_code()
    module.recompile()


def _fold_constants(module: fx.GraphModule) -> None:
    """What depends on no argument is computed now instead of at every step."""
    known: dict[fx.Node, Any] = {}
    for number, node in enumerate(list(module.graph.nodes)):
        if node.op == "get_attr":
            known[node] = getattr(module, node.target)
        elif node.op == "call_function" and all(source in known for source in node.all_input_nodes):
            arguments = fx.map_arg(node.args, known.__getitem__)
            value = node.target(*arguments, **fx.map_arg(node.kwargs, known.__getitem__))
            if not isinstance(value, Tensor):
                continue
            known[node] = value
            module.register_buffer(f"constant_{number}", value)
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(module.graph.get_attr(f"constant_{number}"))
    module.graph.eliminate_dead_code()
    module.recompile()


_IN_PLACE = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.relu.default: aten.relu_.default,
    aten.tanh.default: aten.tanh_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.exp.default: aten.exp_.default,
}


def _reuse_memory(module: fx.GraphModule) -> None:
    """Pointwise operations write over an operand that nobody else reads: fewer cache lines are touched."""
    for node in module.graph.nodes:
        if node.target not in _IN_PLACE or node.kwargs:
            continue
        if node.target is aten.add.Tensor and not _expendable(node.args[0], node) and _expendable(node.args[1], node):
            node.args = (node.args[1], node.args[0])
        if _expendable(node.args[0], node):
            node.target = _IN_PLACE[node.target]
    module.recompile()


def _expendable(source: Any, node: fx.Node) -> bool:
    """Whether `source` is memory of its own, of the shape and type of `node`'s result, that only `node` reads."""
    if not isinstance(source, fx.Node) or source.op != "call_function" or list(source.users) != [node]:
        return False
    schema = getattr(source.target, "_schema", None)
    fresh = schema is not None and len(schema.returns) == 1 and schema.returns[0].alias_info is None
    reads = [argument for argument in node.all_input_nodes if argument is source]
    return fresh and len(reads) == 1 and _shape(source) == _shape(node) and _dtype(source) == _dtype(node)


def _dtype(node: fx.Node) -> torch.dtype:
    return (node.meta["val"] if "val" in node.meta else node.meta["tensor_meta"]).dtype  # type: ignore[no-any-return]
