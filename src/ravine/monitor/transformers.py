"""The monitor as a callback of Hugging Face's Trainer."""

from __future__ import annotations

import functools
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ravine.errors import UserError
from ravine.monitor.monitor import Monitor
from ravine.monitor.probes import BATCHES


class _Hooks:
    """Watches the optimizer of a Trainer: `ravine.Monitor` as a callback.

    >>> trainer = Trainer(model, args, callbacks=[TransformersMonitor("runs/one")])  # doctest: +SKIP

    out and the other options: as of `ravine.Monitor`, except loss and batches. Noise and curvature are measured on the
    first 4 batches that the model gets, by the loss that it returns for them; batch_loss (model, batch) -> mean is
    taken in its place. Of several processes the first one watches. ``monitor`` is the monitor, also afterwards.
    """

    def __init__(self, out: str | Path | None = None, **options: Any) -> None:
        if "batches" in options or "loss" in options:
            raise UserError("the Trainer's monitor takes the batches of the training: leave loss= and batches= out")
        self._out = out
        self._batch_loss = options.pop("batch_loss", _own_loss)
        self._options = options
        self._seen: list[dict[str, Any]] = []
        self._handle: Any = None
        self.monitor: Monitor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        optimizer = kwargs["optimizer"]
        while hasattr(optimizer, "optimizer"):  # accelerate steps the one inside
            optimizer = optimizer.optimizer
        model = kwargs["model"]
        options = {"first_step": state.global_step + 1, **self._options}
        self.monitor = Monitor(model, optimizer, self._out, **options)
        self._handle = model.register_forward_pre_hook(self._saw, with_kwargs=True)

    def _saw(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep a batch of the training: what the model is called with."""
        if model.training and not args and kwargs.get("labels") is not None and len(self._seen) < BATCHES:
            self._seen.append({name: value for name, value in kwargs.items() if name != "num_items_in_batch"})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.monitor is None or self._handle is None or len(self._seen) < BATCHES:
            return
        self._handle.remove()
        self._handle = None
        self.monitor.probe(self._seen, batch_loss=self._batch_loss)
        self._seen = []

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._handle is not None:
            self._handle.remove()
        if self.monitor is None:
            return
        if self._handle is not None:
            self.monitor.notes.append(
                f"noise and curvature were not measured: the model was called with labels fewer than {BATCHES} times, "
                "and a Trainer with label smoothing or a loss of its own keeps them back"
            )
        self.monitor.close()


def _own_loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """The loss that a model of transformers returns for a batch with labels."""
    loss: Tensor = model(**batch).loss
    return loss


@functools.cache
def callback() -> type:
    """The class."""
    try:
        base = import_module("transformers").TrainerCallback
    except ImportError:
        raise UserError(
            "TransformersMonitor needs transformers: pip install transformers, or attach ravine.Monitor by hand"
        ) from None
    return type("TransformersMonitor", (_Hooks, base), {"__doc__": _Hooks.__doc__, "__module__": __name__})
