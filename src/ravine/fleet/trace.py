"""Tracing a stacked function once into a graph of plain tensor operations, and making that graph cheaper.

`torch.func.vmap` interprets every operation anew at every step (108 us a run-step on the small dense net of the
benchmark); the traced graph runs the same operations without it (76 us) and, rewritten as below, in 59 us: no compiler
is needed. Shapes are fixed by the trace, so there is one graph per number of runs. Each rewrite is exact up to float
rounding.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

aten = torch.ops.aten
NARROW = 32  # columns below which a product or a softmax over the last dimension is slow on a CPU


def trace(function: Callable[..., list[Tensor]], arguments: list[Tensor]) -> fx.GraphModule:
    """The graph of `function(*arguments)`: free of mutation, of repeated work and of constants computed anew."""
    # torch's other attention kernels run stacks in a loop
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")  # it will be measured
        # Twice: functionalize does not take autograd.Functions, which the first trace dissolves. The decompositions
        # are in the first, because views are recorded for the strides that these leave.
        plain = make_fx(function, decomposition_table=_DECOMPOSITIONS)(*arguments)
        module: fx.GraphModule = make_fx(functionalize(plain))(*arguments)
    _share_repeated(module)
    _drop_identities(module)
    _fold_constants(module)
    return module


def drop_untouched(module: fx.GraphModule, outputs: dict[int, int]) -> list[int]:
    """Leaves out the outputs that are only the arguments given for them: buffers that the forward pass does not update.

    Of the outputs in the keys of `outputs`; returns those of them that stay.
    """
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    returned = next(node for node in module.graph.nodes if node.op == "output")
    results: Any = returned.args[0]
    dropped = {output for output, argument in outputs.items() if results[output] is placeholders[argument]}
    returned.args = ([node for number, node in enumerate(results) if number not in dropped],)
    module.graph.eliminate_dead_code()
    module.recompile()
    return [output for output in outputs if output not in dropped]


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


def _argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The first place of the largest value: torch's own kernel takes 10x as long when the dimension is narrow."""
    if dim is None or x.ndim == 0 or x.shape[dim] > NARROW:
        return NotImplemented
    size = x.shape[dim]
    shape = [size if axis == dim % x.ndim else 1 for axis in range(x.ndim)]
    backwards = torch.arange(size, 0, -1, dtype=x.dtype, device=x.device).view(shape)
    largest = ((x >= x.amax(dim, True)) * backwards).amax(dim, keepdim)
    return (size - largest).clamp(max=size - 1).long()


def _tanh(x: Tensor) -> Any:
    """tanh x = e / (e + 2) with e = exp(2x) - 1: torch's own kernel takes 1.5x as long on a CPU."""
    if x.device.type != "cpu":
        return NotImplemented
    grown = torch.expm1((2 * x).clamp(max=40.0))  # where 1 - tanh is below any rounding
    return grown / (grown + 2)


_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten._log_softmax.default: _log_softmax,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten.bmm.default: _bmm,
    aten.tanh.default: _tanh,
    aten.argmax.default: _argmax,
}


def _meta(node: Any) -> tuple[list[int], list[int], torch.dtype] | None:
    """Shape, strides and dtype of the tensor that a node stands for."""
    meta = node.meta.get("tensor_meta") if isinstance(node, fx.Node) else None
    return None if meta is None else (list(meta.shape), list(meta.stride), meta.dtype)


def _share_repeated(module: fx.GraphModule) -> None:
    """What is computed twice is computed once. Not by torch's CSEPass, to which x * 1 and x * 1.0 are the same."""
    first: dict[Any, fx.Node] = {}
    for node in list(module.graph.nodes):
        if node.op in ("call_function", "get_attr"):
            same = first.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
            if same is not node:
                node.replace_all_uses_with(same)
                module.graph.erase_node(node)
    module.recompile()


def _drop_identities(module: fx.GraphModule) -> None:
    """Copies that nobody writes to, views that change nothing and products with one, left by vmap and autograd.

    Nothing in the graph is written to before `reuse_memory`, which leaves arguments alone: a copy is its source.
    """
    for node in list(module.graph.nodes):
        source: Any = node.args[0] if node.args else None
        again = node.target is aten.transpose.int and isinstance(source, fx.Node) and source.target is node.target
        unit = node.target in _IDENTITIES or (node.target is aten.mul.Scalar and node.args[1] == 1)
        if again and source.args[1:] == node.args[1:]:
            node.replace_all_uses_with(source.args[0])
        elif unit and _stands_for(source, node):
            node.replace_all_uses_with(source)
    module.graph.eliminate_dead_code()
    module.recompile()


_IDENTITIES = (  # where shape, dtype and layout stay as they are
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten.expand.default,
    aten.view.default,
    aten._unsafe_view.default,
)


def _stands_for(source: Any, node: fx.Node) -> bool:
    """Whether `source`, of equal values, can take the place of `node`: also where its rows are only farther apart."""
    one, other = _meta(source), _meta(node)
    if one is None or other is None or (one[0], one[2]) != (other[0], other[2]):
        return False
    return one == other or (_row_major(one[1]) and _row_major(other[1]) and all(map(_adds_dimensions, node.users)))


def _row_major(strides: list[int]) -> bool:
    return 0 not in strides and strides == sorted(strides, reverse=True)


def _adds_dimensions(node: fx.Node) -> bool:
    """Whether a node is a view that any strides allow: its source with dimensions of size one put in."""
    one, other = _meta(node.args[0]), _meta(node)
    if node.target is not aten.view.default or one is None or other is None:
        return False
    return [size for size in one[0] if size != 1] == [size for size in other[0] if size != 1]


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
            module.register_buffer(f"constant_{number}", value)
            with module.graph.inserting_before(node):
                constant = module.graph.get_attr(f"constant_{number}")
            known[node] = known[constant] = value
            node.replace_all_uses_with(constant)
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
    aten.threshold_backward.default: aten.threshold_backward.grad_input,
}

_VIEWS = (  # of all elements, each once: who owns the source may write through them
    aten.view.default,
    aten._unsafe_view.default,
    aten.transpose.int,
    aten.permute.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.t.default,
)


def reuse_memory(module: fx.GraphModule) -> None:
    """Pointwise operations write over an operand that nobody else reads: fewer cache lines are touched."""
    for node in module.graph.nodes:
        if node.target not in _IN_PLACE or node.kwargs:
            continue
        if node.target is aten.add.Tensor and not _expendable(node.args[0], node) and _expendable(node.args[1], node):
            node.args = (node.args[1], node.args[0])
        if _expendable(node.args[0], node):
            node.target = _IN_PLACE[node.target]
            if node.target is aten.threshold_backward.grad_input:
                node.kwargs = {"grad_input": node.args[0]}
    module.recompile()


def _expendable(source: Any, node: fx.Node) -> bool:
    """Whether `source` is laid out as the result of `node`, and is memory that only `node` reads."""
    return _meta(source) is not None and _meta(source) == _meta(node) and _owned(source, node)


def _owned(source: fx.Node, reader: fx.Node) -> bool:
    """Whether the memory behind `source` was made in this graph and is read by nobody but `reader`."""
    if source.op != "call_function" or list(source.users) != [reader]:
        return False
    if source.target in _VIEWS or source.target in _IN_PLACE.values():
        return _owned(source.args[0], source)  # type: ignore[arg-type]  # theirs is a node
    schema = getattr(source.target, "_schema", None)
    return schema is not None and len(schema.returns) == 1 and schema.returns[0].alias_info is None
