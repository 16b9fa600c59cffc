"""Watches a training loop from outside: hooks before and after each step of the optimizer."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import polars as pl
import torch
from torch import Tensor, nn

from ravine.errors import UserError, WorkError
from ravine.monitor.budget import BURST, Budget
from ravine.monitor.probes import CYCLE, Instrument, Probes, Values
from ravine.monitor.records import Records, Row, Table
from ravine.monitor.remarks import Remark, says
from ravine.monitor.settings import Settings, largest, preconditioner, settings
from ravine.monitor.signals import Signals, columns
from ravine.monitor.tensorboard import Board

STORE_SECONDS = 60.0
"""Rows are stored this often: what a kill can lose."""
STORE_ROWS = 5000
MEMORIES = 5.0
"""A burst is at least this many memories 1 / (1 - b) of the momentum long."""
TIMED = 1
"""The place in a burst where an asynchronous device is waited for, to see what a look costs."""
WORDS: dict[Instrument, str] = {
    "noise": "the noise scale",
    "top": "the top eigenvalue",
    "update": "the curvature along the update",
}


Loss: TypeAlias = Callable[[Any, Any], Tensor]


class Scaler(Protocol):
    """What is used of a `torch.amp.GradScaler`."""

    def get_scale(self) -> float: ...
    def get_backoff_factor(self) -> float: ...


class Monitor:
    """Records what gradient, update and velocity do at every step, and noise and curvature within a budget.

    Attach it before the loop, and ask it at any time what it sees:

    >>> import torch, ravine
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> with ravine.Monitor(model, optimizer) as monitor:
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         model(torch.ones(4, 3)).square().mean().backward()
    ...         optimizer.step()
    >>> monitor.steps.height
    3

    model, optimizer: any `torch.optim.Optimizer`; its parameters are the model's. Training is the same with it and
    without it, to the bit: parameters, buffers, optimizer state and random states.
    out: a directory for Parquet files; None keeps the rows in memory.
    batches: fixed batches for noise and curvature, such as ``[(x, y)]`` of the size trained with, or the DataLoader
    (its first 4). With them exactly one of loss (outputs, targets) -> mean over the batch, and batch_loss (model,
    batch) -> the same. Without them only the cheap signals are recorded. More rows give a truer top eigenvalue, and a
    rarer one.
    budget: seconds of monitoring per second of training, at most. The cheap signals take a part of it; where a
    step is too short for that, they watch bursts of steps and rest between them. The dear ones wait for the rest.
    scaler: the `GradScaler` of the loop, to tell its overflows.
    tensorboard: a directory for event files too; needs the package tensorboard.
    first_step: the number of the first step, where training goes on from a checkpoint.

    Raises UserError in one sentence when model, optimizer and batches do not go together or the loss cannot be
    measured (`measure.Objective`, and a loss that cannot be differentiated twice).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        out: str | Path | None = None,
        *,
        loss: Loss | None = None,
        batch_loss: Loss | None = None,
        batches: Iterable[Any] | None = None,
        budget: float = 0.05,
        scaler: Scaler | None = None,
        tensorboard: str | Path | None = None,
        first_step: int = 1,
    ) -> None:
        if not isinstance(model, nn.Module) or not isinstance(optimizer, torch.optim.Optimizer):
            raise UserError(
                "Monitor takes a torch.nn.Module and a torch.optim.Optimizer, in this order, not "
                f"{type(model).__name__} and {type(optimizer).__name__}"
            )
        self._model, self._optimizer, self._scaler = _plain(model), optimizer, scaler
        parameters = _watched(optimizer)
        self._names = {id(p): name for name, p in self._model.named_parameters()}
        if not any(id(p) in self._names for p in parameters):
            raise UserError("the optimizer steps no parameter of the model: make it of model.parameters()")
        if len({p.device for p in parameters}) > 1:
            raise UserError("the parameters lie on several devices, and the monitor watches one: attach it to a part")
        if isinstance(first_step, bool) or not isinstance(first_step, int) or first_step < 1:
            raise UserError(f"first_step is {first_step!r}: steps are counted from 1")
        if batches is None and (loss is not None or batch_loss is not None):
            raise UserError("loss= and batch_loss= are for batches=: give the batches to measure on too, or neither")
        self.budget = Budget(budget, parameters[0].device)
        self._signals = Signals(parameters)
        self.notes: list[str] = []
        """What could not be measured or stored, and why."""
        self._probes = None if batches is None else self._probes_on(batches, loss, batch_loss)
        self._board = Board(Path(tensorboard)) if tensorboard is not None else None
        self._records = Records(Path(out) if out is not None else None, first_step)
        self._rows = _Pending()
        self.step = first_step - 1
        """The number of the last step."""
        self._place, self._burst, self._resting = 0, BURST, 0  # the next step in its burst, its length, steps to rest
        self._group = largest(optimizer)
        self._given: dict[str, Any] = {}  # its hyper-parameters, and what they say
        self._settings = settings(optimizer, self._group)
        self._look = 0.0  # seconds of monitoring in the step under way
        self._trained = 0.0  # training seconds at the last step watched
        self._stored = 0.0  # training seconds at the last storing
        self._found: Tensor | None = None  # direction (P,) that the next burst follows
        self._top: Tensor | None = None  # the one followed now, a row of the sketch
        self._tops = 0
        self._next: list[Instrument] = list(CYCLE)
        self._due: Instrument | None = None
        self._before: list[Tensor] = []
        self._failed: set[Instrument] = set()
        self._scale = scaler.get_scale() if scaler is not None else 1.0
        self._overflows = 0
        self.budget.begin()
        self._handles = [
            optimizer.register_step_pre_hook(_outside(self._before_step)),
            optimizer.register_step_post_hook(_outside(self._after_step)),
        ]
        self._at_exit = weakref.finalize(self, _store_at_exit, self._rows, self._records)

    def probe(
        self,
        batches: Iterable[Any],
        *,
        loss: Loss | None = None,
        batch_loss: Loss | None = None,
    ) -> None:
        """Measure noise and curvature on these batches from now on.

        As batches= does, for a loop that knows its batches only when it runs. The checks then count as monitoring.
        """
        self.budget.enter()
        try:
            self._probes = self._probes_on(batches, loss, batch_loss)
        finally:
            self.budget.leave()

    def _probes_on(self, batches: Iterable[Any], loss: Loss | None, batch_loss: Loss | None) -> Probes:
        found = Probes(self._model, batches, loss=loss, batch_loss=batch_loss)
        if found.flat:
            self.notes.append(
                "the curvature of the loss is 0: it is linear in the parameters, or goes through a function of your "
                "own that is differentiable once, and then no curvature that is measured counts"
            )
        return found

    # What it has seen.

    @property
    def steps(self) -> pl.DataFrame:
        """The table of steps so far, as `monitor.read` gives it."""
        return self._table("steps")

    @property
    def layers(self) -> pl.DataFrame:
        """The table of parameter tensors so far."""
        return self._table("layers")

    def says(self) -> list[Remark]:
        """What it sees, in plain words, the gravest first. `docs/monitor.md` lists the rules."""
        return says(self.steps, self.layers, self.step) + [Remark("note", note) for note in self.notes]

    def summary(self) -> str:
        """The same as text, a sentence a line."""
        return "\n".join(f"- {remark}" for remark in self.says())

    def _table(self, table: Table) -> pl.DataFrame:
        self.store()
        return self._records.frame(table)

    # The end.

    def close(self) -> None:
        """Let go of the optimizer and store what is left. Raises WorkError if it cannot be stored."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._at_exit.detach()
        self.store()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def store(self) -> None:
        """Store the rows so far. Raises WorkError if the disk refuses; they are kept then."""
        self._look_at_scaler()
        rows, layers = self._rows.steps(), self._rows.layers()
        if not rows:
            return
        if self._scaler is not None:
            rows[-1]["overflows"] = self._overflows
        self._records.add(rows, layers)
        if self._board is not None:
            self._board.write(rows)
        self._rows.clear()

    # The hooks.

    def _before_step(self, *_: object) -> None:
        if not self._resting:
            self._look_before()

    def _after_step(self, *_: object) -> None:
        self.step += 1
        if self._resting:
            self._resting -= 1
        else:
            self._look_after()

    @torch.no_grad()
    def _look_before(self) -> None:
        self.budget.enter(self._place == TIMED)
        if self._place == 0 or not self._signals.in_place():
            self._begin_burst()
        if self._probes is not None:
            instrument = self._next[0]
            if self.budget.allows(self._probes.cost[instrument]):
                self._due = instrument
                self._before = self._probes.snapshot() if instrument == "update" else []
        self._signals.before()
        self._look = self.budget.leave(self._place == TIMED)

    @torch.no_grad()
    def _look_after(self) -> None:
        self.budget.enter(self._place == TIMED)
        found = self._set_to()
        products = self._signals.after(found.memory, found.maximize)
        row = {
            "step": self.step,
            "seconds": self.budget.training,
            "overhead_seconds": self.budget.spent,
            "lr": found.lr,
            "momentum": found.momentum,
            "limit": found.limit,
            "memory": found.memory,
            "averaged": self._signals.averaged,
            "top": self._tops if self._top is not None else None,
        }
        self._rows.add(row, products)
        if self._place % BURST == BURST - 1:
            self._look_at_layers()
        self._look += self.budget.leave(self._place == TIMED)
        if self._place == TIMED or (self._place and self._signals.sketch.device.type == "cpu"):
            self.budget.looked(self.budget.training - self._trained, self._look)
        self._trained = self.budget.training
        if self._due is not None:
            self._measure(self._due, found)
            self._due = None
        self._place += 1
        if self._place == self._burst:
            self._resting, self._place = self.budget.rest(self._burst), 0
            if self._resting:
                self._signals.rest()
        if self._rows.count >= STORE_ROWS or self.budget.training - self._stored > STORE_SECONDS:
            self._store_on_the_way()

    def _set_to(self) -> Settings:
        """What the group is set to, made again when it changes; a tensor or a list may change unseen."""
        given = {name: value for name, value in self._group.items() if name not in ("params", "param_names", "step")}
        if given != self._given or any(isinstance(value, (Tensor, list)) for value in given.values()):
            self._given, self._settings = given, settings(self._optimizer, self._group)
        return self._settings

    def _begin_burst(self) -> None:
        """Follow what the optimizer steps now, along the top eigenvector that is known now."""
        self._group = largest(self._optimizer)
        memory = self._set_to().memory
        self._burst = max(BURST, math.ceil(MEMORIES / (1 - memory)))
        parameters = _watched(self._optimizer)
        if not self._signals.fits(parameters):
            self._signals = Signals(parameters)
            self._top = None
        if self._found is not None:
            assert self._probes is not None
            pieces = self._probes.pieces(self._found)
            self._top = self._signals.row_of([pieces.get(id(p)) for p in parameters])
            self._found = None
            self._tops += 1
            self._signals.aim(self._top)

    def _look_at_layers(self) -> None:
        parameters = self._signals.parameters
        wanted = [k for k, p in enumerate(parameters) if p.requires_grad]
        names = [self._names.get(id(parameters[k]), f"parameter {k} of the optimizer") for k in wanted]
        self._rows.add_layers(self.step, names, self._signals.layers()[:, wanted])

    def _measure(self, instrument: Instrument, found: Settings) -> None:
        """Take one dear signal, whatever it costs, and move on to the next."""
        assert self._probes is not None
        self.budget.enter(wait=True)
        try:
            with torch.autocast(self._signals.sketch.device.type, enabled=False):
                values = self._taken(self._probes, instrument, found)
            self._rows.extend(values)
        except (UserError, RuntimeError) as error:  # the training must not die of its monitor
            if instrument not in self._failed:
                self._failed.add(instrument)
                reason = str(error).splitlines()[0]
                self.notes.append(f"{WORDS[instrument]} could not be measured at step {self.step:,}: {reason}")
        self._before = []
        self._probes.cost[instrument] = self.budget.leave(wait=True)
        self._next = [*self._next[1:], instrument]

    def _taken(self, probes: Probes, instrument: Instrument, found: Settings) -> Values:
        if instrument == "noise":
            return probes.noise()
        if instrument == "update":
            return probes.update(self._before)
        denominators = preconditioner(self._optimizer, probes.objective.parameters, found)
        values, self._found = probes.top(found, denominators)
        return values

    def _store_on_the_way(self) -> None:
        self.budget.enter()
        self._stored = self.budget.training
        try:
            self.store()
        except WorkError as error:
            if str(error) not in self.notes:
                self.notes.append(str(error))
        self.budget.leave()

    def _look_at_scaler(self) -> None:
        """Count the overflows since the last look: each one backs the scale off."""
        if self._scaler is None:
            return
        scale = self._scaler.get_scale()
        if 0 < scale < self._scale:
            factor = math.log(self._scaler.get_backoff_factor())
            self._overflows += max(1, round(math.log(scale / self._scale) / factor))
        self._scale = scale


class _Pending:
    """Rows that are not stored yet; the inner products are still on the device."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._products: list[Tensor] = []
        self._layers: list[tuple[int, list[str], Tensor]] = []

    @property
    def count(self) -> int:
        return len(self._rows)

    def add(self, row: dict[str, Any], products: Tensor) -> None:
        self._rows.append(row)
        self._products.append(products)

    def extend(self, values: Values) -> None:
        """Add measurements to the last row."""
        self._rows[-1].update(values)

    def add_layers(self, step: int, names: list[str], norms: Tensor) -> None:
        """norms: (3, names) of gradients, updates and weights."""
        self._layers.append((step, names, norms))

    def steps(self) -> list[dict[str, Any]]:
        """The rows of the table of steps."""
        if not self._rows:
            return []
        seen = columns(torch.stack(self._products))
        return [{**row, **{name: seen[name][k] for name in seen}} for k, row in enumerate(self._rows)]

    def layers(self) -> list[Row]:
        """The rows of the table of layers."""
        rows: list[Row] = []
        for step, names, norms in self._layers:
            for name, values in zip(names, norms.double().cpu().T.tolist(), strict=True):
                found = [value if math.isfinite(value) else None for value in values]
                rows.append({"step": step, "parameter": name, **dict(zip(NORMS, found, strict=True))})
        return rows


NORMS = ("gradient_norm", "update_norm", "weight_norm")


def _store_at_exit(rows: _Pending, records: Records) -> None:
    """What a program that ends without `close` has not stored yet."""
    with contextlib.suppress(WorkError):
        records.add(rows.steps(), rows.layers())


def _outside(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that is no part of a compiled step."""
    disabled: Callable[..., None] = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    return disabled


def _plain(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, DataParallel and DistributedDataParallel."""
    wrapped = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
    inner = getattr(model, "module" if wrapped else "_orig_mod", None)
    return _plain(inner) if isinstance(inner, nn.Module) else model


def _watched(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.is_floating_point() and p.numel()]
