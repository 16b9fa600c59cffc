"""Curvature matrices of an objective, known by their products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from ravine.curvature.objective import Objective, Part, Product
from ravine.curvature.products import Kind
from ravine.curvature.program import Program, agree, traced
from ravine.curvature.structural import StructuralDamping, Structure
from ravine.errors import UserError
from ravine.fleet.keys import seeded


@dataclass(frozen=True, eq=False)
class Operator:
    """A symmetric matrix known by its products: called with vectors (k, size), it gives (k, size)."""

    product: Product
    size: int
    dtype: torch.dtype
    device: torch.device

    def __call__(self, vectors: Tensor) -> Tensor:
        return self.product(vectors)


def require_operator(matrix: object) -> None:
    """Raise UserError unless it is a matrix."""
    if not isinstance(matrix, Operator):
        raise UserError(
            f"a matrix is wanted, and this is of type {type(matrix).__name__}: give hessian(objective) or "
            "gauss_newton(objective)"
        )


def hessian(objective: Objective) -> Operator:
    """The Hessian of the mean loss, by its products.

    Where the objective has one part, its graph is kept, so that a product costs one backward pass; with several, each
    product makes the graph of one part after the other anew, and the memory is that of one part.
    """
    return _summed(objective, _an_objective(objective).part_hessian)


def gauss_newton(objective: Objective) -> Operator:
    """The generalized Gauss-Newton matrix of the mean loss, by its products; as `hessian` otherwise."""
    return _summed(objective, _an_objective(objective).part_gauss_newton)


def _an_objective(objective: Objective) -> Objective:
    if isinstance(objective, Objective):
        return objective
    raise UserError(
        f"an Objective is wanted, and this is of type {type(objective).__name__}: make one of model, batches and loss"
    )


def _summed(objective: Objective, product_of: Callable[[Part], Product]) -> Operator:
    def product(vectors: Tensor) -> Tensor:
        total = torch.zeros_like(vectors)
        for part in objective.parts:
            total.add_(product_of(part)(vectors), alpha=part.rows / objective.rows)
        return total

    single = len(objective.parts) == 1
    return Operator(
        product_of(objective.parts[0]) if single else product, objective.size, objective.dtype, objective.device
    )


class Linearizer:
    """Makes fast products of one kind of curvature, for the many products that conjugate gradients take at a point.

    The products of `Objective.part_curvature` are traced once for batches of one shape, and cut into what depends on
    the vector and what does not; a trace is used only after it gave what the definition gives, and what cannot be
    traced (Python that looks at values) runs by the definition.
    """

    def __init__(self, kind: Kind = "gauss-newton", structural: StructuralDamping | None = None) -> None:
        self.kind, self.structural = kind, structural
        self._programs: dict[object, Program | None] = {}

    def at(self, objective: Objective, structure: float = 0.0) -> Curvature:
        """The curvature at the present parameters, which must stay as they are as long as it is used.

        structure: the factor of structural damping.
        """
        factor = torch.tensor(structure, dtype=objective.dtype, device=objective.device)
        return Curvature(self, objective, factor)

    def forget(self) -> None:
        """Drop all traces, because the model computes something else now."""
        self._programs.clear()

    def program(self, objective: Objective, part: Part, fixed: Sequence[Tensor]) -> Program | None:
        """The traced product for parts of this shape, or None."""
        leaves = pytree.tree_leaves(part.batch)
        shapes = [(leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves]
        key = (tuple(shapes), objective.mode, tuple(module.training for module in objective.model.modules()))
        if key not in self._programs:
            self._programs[key] = self._traced(objective, part, fixed)
        return self._programs[key]

    def _traced(self, objective: Objective, part: Part, fixed: Sequence[Tensor]) -> Program | None:
        probe = torch.linspace(-1, 1, objective.size, dtype=objective.dtype, device=objective.device)
        probes = [[piece[0] for piece in objective.split(v[None])] for v in (probe, probe.roll(1))]
        wanted = [self.once(objective, part, fixed, varying) for varying in probes]
        if self.kind == "gauss-newton" and not any(tensor.any() for tensor in wanted[0][1:]):
            raise UserError(
                "the loss has no curvature in what the model returns, so there is no Gauss-Newton matrix: let it "
                "return what the loss is computed from (logits, predictions), or take curvature='hessian'"
            )
        program = traced(lambda given, varying: self.once(objective, part, given, varying), fixed, probes[0])
        if program is None:
            return None
        with torch.no_grad():
            value, *residuals = run_once(program, objective, part, fixed)
            right = all(
                agree([value, *program.each(*residuals, *varying)], one)
                for varying, one in zip([*probes, probes[0]], [*wanted, wanted[0]], strict=True)
            )
        return program if right else None

    def fixed(self, objective: Objective, part: Part, factor: Tensor) -> list[Tensor]:
        """The tensors that a product depends on beside the vector: batch, factor, buffers and parameters."""
        batch = [leaf for leaf in pytree.tree_leaves(part.batch) if isinstance(leaf, Tensor)]
        model = objective.model
        return [*batch, factor, *(b for _, b in model.named_buffers()), *(p.detach() for p in model.parameters())]

    def once(
        self, objective: Objective, part: Part, fixed: Sequence[Tensor], varying: Sequence[Tensor]
    ) -> list[Tensor]:
        """The mean loss on a part, and the product with one vector (a tensor per parameter), from given tensors."""
        leaves, spec = pytree.tree_flatten(part.batch)
        rest = iter(fixed)
        batch = pytree.tree_unflatten([next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
        factor = next(rest)
        buffers = {f"model.{name}": next(rest) for name, _ in objective.model.named_buffers()}
        trained = {id(p) for p in objective.parameters}
        given = {
            f"model.{name}": next(rest).detach().requires_grad_(id(p) in trained)
            for name, p in objective.model.named_parameters()
        }
        structure = None if self.structural is None else Structure(self.structural, factor)
        wanted = [tensor for tensor in given.values() if tensor.requires_grad]

        def compute() -> list[Tensor]:
            moved = objective.with_parameters(wanted)
            value, product = moved.part_curvature(Part(part.rows, batch, part.seed), self.kind, structure)
            return [value.detach(), *(one[0].detach() for one in product([v[None] for v in varying]))]

        found: list[Tensor] = functional_call(_Around(objective.model), {**buffers, **given}, (compute,))
        return found


class _Around(nn.Module):
    """Runs a function while `functional_call` has put other tensors into the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Any]) -> Any:
        return compute()


def run_once(program: Program, objective: Objective, part: Part, fixed: Sequence[Tensor]) -> list[Tensor]:
    """The loss and the residuals of a program, with the draws of the part."""
    with seeded(part.seed, objective.device), torch.no_grad():
        return list(program.once(*fixed))


class Curvature:
    """``curvature(v)``: the product of a curvature matrix at one point with a vector (P,).

    ``loss`` is the mean loss there. Of one part the linearization is kept, and a product costs about as much as a
    gradient; of several it is made again at each product, so that memory is bounded by a part.
    """

    def __init__(self, linearizer: Linearizer, objective: Objective, factor: Tensor) -> None:
        self._linearizer, self._objective, self._factor = linearizer, objective, factor
        self.products = 0
        self._kept: Callable[[Tensor], Tensor] | None = None
        if len(objective.parts) == 1:
            self.loss, self._kept = self._linearized(objective.parts[0])
        else:
            self.loss = objective.loss()

    def _linearized(self, part: Part) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """(the loss on a part, the products there)."""
        linearizer, objective = self._linearizer, self._objective
        fixed = linearizer.fixed(objective, part, self._factor)
        program = linearizer.program(objective, part, fixed)
        if program is None:
            structure = None if linearizer.structural is None else Structure(linearizer.structural, self._factor)
            value, product = objective.part_curvature(part, linearizer.kind, structure)
            return value.detach(), lambda v: objective.join(product(objective.split(v[None])), 1)[0]
        value, *residuals = run_once(program, objective, part, fixed)
        each = program.each

        @torch.no_grad()
        def apply(v: Tensor) -> Tensor:
            return objective.join(each(*residuals, *(piece[0] for piece in objective.split(v[None]))))

        return value, apply

    def __call__(self, vector: Tensor) -> Tensor:
        self.products += 1
        if self._kept is not None:
            return self._kept(vector)
        total = torch.zeros_like(vector)
        for part in self._objective.parts:
            total.add_(self._linearized(part)[1](vector), alpha=part.rows / self._objective.rows)
        return total
