"""The monitor as a callback of Lightning."""

from __future__ import annotations

import functools
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from ravine.errors import UserError
from ravine.monitor.monitor import Monitor
from ravine.monitor.probes import BATCHES

HOMES = ("lightning.pytorch", "pytorch_lightning")  # two packages, the same code, classes that are strangers


class _Hooks:
    """Watches the optimizer of a Lightning training: `ravine.Monitor` as a callback.

    >>> trainer = Trainer(callbacks=[LightningMonitor("runs/one", loss=cross_entropy)])  # doctest: +SKIP

    out and the other options: as of `ravine.Monitor`, except batches. With loss (outputs, targets) -> mean, for
    batches (inputs, targets) with outputs = module(inputs), or batch_loss (module, batch) -> mean, noise and curvature
    are measured on the first 4 batches of the training. Automatic optimization with one optimizer; of several
    processes the first one watches. ``monitor`` is the monitor, also when the training has ended.
    """

    def __init__(self, out: str | Path | None = None, **options: Any) -> None:
        if "batches" in options:
            raise UserError("the Lightning monitor takes the batches of the training: leave batches= out")
        self._out = out
        self._probe = {name: options.pop(name) for name in ("loss", "batch_loss") if name in options}
        self._options = options
        self._seen: list[Any] = []
        self.monitor: Monitor | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        if len(trainer.optimizers) != 1:
            raise UserError(
                f"the Lightning monitor watches one optimizer, and the module has {len(trainer.optimizers)}: attach a "
                "ravine.Monitor to each in on_train_start"
            )
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        options = {"scaler": scaler, "first_step": trainer.global_step + 1, **self._options}
        self.monitor = Monitor(pl_module, trainer.optimizers[0], self._out, **options)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.monitor is None or not self._probe:
            return
        self._seen.append(batch)
        if len(self._seen) == BATCHES:
            self.monitor.probe(self._seen, **self._probe)
            self._seen, self._probe = [], {}

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.monitor is not None:
            self.monitor.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.monitor is not None:
            self.monitor.close()


@functools.cache
def callback() -> type:
    """The class, of the Lightning package that the program uses."""
    for home in sorted(HOMES, key=lambda home: home not in sys.modules):
        try:
            base = import_module(home).Callback
        except ImportError:
            continue
        return type("LightningMonitor", (_Hooks, base), {"__doc__": _Hooks.__doc__, "__module__": __name__})
    raise UserError("LightningMonitor needs Lightning: pip install lightning, or attach ravine.Monitor by hand")
