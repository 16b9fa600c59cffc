import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cases_study import die_in_rename, in_child
from ravine.errors import UserError, WorkError
from ravine.fleet.train import Record
from ravine.study.store import Store, frame_of

ROWS = [
    {"method": "momentum", "phase": "coarse", "seed": 0, "steps": 2, "lr": 0.1, "momentum": 0.9},
    {"method": "momentum", "phase": "coarse", "seed": 1, "steps": 2, "lr": 3.0, "momentum": 0.9},
]
RECORDS = [
    Record(2.0, 0.5, None, [1, 2], [1.5, 1.0], [[1.4, 0.5], [0.9, 0.75]], []),
    Record(2.0, None, 1, [1], [float("inf")], [[float("nan"), 0.0]], []),
]


def new(directory: Path) -> Store:
    """A study directory with a declaration in it."""
    with Store.create(directory) as store:
        store.write_json("study.json", {})
    return store


def refuse(path: Path) -> None:
    raise AssertionError(f"{path} should be whole")


def test_a_directory_without_a_declaration_is_removed_again(tmp_path: Path) -> None:
    directory = tmp_path / "studies" / "one"
    with pytest.raises(UserError), Store.create(directory):
        raise UserError("nothing was started")
    assert not directory.exists()


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError), Store.create(tmp_path):
        raise UserError("nothing was started")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_study_is_not_overwritten(tmp_path: Path) -> None:
    new(tmp_path)
    with pytest.raises(UserError, match=r"holds a study already: go on with `ravine resume .*`, or give another --out"):
        Store.create(tmp_path).__enter__()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_the_way_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file is in its way: give another --out"):
        Store.create(tmp_path / name).__enter__()


@pytest.mark.parametrize("name", ["nothing", "file", "."])
def test_a_directory_without_a_study_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"there is no study in .*: it has no study.json; start one"):
        Store.open(tmp_path / name)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    store = new(tmp_path)
    with store.locked():
        for other in (Store.open(tmp_path).locked(), Store.create(tmp_path)):
            with pytest.raises(WorkError, match=r"another process works on .*: wait for it, stop it"):
                other.__enter__()
    with store.locked():
        pass


def test_a_file_is_synced_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new(tmp_path)
    done: list[Any] = []
    sync, rename = os.fsync, os.replace

    def fsync(handle: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    def replace(source: Path, target: Path) -> None:
        done.append((source.name, target.name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    store.write("verdict.json", b"{}")
    assert done == [".verdict.json.writing", (".verdict.json.writing", "verdict.json"), tmp_path.name]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new(tmp_path)
    store.write("verdict.json", b"old")

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space"):
        store.write("verdict.json", b"new")
    assert store.path("verdict.json").read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == before


def test_json_is_the_same_for_the_same_content(tmp_path: Path) -> None:
    store = new(tmp_path)
    one = store.write_json("a.json", {"b": 1, "a": [0.1, None, "ä"]}).read_bytes()
    assert one == store.write_json("b.json", {"a": [0.1, None, "ä"], "b": 1}).read_bytes()
    assert store.read_json("a.json") == {"b": 1, "a": [0.1, None, "ä"]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_json_has_no_numbers_that_json_does_not_have(tmp_path: Path, value: float) -> None:
    store = new(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write_json("verdict.json", {"a": [value]})
    assert not store.path("verdict.json").exists()


def test_runs_come_back_as_they_were(tmp_path: Path) -> None:
    store = new(tmp_path)
    store.write_chunk("00-coarse", frame_of(ROWS, RECORDS, ("loss", "accuracy"), 3.0, "00-coarse"))
    frame = store.chunks(refuse)["00-coarse"]
    text, whole, number, numbers = pl.String, pl.Int64, pl.Float64, pl.List(pl.Float64)
    assert dict(frame.schema) == {
        "method": text,
        "phase": text,
        "seed": whole,
        "steps": whole,
        "lr": number,
        "momentum": number,
        "diverged_at": whole,
        "initial_loss": number,
        "final_train_loss": number,
        "step": pl.List(pl.Int64),
        "train_loss": numbers,
        "validation_loss": numbers,
        "validation_accuracy": numbers,
        "test_loss": numbers,
        "test_accuracy": numbers,
        "seconds": number,
        "chunk": text,
    }
    first, second = frame.iter_rows(named=True)
    assert first["validation_loss"] == [1.4, 0.9]
    assert first["validation_accuracy"] == [0.5, 0.75]
    assert first["test_loss"] is None
    assert first["seconds"] == 1.5
    assert (second["diverged_at"], second["final_train_loss"], second["step"]) == (1, None, [1])
    assert str(second["validation_loss"]) == "[nan]"


def test_every_truncation_of_a_chunk_is_found(tmp_path: Path) -> None:
    store = new(tmp_path)
    frame = frame_of(ROWS, RECORDS, ("loss", "accuracy"), 3.0, "b")
    for name in "abc":
        store.write_chunk(name, frame)
    content = store.chunk_path("b").read_bytes()
    for length in (0, 1, 4, 12, len(content) // 2, len(content) - 8, len(content) - 4, len(content) - 1):
        store.chunk_path("b").write_bytes(content[:length])
        damaged: list[Path] = []
        assert list(store.chunks(damaged.append)) == ["a", "c"], length
        assert damaged == [store.chunk_path("b")]


def test_a_chunk_set_aside_gives_its_name_free(tmp_path: Path) -> None:
    store = new(tmp_path)
    store.write_chunk("a", frame_of(ROWS, RECORDS, ("loss", "accuracy"), 3.0, "a"))
    aside = store.set_aside(store.chunk_path("a"))
    assert aside.name == "a.parquet.damaged"
    assert store.chunks(refuse) == {}


def test_a_half_renamed_file_is_no_chunk(tmp_path: Path) -> None:
    directory = tmp_path / "study"
    words = ["compare", "ravine", "--steps", "2", "--trials", "2", "--methods", "sgd,signsgd", "--out", str(directory)]
    ended = in_child([*words, "--executor", "single", "--tuning-seeds", "1"], partial(die_in_rename, "-probe-"))
    assert ended.code == -signal.SIGKILL, ended.said
    assert [path.suffix for path in (directory / "runs").iterdir()] == [".writing"]
    assert Store.open(directory).chunks(refuse) == {}
