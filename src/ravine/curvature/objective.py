"""A loss on fixed data as a function of the parameters: its gradient, and products with its curvature matrices.

Works on any module and any loss: everything is double backward through the model as it is. The
data come in parts (micro-batches) that bound the memory; sums over parts are means over rows. Nothing of the model is
left changed: gradients, buffers, mode and random state are afterwards what they were, and each part always sees the
same draws, so that dropout is part of one fixed function.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ravine.curvature.faults import require_sound
from ravine.curvature.frozen import twice_differentiable, unchanged
from ravine.curvature.products import (
    Kind,
    Parts,
    by_row,
    curved_loss,
    differentiable,
    gauss_newton_product,
    hessian_product,
    require_rows,
)
from ravine.curvature.structural import Structure, recorded, require_states
from ravine.errors import UserError
from ravine.fleet.keys import seeded

Mode: TypeAlias = Literal["train", "eval", "kept"]
Product: TypeAlias = Callable[[Tensor], Tensor]
"""Vectors (k, P) -> their products with a symmetric matrix, (k, P)."""


@dataclass(frozen=True, eq=False)
class Part:
    """A micro-batch: a pytree of tensors with `rows` rows, and the seed of the draws that the model makes on it."""

    rows: int
    batch: Any
    seed: int


class Objective:
    """The mean loss over the rows of some batches, as a function of the trainable parameters, flattened to (P,).

    model: any module; the parameters that require a gradient are the variables, tied ones once.
    batches: pytrees of tensors with one row per example, such as ``[(x, y)]`` or a DataLoader; all are kept.
    loss: (outputs, targets) -> the mean over the batch, for batches (inputs, targets) with outputs = model(inputs).
    batch_loss: (model, batch) -> the mean over the batch, in its place; it has no Gauss-Newton matrix.
    micro_batch: rows at once. BatchNorm then takes its statistics over these rows, as in training with that batch.
    mode: "train", in which every module is always in the mode that it is in now, so that a BatchNorm layer in eval
        mode stays frozen; "eval" for the loss without dropout and with the running statistics of BatchNorm; "kept"
        leaves every module in the mode that it is in at each pass.
    seed: of the draws inside the model, which are the same at every pass.
    check: run `faults.require_sound`, four passes over the first part.

    Raises UserError in one sentence when there is nothing to measure or the check finds a fault.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        *,
        loss: Callable[[Any, Any], Tensor] | None = None,
        batch_loss: Callable[[Any, Any], Tensor] | None = None,
        micro_batch: int | None = None,
        mode: Mode = "train",
        seed: int = 0,
        check: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise UserError(f"the model must be a torch.nn.Module, not of type {type(model).__name__}")
        if (loss is None) == (batch_loss is None):
            raise UserError("give exactly one of loss= (outputs, targets) and batch_loss= (model, batch)")
        if mode not in get_args(Mode):
            raise UserError(f"mode= must be 'train' or 'eval' (or 'kept'), not {mode!r}")
        if mode == "train" and not model.training:
            raise UserError(
                "the model is in eval mode, and training sees another loss: call model.train(), "
                "or pass mode='eval' if you mean the loss without dropout"
            )
        self.model, self.mode = model, mode
        self._training = [(module, module.training) for module in model.modules()]
        self._loss, self._batch_loss = loss, batch_loss
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise UserError("the model has no parameter that requires a gradient, so there is nothing to measure")
        self.size = sum(p.numel() for p in self.parameters)
        self.device = self.parameters[0].device
        self.dtype = self.parameters[0].dtype
        if {(p.dtype, p.device) for p in self.parameters} != {(self.dtype, self.device)}:
            raise UserError("the parameters have several dtypes or devices: move the model to one device and one dtype")
        self._take(batches, micro_batch, seed)
        if check:
            require_sound(self)

    def _take(self, batches: Iterable[Any], micro_batch: int | None, seed: int) -> None:
        pieces = [piece for batch in batches for piece in _pieces(self._pair(batch), micro_batch)]
        self.parts = [Part(rows, batch, seed + k) for k, (rows, batch) in enumerate(pieces)]
        if not self.parts:
            raise UserError("there is no batch to measure on; give batches=[(inputs, targets)] or a DataLoader")
        self.rows = sum(part.rows for part in self.parts)

    def _pair(self, batch: Any) -> Any:
        """A batch as it is. Raises UserError if loss= cannot take it apart."""
        if self._loss is not None and not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            got = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else f"a {type(batch).__name__}"
            raise UserError(
                f"with loss= every batch is a pair (inputs, targets), and one is {got}: give "
                "batches=[(inputs, targets)], or batch_loss= (model, batch) for batches of another kind"
            )
        return batch

    # Values and gradients.

    def loss(self) -> Tensor:
        """The mean loss over all rows, a scalar."""
        with torch.no_grad():
            return torch.stack([self.part_loss(part) * (part.rows / self.rows) for part in self.parts]).sum()

    def gradient(self) -> Tensor:
        """The gradient of the mean loss, (P,)."""
        total = torch.zeros(self.size, device=self.device, dtype=self.dtype)
        for rows, gradient in self.gradients():
            total.add_(gradient, alpha=rows / self.rows)
        return total

    def gradients(self) -> Iterator[tuple[int, Tensor]]:
        """(rows, gradient of the mean loss over them (P,)) of each part."""
        for part in self.parts:
            yield part.rows, self.part_gradient(part)

    def part_gradient(self, part: Part) -> Tensor:
        """The gradient of the mean loss over a part, (P,)."""
        return self._part_slope(part)[1]

    def loss_and_gradient(self) -> tuple[Tensor, Tensor]:
        """The mean loss over all rows, a scalar, and its gradient (P,), in one pass over the data."""
        loss = torch.zeros((), device=self.device, dtype=self.dtype)
        gradient = torch.zeros(self.size, device=self.device, dtype=self.dtype)
        for part in self.parts:
            value, slope = self._part_slope(part)
            loss.add_(value, alpha=part.rows / self.rows)
            gradient.add_(slope, alpha=part.rows / self.rows)
        return loss, gradient

    def _part_slope(self, part: Part) -> tuple[Tensor, Tensor]:
        with self.fixed(part), torch.enable_grad():
            loss = self.value_on(part.batch)
            return loss.detach(), self.join(torch.autograd.grad(loss, self.parameters, allow_unused=True))

    def squared_gradients(self, block: int | None = None) -> Tensor:
        """The mean over rows of the squared gradient of a row's loss, (P,): the diagonal of the empirical Fisher.

        Rows are taken in blocks: the square of sum_i s_i g_i with independent signs s_i has the expectation sum_i
        g_i^2, so that all of it costs about one gradient, whatever the layers are (Chapelle and Erhan 2011). With
        ``block=1`` it is exact; by default a block is a hundredth of the rows, 8 at least. The signs are those of the
        seed of a part. The outputs must have a row per example, and the model none that mixes them.
        """
        if self._loss is None:
            raise UserError("squared gradients of rows need outputs and loss apart: give loss= in place of batch_loss=")
        size = block or max(8, -(-self.rows // 100))
        total = torch.zeros(self.size, device=self.device, dtype=self.dtype)
        for part in self.parts:
            signs = torch.Generator().manual_seed(part.seed)
            for rows, (inputs, targets) in _pieces(part.batch, size):
                signed = (2.0 * torch.randint(2, (rows,), generator=signs) - 1).to(total) * rows
                with self.fixed(part), torch.enable_grad():
                    outputs = self.model(inputs)
                    heads = [leaf for leaf in tree_leaves(outputs) if differentiable(leaf)]
                    free = tree_map(lambda z: z.detach().requires_grad_() if differentiable(z) else z, outputs)
                    at = [leaf for leaf in tree_leaves(free) if differentiable(leaf)]
                    slopes = torch.autograd.grad(
                        self._loss(free, targets), at, materialize_grads=True, allow_unused=True
                    )
                    for slope in slopes:
                        require_rows(slope, rows)
                    pulled = [by_row(signed, slope) * slope for slope in slopes]
                    found = torch.autograd.grad(heads, self.parameters, pulled, allow_unused=True)
                total += self.join(found).square_()
        return total / self.rows

    def part_loss(self, part: Part) -> Tensor:
        """The mean loss over a part, a scalar; its graph can be differentiated twice."""
        with self.fixed(part):
            return self.value_on(part.batch)

    # Curvature.

    def part_curvature(self, part: Part, kind: Kind, structure: Structure | None = None) -> tuple[Tensor, Parts]:
        """(the mean loss over a part, the products with its curvature); the graph is kept as long as the products."""
        if self._loss is None and kind != "hessian":
            raise UserError(f"a {kind} matrix needs outputs and loss apart: give loss= in place of batch_loss=")
        with self.fixed(part), torch.enable_grad(), recorded(structure) as states:
            if kind == "hessian":
                value = self.value_on(part.batch)
                products = [hessian_product(value, self.parameters)]
            else:
                assert self._loss is not None
                inputs, targets = part.batch
                judge = self._loss
                value, heads, bend = curved_loss(lambda z: judge(z, targets), self.model(inputs), kind, part.rows)
                products = [gauss_newton_product(heads, self.parameters, bend)]
            if structure is not None:
                require_states(states)
                products.append(gauss_newton_product(states, self.parameters, structure.bend(states, part.rows)))

        def product(vectors: Sequence[Tensor]) -> list[Tensor]:
            found = [one(vectors) for one in products]
            return [sum(terms, first) for first, *terms in zip(*found, strict=True)]

        return value, product

    def part_hessian(self, part: Part) -> Product:
        """The products with the Hessian of the mean loss over a part."""
        return self._flat(self.part_curvature(part, "hessian")[1])

    def part_gauss_newton(self, part: Part) -> Product:
        """The products with the Gauss-Newton matrix of the mean loss over a part."""
        return self._flat(self.part_curvature(part, "gauss-newton")[1])

    def _flat(self, product: Parts) -> Product:
        return lambda vectors: self.join(product(self.split(vectors)), len(vectors))

    # What the parts share.

    def on(self, batches: Iterable[Any], *, micro_batch: int | None = None, seed: int = 0) -> Objective:
        """The same model and loss on other data."""
        other = copy.copy(self)
        other._take(batches, micro_batch, seed)
        return other

    def with_parameters(self, parameters: Sequence[Tensor]) -> Objective:
        """The same objective while other tensors stand in the model for its trainable parameters."""
        other = copy.copy(self)
        other.parameters = list(parameters)
        return other

    def point(self) -> Tensor:
        """The present parameters, (P,)."""
        return self.join([p.detach() for p in self.parameters])

    @torch.no_grad()
    def move(self, point: Tensor) -> None:
        """Set the parameters to a point (P,)."""
        for p, piece in zip(self.parameters, self.split(point[None]), strict=True):
            p.copy_(piece[0])

    def resized(self, rows: int) -> Objective:
        """The same loss on the same rows, in parts of at most `rows` rows."""
        other = copy.copy(self)
        cut = [piece for part in self.parts for piece in _pieces(part.batch, rows)]
        other.parts = [Part(count, batch, self.parts[0].seed + k) for k, (count, batch) in enumerate(cut)]
        return other

    def caller(self) -> nn.Module:
        """A module that maps a batch to its loss, with the model as its child ``model``."""
        return _Caller(self.model, self.value_on)

    def value_on(self, batch: Any) -> Tensor:
        """The mean loss on a batch, a scalar, by the model in the state that it is in."""
        try:
            if self._batch_loss is not None:
                return self._batch_loss(self.model, batch)
            assert self._loss is not None
            inputs, targets = batch
            return self._loss(self.model(inputs), targets)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                "a micro-batch has one row, and BatchNorm takes its statistics over two or more: give a micro_batch= "
                "that leaves none alone, or leave rows out"
            ) from None

    @contextlib.contextmanager
    def fixed(self, part: Part) -> Iterator[None]:
        """Inside it the model draws what it always draws on this part; after it the model is as before."""
        with seeded(part.seed, self.device), unchanged(self.model), twice_differentiable(self.model):
            if self.mode == "eval":
                self.model.eval()
            elif self.mode == "train":
                for module, training in self._training:
                    module.training = training
            yield

    def split(self, vectors: Tensor) -> list[Tensor]:
        """(k, P) -> a tensor (k, *shape) per parameter."""
        pieces = torch.split(vectors, [p.numel() for p in self.parameters], dim=1)
        pairs = zip(pieces, self.parameters, strict=True)
        return [piece.reshape(len(vectors), *p.shape).to(p.dtype) for piece, p in pairs]

    def join(self, tensors: Sequence[Tensor | None], count: int | None = None) -> Tensor:
        """A tensor per parameter -> (P,), or (count, P) if each has count rows; None is zero."""
        lead = () if count is None else (count,)
        flat = [
            torch.zeros(*lead, p.numel(), device=p.device, dtype=p.dtype)
            if tensor is None
            else tensor.reshape(*lead, p.numel())
            for tensor, p in zip(tensors, self.parameters, strict=True)
        ]
        return torch.cat(flat, dim=-1)


class _Caller(nn.Module):
    def __init__(self, model: nn.Module, forward: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.model, self._loss_on = model, forward

    def forward(self, batch: Any) -> Tensor:
        return self._loss_on(batch)


def _pieces(batch: Any, size: int | None) -> Iterator[tuple[int, Any]]:
    """A batch cut into pieces (rows, batch) of at most `size` rows."""
    counts = {len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim}
    if len(counts) != 1:
        raise UserError(
            f"a batch must hold tensors with one row per example, and this one has {sorted(counts) or 'no'} rows; "
            "batches= is a list of batches, such as [(inputs, targets)]"
        )
    (rows,) = counts
    if rows == 0 or (size is not None and size < 1):
        raise UserError("a batch and micro_batch= need at least one row")
    step = size or rows
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        cut = slice(begin, end)
        yield end - begin, tree_map(lambda leaf: leaf[cut] if isinstance(leaf, Tensor) else leaf, batch)  # noqa: B023
