"""What a traced graph needs before torch's compiler takes it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.multiprocessing.reductions import StorageWeakRef


def once(graph: fx.GraphModule, arguments: Sequence[Tensor]) -> fx.GraphModule:
    """Have what is spread over something larger computed once: a number a row, or a coefficient of each run.

    Inductor would compute it again for every vector of the larger one, and a C++ compiler does not take it out of the
    loop: what the loop writes might be what it is computed from. What ``as_strided`` takes, Inductor keeps.
    """
    FakeTensorProp(graph, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*arguments)
    owners: dict[StorageWeakRef, fx.Node] = {}
    kept: dict[fx.Node, Tensor] = {}
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            owner = owners.setdefault(StorageWeakRef(value.untyped_storage()), node)  # type: ignore[no-untyped-call]
            whole: Tensor = owner.meta["val"]
            if owner.op == "call_function" and any(_spread(whole, value, user) for user in node.users):
                kept[owner] = whole
    for node, value in kept.items():
        with graph.graph.inserting_after(node):
            strided = graph.graph.call_function(torch.ops.aten.as_strided.default, (node, value.shape, value.stride()))
        node.replace_all_uses_with(strided, delete_user_cb=partial(operator.is_not, strided))
    graph.recompile()
    return graph


def _spread(whole: Tensor, seen: Tensor, user: fx.Node) -> bool:
    """Whether each element of a small tensor, as it is seen there, goes into several of what uses it."""
    large = user.meta.get("val")
    if not isinstance(large, Tensor) or large.numel() <= whole.numel() or seen.dim() > large.dim():
        return False
    ends = zip(reversed(seen.shape), reversed(large.shape), strict=False)
    return all(size in (1, of_large) for size, of_large in ends)
