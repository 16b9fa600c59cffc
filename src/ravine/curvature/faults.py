"""Wrong use of an objective, found before it costs anything and said in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ravine.errors import UserError

if TYPE_CHECKING:
    from ravine.curvature.objective import Objective, Part


def require_sound(objective: Objective) -> None:
    """Raise UserError if the loss is no finite scalar, a sum, or not a function; or a gradient is not finite."""
    part = objective.parts[0]
    first = objective.part_loss(part)
    if not isinstance(first, Tensor) or first.ndim:
        got = f"a tensor of shape {tuple(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
        raise UserError(f"the loss must be a tensor with one number, not {got}; take the mean over the batch")
    gradient = objective.part_gradient(part)
    require_finite(objective, gradient, "on the first batch")
    if not first.isfinite():
        raise UserError(f"the loss on the first batch is {first.item()}; there is nothing to measure")
    again, other = objective.part_loss(part), objective.part_gradient(part)
    close = 1e-10 if objective.dtype == torch.float64 else 1e-4
    if (first - again).abs() > close * first.abs() or (gradient - other).norm() > close * gradient.norm():
        raise UserError(
            f"two forward passes with the same draws differ, first at {_restless(objective, part)}: make it depend on "
            "its inputs, its parameters and torch's global generator alone"
        )
    with objective.fixed(part), torch.no_grad():
        double = objective.value_on(tree_map(_twice, part.batch))
    if double.abs() > 1.5 * first.detach().abs() > 0 and (double / first).item() > 1.5:
        raise UserError(
            f"the loss grows {(double / first).item():.3g} times when every row comes twice, so it is a sum: "
            "take the mean over the batch (reduction='mean')"
        )


def require_finite(objective: Objective, gradient: Tensor, where: str) -> None:
    """Raise UserError naming the first parameter whose part of `gradient` (P,) is not finite."""
    if gradient.isfinite().all():
        return
    for name, piece in zip(objective.names, objective.split(gradient[None]), strict=True):
        if not piece.isfinite().all():
            raise UserError(f"the gradient of '{name}' is not finite {where}: training diverged, or divides by 0")


def _restless(objective: Objective, part: Part) -> str:
    """The name of the first module without children whose outputs differ between two passes on equal inputs."""
    passes: list[list[tuple[str, list[Tensor], list[Tensor]]]] = []
    for _ in range(2):
        seen: list[tuple[str, list[Tensor], list[Tensor]]] = []
        hooks = [
            module.register_forward_hook(
                lambda m, given, output, name=name, seen=seen: seen.append((name, _copies(given), _copies(output)))
            )
            for name, module in objective.model.named_modules()
            if not any(True for _ in module.children())
        ]
        try:
            objective.part_loss(part)
        finally:
            for hook in hooks:
                hook.remove()
        passes.append(seen)
    for (name, given, one), (_, again, two) in zip(*passes, strict=False):
        if _differ(given, again):
            return f"what the module '{name}' is given, by the forward of a module with children"
        if _differ(one, two):
            return f"the module '{name}'" if name else f"the model ({type(objective.model).__name__})"
    return "a line outside every module: the loss, or the forward of a module with children"


def _copies(tree: Any) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _differ(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(ones, others, strict=False))


def _twice(leaf: Any) -> Any:
    return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) else leaf
