"""Products of curvature matrices with vectors, by backward passes through a graph that is kept.

With outputs z of the model, J = dz/dw, and L the mean loss over the rows of a batch:

- Hessian: H v = d (grad L' v) / dw (Pearlmutter 1994);
- Gauss-Newton: G v = J' (d2L/dz2) J v (Schraudolph 2002), positive semi-definite for L convex in z;
- empirical Fisher: F v = mean over rows of g_i (g_i' v), g_i the gradient of the loss of row i.

J v itself is the transpose of u -> J' u, which is linear, so two backward passes give it on every layer that has a
second derivative; no layer needs forward-mode rules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from ravine.errors import UserError

Kind: TypeAlias = Literal["hessian", "gauss-newton", "empirical-fisher"]
Parts: TypeAlias = Callable[[Sequence[Tensor]], list[Tensor]]
"""Vectors as a tensor (k, *shape) per parameter -> their products with a matrix, likewise."""


@once_differentiable
def _marked(context: object) -> None:
    """Has the code that the mark puts around a backward pass."""


_MARK = getattr(_marked, "__code__")  # noqa: B009  # its type says only that it can be called


def hessian_product(loss: Tensor, parameters: Sequence[Tensor]) -> Parts:
    """The products with the Hessian of a loss, a scalar with a graph."""
    with whole_graph([loss]):
        slopes = _slopes(loss, parameters)
    wanted = [k for k, slope in enumerate(slopes) if slope is not None]
    heads = [slope for slope in slopes if slope is not None]

    def product(vectors: Sequence[Tensor]) -> list[Tensor]:
        return transposed(heads, parameters, [vectors[k] for k in wanted])

    return product


def gauss_newton_product(heads: Sequence[Tensor], parameters: Sequence[Tensor], bend: Parts) -> Parts:
    """J' B J v: J of the heads (tensors with a graph) by the parameters, B v = bend(v) a matrix between heads."""
    # Linear in the weights on the heads, so that its transpose is J.
    weights = [torch.ones_like(head, requires_grad=True) for head in heads]
    with whole_graph(heads):
        pulled = torch.autograd.grad(heads, parameters, weights, create_graph=True, allow_unused=True)
    wanted = [k for k, one in enumerate(pulled) if one is not None]
    ends = [one for one in pulled if one is not None]

    def product(vectors: Sequence[Tensor]) -> list[Tensor]:
        tangents = transposed(ends, weights, [vectors[k] for k in wanted])
        return transposed(heads, parameters, bend(tangents))

    return product


def curved_loss(
    loss: Callable[[Any], Tensor], outputs: Any, kind: Kind, rows: int
) -> tuple[Tensor, list[Tensor], Parts]:
    """(the loss, the tensors of the outputs that depend on the parameters, its curvature between them)."""
    heads = [leaf for leaf in pytree.tree_leaves(outputs) if differentiable(leaf)]
    free = pytree.tree_map(lambda leaf: leaf.detach().requires_grad_() if differentiable(leaf) else leaf, outputs)
    at = [leaf for leaf in pytree.tree_leaves(free) if differentiable(leaf)]
    if not heads:
        raise UserError(
            "what the model returns does not depend on its parameters: the forward pass must not detach, convert to "
            "numbers or run under torch.no_grad()"
        )
    value = loss(free)
    with whole_graph([value]):
        slopes = _slopes(value, at, materialize_grads=True)
    if kind == "empirical-fisher":
        return value, heads, _outer([slope.detach() for slope in slopes], rows)

    def bend(tangents: Sequence[Tensor]) -> list[Tensor]:
        return transposed(slopes, at, tangents)

    return value, heads, bend


def _outer(slopes: Sequence[Tensor], rows: int) -> Parts:
    """v -> rows s_i (s_i' v) row by row: the slope s_i of the mean loss is that of row i's own loss over `rows`."""

    def bend(tangents: Sequence[Tensor]) -> list[Tensor]:
        pairs = zip(slopes, tangents, strict=True)
        along = [(tangent * slope).flatten(2).sum(2) if slope.ndim > 1 else tangent * slope for slope, tangent in pairs]
        total = rows * torch.stack(along).sum(0)  # (k, rows)
        return [by_row(total, slope) * slope for slope in slopes]

    for slope in slopes:
        require_rows(slope, rows)
    return bend


def by_row(values: Tensor, like: Tensor) -> Tensor:
    """(..., rows) shaped so that it multiplies a tensor with a row per example."""
    return values.reshape(*values.shape, *[1] * (like.ndim - 1))


def require_rows(output: Tensor, rows: int) -> None:
    """Raise UserError unless an output of the model has a row per example."""
    if output.ndim == 0 or len(output) != rows:
        raise UserError(
            f"an output of the model has shape {tuple(output.shape)} on {rows} rows, and squared gradients and the "
            "empirical Fisher need a row per example: put the examples first, or do without them"
        )


def _slopes(loss: Tensor, at: Sequence[Tensor], **more: bool) -> tuple[Tensor, ...]:
    """The gradient of a loss, with a graph, pulled back from a 1 that has one, so that every part of it must."""
    seed = torch.ones_like(loss, requires_grad=True)
    return torch.autograd.grad(loss, at, seed, create_graph=True, allow_unused=True, **more)


@contextlib.contextmanager
def whole_graph(heads: Sequence[Tensor]) -> Iterator[None]:
    """Inside it, gradients with a graph are taken from some tensors; their own incoming gradients have one.

    Raises UserError if that of an autograd function written in Python has none, because its backward pass is marked
    once_differentiable or runs outside autograd (without grad, or through NumPy). Torch would go on, and what is
    differentiated by it again would silently be zero.
    """
    hooks, cut = [], dict[str, list[Tensor]]()
    ahead, seen = [head.grad_fn for head in heads], set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        made_by = getattr(node, "_forward_cls", None)  # of functions written in Python
        if made_by is not None:
            if getattr(made_by.backward, "__code__", None) is _MARK:
                raise UserError(_ONCE.format(made_by.__name__, "is marked once_differentiable"))
            wanted = [before is not None for before, _ in node.next_functions]
            hooks.append(node.register_hook(partial(_look_for_graph, cut, made_by.__name__, wanted)))
        ahead += [before for before, _ in node.next_functions]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for name, slopes in cut.items():
        if any(slope.any() for slope in slopes):
            raise UserError(_ONCE.format(name, "leaves autograd (torch.no_grad, detach or NumPy)"))


_ONCE = "the loss cannot be differentiated twice: the backward pass of '{}' {}; use layers and losses of plain torch"


def _look_for_graph(
    cut: dict[str, list[Tensor]],
    name: str,
    wanted: Sequence[bool],
    outgoing: Sequence[Tensor | None],
    incoming: Sequence[Tensor | None],
) -> None:
    """Note what a backward pass gave without a graph, for inputs that want it, where what it got has one."""
    if any(map(differentiable, incoming)):
        given = [slope for slope, wants in zip(outgoing, wanted, strict=True) if wants and slope is not None]
        cut.setdefault(name, []).extend(slope for slope in given if not differentiable(slope))


def transposed(outputs: Sequence[Tensor], inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Sums over outputs of weights (k, *shape of the output) times d output / d input: (k, *shape of the input)."""
    count = len(weights[0]) if weights else 1
    kept = [(output, weight) for output, weight in zip(outputs, weights, strict=True) if output.requires_grad]
    if not kept:
        return [one.new_zeros(count, *one.shape) for one in inputs]
    heads, pulls = [output for output, _ in kept], [weight for _, weight in kept]
    if count == 1 or heads[0].device.type == "cpu":  # there a batched backward pass is slower than one after the other
        singles = [
            torch.autograd.grad(heads, inputs, [pull[k] for pull in pulls], retain_graph=True, allow_unused=True)
            for k in range(count)
        ]
        found = tuple(None if of[0] is None else torch.stack(of) for of in zip(*singles, strict=True))
    else:
        found = torch.autograd.grad(heads, inputs, pulls, retain_graph=True, allow_unused=True, is_grads_batched=True)
    pairs = zip(found, inputs, strict=True)
    return [one.new_zeros(count, *one.shape) if tensor is None else tensor for tensor, one in pairs]


def differentiable(leaf: Any) -> bool:
    """Whether it is a tensor that depends on something to be differentiated by."""
    return isinstance(leaf, Tensor) and leaf.requires_grad
