"""From the words to the declaration: what a study leaves open is measured, chosen and fixed before its first step."""

from dataclasses import replace
from pathlib import Path

from ravine.fleet.choose import Choice
from ravine.fleet.train import Executor, Trial, Work
from ravine.study import declare, planning
from ravine.study.declare import Declaration
from ravine.study.engine import Engine
from ravine.study.planning import Plan
from ravine.study.question import Words
from ravine.study.runner import full_hyper
from ravine.study.search import Run

PILOT_STEPS, PILOT_SEEDS = 20, 8
PILOT_RATES = tuple(2.0**-k for k in range(0, 11, 2))


def settle(words: Words, engine: Engine, time: float | None, directory: Path | None) -> tuple[Declaration, Plan]:
    """Chooses the executor, fits the study to the seconds given, and fixes everything."""
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
        secondary=words.secondary,
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
        hyper = full_hyper(Run("momentum", (("lr", rate), ("momentum", 0.9)), 0, steps))
        trials = tuple(Trial(seed, hyper) for seed in range(PILOT_SEEDS))
        works.append((f"{rate:g}", Work("momentum", trials, steps, False, executor)))
    trained = dict(engine.train(works, None, lambda steps: None))
    return [[record.validation[-1] for record in trained[name].records] for name, _ in works]
