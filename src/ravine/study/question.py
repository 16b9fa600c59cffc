"""What is asked of a study, in the words of `compare`; and the same words checked, with the problem loaded."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

import torch

from ravine.errors import UserError
from ravine.fleet.train import Executor
from ravine.problems import Data, Problem, digest, prepare
from ravine.problems.checking import check
from ravine.problems.loading import load
from ravine.study import declare
from ravine.study.declare import Declaration
from ravine.study.engine import cores
from ravine.study.listener import Listener
from ravine.study.search import Settings

DEFAULT_METHODS = ("sgd", "momentum", "nesterov", "adam")


@dataclass(frozen=True)
class Question:
    """The words of a study and their defaults; `ravine.compare` says what each means."""

    problem: str | Path | Problem
    methods: Sequence[str] = DEFAULT_METHODS
    _: KW_ONLY
    baseline: str = "sgd"
    steps: int | None = None
    batch_size: int | None = None
    trials: int = 64
    tuning_seeds: int = 3
    seeds: int = 20
    margin: float | None = None
    endpoint: str | None = None
    time: float | None = None
    full: bool = False
    executor: Literal["auto"] | Executor = "auto"
    device: Literal["cpu", "cuda"] | None = None
    out: Path | str | None = None
    workers: int | None = None
    study_seed: int = 0
    listener: Listener | None = None


@dataclass(frozen=True)
class Words:
    """What was asked for, checked; `given` is how the workers come to the problem."""

    given: str | Path | Problem
    problem: Problem
    data: Data
    methods: tuple[str, ...]
    baseline: str
    endpoint: declare.Endpoint
    secondary: tuple[declare.Secondary, ...]
    settings: Settings
    current: dict[str, str | float] | None
    full: bool
    forced: Executor | None
    device: str
    workers: int


def check_question(asked: Question) -> Words:
    """The words of a new study. Raises UserError where they or the problem are wrong."""
    methods = declare.check_words(
        tuple(asked.methods), asked.baseline, trials=asked.trials, tuning_seeds=asked.tuning_seeds, seeds=asked.seeds,
        margin=asked.margin, steps=asked.steps, batch_size=asked.batch_size, study_seed=asked.study_seed,
        time=asked.time,
    )  # fmt: skip
    device = _device(asked.device)
    given = asked.problem
    if not isinstance(given, Problem) and str(given).endswith(".py"):
        given = Path(given).expanduser().resolve()
    problem = load(given, batch_size=asked.batch_size, steps=asked.steps)
    declare.check_curvature(methods, problem)
    data = prepare(problem)
    smallest_loss = check(problem, data)
    endpoint = declare.endpoint_of(problem, asked.endpoint, asked.margin, smallest_loss)
    secondary = declare.secondary_of(problem, endpoint, smallest_loss)
    settings = Settings(
        trials=asked.trials,
        tuning_seeds=asked.tuning_seeds,
        seeds=asked.seeds,
        steps=problem.steps,
        endpoint=endpoint.name,
        higher_is_better=endpoint.higher_is_better,
        worst=endpoint.worst,
        study_seed=asked.study_seed,
        horizons=problem.schedule is None,
        secondary=tuple((one.name, one.higher_is_better, one.worst) for one in secondary),
    )
    return Words(
        given=given,
        problem=problem,
        data=data,
        methods=methods,
        baseline=asked.baseline,
        endpoint=endpoint,
        secondary=secondary,
        settings=settings,
        current=declare.current_of(problem),
        full=asked.full,
        forced=None if asked.executor == "auto" else asked.executor,
        device=device,
        workers=asked.workers or (1 if device == "cuda" else cores()),
    )


def check_again(declaration: Declaration, problem: Path | str | Problem | None) -> Words:
    """The words of a declared study. Raises UserError if its problem is not found or is no longer the same."""
    given = _found(declaration.source, problem)
    loaded = load(given, batch_size=declaration.batch_size, steps=declaration.steps)
    data = prepare(loaded)
    if digest(data) != declaration.source.data_sha256:
        raise UserError(
            f"the data of problem '{loaded.name}' changed since the study began: bring the old ones back, or start a"
            " new study"
        )
    return Words(
        given=given,
        problem=loaded,
        data=data,
        methods=declaration.methods,
        baseline=declaration.baseline,
        endpoint=declaration.endpoint,
        secondary=declaration.secondary,
        settings=declaration.settings,
        current=declaration.current,
        full=declaration.full,
        forced=declaration.execution.executor,
        device=_device(declaration.execution.device),
        workers=min(declaration.execution.workers, cores()),
    )


def _found(source: declare.Source, problem: Path | str | Problem | None) -> str | Path | Problem:
    """The problem of a declared study, as it was given or where it lies now."""
    if source.kind == "built-in":
        return source.name
    if source.kind == "object":
        if not isinstance(problem, Problem):
            raise UserError(
                "this study is about a Problem that a program made: resume it there, with ravine.resume(directory,"
                " problem=...)"
            )
        return problem
    assert source.path is not None
    path = Path(source.path if problem is None or isinstance(problem, Problem) else problem).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"the problem file {path} is gone: say where it lies now with --problem FILE")
    if declare.file_digest(path) != source.sha256:
        raise UserError(
            f"the problem file {path} was changed since the study began: put the old text back"
            " (a copy lies beside study.json), or start a new study"
        )
    return path


def _device(wanted: str | None) -> str:
    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise UserError("device cuda: torch sees no GPU here; leave --device out, or give --device cpu")
    return wanted or ("cuda" if found else "cpu")
