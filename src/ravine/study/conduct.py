"""A declared study, from its first run to its report; the same for a new study and a resumed one."""

from collections.abc import Mapping
from pathlib import Path

from ravine.study import declare, planning, worker
from ravine.study import methods as registry
from ravine.study.comparison import Comparison
from ravine.study.declare import Declaration
from ravine.study.engine import Engine
from ravine.study.listener import Listener
from ravine.study.question import Words
from ravine.study.runner import Runner, full_hyper
from ravine.study.search import Run, Tuned, drive
from ravine.study.store import Store
from ravine.study.verdict import conclude, current_configuration, study_current, study_method


def conduct(declaration: Declaration, words: Words, store: Store, engine: Engine, listener: Listener) -> Comparison:
    """Tunes, evaluates, concludes and reports."""
    if declaration.source.path is not None:
        store.write("problem.py.txt", Path(str(words.given)).read_bytes())  # a record, never read as code
    settings = declaration.settings
    _, total = planning.count(declaration.methods, settings, declaration.current is not None)
    names = ("loss", *words.problem.metrics)
    run = Runner(declaration, names, store, engine, listener, total)
    searched = drive([study_method(name, settings, declaration.full) for name in declaration.methods], run)
    tuned = dict(zip(declaration.methods, searched, strict=True))
    own = current_configuration(declaration)
    if own is not None:
        drive([study_current(own, settings)], run)
    listener.phase("inference")
    said = declare.caveats(declaration, words.data.caveats)
    store.write_json("verdict.json", conclude(declaration, tuned, run.results, said))
    if not store.path("cost.json").exists():
        store.write_json("cost.json", _cost(tuned, engine))
    listener.phase("report")
    comparison = Comparison(store.directory)
    comparison.report()
    return comparison


def _cost(tuned: Mapping[str, Tuned], engine: Engine) -> dict[str, dict[str, float]]:
    """Per method: gradient equivalents of a step, and seconds of a step of one run trained alone, measured apart."""
    found = {}
    for name, one in tuned.items():
        winner = one.finalists[0]
        hyper = full_hyper(Run(winner.method, winner.hyper, 0, 1))
        rule = registry.get(winner.method).rule
        found[name] = {
            "gradient_equivalents": registry.get(name).cost,
            "seconds_per_step": engine.ask(worker.step_seconds, rule, hyper),
        }
    return found
