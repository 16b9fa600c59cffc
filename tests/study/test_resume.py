"""What `resume` finds: the same problem, a moved one, a changed one; a chunk half trained; a study that is done."""

import json
import shutil
import signal
from functools import partial
from pathlib import Path

import polars as pl
import pytest

import ravine
from cases_study import (
    Quiet,
    begin,
    chunk_names,
    compare_words,
    count_steps,
    die_at_call,
    die_in_training,
    die_with_checkpoint,
    here,
    in_child,
    says,
    verdict_bytes,
    write_problem,
)
from ravine import study
from ravine.errors import UserError
from ravine.problems import load


@pytest.fixture
def begun(tmp_path: Path, finished: Path) -> Path:
    """A study that is declared and has no run yet, its problem file beside it in its own directory."""
    directory = begin(tmp_path / "study", like=finished)
    declaration = json.loads((directory / "study.json").read_text())
    declaration["source"]["path"] = str(write_problem(tmp_path / "tiny.py"))
    (directory / "study.json").write_text(json.dumps(declaration))
    return directory


@pytest.mark.parametrize("executor", ["single", "stacked"])
def test_a_chunk_goes_on_from_its_checkpoint(tmp_path: Path, finished: Path, executor: str) -> None:
    whole = finished
    if executor == "stacked":
        whole = begin(tmp_path / "whole", like=finished, executor=executor, size=5)
        assert in_child(["resume", str(whole)]).code == 0
    directory, steps = begin(tmp_path / "study", like=whole), tmp_path / "steps"
    assert in_child(["resume", str(directory)], partial(die_with_checkpoint, "local")).code == -signal.SIGKILL
    assert len(list((directory / "checkpoints").iterdir())) == 1
    stored = chunk_names(directory)
    assert stored and not any("-local-" in chunk for chunk in stored)
    shutil.copy(whole / "cost.json", directory)  # so that no step is taken to measure its seconds

    ended = in_child(["resume", str(directory)], partial(count_steps, steps))

    assert ended.code == 0, ended.said
    assert verdict_bytes(directory) == verdict_bytes(whole)
    assert list((directory / "checkpoints").iterdir()) == []
    counted = steps.read_text().split()
    assert counted.count("load") == 1  # from a checkpoint
    runs = study.load(whole).runs.filter(~pl.col("chunk").is_in(stored))
    if executor == "single":
        missing = sum(curve[-1] for curve in runs["step"])
        assert missing - 4 <= len(counted) - 1 < missing


def test_a_checkpoint_that_cannot_be_read_counts_as_none(tmp_path: Path, finished: Path) -> None:
    directory = begin(tmp_path / "study", like=finished)
    assert in_child(["resume", str(directory)], partial(die_with_checkpoint, "local")).code == -signal.SIGKILL
    (checkpoint,) = (directory / "checkpoints").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    ended = in_child(["resume", str(directory)])
    assert ended.code == 0, ended.said
    assert verdict_bytes(directory) == verdict_bytes(finished)


def test_a_finished_study_resumes_without_training(tmp_path: Path, finished: Path) -> None:
    directory = tmp_path / "study"
    shutil.copytree(finished, directory)
    ended = in_child(["resume", str(directory)], partial(die_in_training, ""))
    assert ended.code == 0, ended.said
    assert verdict_bytes(directory) == verdict_bytes(finished)


def test_a_study_without_a_verdict_is_not_loaded(begun: Path) -> None:
    with pytest.raises(UserError, match=r"has no verdict yet: go on with `ravine resume .*`"):
        study.load(begun)


def test_a_changed_problem_file_is_refused(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem = begun.parent / "tiny.py"
    problem.write_text(problem.read_text().replace("Tanh", "ReLU"))
    ended = says(capsys, "resume", str(begun))
    assert ended.code == 2
    assert ended.sentence == (
        f"the problem file {problem} was changed since the study began: put the old text back (a copy lies beside"
        " study.json), or start a new study"
    )
    assert list(begun.glob("runs/*")) == []


def test_the_copy_beside_the_declaration_is_the_old_text(tmp_path: Path, finished: Path) -> None:
    directory = begin(tmp_path / "study", like=finished)
    assert in_child(["resume", str(directory)], partial(die_in_training, "probe")).code == -signal.SIGKILL
    assert (directory / "problem.py.txt").read_bytes() == (finished.parent / "tiny.py").read_bytes()


def test_a_moved_problem_file_is_named(begun: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem = begun.parent / "tiny.py"
    moved = problem.rename(begun.parent / "moved.py")
    ended = says(capsys, "resume", str(begun))
    assert ended.code == 2
    assert ended.sentence == f"the problem file {problem} is gone: say where it lies now with --problem FILE"

    ended = in_child(["resume", str(begun), "--problem", str(moved)])
    assert ended.code == 0, ended.said
    assert verdict_bytes(begun) == verdict_bytes(finished)


def test_changed_data_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factor = tmp_path / "factor"
    factor.write_text("1")
    reads = ("x = torch.randn(60, 4, generator=generator)",) * 2
    problem = write_problem(tmp_path / "tiny.py", (reads[0], f"{reads[1]} * float(Path({str(factor)!r}).read_text())"))
    directory = tmp_path / "study"
    ended = in_child(compare_words(problem, directory), partial(die_at_call, "ravine.study.conduct", "Runner"))
    assert ended.code == -signal.SIGKILL
    factor.write_text("2")
    ended = says(capsys, "resume", str(directory))
    assert ended.code == 2
    assert ended.sentence.startswith("the data of problem 'tiny' changed since the study began")


def test_other_versions_are_said(begun: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch)
    declaration = json.loads((begun / "study.json").read_text())
    now, declaration["versions"]["torch"] = declaration["versions"]["torch"], "1.0"
    (begun / "study.json").write_text(json.dumps(declaration))
    listener = Quiet(until="probe")
    with pytest.raises(KeyboardInterrupt):
        study.resume(begun, listener=listener)
    assert listener.said == [f"this study began with torch 1.0 and goes on with {now}: the last bits may differ"]


def test_a_study_of_an_object_goes_on_with_the_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch)
    problem = load("ravine", steps=3)
    whole = ravine.compare(
        problem, ("sgd", "signsgd"), trials=2, tuning_seeds=1, seeds=2, executor="single", out=tmp_path / "whole"
    )
    directory = begin(tmp_path / "study", like=whole.directory)
    with pytest.raises(UserError, match=r"resume it there, with ravine.resume\(directory, problem=...\)"):
        study.resume(directory)
    assert ravine.resume(directory, problem=problem).verdict == whole.verdict
