"""Metrics: what a person wants of a trained model, apart from the loss that trains it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import Tensor

from ravine.errors import UserError


@dataclass(frozen=True)
class Metric:
    """A number that judges predictions, with its direction and its worst value.

    function: (outputs, targets) -> 0-dim tensor, the *mean over the rows* of the batch (long evaluations are cut into
        batches and averaged by rows). Problems with `batch_loss=` call it as function(model, batch). It must be plain
        tensor arithmetic (no `.item()`), so that it runs under `torch.func.vmap`.
    higher_is_better: whether a larger value is a better model.
    worst: the value that a run scores whose training diverged, in the metric's unit.
    bounded: whether all values lie in [0, 1]; its differences are then judged absolutely.

    Raises UserError when the function cannot be called or when `worst` contradicts `bounded`.
    """

    function: Callable[[Any, Any], Tensor]
    _: KW_ONLY
    higher_is_better: bool
    worst: float
    bounded: bool = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise UserError(f"a Metric needs a function (outputs, targets) -> tensor, not {self.function!r}")
        if self.worst != self.worst:
            raise UserError("a Metric's worst= must be a number; NaN cannot be compared")
        if self.bounded and self.worst not in (0.0, 1.0):
            raise UserError(f"a bounded Metric's worst= must be 0 or 1, not {self.worst}")

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        return self.function(outputs, targets)


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).to(outputs.dtype).mean()


accuracy = Metric(_accuracy, higher_is_better=True, worst=0.0, bounded=True)
"""Share of rows whose largest output is the target: outputs (rows, classes, ...), integer targets (rows, ...)."""


def squared_error(width: int, *, logistic: bool = False) -> Metric:
    """Squared error summed over `width` outputs a row, mean over the rows: sum (y - t)^2, without a factor 1/2.

    It is what the papers on deep autoencoders report. outputs and targets: (rows, width); with `logistic` outputs are
    logits, y = sigmoid(outputs). Lower is better; a diverged run scores `width`, which is the error of the mean where
    targets have unit variance, and the largest possible one where y and t lie in [0, 1].
    """
    function = _squared_error_of_logits if logistic else _squared_error
    return Metric(function, higher_is_better=False, worst=float(width))


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().flatten(1).sum(1).mean()


def _squared_error_of_logits(outputs: Tensor, targets: Tensor) -> Tensor:
    return _squared_error(outputs.sigmoid(), targets)
