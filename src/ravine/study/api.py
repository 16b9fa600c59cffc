"""The doors of a study: `compare`, `plan`, `resume`, `load`."""

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

from pydantic import ValidationError

from ravine.errors import UserError, WorkError
from ravine.problems import Problem, digest
from ravine.study import declare
from ravine.study.comparison import Comparison
from ravine.study.conduct import conduct
from ravine.study.declare import Declaration
from ravine.study.engine import Engine, LocalEngine
from ravine.study.listener import Listener, Silent
from ravine.study.planning import Plan
from ravine.study.question import Question, Words, check_again, check_question
from ravine.study.settle import settle
from ravine.study.store import Store
from ravine.study.worker import Assignment

P = ParamSpec("P")
R = TypeVar("R")


def _in_the_words_of(words: Callable[P, Question]) -> Callable[[Callable[[Question], R]], Callable[P, R]]:
    """Makes an answer to a question a function of the question's words."""

    def door(answer: Callable[[Question], R]) -> Callable[P, R]:
        @functools.wraps(answer)
        def asked(*args: P.args, **kwargs: P.kwargs) -> R:
            return answer(words(*args, **kwargs))

        returned = inspect.signature(answer).return_annotation
        vars(asked)["__signature__"] = inspect.signature(words).replace(return_annotation=returned)
        return asked

    return door


@_in_the_words_of(Question)
def compare(asked: Question) -> Comparison:
    """Tunes every method alike, runs the winners on fresh seeds and judges each against the baseline.

    problem: a built-in name, the path of a problem file, or a `ravine.Problem`. trials: settings tried per method.
    tuning_seeds, seeds: seeds that choose, and fresh ones that the verdict is about. margin: differences up to it
    count as equal (0.01 for metrics in [0, 1], log 1.05 for losses). time: seconds that trials, seeds and steps are
    fitted to. full: run all settings on all seeds. out: the study directory, new; without it, one in `studies/`.

    Raises UserError where the words or the problem are wrong, WorkError where the work fails. What was stored is kept.
    """
    words, listener = check_question(asked), asked.listener or Silent()
    directory = Path(asked.out) if asked.out is not None else _new_directory(words.problem.name)
    with Store.create(directory) as store, _engine(words, store) as engine:
        listener.phase("measuring")
        declaration, planned = settle(words, engine, asked.time, directory)
        if not listener.confirm(planned):
            raise UserError("nothing was started")
        store.write_json("study.json", declaration.model_dump(mode="json"))
        return conduct(declaration, words, store, engine, listener)


@_in_the_words_of(Question)
def plan(asked: Question) -> Plan:
    """What `compare` with these words would cost and could detect; nothing is stored."""
    words = check_question(asked)
    with _engine(words) as engine:
        return settle(words, engine, asked.time, Path(asked.out) if asked.out else None)[1]


def resume(
    directory: Path | str, *, problem: Path | str | Problem | None = None, listener: Listener | None = None
) -> Comparison:
    """Goes on with a study where it stopped. `problem`: where its file lies now, or the object it was made from.

    Raises UserError if the problem is no longer the one that was declared, WorkError where the work fails.
    """
    store = Store.open(Path(directory))
    listener = listener or Silent()
    with store.locked():
        declaration = _declared(store)
        for name, now in declare.versions().items():
            if now != (then := declaration.versions.get(name)):
                listener.say(f"this study began with {name} {then} and goes on with {now}: the last bits may differ")
        words = check_again(declaration, problem)
        with _engine(words, store) as engine:
            return conduct(declaration, words, store, engine, listener)


def load(directory: Path | str) -> Comparison:
    """A finished study. Raises UserError if there is none, or if it has no verdict yet."""
    store = Store.open(Path(directory))
    if not store.path("verdict.json").exists():
        raise UserError(f"the study in {directory} has no verdict yet: go on with `ravine resume {directory}`")
    return Comparison(Path(directory))


def _declared(store: Store) -> Declaration:
    content = store.read_json("study.json")
    try:
        return Declaration.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise WorkError(
            f"{store.path('study.json')} is no declaration that ravine {declare.versions()['ravine']} reads"
            f" ({where}: {first['msg']}): use the version that wrote it, or start the study anew in another directory"
        ) from None


def _new_directory(name: str) -> Path:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "study"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("studies") / f"{safe}-{stamp}"


@contextlib.contextmanager
def _engine(words: Words, store: Store | None = None) -> Iterator[Engine]:
    """The engine of a study; it counts the steps under way in a file of the study's own."""
    assignment = Assignment.of(
        words.given,
        batch_size=words.problem.batch_size,
        steps=words.problem.steps,
        study_seed=words.settings.study_seed,
        device=words.device,
        threads=1,
        progress="" if store is None else str(store.path(".progress")),
        data_sha256=digest(words.data),
    )
    with LocalEngine(assignment, words.workers) as made:
        yield made
