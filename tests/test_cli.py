import errno
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import ravine
from ravine import cli, study, terminal
from ravine.errors import UserError, WorkError


def contrast(method: str, verdict: str, difference: float, **more: Any) -> dict[str, Any]:
    return {
        "method": method,
        "versus": "sgd",
        "verdict": verdict,
        "difference": difference,
        "interval": [difference - 0.01, difference + 0.01],
        "seeds": 20,
        "seeds_needed": None,
        "diverged": [0, 1],
        "settings": {"lr": 0.25, "momentum": 0.9},
        "note": None,
        **more,
    }


VERDICT: dict[str, Any] = {
    "problem": "digits",
    "baseline": "sgd",
    "endpoint": "accuracy",
    "unit": "accuracy",
    "margin": 0.02,
    "contrasts": [
        contrast("momentum", "pays", 0.08),
        contrast("adam", "undecided", 0.015, seeds_needed=1234, note="three runs scored the worst value"),
        contrast("nesterov", "hurts", -0.07, versus="momentum"),
    ],
    "methods": {
        name: {"settings": {"lr": 0.5}, "score": 0.77, "trials": 64} for name in ("sgd", "momentum", "nesterov", "adam")
    },
    "equal_dimension": [contrast("momentum", "equal", 0.001)],
    "defaults": [contrast("adam", "pays", 0.3)],
    "horizons": [{"steps": 250, "contrasts": [contrast("momentum", "pays", 0.11)]}],
    "warnings": ["adam's best learning rate lies at the edge of its range"],
    "caveats": ["adam: beta2 is held at 0.999, not tuned."],
}


@dataclass
class FakeComparison:
    directory: Path
    verdict: dict[str, Any] = field(default_factory=lambda: VERDICT)
    cost: dict[str, dict[str, float]] = field(
        default_factory=lambda: {"adam": {"gradient_equivalents": 1.5e6, "seconds_per_step": 0.00052}}
    )

    def report(self) -> Path:
        return self.directory / "report.html"


@dataclass
class FakePlan:
    directory: Path
    hours: float = 0.5
    lines: tuple[str, ...] = ("768 runs, about half an hour",)


class Backend:
    """Stands where `ravine.study` trains: records the call, plays a study to its listener, then raises or returns."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hours = 0.5
        self.error: BaseException | None = None
        self.problem: Any = None
        self.words: dict[str, Any] = {}
        (directory / "verdict.json").write_text(json.dumps(VERDICT, indent=1) + "\n")

    def compare(self, problem: Any, *, listener: terminal.Screen, **words: Any) -> FakeComparison:
        self.problem, self.words = problem, words
        listener.confirm(FakePlan(self.directory, self.hours))  # type: ignore[arg-type]
        listener.phase("tuning momentum")
        listener.progress(500, 1000, 3, 6)
        if self.error is not None:
            raise self.error
        return FakeComparison(self.directory)

    def resume(self, directory: Path, *, problem: Path | None, listener: terminal.Screen) -> FakeComparison:
        self.words = {"directory": directory, "problem": problem}
        if self.error is not None:
            raise self.error
        return FakeComparison(directory)

    def plan(self, problem: Any, **words: Any) -> FakePlan:
        self.problem, self.words = problem, words
        return FakePlan(self.directory)

    def load(self, directory: Path) -> FakeComparison:
        return FakeComparison(directory)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Backend:
    fake = Backend(tmp_path)
    for name in ("compare", "resume", "plan", "load"):
        monkeypatch.setattr(study, name, getattr(fake, name))
    return fake


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("30m", 1800), ("90s", 90), ("1h30m", 5400), (" 0.5H ", 1800), ("1m1s", 61)]
)
def test_a_time_is_read_in_hours_minutes_and_seconds(text: str, seconds: float) -> None:
    assert cli.parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "soon", "-2h", "2h30", "30m2h", "1e3s", "nan", "2 hours"])
def test_a_text_that_is_no_time_is_refused_with_the_mend(text: str) -> None:
    with pytest.raises(UserError, match="write it like 2h"):
        cli.parse_time(text)


def test_method_names_are_split_at_commas() -> None:
    assert cli.parse_names("sgd, adam") == ("sgd", "adam")


@pytest.mark.parametrize("text", ["", "sgd,", "sgd,,adam", "sgd,sgd"])
def test_a_broken_list_of_methods_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="each name once"):
        cli.parse_names(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trials", "0"], "--trials"),
        (["--tuning-seeds", "0"], "--tuning-seeds"),
        (["--seeds", "0"], "--seeds"),
        (["--steps", "0"], "--steps"),
        (["--batch-size", "-1"], "--batch-size"),
        (["--workers", "0"], "--workers"),
        (["--margin", "-0.1"], "--margin"),
        (["--study-seed", "-1"], "--study-seed"),
        (["--executor", "fast"], "stacked"),
        (["--engine", "slurm"], "ray"),
        (["--device", "tpu"], "cuda"),
        (["--time", "soon"], "write it like 2h"),
        (["--methods", "sgd,,adam"], "each name once"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_words_exit_with_2_and_say_what_to_mend(
    backend: Backend, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run("compare", "digits", *words) == 2
    assert not backend.words, "nothing may start"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "Traceback" not in printed.err


def test_a_missing_gpu_is_said_before_anything_starts(
    backend: Backend, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run("compare", "digits", "--device", "cuda") == 2
    assert capsys.readouterr().err.startswith("ravine: --device cuda: torch sees no GPU")
    assert not backend.words


@pytest.mark.parametrize("words", [["compare"], ["compair", "digits"], ["list", "optimisers"], ["data", "fetch"]])
def test_missing_and_unknown_commands_exit_with_2(words: list[str]) -> None:
    assert run(*words) == 2


def test_every_option_reaches_the_study(backend: Backend) -> None:
    words = "--methods sgd,adam --baseline adam --steps 30 --batch-size 8 --trials 16 --tuning-seeds 2 --seeds 5"
    words += " --margin 0.5 --endpoint loss --time 2m --full --engine local --executor single --device cpu --out there"
    words += " --workers 1 --study-seed 7"
    assert run("compare", "mine.py", *words.split()) == 0
    assert backend.problem == "mine.py"
    assert backend.words == {
        "methods": ("sgd", "adam"),
        "baseline": "adam",
        "steps": 30,
        "batch_size": 8,
        "trials": 16,
        "tuning_seeds": 2,
        "seeds": 5,
        "margin": 0.5,
        "endpoint": "loss",
        "time": 120.0,
        "full": True,
        "engine": "local",
        "executor": "single",
        "device": "cpu",
        "out": Path("there"),
        "workers": 1,
        "study_seed": 7,
    }


def test_the_table_says_what_was_found(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "digits") == 0
    printed = capsys.readouterr()
    rows = [line for line in printed.out.splitlines() if line.strip()]
    by_method = {line.split()[0]: line for line in rows}
    assert "difference (accuracy)" in printed.out
    assert "baseline" in by_method["sgd"] and "0.7700" in by_method["sgd"]
    assert "pays" in by_method["momentum"] and "+0.0800" in by_method["momentum"] and "0 : 1" in by_method["momentum"]
    assert "[+0.0700, +0.0900]" in printed.out
    assert "needs 1,234" in printed.out
    assert "versus momentum" in printed.out
    assert "1.5e+06 gradients" in printed.out and "0.52 ms a step" in printed.out
    assert "with the same number of tuned dimensions: momentum equal +0.0010 [-0.0090, +0.0110]" in rows
    assert "at the defaults: adam pays +0.3000 [+0.2900, +0.3100]" in rows
    assert "stopped after 250 steps: momentum pays +0.1100 [+0.1000, +0.1200]" in rows
    assert "adam versus sgd: three runs scored the worst value" in rows
    assert "warning: adam's best learning rate lies at the edge of its range" in rows
    assert "caveat: adam: beta2 is held at 0.999, not tuned." in rows
    assert rows[-1] == f"report: {backend.directory / 'report.html'}"
    assert "768 runs" in printed.err and "tuning momentum" in printed.err


@pytest.mark.parametrize("command", [["compare", "digits"], ["resume", "."]])
def test_json_prints_the_bytes_of_the_verdict_and_nothing_else(
    backend: Backend, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(backend.directory)
    assert run(*command, "--json") == 0
    printed = capsys.readouterr()
    assert printed.out == (backend.directory / "verdict.json").read_text()
    assert "difference (accuracy)" in printed.err and "report:" in printed.err


def test_the_plan_is_printed_and_nothing_starts(
    backend: Backend, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "compare", None)
    assert run("compare", "digits", "--plan", "--json") == 0
    printed = capsys.readouterr()
    assert "768 runs" in printed.err
    assert json.loads(printed.out)["hours"] == 0.5


def test_a_long_study_asks_and_without_anybody_to_ask_it_says_how_to_start(
    backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    backend.hours = 3.0
    assert run("compare", "digits") == 2
    assert "ravine: this takes about 3.0 hours: add --yes" in capsys.readouterr().err
    assert run("compare", "digits", "--yes") == 0


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 1)])
def test_the_answer_to_the_question_is_obeyed(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, answer: bool, code: int
) -> None:
    backend.hours = 3.0
    monkeypatch.setattr(terminal, "console", lambda *, stderr=False: Console(stderr=stderr, force_terminal=True))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: answer)
    assert run("compare", "digits") == code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("there is no method 'adm': did you mean 'adam'?"), 2, "ravine: there is no method 'adm'"),
        (WorkError("the worker was lost"), 1, "ravine: the worker was lost"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/1.parquet"), 1, "ravine: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "studies"), 1, "ravine: Read-only file system (studies)"),
        (PermissionError(errno.EACCES, "Permission denied", "studies"), 1, "ravine: Permission denied (studies)"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(
    backend: Backend, capsys: pytest.CaptureFixture[str], error: Exception, code: int, line: str
) -> None:
    backend.error = error
    assert run("compare", "digits") == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith(line)
    assert "Traceback" not in printed.err


def test_a_fault_of_ours_is_not_hidden(backend: Backend) -> None:
    backend.error = FileNotFoundError(errno.ENOENT, "No such file", "lost")
    with pytest.raises(FileNotFoundError):
        cli.main(["compare", "digits"])


@pytest.mark.parametrize("command", ["compare", "resume"])
def test_ctrl_c_says_how_to_go_on(backend: Backend, capsys: pytest.CaptureFixture[str], command: str) -> None:
    backend.error = KeyboardInterrupt()
    target = "digits" if command == "compare" else str(backend.directory)
    assert run(command, target) == 130
    assert f"stopped; go on with: ravine resume {backend.directory}" in capsys.readouterr().err


def test_resume_takes_a_moved_problem_file(backend: Backend) -> None:
    assert run("resume", "there", "--problem", "moved.py") != 2
    assert backend.words == {"directory": Path("there"), "problem": Path("moved.py")}


def test_report_prints_the_path(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", str(backend.directory)) == 0
    assert capsys.readouterr().out.strip() == str(backend.directory / "report.html")


@pytest.mark.parametrize(("what", "some"), [("problems", "digits"), ("methods", "nesterov"), ("data", "mnist")])
def test_list_says_what_there_is(capsys: pytest.CaptureFixture[str], what: str, some: str) -> None:
    assert run("list", what) == 0
    assert some in capsys.readouterr().out


def test_progress_in_a_pipe_is_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "PLAIN_EVERY_SECONDS", 0.0)
    with terminal.Screen() as screen:
        screen.phase("tuning adam")
        screen.progress(1000, 4000, 2, 8)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "tuning adam"
    assert lines[1].startswith("tuning adam: 2 of 8 runs")


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_come_in_the_unit_a_person_would_use(seconds: float, text: str) -> None:
    assert terminal.duration(seconds) == text


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, ravine, ravine.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there() -> None:
    for name in ravine.__all__:
        assert getattr(ravine, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ravine.nonsense  # type: ignore[attr-defined]


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == ravine.__version__
