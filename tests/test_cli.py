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
from ravine import cli, study, summary, terminal
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
        "sgd": {"settings": {"lr": 0.5}, "score": 0.77, "trials": 64},
        "momentum": {"settings": {"lr": 0.25, "momentum": 0.9}, "score": 0.85, "trials": 64},
        "nesterov": {"settings": {"lr": 0.25, "momentum": 0.9}, "score": 0.78, "trials": 64},
        "adam": {"settings": {"lr": 0.25, "beta1": 0.9}, "score": 0.785, "trials": 64},
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
        default_factory=lambda: {"adam": {"gradient_equivalents": 1.5, "seconds_per_step": 0.00052}}
    )

    reports: int = 0

    def report(self) -> Path:
        self.reports += 1
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
        ("--trials 0", "trials is 0: give at least 1"),
        ("--tuning-seeds 0", "tuning seeds is "),
        ("--seeds 0", "seeds is "),
        ("--steps 0", "steps is "),
        ("--batch-size -1", "batch size is "),
        ("--margin -0.1", "margin is "),
        ("--margin nan", "margin is "),
        ("--study-seed -1", "study seed is "),
        ("--methods sgd,momentun", "did you mean 'momentum'?"),
        ("--baseline adm", "did you mean 'adam'?"),
        ("--methods sgd", "at least one other method"),
        ("--endpoint accurac", "did you mean 'accuracy'?"),
        ("--methods sgd,,adam", "each name once"),
        ("--time soon", "write it like 2h"),
    ],
)
def test_wrong_words_are_one_line_that_names_the_mend(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("compare", "digits", *words.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("ravine: ") and said in printed.err
    assert list(tmp_path.iterdir()) == [], "nothing may be stored"


@pytest.mark.parametrize(
    ("problem", "said"),
    [("digit", "did you mean 'digits'?"), ("lost.py", "no problem file"), ("empty.py", "no function problem()")],
)
def test_a_wrong_problem_is_one_line_that_names_the_mend(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.py").touch()
    assert run("compare", problem) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--executor fast", "stacked"),
        ("--device tpu", "cuda"),
        ("--workers 0", "--workers"),
        ("--seeds many", "--seeds"),
        ("--frobnicate", "--frobnicate"),
    ],
)
def test_words_that_are_no_options_exit_with_2(
    backend: Backend, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    assert run("compare", "digits", *words.split()) == 2
    assert not backend.words, "nothing may start"
    assert said in capsys.readouterr().err


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
    words += " --margin 0.5 --endpoint loss --time 2m --full --executor single --device cpu --out there"
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
        "executor": "single",
        "device": "cpu",
        "out": Path("there"),
        "workers": 1,
        "study_seed": 7,
    }


def test_the_table_says_what_was_found(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "digits") == 0
    printed = capsys.readouterr()
    rows = [line.strip() for line in printed.out.splitlines() if line.strip()]
    by_method = {line.split()[0]: line for line in rows if "trials" in line}
    assert rows[0] == "Does momentum pay on digits?"
    assert "baseline" in by_method["sgd"] and "score 0.77" in by_method["sgd"]
    assert "pays" in by_method["momentum"] and "+0.080" in by_method["momentum"]
    assert "undecided" in by_method["adam"] and "lr 0.25" in by_method["adam"] and "64 trials" in by_method["adam"]
    assert "hurts" in by_method["nesterov"] and "−0.070" in by_method["nesterov"]
    text = " ".join(" ".join(rows).split())
    for said in (
        "+0.070 to +0.090",
        "needs 1,234",
        "0 : 1 diverged",
        "versus momentum",
        "momentum 0.9",
        "1.5 grad/step",
        "520 µs/step",
        "Differences are in accuracy (endpoint accuracy, margin 0.02); positive: better than sgd.",
    ):
        assert said in text
    assert "Same number of tuned dimensions: momentum equal (+0.001, −0.009 to +0.011)." in rows
    assert "At the defaults: adam pays (+0.300, +0.290 to +0.310)." in rows
    assert "Stopped after 250 steps: momentum pays (+0.110, +0.100 to +0.120)." in rows
    assert "Note on adam: three runs scored the worst value" in rows
    assert "Warning: adam's best learning rate lies at the edge of its range" in rows
    assert "Caveat: adam: beta2 is held at 0.999, not tuned." in rows
    assert rows[-1] == f"report: {backend.directory / 'report.html'}"
    assert "768 runs" in printed.err and "tuning momentum" in printed.err


@pytest.mark.parametrize("command", ["compare", "resume"])
def test_the_report_that_the_study_built_is_not_built_again(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    made = FakeComparison(backend.directory)
    monkeypatch.setattr(study, command, lambda *_, **__: made)
    assert run(command, "digits") == 0
    assert made.reports == 0


def test_the_table_fits_a_window_of_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary.show(Console(width=80), FakeComparison(tmp_path))  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    assert "undecided" in printed and "+0.070 to +0.090" in printed and "…" not in printed


@pytest.mark.parametrize("command", [["compare", "digits"], ["resume", "."]])
def test_json_prints_the_bytes_of_the_verdict_and_nothing_else(
    backend: Backend, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(backend.directory)
    assert run(*command, "--json") == 0
    printed = capsys.readouterr()
    assert printed.out == (backend.directory / "verdict.json").read_text()
    assert "Does momentum pay" in printed.err and "report:" in printed.err


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
        (
            OSError(errno.EFBIG, "File too large", "runs/1.parquet"),
            1,
            "ravine: File too large (runs/1.parquet); lift the",
        ),
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


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, ravine, ravine.cli; sys.exit('torch' in sys.modules)"
    path = str(Path(ravine.__file__).parents[1])
    assert subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": path}).returncode == 0


def test_every_public_name_is_there() -> None:
    for name in ravine.__all__:
        assert getattr(ravine, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ravine.nonsense


def test_python_runs_the_package_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "ravine", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ravine.__version__


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == ravine.__version__
