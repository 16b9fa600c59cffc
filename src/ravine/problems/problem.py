"""What a person brings: a model, a loss, data, metrics, and how long to train."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ravine.errors import UserError
from ravine.metrics import Metric
from ravine.problems.usercode import UserCode

Sampling = Literal["shuffled", "with-replacement"]
Batch = Any
"""A pytree of tensors with one row per example; with `loss=` a pair (inputs, targets)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A model, what it is trained on, and what it is judged by; everything that methods must share to be compared.

    name: how reports call it.
    model: () -> a fresh torch.nn.Module. Called once a run; it draws its initialization from torch's generator.
    loss: (outputs, targets) -> 0-dim tensor, the mean over the batch, where outputs = model(inputs).
    batch_loss: (model, batch) -> 0-dim tensor, in place of `loss`: for dict batches and models that return their loss.
    train, validation, test: pytrees of tensors (or numpy arrays) with equal numbers of rows, or a torch Dataset. With
        `loss=` each is a pair (inputs, targets). Without `validation`, a fifth of train is set apart; without `test`,
        the validation rows serve as test rows and the reports say so.
    metrics: name -> ravine.Metric; the first is the primary endpoint, without any the loss is.
    batch_size: rows a step, at least 1; at or above the rows of train it means full batch.
    steps: training steps, at least 1.
    schedule: step (counted from 0) -> factor on the learning rate.
    weight_decay: coefficient of w added to the gradient, at least 0.
    clip: largest Euclidean norm of the whole gradient, above 0.
    dtype: floating type of the model and of floating data; None leaves both as they are.
    current: what its owner uses now, {"method": name, "lr": number, ...}; joins every study untuned.
    sampling: "shuffled" epochs, or rows drawn "with-replacement" at every step.

    Raises UserError at construction when a field cannot be what it should.
    """

    name: str
    model: Callable[[], nn.Module]
    train: Any
    batch_size: int
    steps: int
    loss: Callable[[Any, Any], Tensor] | None = None
    batch_loss: Callable[[Any, Batch], Tensor] | None = None
    test: Any = None
    validation: Any = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    schedule: Callable[[int], float] | None = None
    weight_decay: float = 0.0
    clip: float | None = None
    dtype: torch.dtype | None = None
    current: Mapping[str, Any] | None = None
    sampling: Sampling = "shuffled"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise UserError(f"a problem's name must be a non-empty text, not {self.name!r}")
        self._check_model_and_loss()
        self._check_numbers()
        self._check_metrics()
        if self.train is None:
            raise UserError(f"problem '{self.name}' has no training data; give train=(inputs, targets)")
        if self.sampling not in get_args(Sampling):
            raise self._wrong("sampling", "'shuffled' or 'with-replacement'", self.sampling)
        if self.dtype is not None and not (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point):
            raise self._wrong("dtype", "a floating torch.dtype such as torch.float32", self.dtype)
        current = self.current
        if current is not None and not (isinstance(current, Mapping) and isinstance(current.get("method"), str)):
            raise self._wrong("current", 'a dict with a method name such as {"method": "adam", "lr": 1e-3}', current)

    def _wrong(self, what: str, wanted: str, got: object) -> UserError:
        return UserError(f"problem '{self.name}': {what}= must be {wanted}, not {got!r}")

    def _check_model_and_loss(self) -> None:
        if isinstance(self.model, nn.Module):
            raise UserError(
                f"problem '{self.name}': model= is a module; give a function that makes a fresh one, "
                f"such as model=lambda: {type(self.model).__name__}(...)"
            )
        if not callable(self.model):
            raise self._wrong("model", "a function that returns a fresh torch.nn.Module", self.model)
        if (self.loss is None) == (self.batch_loss is None):
            raise UserError(
                f"problem '{self.name}' needs exactly one of loss= (outputs, targets) and batch_loss= (model, batch)"
            )
        for name in ("loss", "batch_loss", "schedule"):
            if (value := getattr(self, name)) is not None and not callable(value):
                raise self._wrong(name, "a function", value)

    def _check_numbers(self) -> None:
        for name in ("batch_size", "steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise self._wrong(name, "a whole number of at least 1", value)
        if not _is_finite(self.weight_decay) or self.weight_decay < 0:
            raise self._wrong("weight_decay", "a finite number of at least 0", self.weight_decay)
        if self.clip is not None and (not _is_finite(self.clip) or self.clip <= 0):
            raise self._wrong("clip", "a finite number above 0, or None", self.clip)

    def _check_metrics(self) -> None:
        if not isinstance(self.metrics, Mapping):
            raise self._wrong("metrics", 'a dict such as {"accuracy": ravine.metrics.accuracy}', self.metrics)
        for name, metric in self.metrics.items():
            if not isinstance(name, str) or not name:
                raise self._wrong("metrics", "a dict whose keys are texts", name)
            if name == "loss":
                raise UserError(f"problem '{self.name}': a metric cannot be called 'loss'; choose another name")
            if not isinstance(metric, Metric):
                raise UserError(
                    f"problem '{self.name}': metric '{name}' must say which way is better; wrap it as "
                    "ravine.Metric(fn, higher_is_better=..., worst=...)"
                )

    def build(self) -> nn.Module:
        """A fresh model in this problem's dtype; its initialization is drawn from torch's global generator.

        Raises UserError when `model()` raises or returns anything but a module.
        """
        with UserCode(f"problem '{self.name}': model() fails"):
            module = self.model()
        if not isinstance(module, nn.Module):
            raise UserError(
                f"problem '{self.name}': model() must return a torch.nn.Module, not {type(module).__name__}"
            )
        return module if self.dtype is None else module.to(self.dtype)

    def batch_rows(self, rows: int) -> int:
        """Rows in one batch of `rows` training rows; equal to `rows` means full batch."""
        return min(self.batch_size, rows)

    def loss_on(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """Loss of `model` (a module, or a function that calls one) on a batch, a 0-dim tensor."""
        if self.batch_loss is not None:
            return self.batch_loss(model, batch)
        assert self.loss is not None
        inputs, targets = batch
        return self.loss(model(inputs), targets)

    def evaluate(self, model: Callable[..., Any], batch: Batch) -> dict[str, Tensor]:
        """{"loss": ..., and each metric} of `model` on a batch, 0-dim tensors; `loss=` takes one forward pass."""
        if self.batch_loss is not None:
            judged = {name: metric(model, batch) for name, metric in self.metrics.items()}
            return {"loss": self.batch_loss(model, batch), **judged}
        assert self.loss is not None
        inputs, targets = batch
        outputs = model(inputs)
        judged = {name: metric(outputs, targets) for name, metric in self.metrics.items()}
        return {"loss": self.loss(outputs, targets), **judged}


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
