import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ravine.errors import UserError
from ravine.problems import PROBLEMS, Problem, load

GOOD = """
    import torch, ravine

    def problem():
        return ravine.Problem(
            name="mine", model=lambda: torch.nn.Linear(4, 3), loss=torch.nn.functional.cross_entropy,
            train=(torch.randn(30, 4), torch.arange(30) % 3), batch_size=8, steps=10,
            metrics={"accuracy": ravine.metrics.accuracy},
        )
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes a file of a person's own; the import path is put back afterwards."""
    before = sys.path.copy()

    def write(text: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    yield write
    sys.path[:] = before


def test_a_file_gives_its_problem(write: Write) -> None:
    path = write(GOOD)
    for given in (path, str(path)):
        problem = load(given)
        assert (problem.name, problem.batch_size, problem.steps) == ("mine", 8, 10)


def test_a_file_may_import_its_neighbours_now_and_when_the_model_is_made(write: Write) -> None:
    write("WIDTH = 4", "neighbour_now.py")
    write("DEPTH = 3", "neighbour_later.py")
    text = GOOD.replace("import torch, ravine", "import torch, ravine, neighbour_now").replace(
        "torch.nn.Linear(4, 3)", "torch.nn.Linear(neighbour_now.WIDTH, __import__('neighbour_later').DEPTH)"
    )
    assert load(write(text)).build().weight.shape == (3, 4)


def test_an_edited_file_is_read_again(write: Write) -> None:
    load(write(GOOD))
    assert load(write(GOOD.replace("steps=10", "steps=1234567"))).steps == 1234567


def test_batch_size_and_steps_can_be_given(write: Write) -> None:
    problem = load(write(GOOD), batch_size=5, steps=7)
    assert (problem.name, problem.batch_size, problem.steps) == ("mine", 5, 7)
    assert load(problem, steps=9).steps == 9
    assert load("digits", batch_size=10_000).batch_rows(1150) == 1150
    with pytest.raises(UserError, match="batch_size= must be a whole number of at least 1, not 0"):
        load("digits", batch_size=0)


def test_a_problem_is_taken_as_it_is() -> None:
    assert load(PROBLEMS["ravine"]()).name == "ravine"


def test_every_built_in_problem_says_in_one_line_what_it_is() -> None:
    assert list(PROBLEMS) == [
        *("digits", "mnist", "fashion-mnist", "cifar10", "quadratic", "ravine"),
        *("curves", "curves-small", "mnist-autoencoder", "mnist-autoencoder-small", "faces", "faces-small"),
        *("addition", "multiplication", "memorize-5", "memorize-20"),
    ]
    for factory in PROBLEMS.values():
        assert 30 < len((factory.__doc__ or "").splitlines()[0]) < 140


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("digit", "there is no problem 'digit'; did you mean 'digits'"),
        ("Fashion_MNIST", "did you mean 'fashion-mnist'"),
        ("imagenet", "choose one of digits, mnist, .*, memorize-20, or give the path"),
        ("nowhere.py", "there is no problem file nowhere.py"),
        ("no/where", "there is no problem file"),
        (".", "there is no problem file"),
    ],
)
def test_a_name_that_is_none_gets_the_nearest(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load(name)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", r"mine\.py has no function problem\(\); define one that returns a ravine\.Problem"),
        ("problem = 3", r"mine\.py has no function problem\(\)"),
        ("def problem(:", r"mine\.py fails when it is loaded: SyntaxError: .* \(mine\.py, line 1\)"),
        (
            "import nowhere_to_be_found",
            r"ModuleNotFoundError: No module named 'nowhere_to_be_found' \(mine\.py, line 1\)",
        ),
        ("\n1 / 0", r"mine\.py fails when it is loaded: ZeroDivisionError: division by zero \(mine\.py, line 2\)"),
        ("import sys\nsys.exit(3)", r"fails when it is loaded: SystemExit: 3 \(mine\.py, line 2\)"),
        ("def problem():\n    raise ValueError", r"problem\(\) of mine\.py fails: ValueError \(mine\.py, line 2\)"),
        ("def problem(x): pass", r"problem\(\) of mine\.py fails: TypeError: .*missing 1 required"),
        ("def problem(): return 3", r"problem\(\) of mine\.py must return a ravine\.Problem, not int"),
        (
            GOOD.replace("steps=10", "steps=0"),
            r"steps= must be a whole number of at least 1, not 0 \(mine\.py, line 5\)",
        ),
        (
            GOOD.replace("steps=10", "step=10"),
            r"TypeError: .*unexpected keyword argument 'step'.* \(mine\.py, line 5\)",
        ),
        (GOOD.replace("metrics.accuracy", "metrics.acuracy"), r"AttributeError: .*acuracy.* \(mine\.py, line 8\)"),
    ],
)
def test_a_file_that_is_no_problem_is_explained(write: Write, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        load(write(text))
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_refused(write: Write) -> None:
    with pytest.raises(UserError, match=r"mine\.txt is not a Python file"):
        load(write(GOOD, "mine.txt"))


def test_ctrl_c_is_not_swallowed(write: Write) -> None:
    with pytest.raises(KeyboardInterrupt):
        load(write("raise KeyboardInterrupt"))


def test_a_loaded_problem_is_a_problem(write: Write) -> None:
    assert isinstance(load(write(GOOD)), Problem)
