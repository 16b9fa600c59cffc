import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import polars as pl
import pytest

from cases_monitor import table
from ravine.errors import UserError, WorkError
from ravine.monitor import read, records
from ravine.monitor.records import LAYERS, STEPS, Records


def rows(begin: int, end: int) -> list[dict[str, object]]:
    return [{"step": step, "lr": 0.1} for step in range(begin, end)]


def layer(step: int) -> dict[str, object]:
    return {"step": step, "parameter": "weight", "gradient_norm": None, "update_norm": 0.0, "weight_norm": 1.0}


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_what_goes_in_comes_out(tmp_path: Path, where: str) -> None:
    found = Records(tmp_path / "a" / "b" if where == "disk" else None, 1)
    assert found.frame("steps").is_empty() and found.frame("steps").schema == STEPS
    found.add(rows(1, 4), [layer(3)])
    found.add(rows(4, 6), [])
    assert found.frame("steps")["step"].to_list() == [1, 2, 3, 4, 5]
    assert found.frame("steps").schema == STEPS and found.frame("layers").schema == LAYERS
    assert found.frame("layers").to_dicts() == [layer(3)]


def test_one_call_reads_a_directory(tmp_path: Path) -> None:
    Records(tmp_path, 1).add(rows(1, 4), [layer(3)])
    assert read(tmp_path).height == 3 and read(str(tmp_path), "layers").height == 1
    assert pl.read_parquet(tmp_path / "steps-*.parquet").height == 3  # without us


def test_a_training_that_goes_on_replaces_the_steps_that_it_repeats(tmp_path: Path) -> None:
    first = Records(tmp_path, 1)
    first.add(rows(1, 5), [layer(4)])
    first.add(rows(5, 9), [layer(8)])
    second = Records(tmp_path, 7)
    assert read(tmp_path)["step"].to_list() == list(range(1, 9))  # nothing new yet
    second.add([{"step": 7, "lr": 0.2}], [])
    assert read(tmp_path)["step"].to_list() == list(range(1, 8))
    assert read(tmp_path)["lr"][-1] == 0.2
    assert read(tmp_path, "layers")["step"].to_list() == [4]
    Records(tmp_path, 3).add([{"step": 3}], [])
    assert read(tmp_path)["step"].to_list() == [1, 2, 3]


def test_an_older_record_is_not_overwritten(tmp_path: Path) -> None:
    Records(tmp_path, 1).add(rows(1, 3), [])
    with pytest.raises(UserError, match="holds records already"):
        Records(tmp_path, 1)


def test_words_for_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no records of a monitor"):
        read(tmp_path)
    with pytest.raises(UserError, match="no table 'step'"):
        read(tmp_path, "step")  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file is in its way"):
        Records(tmp_path / "file", 1)


def test_a_full_disk_leaves_nothing_half_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Records(tmp_path, 1)
    write, calls = records._write, []

    def full(path: Path, frame: pl.DataFrame) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        write(path, frame)

    monkeypatch.setattr(records, "_write", full)
    with pytest.raises(WorkError, match=r"cannot be written \(No space left on device\)"):
        found.add(rows(1, 3), [layer(2)])
    assert list(tmp_path.iterdir()) == []
    found.add(rows(1, 3), [layer(2)])
    assert read(tmp_path).height == 2 and read(tmp_path, "layers").height == 1


LOOP = """
    import sys, torch, ravine
    from ravine.monitor import monitor
    monitor.STORE_ROWS = 7
    model = torch.nn.Linear(50, 50)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    watcher = ravine.Monitor(model, optimizer, sys.argv[1], budget=1.0)
    while True:
        optimizer.zero_grad()
        model(torch.ones(4, 50)).square().mean().backward()
        optimizer.step()
        if watcher.step % 50 == 0:
            print(watcher.step, flush=True)
"""


def test_kill_9_leaves_whole_parts_only(tmp_path: Path) -> None:
    code = textwrap.dedent(LOOP)
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 300:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    found = read(tmp_path)["step"].to_list()
    assert len(found) >= 50 and found == sorted(set(found)) and found[0] == 1


def test_a_column_that_older_files_lack_is_empty_there(tmp_path: Path) -> None:
    table(3).drop("noise_on").write_parquet(tmp_path / "steps-0001-0000000001-000001.parquet")
    table(5).tail(2).write_parquet(tmp_path / "steps-0001-0000000001-000002.parquet")
    found = read(tmp_path)
    assert found.columns == list(STEPS)
    assert found["step"].to_list() == [1, 2, 3, 4, 5]
    assert found["noise_on"].null_count() == 5
