"""A study directory: what is stored is stored whole or not at all, and is never lost.

`study.json`, `runs/*.parquet` (one immutable file a chunk), `verdict.json`, `report.html`. Every file is written aside,
synced and renamed. One process at a time: a lock that the system releases however the process ends.
"""

import contextlib
import errno
import fcntl
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ravine.errors import UserError, WorkError
from ravine.fleet.train import Record


class Store:
    """The files of one study."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runs_directory = directory / "runs"
        self.checkpoints = directory / "checkpoints"

    @classmethod
    @contextlib.contextmanager
    def create(cls, directory: Path) -> Iterator["Store"]:
        """A new study directory, this process alone writing in it; gone again if no study.json came to be in it.

        Raises UserError if it holds a study already or is no directory, WorkError if another process works on it.
        """
        store, made = cls(directory), not directory.exists()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{directory} cannot be a directory, a file is in its way: give another --out") from None
        with store.locked():
            study = store.path("study.json")
            if study.exists():
                raise UserError(
                    f"{directory} holds a study already: go on with `ravine resume {directory}`, or give another --out"
                )
            try:
                yield store
            finally:
                if made and not study.exists():
                    store._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):  # whatever else is in there stays
            self.path(".lock").unlink()
            for directory in (self.runs_directory, self.checkpoints, self.directory):
                directory.rmdir()

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
            self.runs_directory.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            yield

    def write(self, name: str, content: bytes) -> Path:
        """Stores a file whole: written aside, synced, renamed, the directory synced."""
        path = self.path(name)
        aside = path.with_name(f".{path.name}.writing")
        try:
            aside.write_bytes(content)
            _sync(aside)
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the trouble that brought us here is the one to tell
                aside.unlink(missing_ok=True)
            raise
        _sync(path.parent)
        return path

    def write_json(self, name: str, content: Mapping[str, Any]) -> Path:
        """Stores JSON with sorted keys; NaN and infinity are refused."""
        text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
        return self.write(name, (text + "\n").encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """Reads JSON back. Raises WorkError if it is damaged."""
        path = self.path(name)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("it holds no object")
        except ValueError as error:
            mend = (
                "put back a copy of it, or start the study anew in another directory"
                if name == "study.json"
                else f"delete it, and `ravine resume {self.directory}` makes it again from the stored runs"
            )
            raise WorkError(f"{path} is damaged ({error}): {mend}") from None
        return content

    def write_chunk(self, chunk: str, frame: pl.DataFrame) -> None:
        """Stores the runs of a chunk."""
        content = io.BytesIO()
        frame.write_parquet(content)
        self.write(str(self.chunk_path(chunk).relative_to(self.directory)), content.getvalue())

    def chunk_path(self, chunk: str) -> Path:
        """The file of a chunk."""
        return self.runs_directory / f"{chunk}.parquet"

    def chunks(self, damaged: Callable[[Path], None]) -> dict[str, pl.DataFrame]:
        """All stored chunks by name; a file that cannot be read is left out and handed to `damaged`."""
        found = {}
        for path in sorted(self.runs_directory.glob("*.parquet")):
            try:
                found[path.stem] = pl.read_parquet(io.BytesIO(path.read_bytes()))
            except pl.exceptions.PolarsError:
                damaged(path)
        return found

    def set_aside(self, path: Path) -> Path:
        """Renames a stored file that is of no use, so that its name is free; returns its new path."""
        return path.rename(path.with_name(f"{path.name}.damaged"))


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
    return pl.DataFrame(columns, schema_overrides={name: _type(name) for name in columns})


def _type(column: str) -> Any:
    if column in ("method", "phase", "chunk"):
        return pl.String
    if column in ("seed", "steps", "diverged_at"):
        return pl.Int64
    if column == "step":
        return pl.List(pl.Int64)
    if column == "train_loss" or column.startswith(("validation_", "test_")):
        return pl.List(pl.Float64)
    return pl.Float64
