"""What kills a study, fills its disk or damages its files: nothing stored is lost, and the verdict is the same."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from cases_study import (
    NOT_ALLOWED,
    Command,
    begin,
    chunk_names,
    die_after_chunk,
    die_at_call,
    die_in_rename,
    die_in_training,
    full_disk,
    in_child,
    read_only,
    until,
    verdict_bytes,
)
from ravine.study.store import Store

DEATHS = {
    "before the first run": partial(die_at_call, "ravine.study.conduct", "Runner"),
    "probe": partial(die_in_training, "probe"),
    "coarse": partial(die_in_training, "coarse"),
    "local": partial(die_in_training, "local"),
    "screen": partial(die_in_training, "screen"),
    "evaluate": partial(die_in_training, "evaluate"),
    "rename of a chunk": partial(die_in_rename, "-screen-"),
    "between chunks": partial(die_after_chunk, 7),
    "inference": partial(die_at_call, "ravine.study.conduct", "conclude"),
    "rename of the verdict": partial(die_in_rename, "verdict"),
    "report": partial(die_at_call, "ravine.report", "write"),
    "rename of the report": partial(die_in_rename, "report"),
}


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
def test_a_study_killed_anywhere_resumes_to_the_same_bytes(
    tmp_path: Path, finished: Path, death: Callable[[], None]
) -> None:
    directory = begin(tmp_path / "study", like=finished)
    assert in_child(["resume", str(directory)], death).code == -signal.SIGKILL
    stored = {path: path.stat().st_mtime_ns for path in (directory / "runs").glob("*.parquet")}

    ended = in_child(["resume", str(directory)])

    assert ended.code == 0, ended.said
    assert verdict_bytes(directory) == verdict_bytes(finished)
    assert chunk_names(directory) == chunk_names(finished)
    assert {path: path.stat().st_mtime_ns for path in stored} == stored  # trained once
    assert (directory / "report.html").stat().st_size > 0
    assert list((directory / "checkpoints").iterdir()) == []


def under_way(tmp_path: Path, finished: Path) -> tuple[Path, Command]:
    """A study with real workers that stand still within their chunks, a few others stored."""
    for name in ("tiny.py", "study/study.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(finished.parent / name, tmp_path / name)
    directory, gate = tmp_path / "study", tmp_path / "gate"
    command = Command.start("resume", str(directory), "--problem", str(tmp_path / "tiny.py"))
    assert until(lambda: len(chunk_names(directory)) >= 2)
    gate.touch()
    still: list[str] = []

    def at_rest() -> bool:
        before, still[:] = list(still), chunk_names(directory)
        return before == still and until(lambda: chunk_names(directory) != still, 0.5) is False

    assert until(at_rest)
    return directory, command


def goes_on(directory: Path, finished: Path) -> None:
    """A study that stopped keeps what it stored, and resumes to the same bytes."""
    stored = {path: path.stat().st_mtime_ns for path in (directory / "runs").glob("*.parquet")}
    assert 2 <= len(stored) < len(chunk_names(finished))
    (directory.parent / "gate").unlink()
    ended = in_child(["resume", str(directory), "--problem", str(directory.parent / "tiny.py")])
    assert ended.code == 0, ended.said
    assert verdict_bytes(directory) == verdict_bytes(finished)
    assert {path: path.stat().st_mtime_ns for path in stored} == stored


def test_a_killed_study_leaves_no_worker_and_nothing_outside_its_directory(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    directory, command = under_way(tmp_path, finished)
    assert len(command.workers()) == 2
    assert (directory / ".progress").exists()
    os.kill(command.process.pid, signal.SIGKILL)
    assert command.process.wait(10) == -signal.SIGKILL
    assert until(lambda: command.session() == [], 3), command.session()
    assert list((tmp_path / "scratch").iterdir()) == []
    command.end()
    goes_on(directory, finished)


def test_a_second_process_is_refused_and_a_lost_worker_ends_the_study(tmp_path: Path, finished: Path) -> None:
    directory, command = under_way(tmp_path, finished)

    second = in_child(["resume", str(directory), "--problem", str(tmp_path / "tiny.py")])
    assert second.code == 1
    assert second.sentence.startswith(f"another process works on {directory}: wait for it")
    assert command.process.poll() is None

    os.kill(command.workers()[0].pid, signal.SIGKILL)
    ended = command.end()
    assert ended.code == 1
    assert ended.sentence.startswith("a worker process was ended from outside, perhaps for lack of memory")
    assert "ravine resume" in ended.sentence
    assert until(lambda: command.session() == [], 3), command.session()
    goes_on(directory, finished)


def test_ctrl_c_ends_the_study_with_the_command_that_resumes_it(tmp_path: Path, finished: Path) -> None:
    directory, command = under_way(tmp_path, finished)
    os.killpg(command.process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    ended = command.end()
    assert ended.code == 130
    assert ended.said.endswith(f"stopped; go on with: ravine resume {directory}\n")
    assert not (directory / ".progress").exists()
    assert "Traceback" not in ended.said
    assert until(lambda: command.session() == [], 3), command.session()
    goes_on(directory, finished)


# A small tmpfs is mounted for one process alone; other systems cannot make a disk full without an administrator.
@pytest.mark.skipif(sys.platform != "linux", reason="mounts of one process are Linux's")
def test_a_full_disk_is_said_and_costs_nothing_stored(tmp_path: Path, finished: Path) -> None:
    directory = begin(tmp_path / "study", like=finished)
    ended = in_child(["resume", str(directory)], partial(full_disk, directory, 160))
    if ended.code == NOT_ALLOWED:  # containers may forbid it, and no other disk can be filled without harm
        pytest.skip("this system lets nobody mount a small disk")
    assert ended.code == 0, ended.said
    assert ended.sentence.startswith("No space left on device")
    assert "make room; what was stored is kept" in ended.sentence
    first = next(line for line in ended.said.splitlines() if line.startswith("first: 1 "))
    assert 1 <= first.count("-probe-") + first.count("-coarse-") < len(chunk_names(finished))
    assert first.endswith("[]")  # nothing half written is left
    assert (tmp_path / "saved.json").read_bytes() == verdict_bytes(finished)


# As above: permissions alone would not stop an administrator, a mount does.
@pytest.mark.skipif(sys.platform != "linux", reason="mounts of one process are Linux's")
@pytest.mark.parametrize("words", [["resume"], ["compare", "ravine", "--out"]], ids=["resume", "compare"])
def test_a_read_only_directory_is_said(tmp_path: Path, finished: Path, words: list[str]) -> None:
    directory = begin(tmp_path / "study", like=finished)
    target = directory if words == ["resume"] else directory / "new"
    ended = in_child([*words, str(target)], partial(read_only, directory))
    if ended.code == NOT_ALLOWED:  # containers may forbid it
        pytest.skip("this system lets nobody mount a read-only directory")
    assert ended.code == 1
    assert ended.sentence.startswith(f"Read-only file system ({target}")
    assert "choose a directory that can be written" in ended.sentence


@pytest.mark.parametrize("keep", [0, 0.5, 0.99], ids=["emptied", "half of it", "all but its end"])
def test_a_truncated_chunk_is_set_aside_and_trained_again(tmp_path: Path, finished: Path, keep: float) -> None:
    directory = tmp_path / "study"
    shutil.copytree(finished, directory)
    (directory / "verdict.json").unlink()
    name = next(name for name in chunk_names(directory) if "-coarse-momentum-" in name)
    chunk = directory / "runs" / f"{name}.parquet"
    whole = pl.read_parquet(chunk)
    content = chunk.read_bytes()
    chunk.write_bytes(content[: int(keep * len(content))])

    reported = in_child(["report", str(directory)])
    assert reported.code == 2  # no verdict yet

    ended = in_child(["resume", str(directory)])
    assert ended.code == 0, ended.said
    assert f"{name}.parquet is damaged or of another study: it was set aside as {name}.parquet.damaged" in ended.said
    assert verdict_bytes(directory) == verdict_bytes(finished)
    assert pl.read_parquet(chunk).drop("seconds").equals(whole.drop("seconds"))
    assert chunk.with_name(f"{name}.parquet.damaged").stat().st_size == int(keep * len(content))


def test_a_report_does_not_leave_out_a_damaged_chunk(tmp_path: Path, finished: Path) -> None:
    directory = tmp_path / "study"
    shutil.copytree(finished, directory)
    name = chunk_names(directory)[3]
    (directory / "runs" / f"{name}.parquet").write_bytes(b"PAR1")
    ended = in_child(["report", str(directory)])
    assert ended.code == 1
    assert f"{name}.parquet is damaged: `ravine resume {directory}`" in ended.sentence
    assert name in chunk_names(directory)  # reading sets nothing aside


@pytest.mark.parametrize("content", [b"", b'{"baseline": "sg', b"[]", b"\xff"], ids=["empty", "cut", "list", "noise"])
def test_a_damaged_verdict_is_said_and_made_again(tmp_path: Path, finished: Path, content: bytes) -> None:
    directory = tmp_path / "study"
    shutil.copytree(finished, directory)
    (directory / "verdict.json").write_bytes(content)
    ended = in_child(["report", str(directory)])
    assert ended.code == 1
    assert ended.sentence.startswith(f"{directory / 'verdict.json'} is damaged (")
    assert ended.sentence.endswith(f"delete it, and `ravine resume {directory}` makes it again from the stored runs")
    if content == b"":
        assert in_child(["resume", str(directory)]).code == 0
        assert verdict_bytes(directory) == verdict_bytes(finished)


def test_a_damaged_declaration_is_said(tmp_path: Path, finished: Path) -> None:
    directory = begin(tmp_path / "study", like=finished)
    study_json = directory / "study.json"
    text = study_json.read_text()
    study_json.write_text(text[: len(text) // 2])
    ended = in_child(["resume", str(directory)])
    assert ended.code == 1
    assert ended.sentence.startswith(f"{study_json} is damaged (")
    assert ended.sentence.endswith("put back a copy of it, or start the study anew in another directory")

    study_json.write_text(text.replace('"format": 1', '"format": 9'))
    ended = in_child(["resume", str(directory)])
    assert ended.code == 1
    assert ended.sentence.startswith(f"{study_json} is no declaration that ravine ")
    assert "(format: Input should be 1)" in ended.sentence
    assert list((directory / "runs").iterdir()) == []


def test_a_lock_ends_with_its_process(tmp_path: Path, finished: Path) -> None:
    directory = begin(tmp_path / "study", like=finished)
    assert in_child(["resume", str(directory)], partial(die_after_chunk, 1)).code == -signal.SIGKILL
    with Store.open(directory).locked():
        pass
