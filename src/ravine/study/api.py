"""The doors of a study: `compare`, `plan`, `resume`, `load`."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import polars as pl
import torch
from pydantic import ValidationError

from ravine.errors import UserError, WorkError
from ravine.fleet.choose import Choice
from ravine.fleet.train import Executor, Trial, Work
from ravine.problems import Data, Problem, digest, prepare
from ravine.problems.checking import check
from ravine.problems.loading import load as load_problem
from ravine.study import declare, planning, runner, search, worker
from ravine.study import methods as registry
from ravine.study.declare import Declaration
from ravine.study.engine import Engine, LocalEngine, cores
from ravine.study.planning import Plan
from ravine.study.runner import Runner
from ravine.study.store import Store
from ravine.study.verdict import conclude, current_configuration, study_current, study_method
from ravine.study.worker import Assignment

DEFAULT_METHODS = ("sgd", "momentum", "nesterov", "adam")
PILOT_STEPS, PILOT_SEEDS = 20, 8
PILOT_RATES = tuple(2.0**-k for k in range(0, 11, 2))

Forced = Literal["auto", "stacked", "compiled", "single"]


class Listener(runner.Listener, Protocol):
    """Who hears how a study goes and agrees to its cost."""

    def confirm(self, plan: Plan) -> bool: ...


class Silent:
    """A listener for programs: says nothing, agrees to everything."""

    def phase(self, text: str) -> None: ...

    def progress(self, done_steps: int, total_steps: int, runs_done: int, runs: int) -> None: ...

    def say(self, text: str) -> None: ...

    def confirm(self, plan: Plan) -> bool:
        """Yes."""
        return True


@dataclass(frozen=True)
class Comparison:
    """A finished study."""

    directory: Path

    @property
    def verdict(self) -> dict[str, Any]:
        """The content of `verdict.json`."""
        return self._store.read_json("verdict.json")

    @property
    def verdicts(self) -> dict[str, str]:
        """method -> its verdict against the baseline."""
        found = self.verdict
        return {one["method"]: one["verdict"] for one in found["contrasts"] if one["versus"] == found["baseline"]}

    @property
    def runs(self) -> pl.DataFrame:
        """Every run, one row each; curves are lists (docs/compare.md names the columns).

        Raises WorkError if a stored file is damaged.
        """
        return runner.all_runs(self._store)

    @property
    def cost(self) -> dict[str, dict[str, float]]:
        """method -> gradient equivalents and seconds of a step of a run trained alone; empty if not measured."""
        return self._store.read_json("cost.json") if self._store.path("cost.json").exists() else {}

    def report(self, path: Path | str | None = None) -> Path:
        """Writes the report from what is stored; to `report.html` of the study unless a path is given."""
        from ravine import report  # here, so that workers need not load what draws charts

        target = self._store.path("report.html") if path is None else Path(path)
        aside = target.with_name(f".{target.name}.writing")
        report.write(self.verdict, self.runs, self._store.read_json("study.json"), self.cost, aside)
        return aside.replace(target)

    @property
    def _store(self) -> Store:
        return Store.open(self.directory)


@dataclass(frozen=True)
class _Words:
    """What was asked for, checked."""

    given: str | Path | Problem
    problem: Problem
    data: Data
    methods: tuple[str, ...]
    baseline: str
    endpoint: declare.Endpoint
    settings: search.Settings
    current: dict[str, str | float] | None
    full: bool
    forced: Executor | None
    device: str
    workers: int


def compare(
    problem: str | Path | Problem,
    methods: Sequence[str] = DEFAULT_METHODS,
    *,
    baseline: str = "sgd",
    steps: int | None = None,
    batch_size: int | None = None,
    trials: int = 64,
    tuning_seeds: int = 3,
    seeds: int = 20,
    margin: float | None = None,
    endpoint: str | None = None,
    time: float | None = None,
    full: bool = False,
    executor: Forced = "auto",
    device: Literal["cpu", "cuda"] | None = None,
    out: Path | str | None = None,
    workers: int | None = None,
    study_seed: int = 0,
    listener: Listener | None = None,
) -> Comparison:
    """Tunes every method alike, runs the winners on fresh seeds and judges each against the baseline.

    problem: a built-in name, the path of a problem file, or a `ravine.Problem`. trials: settings tried per method.
    tuning_seeds, seeds: seeds that choose, and fresh ones that the verdict is about. margin: differences up to it
    count as equal (0.01 for metrics in [0, 1], log 1.05 for losses). time: seconds that trials, seeds and steps are
    fitted to. out: the study directory, new; without it, one in `studies/`.

    Raises UserError where the words or the problem are wrong, WorkError where the work fails. What was stored is kept.
    """
    words = _words(
        problem, methods, baseline, steps, batch_size, trials, tuning_seeds, seeds, margin, endpoint, time, full,
        executor, device, workers, study_seed,
    )  # fmt: skip
    listener = listener or Silent()
    directory = Path(out) if out is not None else _new_directory(words.problem.name)
    with Store.create(directory) as store, _engine(words) as made:
        declaration, planned = _declare(words, made, time, directory, listener)
        if not listener.confirm(planned):
            raise UserError("nothing was started")
        store.write_json("study.json", declaration.model_dump(mode="json"))
        return _run(declaration, words, store, made, listener)


def plan(
    problem: str | Path | Problem,
    methods: Sequence[str] = DEFAULT_METHODS,
    *,
    baseline: str = "sgd",
    steps: int | None = None,
    batch_size: int | None = None,
    trials: int = 64,
    tuning_seeds: int = 3,
    seeds: int = 20,
    margin: float | None = None,
    endpoint: str | None = None,
    time: float | None = None,
    full: bool = False,
    executor: Forced = "auto",
    device: Literal["cpu", "cuda"] | None = None,
    out: Path | str | None = None,
    workers: int | None = None,
    study_seed: int = 0,
) -> Plan:
    """What `compare` with these words would cost and could detect; nothing is stored."""
    words = _words(
        problem, methods, baseline, steps, batch_size, trials, tuning_seeds, seeds, margin, endpoint, time, full,
        executor, device, workers, study_seed,
    )  # fmt: skip
    with _engine(words) as made:
        return _declare(words, made, time, Path(out) if out else None, Silent())[1]


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
        words = _words_again(declaration, problem)
        with _engine(words) as made:
            return _run(declaration, words, store, made, listener)


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


def load(directory: Path | str) -> Comparison:
    """A finished study. Raises UserError if there is none, or if it has no verdict yet."""
    store = Store.open(Path(directory))
    if not store.path("verdict.json").exists():
        raise UserError(f"the study in {directory} has no verdict yet: go on with `ravine resume {directory}`")
    return Comparison(Path(directory))


def _words(
    given: str | Path | Problem,
    methods: Sequence[str],
    baseline: str,
    steps: int | None,
    batch_size: int | None,
    trials: int,
    tuning_seeds: int,
    seeds: int,
    margin: float | None,
    endpoint: str | None,
    time: float | None,
    full: bool,
    executor: Forced,
    device: Literal["cpu", "cuda"] | None,
    workers: int | None,
    study_seed: int,
) -> _Words:
    named = declare.check_words(
        tuple(methods), baseline, trials=trials, tuning_seeds=tuning_seeds, seeds=seeds, margin=margin, steps=steps,
        batch_size=batch_size, study_seed=study_seed, time=time,
    )  # fmt: skip
    works_on = _device(device)
    if not isinstance(given, Problem) and str(given).endswith(".py"):
        given = Path(given).expanduser().resolve()
    problem = load_problem(given, batch_size=batch_size, steps=steps)
    data = prepare(problem)
    check(problem, data)
    judged_by = declare.endpoint_of(problem, endpoint, margin)
    settings = search.Settings(
        trials=trials,
        tuning_seeds=tuning_seeds,
        seeds=seeds,
        steps=problem.steps,
        endpoint=judged_by.name,
        higher_is_better=judged_by.higher_is_better,
        worst=judged_by.worst,
        study_seed=study_seed,
        horizons=problem.schedule is None,
        secondary=tuple(
            (one.name, one.higher_is_better, one.worst) for one in declare.secondary_of(problem, judged_by)
        ),
    )
    return _Words(
        given=given,
        problem=problem,
        data=data,
        methods=named,
        baseline=baseline,
        endpoint=judged_by,
        settings=settings,
        current=declare.current_of(problem),
        full=full,
        forced=None if executor == "auto" else executor,
        device=works_on,
        workers=workers or (1 if works_on == "cuda" else cores()),
    )


def _device(wanted: str | None) -> str:
    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise UserError("device cuda: torch sees no GPU here; leave --device out, or give --device cpu")
    return wanted or ("cuda" if found else "cpu")


def _words_again(declaration: Declaration, problem: Path | str | Problem | None) -> _Words:
    """The words of a declared study, its problem found and unchanged."""
    source = declaration.source
    if source.kind == "built-in":
        given: str | Path | Problem = source.name
    elif source.kind == "object":
        if not isinstance(problem, Problem):
            raise UserError(
                "this study is about a Problem that a program made: resume it there, with ravine.resume(directory,"
                " problem=...)"
            )
        given = problem
    else:
        assert source.path is not None
        path = Path(source.path if problem is None or isinstance(problem, Problem) else problem).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"the problem file {path} is gone: say where it lies now with --problem FILE")
        if declare.file_digest(path) != source.sha256:
            raise UserError(
                f"the problem file {path} was changed since the study began: put the old text back"
                " (a copy lies beside study.json), or start a new study"
            )
        given = path
    loaded = load_problem(given, batch_size=declaration.batch_size, steps=declaration.steps)
    data = prepare(loaded)
    if digest(data) != source.data_sha256:
        raise UserError(
            f"the data of problem '{loaded.name}' changed since the study began: bring the old ones back, or start a"
            " new study"
        )
    return _Words(
        given=given,
        problem=loaded,
        data=data,
        methods=declaration.methods,
        baseline=declaration.baseline,
        endpoint=declaration.endpoint,
        settings=declaration.settings,
        current=declaration.current,
        full=declaration.full,
        forced=declaration.execution.executor,
        device=_device(declaration.execution.device),
        workers=min(declaration.execution.workers, cores()),
    )


def _new_directory(name: str) -> Path:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "study"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("studies") / f"{safe}-{stamp}"


@contextlib.contextmanager
def _engine(words: _Words) -> Iterator[Engine]:
    assignment = Assignment.of(
        words.given,
        batch_size=words.problem.batch_size,
        steps=words.problem.steps,
        study_seed=words.settings.study_seed,
        device=words.device,
        threads=1,
        progress="",
        data_sha256=digest(words.data),
    )
    with LocalEngine(assignment, words.workers) as made:
        yield made


def _declare(
    words: _Words, engine: Engine, time: float | None, directory: Path | None, listener: Listener
) -> tuple[Declaration, Plan]:
    """Chooses the executor, fits the study to the time given, and fixes everything."""
    listener.phase("measuring")
    settings, current = words.settings, words.current is not None
    choice = engine.choose(words.forced, planning.count(words.methods, settings, current)[1])
    spent = choice.run_step
    notes = [f"runs train {choice.executor}: {choice.reason}"]
    if time is not None:
        fitted = planning.fit(words.methods, settings, current, spent, engine.workers, time)
        changed = [f"{n} {getattr(settings, n)} -> {getattr(fitted, n)}" for n in ("trials", "seeds", "steps")
                   if getattr(settings, n) != getattr(fitted, n)]  # fmt: skip
        notes.append(f"to fit the time given: {', '.join(changed)}" if changed else "everything fits the time given")
        settings = fitted
    if choice.executor == "single":  # so that a chunk is a unit of work worth storing
        choice = replace(choice, size=max(1, min(64, round(10 / (spent * settings.steps)))))
    declaration = Declaration(
        source=declare.source_of(words.given, words.problem, words.data),
        problem=words.problem.name,
        methods=words.methods,
        baseline=words.baseline,
        steps=settings.steps,
        batch_size=words.problem.batch_size,
        trials=settings.trials,
        tuning_seeds=settings.tuning_seeds,
        seeds=settings.seeds,
        endpoint=words.endpoint,
        secondary=declare.secondary_of(words.problem, words.endpoint),
        study_seed=settings.study_seed,
        horizons=settings.horizons,
        full=words.full,
        current=words.current,
        held=declare.held_of(words.problem),
        evaluations=declare.evaluations(settings.steps),
        execution=declare.execution_of(choice, words.device, engine.workers),
        versions=declare.versions(),
        machine=declare.machine(words.device),
    )
    runs, steps = planning.count(words.methods, settings, current)
    names = ("loss", *words.problem.metrics)
    pilot = _pilot(engine, choice, min(PILOT_STEPS, settings.steps))
    planned = Plan(
        runs=runs,
        steps=steps,
        hours=planning.seconds(steps, spent, engine.workers) / 3600,
        disk_bytes=runs * planning.BYTES_PER_RUN,
        detectable=planning.power_of(pilot, settings, words.endpoint.margin, names),
        unit=words.endpoint.unit,
        executor=choice.executor,
        directory=directory,
    )
    return declaration, planning.describe(planned, settings, words.methods, engine.workers, notes)


def _pilot(engine: Engine, choice: Choice, steps: int) -> list[list[list[float]]]:
    """Validation values after a few steps, (rates, seeds, 1 + metrics): how much they spread over seeds."""
    executor: Executor = "single" if choice.executor == "single" else "stacked"
    works = []
    for rate in PILOT_RATES:
        hyper = runner.full_hyper(search.Run("momentum", (("lr", rate), ("momentum", 0.9)), 0, steps))
        trials = tuple(Trial(seed, hyper) for seed in range(PILOT_SEEDS))
        works.append((f"{rate:g}", Work("momentum", trials, steps, False, executor)))
    trained = dict(engine.train(works, None, lambda steps: None))
    return [[record.validation[-1] for record in trained[name].records] for name, _ in works]


def _run(declaration: Declaration, words: _Words, store: Store, engine: Engine, listener: Listener) -> Comparison:
    """Everything after the declaration; the same for a new study and a resumed one."""
    if declaration.source.path is not None:
        store.write("problem.py.txt", Path(str(words.given)).read_bytes())  # a record, never read as code
    settings = declaration.settings
    _, total = planning.count(declaration.methods, settings, declaration.current is not None)
    names = ("loss", *words.problem.metrics)
    run = Runner(declaration, names, store, engine, listener, total)
    searched = search.drive([study_method(name, settings, declaration.full) for name in declaration.methods], run)
    tuned = dict(zip(declaration.methods, searched, strict=True))
    own = current_configuration(declaration)
    if own is not None:
        search.drive([study_current(own, settings)], run)
    listener.phase("inference")
    said = declare.caveats(declaration, words.data.caveats)
    store.write_json("verdict.json", conclude(declaration, tuned, run.results, said))
    if not store.path("cost.json").exists():
        store.write_json("cost.json", _cost(tuned, engine))
    listener.phase("report")
    comparison = Comparison(store.directory)
    comparison.report()
    return comparison


def _cost(tuned: Mapping[str, search.Tuned], engine: Engine) -> dict[str, dict[str, float]]:
    """Per method: gradient equivalents of a step, and seconds of a step of one run trained alone, measured apart."""
    found = {}
    for name, one in tuned.items():
        winner = one.finalists[0]
        hyper = runner.full_hyper(search.Run(winner.method, winner.hyper, 0, 1))
        rule = registry.get(winner.method).rule
        found[name] = {
            "gradient_equivalents": registry.get(name).cost,
            "seconds_per_step": engine.ask(worker.step_seconds, rule, hyper),
        }
    return found
