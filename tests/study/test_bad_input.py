"""Wrong words and unfit problems: one sentence with the mend, 2 (or 1 where the work failed), and no traceback."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import ravine
from cases_study import HereEngine, compare_words, here, says, write_problem
from ravine.errors import UserError
from ravine.study import api

Say = Callable[..., "tuple[int, str]"]


@pytest.fixture
def say(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """`compare` with a changed problem or changed words: the exit code and the sentence.

    Where the first step was not reached, no directory is left.
    """
    here(monkeypatch)

    def compare(*changes: tuple[str, str], problem: str | None = None, **words: str) -> tuple[int, str]:
        file = problem or str(write_problem(tmp_path / "tiny.py", *changes))
        given = {f"--{name.replace('_', '-')}": value for name, value in words.items()}
        ended = says(capsys, *compare_words(file, tmp_path / "study", given))
        assert (tmp_path / "study").exists() == ("\nprobe\n" in ended.said)
        return ended.code, ended.sentence

    return compare


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"problem": "digitz"}, "there is no problem 'digitz'; did you mean 'digits'?"),
        ({"problem": "nowhere/my.py"}, "there is no problem file {here}/nowhere/my.py; give the path of a Python file"),
        ({"methods": "sgd,momentun"}, "There is no method 'momentun': did you mean 'momentum'?"),
        ({"baseline": "sdg"}, "There is no method 'sdg': did you mean 'sgd'?"),
        ({"methods": "sgd"}, "there is nothing to compare sgd with: name at least one other method"),
        ({"methods": "adam,adam"}, "--methods 'adam,adam': write each name once"),
        ({"trials": "0"}, "trials is 0: give at least 1"),
        ({"tuning_seeds": "0"}, "tuning seeds is 0: give at least 1"),
        ({"seeds": "1"}, "seeds is 1: give at least 2"),
        ({"steps": "0"}, "steps is 0: give at least 1"),
        ({"batch_size": "0"}, "batch size is 0: give at least 1"),
        ({"study_seed": "-1"}, "study seed is -1: give at least 0"),
        ({"margin": "-0.1"}, "margin is -0.1: give at least 0"),
        ({"margin": "nan"}, "margin is nan: give at least 0"),
        ({"endpoint": "acuracy"}, "problem 'tiny' has no metric 'acuracy': did you mean 'accuracy'?"),
        ({"endpoint": "f1"}, "problem 'tiny' has no metric 'f1': choose one of accuracy, loss"),
        ({"time": "soon"}, "--time 'soon' is no length of time: write it like 2h"),
    ],
    ids=str,
)
def test_wrong_words(say: Say, words: dict[str, str], sentence: str) -> None:
    code, said = say(**words)
    assert code == 2
    assert said.startswith(sentence.replace("{here}", str(Path.cwd())))


UNBOUNDED = "ravine.Metric(lambda o, t: o.abs().mean(), higher_is_better=False, worst=9.0)"
PROBLEMS = {
    "no problem()": [("def problem():", "def problme():")],
    "a file that fails": [("import torch\n", "import torhc\n")],
    "output and loss": [("torch.nn.Linear(6, 2)", "torch.nn.Linear(6, 1)")],
    "input and model": [("torch.nn.Linear(4, 6)", "torch.nn.Linear(5, 6)")],
    "not a number": [(" > 0).long()", " > 0).long()\nx[3, 1] = float('nan')")],
    "no mean": [("loss=torch.nn.functional.cross_entropy", "loss=torch.nn.CrossEntropyLoss(reduction='none')")],
    "margin": [("ravine.metrics.accuracy", UNBOUNDED)],
    "current method": [("steps=4,", "steps=4, current={'method': 'adem', 'lr': .1},")],
    "current name": [("steps=4,", "steps=4, current={'method': 'adam', 'lr': .1, 'beta_1': .9},")],
    "current range": [("steps=4,", "steps=4, current={'method': 'adam', 'lr': .1, 'beta1': 1.5},")],
    "current value": [("steps=4,", "steps=4, current={'method': 'adam', 'lr': 'small'},")],
    "current lr": [("steps=4,", "steps=4, current={'method': 'adam'},")],
}
SENTENCES = {
    "no problem()": "tiny.py has no function problem(); define one that returns a ravine.Problem",
    "a file that fails": "tiny.py fails when it is loaded: ModuleNotFoundError: No module named 'torhc' (tiny.py, ",
    "output and loss": "problem 'tiny': targets from 0 to 1 do not fit 1 outputs (0 to 0)",
    "input and model": "problem 'tiny': the model fails on inputs (16, 4) float32: RuntimeError: mat1 and mat2",
    "not a number": "problem 'tiny': train[0] has NaN or infinity, first in row 3; fill or drop such rows",
    "no mean": "problem 'tiny': the loss must be one number and has shape (16,); take the mean over the batch",
    "margin": "the metric 'accuracy' is not in [0, 1], so no margin can be guessed: give one with --margin",
    "current method": "There is no method 'adem': did you mean 'adam'?",
    "current name": "problem 'tiny': current= gives adam a 'beta_1': did you mean 'beta1'?",
    "current range": "beta1 is 1.5, and must lie in [0, 1)",
    "current value": "problem 'tiny': current= gives lr the value 'small': give a number",
    "current lr": "problem 'tiny': current= has no learning rate: add \"lr\"",
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_unfit_problems(say: Say, name: str) -> None:
    code, said = say(*PROBLEMS[name])
    assert code == 2
    assert said.startswith(SENTENCES[name])


def test_a_gpu_that_is_not_there(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, said = say(device="cuda")
    assert code == 2
    assert "torch sees no GPU here; leave --device out, or give --device cpu" in said
    with pytest.raises(UserError, match="torch sees no GPU here"):
        ravine.compare("ravine", device="cuda")


def test_a_time_that_is_too_short(say: Say) -> None:
    code, said = say(time="1s")
    assert code == 2
    assert said.startswith("the smallest study takes about ")
    assert said.endswith(" seconds, not 1: give more --time")


def test_a_loss_that_no_learning_rate_lowers(say: Say) -> None:
    constant = "lambda o, t: torch.nn.functional.cross_entropy(o - o.detach(), t)"  # with a gradient, ever the same
    code, said = say(("torch.nn.functional.cross_entropy", constant))
    assert code == 2
    assert said.startswith("No learning rate from 9.1e-13 to 1.1e+12 lowers the training loss in 4 steps")
    assert said.endswith("check the loss, the initialization and the scale of the data.")


def test_a_problem_that_diverges_at_every_setting(say: Say, tmp_path: Path) -> None:
    """At 50 steps, the probe's, all is well; then the loss of every run is infinite."""
    late = (
        "def late(model, batch):\n"
        "    model.age += 1 if model.training else 0\n"
        "    x, y = batch\n"
        "    loss = torch.nn.functional.cross_entropy(model(x), y)\n"
        "    return loss / (model.age <= 52)\n\n\ndef problem():"
    )
    code, said = say(
        ("def problem():", late),
        ("class Net(torch.nn.Sequential):\n", "class Net(torch.nn.Sequential):\n    age = 0\n\n"),
        ("loss=torch.nn.functional.cross_entropy,", "batch_loss=late,"),
        ('        metrics={"accuracy": ravine.metrics.accuracy},\n', ""),
        steps="56",
        trials="2",
        seeds="2",
    )
    assert code == 1
    assert said.startswith("Every configuration of sgd diverges within 56 steps at learning rates from ")
    assert "scale the data or the loss down, clip the gradient, or leave the method out" in said


def test_a_model_that_fails_in_the_midst(say: Say) -> None:
    code, said = say(
        (
            "        return super().forward(inputs)",
            "        if self[0].weight.abs().max() > 3:\n"
            "            raise ValueError('weights too large')\n"
            "        return super().forward(inputs)",
        )
    )
    assert code == 2
    assert re.fullmatch(
        r"problem 'tiny': training with sgd fails: ValueError: weights too large \(tiny.py, line \d+\)", said
    )


def test_a_negative_loss_as_endpoint(say: Say) -> None:
    less = "lambda o, t: torch.nn.functional.cross_entropy(o, t) - 5"
    code, said = say(("torch.nn.functional.cross_entropy", less), endpoint="loss")  # and nothing was trained: see `say`
    assert code == 2
    assert said.startswith("The loss takes the value -4.")
    assert said.endswith("and ratios need a positive one: declare a metric as the endpoint.")


def test_a_negative_loss_beside_a_metric_is_no_endpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here(monkeypatch)
    less = "lambda o, t: torch.nn.functional.cross_entropy(o, t) - 5"
    problem = write_problem(tmp_path / "tiny.py", ("torch.nn.functional.cross_entropy", less))
    assert says(capsys, *compare_words(problem, tmp_path / "study")).code == 0
    assert ravine.study.load(tmp_path / "study").verdict["secondary"] == []


def test_data_that_differ_from_load_to_load(say: Say) -> None:
    code, said = say(
        ("generator = torch.Generator().manual_seed(7)", "generator = torch.Generator()\ngenerator.seed()")
    )
    assert code == 2
    assert said == "the data of problem 'tiny' differ from load to load: draw them with a fixed seed"


@pytest.mark.parametrize("what", ["file", "study"])
def test_an_out_that_cannot_be(tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    out, sentence = (
        finished,
        f"{finished} holds a study already: go on with `ravine resume {finished}`, or give another",
    )
    if what == "file":
        out = tmp_path / "out"
        out.touch()
        sentence = f"{out} cannot be a directory, a file is in its way: give another --out"
    ended = says(capsys, *compare_words(write_problem(tmp_path / "tiny.py"), out))
    assert ended.code == 2
    assert ended.sentence.startswith(sentence)


@pytest.mark.parametrize("command", ["resume", "report"])
def test_a_directory_without_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    ended = says(capsys, command, str(tmp_path / "nothing"))
    assert ended.code == 2
    assert ended.sentence.startswith(f"there is no study in {tmp_path / 'nothing'}: it has no study.json; start one")


def test_real_workers_say_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert api.LocalEngine is not HereEngine  # type: ignore[comparison-overlap,attr-defined]
    changed = ("generator = torch.Generator().manual_seed(7)", "generator = torch.Generator()\ngenerator.seed()")
    problem = write_problem(tmp_path / "tiny.py", changed)
    ended = says(capsys, *compare_words(problem, tmp_path / "study", {"--workers": "1"}))
    assert ended.code == 2
    assert ended.sentence == "the data of problem 'tiny' differ from load to load: draw them with a fixed seed"
    assert not (tmp_path / "study").exists()
