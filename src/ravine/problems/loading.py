"""From a name or a path to a problem."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ravine.errors import UserError
from ravine.problems.cifar10 import cifar10
from ravine.problems.curves import curves, curves_small
from ravine.problems.digits import digits
from ravine.problems.faces import faces, faces_small
from ravine.problems.fashion_mnist import fashion_mnist
from ravine.problems.mnist import mnist
from ravine.problems.mnist_autoencoder import mnist_autoencoder, mnist_autoencoder_small
from ravine.problems.problem import Problem
from ravine.problems.quadratic import quadratic, ravine
from ravine.problems.sequences import addition, memorize_5, memorize_20, multiplication
from ravine.problems.usercode import UserCode

PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "quadratic": quadratic,
    "ravine": ravine,
    "curves": curves,
    "curves-small": curves_small,
    "mnist-autoencoder": mnist_autoencoder,
    "mnist-autoencoder-small": mnist_autoencoder_small,
    "faces": faces,
    "faces-small": faces_small,
    "addition": addition,
    "multiplication": multiplication,
    "memorize-5": memorize_5,
    "memorize-20": memorize_20,
}
"""The built-in problems; the first line of each factory's docstring says what it is."""


def load(name_or_path: str | Path | Problem, *, batch_size: int | None = None, steps: int | None = None) -> Problem:
    """A built-in problem by its name, a user's by the path of its file, or a Problem as it is.

    A file is run as a module, with its folder first on `sys.path`, and must hold a function `problem()` that returns a
    `ravine.Problem`. `batch_size` and `steps` replace those of the problem.

    Raises UserError when there is no such name or file, when the file fails, or when its data are not fetched yet;
    WorkError when fetched data are damaged.
    """
    problem = name_or_path if isinstance(name_or_path, Problem) else _named(name_or_path)
    return replace(
        problem,
        batch_size=problem.batch_size if batch_size is None else batch_size,
        steps=problem.steps if steps is None else steps,
    )


def _named(name_or_path: str | Path) -> Problem:
    if (name := str(name_or_path)) in PROBLEMS:
        return PROBLEMS[name]()
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return _from_file(path.resolve())
    if path.suffix == ".py" or len(path.parts) > 1 or path.exists():
        raise UserError(f"there is no problem file {path}; give the path of a Python file with a function problem()")
    near = difflib.get_close_matches(name.lower(), PROBLEMS, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(PROBLEMS)}, or give the path of a file"
    raise UserError(f"there is no problem '{name}'; {hint}")


def _from_file(path: Path) -> Problem:
    if path.suffix != ".py":
        raise UserError(f"{path.name} is not a Python file; a problem file ends in .py and has a function problem()")
    if (folder := str(path.parent)) not in sys.path:
        sys.path.insert(0, folder)  # and stays there: model() may import its neighbours later
    spec = importlib.util.spec_from_file_location(f"problem_{hashlib.sha256(bytes(path)).hexdigest()[:16]}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pickle and dataclasses look for what the file defines
    with UserCode(f"{path.name} fails when it is loaded"):
        spec.loader.exec_module(module)
    factory = getattr(module, "problem", None)
    if not callable(factory):
        raise UserError(f"{path.name} has no function problem(); define one that returns a ravine.Problem")
    with UserCode(f"problem() of {path.name} fails"):
        problem = factory()
    if not isinstance(problem, Problem):
        raise UserError(f"problem() of {path.name} must return a ravine.Problem, not {type(problem).__name__}")
    return problem
