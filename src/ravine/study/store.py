"""A study directory: what is stored is stored whole or not at all, and is never lost.

`study.json`, `runs/*.parquet` (one immutable file a chunk), `verdict.json`, `report.html`. Every file is written aside, synced
and renamed. One process at a time: a lock that the system releases however the process ends.
"""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ravine.errors import UserError, WorkError
from ravine.fleet.train import Record

LISTS = ("step", "train_loss")
RESERVED = {"method", "phase", "seed", "steps", "diverged_at", "initial_loss", "final_train_loss", "seconds", "chunk"}


class Store:
    """The files of one study."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runs_directory = directory / "runs"
        self.checkpoints = directory / "checkpoints"

    @classmethod
    def create(cls, directory: Path) -> "Store":
        """A new study directory. Raises UserError if it holds a study already."""
        store = cls(directory)
        if store.path("study.json").exists():
            raise UserError(f"{directory} holds a study already: go on with `ravine resume {directory}`, or give another --out")
        store.runs_directory.mkdir(parents=True, exist_ok=True)
        store.checkpoints.mkdir(exist_ok=True)
        return store

    @classmethod
    def open(cls, directory: Path) -> "Store":
        """An existing study directory. Raises UserError if there is no study in it."""
        store = cls(directory)
        if not store.path("study.json").is_file():
            raise UserError(f"there is no study in {directory}: it has no study.json; start one with `ravine compare`")
        return store

    def path(self, name: str) -> Path:
        """The path of a file of the study."""
        return self.directory / name

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Inside it, this process alone writes here. Raises WorkError if another one does."""
        with self.path(".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                raise WorkError(
                    f"another process works on {self.directory}: wait for it, stop it, or give another --out"
                ) from None
            yield

    def write(self, name: str, content: bytes) -> Path:
        """Stores a file whole: written aside, synced, renamed, the directory synced."""

        def fill(path: Path) -> None:
            path.write_bytes(content)

        return self._place(self.path(name), fill)

    def write_json(self, name: str, content: Mapping[str, Any]) -> Path:
        """Stores JSON with sorted keys; NaN and infinity are refused."""
        text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
        return self.write(name, (text + "\n").encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """Reads JSON back. Raises WorkError if it is damaged."""
        try:
            content: dict[str, Any] = json.loads(self.path(name).read_text())
        except ValueError as error:
            raise WorkError(f"{self.path(name)} is damaged ({error}): restore it from a copy, or run the study again") from None
        return content

    def write_chunk(self, chunk: str, frame: pl.DataFrame) -> None:
        """Stores the runs of a chunk."""
        self._place(self.runs_directory / f"{chunk}.parquet", frame.write_parquet)

    def _place(self, path: Path, fill: Callable[[Path], None]) -> Path:
        aside = path.with_name(f".{path.name}.writing")
        try:
            fill(aside)
            _sync(aside)
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the trouble that brought us here is the one to tell
                aside.unlink(missing_ok=True)
            raise
        _sync(path.parent)
        return path

    def chunks(self, say: Callable[[str], None] = lambda text: None) -> dict[str, pl.DataFrame]:
        """All stored chunks by name. A damaged file is set aside under another name and said; its chunk runs again."""
        found = {}
        for path in sorted(self.runs_directory.glob("*.parquet")):
            try:
                found[path.stem] = pl.read_parquet(path)
            except (pl.exceptions.PolarsError, OSError) as error:
                if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EIO):
                    raise
                aside = path.with_suffix(".parquet.damaged")
                path.rename(aside)
                say(f"{path.name} is damaged; it was set aside as {aside.name} and its runs are trained again")
        return found


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def frame_of(
    rows: Sequence[Mapping[str, Any]], records: Sequence[Record], names: Sequence[str], seconds: float, chunk: str
) -> pl.DataFrame:
    """Runs as a table, one row each: who ran (`rows`), what happened (`records`), curves as lists."""
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    columns["diverged_at"] = [record.diverged_at for record in records]
    columns["initial_loss"] = [record.initial_loss for record in records]
    columns["final_train_loss"] = [record.final_train_loss for record in records]
    columns["step"] = [record.step for record in records]
    columns["train_loss"] = [record.train_loss for record in records]
    for k, name in enumerate(names):
        columns[f"validation_{name}"] = [[values[k] for values in record.validation] for record in records]
    tested = bool(records[0].test)
    for k, name in enumerate(names):
        columns[f"test_{name}"] = [[values[k] for values in record.test] if tested else None for record in records]
    columns["seconds"] = [seconds / len(records)] * len(records)
    columns["chunk"] = [chunk] * len(records)
    return pl.DataFrame(columns, schema_overrides=_schema(columns))


def _schema(columns: Mapping[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for name in columns:
        if name in ("method", "phase", "chunk"):
            schema[name] = pl.String
        elif name in ("seed", "steps", "diverged_at"):
            schema[name] = pl.Int64
        elif name == "step":
            schema[name] = pl.List(pl.Int64)
        elif name == "train_loss" or name.startswith(("validation_", "test_")):
            schema[name] = pl.List(pl.Float64)
        else:
            schema[name] = pl.Float64
    return schema
