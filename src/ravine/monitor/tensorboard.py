"""The table of steps as scalars of TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ravine.errors import UserError
from ravine.monitor.records import STEPS

EVERY = 20
"""Watched steps between two points of a cheap signal; the dear ones are all shown."""
DEAR = {name for name in STEPS if name.startswith(("noise_", "sharpness", "update_curvature", "margin"))}
CHEAP = ("lr", "momentum", "gradient_norm", "update_norm", "weight_norm", "update_cosine", "velocity_gradient_cosine")


class Board:
    """Event files in a directory, under ``ravine/``. Raises UserError where the package tensorboard is missing."""

    def __init__(self, directory: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "tensorboard= needs the package tensorboard: pip install tensorboard, or leave it out"
            ) from None
        self._writer: Any = SummaryWriter(str(directory))

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show these rows."""
        for row in rows:
            for name, value in row.items():
                shown = name in DEAR or (name in CHEAP and row["step"] % EVERY == 0)
                if shown and isinstance(value, (int, float)):
                    self._writer.add_scalar(f"ravine/{name}", value, row["step"])
            memory, average, gradient = row["memory"], row["average_norm"], row["gradient_norm"]
            if row["step"] % EVERY == 0 and average and gradient and memory:
                self._writer.add_scalar("ravine/gain", average / gradient, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()
