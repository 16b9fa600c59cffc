"""The table of what was seen: one row per watched step, in Parquet parts that are whole or not there at all."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import polars as pl

from ravine.errors import UserError, WorkError

Table: TypeAlias = Literal["steps", "layers"]
Row: TypeAlias = Mapping[str, Any]

STEPS: dict[str, type[pl.DataType]] = {
    "step": pl.Int64,  # counted from 1
    "seconds": pl.Float64,  # of training since the monitor was attached, its own time left out
    "overhead_seconds": pl.Float64,  # of monitoring since then
    "lr": pl.Float64,
    "momentum": pl.Float64,
    "limit": pl.Float64,  # the curvature where full-batch training diverges at these settings
    "gradient_norm": pl.Float64,
    "update_norm": pl.Float64,
    "weight_norm": pl.Float64,
    "average_norm": pl.Float64,  # of m <- b m + (1 - b) g
    "memory": pl.Float64,  # this b
    "averaged": pl.Int64,  # steps in m
    "update_cosine": pl.Float64,  # with the last update
    "velocity_gradient_cosine": pl.Float64,  # of minus the last update with the gradient
    "unmoved": pl.Float64,  # share of the coordinates with a gradient whose value stayed
    "top_movement": pl.Float64,  # of the update along the top eigenvector
    "top": pl.Int64,  # which eigenvector this is
    "overflows": pl.Int64,  # of the GradScaler so far
    "noise_signal": pl.Float64,  # |G|^2
    "noise_signal_error": pl.Float64,
    "noise_trace": pl.Float64,  # tr Sigma
    "noise_trace_error": pl.Float64,
    "noise_rows": pl.Int64,
    "noise_batch": pl.Int64,
    "noise_on": pl.Int64,  # which of the fixed batches, or 0 for all of them
    "sharpness": pl.Float64,  # top eigenvalue
    "sharpness_residual": pl.Float64,
    "sharpness_preconditioned": pl.Boolean,
    "top_period": pl.Float64,  # of its oscillation at these settings, by theory
    "margin": pl.Float64,  # 1 - sharpness / limit
    "update_curvature": pl.Float64,
    "update_curvature_error": pl.Float64,
}
LAYERS: dict[str, type[pl.DataType]] = {
    "step": pl.Int64,
    "parameter": pl.String,
    "gradient_norm": pl.Float64,
    "update_norm": pl.Float64,
    "weight_norm": pl.Float64,
}
SCHEMAS: dict[Table, dict[str, type[pl.DataType]]] = {"steps": STEPS, "layers": LAYERS}
PART = re.compile(r"(steps|layers)-(\d{4})-(\d{10})-(\d{6})\.parquet")  # table, session, its first step, part


class Records:
    """What one monitor has seen, in memory (directory None) or in a directory.

    first_step: the first step of this session. A directory that holds records already is an error at step 1; above it
    the session goes on, and older records from that step on no longer count.
    """

    def __init__(self, directory: Path | None, first_step: int) -> None:
        self.directory = directory
        self._first_step = first_step
        self._memory: dict[Table, list[pl.DataFrame]] = {"steps": [], "layers": []}
        self._parts = 0
        self._session = 1
        if directory is None:
            return
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{directory} cannot be a directory, a file is in its way: give another out=") from None
        parts = _parts(directory)
        if parts and first_step == 1:
            raise UserError(
                f"{directory} holds records already: give another out=, or first_step= if this training goes on from "
                "a checkpoint"
            )
        self._session = 1 + max((session for _, session, _ in parts.values()), default=0)

    def add(self, steps: Sequence[Row], layers: Sequence[Row]) -> None:
        """Store rows for good. Raises WorkError if the disk refuses; then nothing of them is stored."""
        new: dict[Table, Sequence[Row]] = {"layers": layers, "steps": steps}
        written: list[Path] = []
        for table, rows in new.items():
            if not rows:
                continue
            frame = pl.DataFrame(rows, schema=SCHEMAS[table])
            if self.directory is None:
                self._memory[table].append(frame)
                continue
            name = f"{table}-{self._session:04}-{self._first_step:010}-{self._parts + 1:06}.parquet"
            try:
                _write(self.directory / name, frame)
            except OSError as error:
                for path in written:
                    path.unlink(missing_ok=True)
                raise WorkError(
                    f"{self.directory / name} cannot be written ({error.strerror}): make room, or give another out="
                ) from None
            written.append(self.directory / name)
        self._parts += 1

    def frame(self, table: Table) -> pl.DataFrame:
        """All rows of a table so far."""
        if self.directory is not None and _parts(self.directory):
            return read(self.directory, table)
        return _joined(self._memory[table], table)


def read(directory: str | Path, table: Table = "steps") -> pl.DataFrame:
    """What a monitor stored, as one frame: a row per watched step, or with "layers" per parameter tensor too.

    May be read while training goes on. Raises UserError if there are no records in the directory.
    """
    place = Path(directory)
    if table not in SCHEMAS:
        raise UserError(f"there is no table {table!r} of a monitor: take 'steps' or 'layers'")
    parts = _parts(place)
    if not parts:
        raise UserError(f"there are no records of a monitor in {place}: name the directory given as out=")
    begins = {session: first for _, session, first in parts.values()}
    frames = []
    for path, (kind, session, _) in sorted(parts.items()):
        if kind == table:
            end = min((first for later, first in begins.items() if later > session), default=None)
            frame = pl.read_parquet(path)
            frames.append(frame if end is None else frame.filter(pl.col("step") < end))
    return _joined(frames, table)


def _joined(frames: Sequence[pl.DataFrame], table: Table) -> pl.DataFrame:
    """The frames as one; a column that older files lack is empty there."""
    return pl.concat([pl.DataFrame(schema=SCHEMAS[table]), *frames], how="diagonal")


def _parts(directory: Path) -> dict[Path, tuple[str, int, int]]:
    found = {path: PART.fullmatch(path.name) for path in directory.glob("*.parquet")}
    return {path: (m[1], int(m[2]), int(m[3])) for path, m in found.items() if m is not None}


def _write(path: Path, frame: pl.DataFrame) -> None:
    """Written aside, synced, renamed."""
    content = io.BytesIO()
    frame.write_parquet(content)
    aside = path.with_name(f".{path.name}.writing")
    with aside.open("wb") as file:
        file.write(content.getvalue())
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
