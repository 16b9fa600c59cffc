"""A function that is linear in some of its inputs, traced once and cut in two: what is computed once, and each time.

The curvature product at a point is linear in the vector. Traced into a graph, most of it (the forward pass, the
derivatives of the activations, the Hessian of the loss) does not depend on the vector: it is computed once per point
and batch, the rest once per product, without autograd. The trace itself serves for all points and batches of one shape.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

Linear = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]
"""(fixed inputs, varying inputs) -> outputs, of which the first does not depend on the varying ones."""

ATEN = torch.ops.aten


@dataclass(frozen=True)
class Program:
    """``once``: fixed inputs -> (first output, *residuals); ``each``: (*residuals, *varying inputs) -> the others."""

    once: fx.GraphModule
    each: fx.GraphModule


def traced(function: Linear, fixed: Sequence[Tensor], varying: Sequence[Tensor]) -> Program | None:
    """The program of a function, or None if it cannot be traced: Python looks at values, or an operation objects."""

    def flat(*given: Tensor) -> Sequence[Tensor]:
        return function(given[: len(fixed)], given[len(fixed) :])

    try:
        graph = make_fx(flat)(*fixed, *varying)
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return None
    graph.graph.eliminate_dead_code()
    return _cut(graph, len(fixed))


def _cut(graph: fx.GraphModule, fixed: int) -> Program | None:
    nodes = list(graph.graph.nodes)
    placeholders, output = [node for node in nodes if node.op == "placeholder"], nodes[-1]
    vary = _varying(nodes, placeholders[fixed:])
    first, *rest = output.args[0]
    if first in vary:
        return None
    once, each = fx.Graph(), fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    residuals: dict[fx.Node, None] = {node: None for node in rest if node not in vary}
    for node in nodes[:-1]:
        if node not in vary:
            copied[node] = once.node_copy(node, copied.__getitem__)
        else:
            residuals.update((used, None) for used in node.all_input_nodes if used not in vary)
    once.output((copied[first], *(copied[node] for node in residuals)))
    again = {node: each.placeholder(f"residual_{k}") for k, node in enumerate(residuals)}
    for node in nodes[:-1]:
        if node in vary:
            again[node] = each.node_copy(node, again.__getitem__)
    each.output(tuple(again[node] for node in rest))
    _simplified(each)
    return Program(fx.GraphModule(graph, once), fx.GraphModule(graph, each))


def _varying(nodes: Sequence[fx.Node], seeds: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes that must run each time: what uses the varying inputs, and what these change in place."""
    vary = set(seeds)
    while True:
        before = len(vary)
        for node in nodes[:-1]:
            if any(used in vary for used in node.all_input_nodes):
                vary.add(node)
                if _changes_in_place(node):
                    vary.add(node.all_input_nodes[0])
        if len(vary) == before:
            return vary


def _changes_in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _simplified(graph: fx.Graph) -> None:
    """The same function with fewer passes over memory."""
    for node in _nodes(graph):
        kept = _undone(node)
        if kept is not None:
            node.replace_all_uses_with(kept)
    _stack_slices(graph)
    graph.eliminate_dead_code()
    _add_inside_products(graph)
    graph.eliminate_dead_code()


def _undone(node: Any) -> Any:
    """x, where a node is the transpose of the transpose of x, or the only row of x with a dimension added."""
    if node.target is ATEN.t.default and node.args[0].target is ATEN.t.default:
        return node.args[0].args[0]
    if node.target is ATEN.select.int and node.args[1:] == (0, 0):
        whole = node.args[0]
        if whole.target is ATEN.unsqueeze.default and whole.args[1] == 0:
            return whole.args[0]
        if whole.target is ATEN.stack.default and len(whole.args) == 1 and len(whole.args[0]) == 1:
            return whole.args[0][0]
    return None


def _stack_slices(graph: fx.Graph) -> None:
    """Sums of slices, each padded with zeros to the whole, become one stack: what a loop over times leaves behind."""
    slices: dict[
        fx.Node, tuple[tuple[tuple[int, ...], int], dict[int, fx.Node]]
    ] = {}  # (shape and dimension, the slices by place)
    for node in _nodes(graph):
        if node.target is ATEN.select_backward.default:
            source, shape, dim, place = node.args
            slices[node] = ((tuple(shape), dim), {place % shape[dim]: source})
        elif node.target is ATEN.add.Tensor and len(node.args) == 2 and not node.kwargs:
            one, other = (slices.get(arg) if isinstance(arg, fx.Node) else None for arg in node.args)
            if one and other and one[0] == other[0] and not one[1].keys() & other[1].keys():
                (shape, dim), found = one[0], one[1] | other[1]
                slices[node] = (one[0], found)
                if len(found) == shape[dim]:
                    with graph.inserting_before(node):
                        ordered = [found[k] for k in range(shape[dim])]
                        node.replace_all_uses_with(graph.call_function(ATEN.stack.default, (ordered, dim)))


def _add_inside_products(graph: fx.Graph) -> None:
    """Sums of a matrix and a product of matrices become one operation."""
    for node in _nodes(graph):
        if node.target is not ATEN.add.Tensor or len(node.args) != 2 or node.kwargs:
            continue
        for whole, product in (node.args, node.args[::-1]):
            if _is_product(product) and _shape(whole) == _shape(product):
                with graph.inserting_before(node):
                    fused = graph.call_function(ATEN.addmm.default, (whole, *product.args))
                fused.meta.update(node.meta)
                node.replace_all_uses_with(fused)
                break


def _nodes(graph: fx.Graph) -> list[Any]:
    """The nodes as they are now, whose arguments have no types."""
    return list(graph.nodes)


def _is_product(node: object) -> bool:
    return isinstance(node, fx.Node) and node.target is ATEN.mm.default and len(node.users) == 1


def _shape(node: object) -> object:
    return node.meta["tensor_meta"].shape if isinstance(node, fx.Node) and "tensor_meta" in node.meta else node


def agree(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Whether two results are equal up to rounding, relative to the largest element of all."""
    size = max((float(x.abs().max()) for x in b if x.numel()), default=0.0)
    apart = max((float((x - y).abs().max()) for x, y in zip(a, b, strict=True) if x.numel()), default=0.0)
    return apart <= 1e3 * torch.finfo(b[0].dtype).eps * size
