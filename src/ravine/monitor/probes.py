"""The dear signals, measured on fixed rows beside the training: noise scale, top curvature, curvature of the update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from ravine.errors import UserError
from ravine.fleet.keys import seeded
from ravine.measure import (
    Objective,
    Operator,
    curvature_along,
    hessian,
    mode,
    noise_scale,
    stability_margin,
    top_eigenvalues,
)
from ravine.monitor.settings import Settings

Instrument: TypeAlias = Literal["noise", "top", "update"]
CYCLE: tuple[Instrument, ...] = ("noise", "top", "update")
PRODUCTS = 8
"""Hessian products of one search for the top eigenvalue, which goes on from the last one."""
GROUPS = 4
"""Groups that a batch is cut into for the noise scale."""
BATCHES = 4
"""Batches taken from a DataLoader."""

Values: TypeAlias = dict[str, float | int | bool | None]


class Probes:
    """The loss of a model on fixed batches, and what is measured there. The model is left as it was, to the bit."""

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        *,
        loss: Callable[[Any, Any], Tensor] | None,
        batch_loss: Callable[[Any, Any], Tensor] | None,
    ) -> None:
        device = next((p.device for p in model.parameters() if p.requires_grad), torch.device("cpu"))
        moved = [tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, one) for one in _taken(batches)]
        if not model.training:
            raise UserError(
                "the model is in eval mode, and the monitor measures the loss that is trained: call model.train() first"
            )
        self.model = model
        began = time.perf_counter()
        self.objective = Objective(model, moved, loss=loss, batch_loss=batch_loss)
        checked = time.perf_counter()
        self._each = [
            Objective(model, [one], loss=loss, batch_loss=batch_loss, check=False, seed=k)
            for k, one in enumerate(moved)
        ]
        self.batch = self.objective.parts[0].rows
        self._mixes = any(isinstance(module, _BatchNorm) for module in model.modules())
        if not self._mixes and self.batch < 2:
            raise UserError(
                "a batch of one row has no variance to take a noise scale from: give batches of two or more"
            )
        if self._mixes and len({part.rows for part in self.objective.parts}) > 1:
            raise UserError("with BatchNorm the noise scale compares whole batches: give batches= of one size")
        if self._mixes and len(moved) < 2:
            raise UserError("with BatchNorm the noise scale compares whole batches: give two or more in batches=")
        self._start: Tensor | None = None
        self._noises = 0
        self.flat = not bool(self._product_of_ones().any())
        """Whether no curvature is seen: the loss is linear, or a function in it hides its second derivative."""
        product, parts = time.perf_counter() - checked, len(moved)
        self.cost: dict[Instrument, float] = {
            "noise": 2 * (checked - began) * (parts if self._mixes else 1),
            "top": product * parts * PRODUCTS,
            "update": 2 * product * parts,
        }
        """Seconds of the next measurement: those of the last, before it a high guess from the passes of the check."""

    def _product_of_ones(self) -> Tensor:
        """A Hessian product. Raises UserError if the loss cannot be differentiated twice."""
        part = self.objective.parts[0]
        try:
            ones = torch.ones(1, self.objective.size, dtype=self.objective.dtype, device=self.objective.device)
            return self.objective.part_hessian(part)(ones)
        except RuntimeError as error:
            raise UserError(
                f"the loss cannot be differentiated twice ({str(error).splitlines()[0]:.120}): leave batches= out to "
                "watch without curvature, or use layers of plain torch"
            ) from None

    def noise(self) -> Values:
        """The noise scale on the next batch, in `GROUPS` groups; with BatchNorm on all batches, each a group."""
        if self._mixes:
            number, found = 0, noise_scale(self.objective)
        else:
            number = self._noises % len(self._each)
            found = noise_scale(self._each[number], max(1, self.batch // GROUPS))
        self._noises += 1
        return {
            "noise_signal": found.squared_norm.value,
            "noise_signal_error": _finite(found.squared_norm.error),
            "noise_trace": found.trace.value,
            "noise_trace_error": _finite(found.trace.error),
            "noise_rows": found.rows,
            "noise_batch": self.batch,
            "noise_on": number,
        }

    def top(self, settings: Settings, denominators: Tensor | None) -> tuple[Values, Tensor]:
        """The largest eigenvalue on all batches, and the direction (P,) whose inner product with w follows its mode.

        denominators: D (P,) of Adam; the eigenvalue is then that of D^(-1/2) H D^(-1/2), which its stability is about.
        """
        matrix, root = hessian(self.objective), None
        if denominators is not None:
            root = denominators.rsqrt()  # 0 where a parameter does not move
            matrix = _scaled(matrix, root)
        found = top_eigenvalues(matrix, start=self._start, basis=PRODUCTS + 2, max_products=PRODUCTS)
        self._start = found.vectors
        value, residual = float(found.values[0]), float(found.residuals[0])
        margin = period = None
        if settings.limit is not None:
            lr, momentum, nesterov, form = settings.lr, settings.momentum, settings.nesterov, settings.form
            decay = settings.weight_decay if root is None else 0.0
            margin = stability_margin(value, lr, momentum, nesterov=nesterov, form=form, weight_decay=decay)
            period = mode(value + decay, lr, momentum, nesterov=nesterov, form=form).period
        direction = found.vectors[0]
        if root is not None:
            direction = torch.where(root > 0, direction / root, 0.0)  # the left eigenvector of D^(-1) H
        values: Values = {
            "sharpness": value,
            "sharpness_residual": residual,
            "sharpness_preconditioned": root is not None,
            "top_period": period if period is not None and math.isfinite(period) else None,
            "margin": margin,
        }
        return values, direction

    def update(self, before: Sequence[Tensor]) -> Values:
        """The curvature u' H u / |u|^2 along the update from `before`, a tensor per parameter of the objective."""
        now = self.objective.parameters
        pieces = [(p.detach() - old).reshape(-1) for p, old in zip(now, before, strict=True)]
        found = curvature_along(self.objective, torch.cat(pieces))
        return {"update_curvature": found.value, "update_curvature_error": _finite(found.error)}

    def pieces(self, direction: Tensor) -> dict[int, Tensor]:
        """A direction (P,) -> a tensor per parameter, by its id."""
        parameters = self.objective.parameters
        parts = torch.split(direction, [p.numel() for p in parameters])
        return {id(p): part.view(p.shape) for p, part in zip(parameters, parts, strict=True)}

    def snapshot(self) -> list[Tensor]:
        """The parameters as they are."""
        return [p.detach().clone() for p in self.objective.parameters]


def _scaled(matrix: Operator, root: Tensor) -> Operator:
    return Operator(lambda vectors: root * matrix(vectors * root), matrix.size, matrix.dtype, matrix.device)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _taken(batches: Iterable[Any]) -> list[Any]:
    """The batches of a list; the first ones of a DataLoader, read without an effect on what it gives later."""
    if isinstance(batches, Iterator):
        raise UserError(
            "batches= is an iterator, and what is taken from it would be missing in training: give a list of batches, "
            "such as [(x, y)], or the DataLoader"
        )
    if not isinstance(batches, DataLoader):
        return list(batches)
    if batches.persistent_workers:
        raise UserError("a DataLoader with persistent workers cannot be read without effect: give a list of batches")
    generators = [g for g in map(_generator, _sources(batches)) if g is not None]
    states = [generator.get_state() for generator in generators]
    try:
        with seeded(0, torch.device("cpu")):
            return [batch for _, batch in zip(range(BATCHES), batches, strict=False)]
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _sources(loader: DataLoader[Any]) -> list[object]:
    """What a DataLoader may draw from."""
    inner = getattr(loader.batch_sampler, "sampler", None)
    return [loader, loader.sampler, loader.batch_sampler, inner]


def _generator(source: object) -> torch.Generator | None:
    found = getattr(source, "generator", None)
    return found if isinstance(found, torch.Generator) else None
