"""From tuned methods and the runs on the evaluation seeds to `verdict.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ravine.study import methods as registry
from ravine.study import search
from ravine.study.declare import Declaration
from ravine.study.infer import Contrast, Finalists, contrasts
from ravine.study.search import Configuration, Coroutine, Request, Results, Settings, Tuned


@dataclass(frozen=True)
class Studied:
    """One method after its search and its evaluation."""

    tuned: Tuned
    results: Results


def study_method(name: str, settings: Settings) -> Coroutine[Studied]:
    """Tunes a method, then runs what is judged on the evaluation seeds."""
    tuned = yield from search.tune(registry.get(name), settings)
    results = yield search.evaluate_request(tuned, settings)
    return Studied(tuned, results)


def current_configuration(declaration: Declaration) -> Configuration | None:
    """What the user runs now, as a configuration."""
    if declaration.current is None:
        return None
    hyper = {name: float(value) for name, value in declaration.current.items() if name != "method"}
    return Configuration(str(declaration.current["method"]), tuple(sorted(hyper.items())))


def evaluate_current(configuration: Configuration, settings: Settings) -> Coroutine[Results]:
    """Runs the user's own setting on the evaluation seeds."""
    return (yield Request("current", configuration.runs(settings.evaluation, settings.steps, test=True)))


def conclude(
    declaration: Declaration, studied: Mapping[str, Studied], current: Results | None, caveats: Sequence[str]
) -> dict[str, Any]:
    """The content of `verdict.json`: no clock times, so that equal work gives equal bytes."""
    settings, pairs = declaration.settings, declaration.pairs
    judged = {name: search.finalists(one.tuned, settings, one.results) for name, one in studied.items()}
    fixed = {name: _alone(one, one.tuned.fixed, settings, settings.trials // 4) for name, one in studied.items()}
    defaults = {name: _alone(one, one.tuned.defaults, settings, None) for name, one in studied.items()}
    own = current_configuration(declaration)
    if own is not None and current is not None:
        judged["current"] = search.single(own, settings, current, settings.steps)
    between = [pair for pair in pairs if "current" not in pair]
    found = _contrasts(judged, pairs, declaration)
    settings_of = {name: _settings(one.tuned.finalists[0]) for name, one in studied.items()}
    return {
        "problem": declaration.problem,
        "baseline": declaration.baseline,
        "endpoint": declaration.endpoint.name,
        "unit": declaration.endpoint.unit,
        "margin": declaration.endpoint.margin,
        "steps": declaration.steps,
        "contrasts": [{**asdict(one), "settings": settings_of[one.method]} for one in found],
        "methods": {name: _method(one.tuned, judged[name]) for name, one in studied.items()},
        "current": None if own is None else {"settings": _settings(own), "score": _mean(judged["current"])},
        "equal_dimension": [
            {**asdict(one), "settings": _settings(studied[one.method].tuned.fixed)}
            for one in _contrasts(fixed, between, declaration)
        ],
        "defaults": [
            {**asdict(one), "settings": _settings(studied[one.method].tuned.defaults)}
            for one in _contrasts(defaults, between, declaration)
        ],
        "horizons": _horizons(declaration, studied, between),
        "warnings": [warning for one in studied.values() for warning in one.tuned.warnings] + _inclusion(declaration, found),
        "caveats": list(caveats),
    }


def _contrasts(
    judged: Mapping[str, Finalists], pairs: Sequence[tuple[str, str]], declaration: Declaration
) -> list[Contrast]:
    return contrasts(judged, pairs, declaration.endpoint.margin, declaration.alpha, declaration.study_seed)


def _alone(studied: Studied, configuration: Configuration, settings: Settings, trials: int | None) -> Finalists:
    return search.single(configuration, settings, studied.results, settings.steps, trials)


def _settings(configuration: Configuration) -> dict[str, float]:
    """Hyper-parameters of a setting; one of a contained method is that method's."""
    return dict(configuration.hyper)


def _mean(finalists: Finalists) -> float:
    return float(finalists.scores[0].mean())


def _method(tuned: Tuned, judged: Finalists) -> dict[str, Any]:
    means = judged.scores.mean(axis=1)
    return {
        "settings": _settings(tuned.finalists[0]),
        "trained_as": tuned.finalists[0].method,
        "finalists": [
            {"settings": _settings(one), "trained_as": one.method, "weight": float(weight), "mean": float(mean)}
            for one, weight, mean in zip(tuned.finalists, tuned.weights, means, strict=True)
        ],
        "score": float(means[0]),
        "diverged": int(judged.diverged[0].sum()),
        "trials": len(tuned.trials),
        "ranges": {name: list(bounds) for name, bounds in tuned.ranges.items()},
        "extensions": list(tuned.extensions),
        "skipped": [_settings(one) for one in tuned.skipped],
        "gradient_equivalents_per_step": registry.get(tuned.method).cost,
    }


def _horizons(
    declaration: Declaration, studied: Mapping[str, Studied], pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """What a shorter budget would have said: the settings that are best at T/4 and T/2, evaluated there."""
    settings, found = declaration.settings, []
    for k, steps in enumerate(settings.horizon_steps):
        winners = {name: one.tuned.horizons[k][1] for name, one in studied.items()}
        judged = {
            name: search.single(winners[name], settings, one.results, steps, len(one.tuned.trials))
            for name, one in studied.items()
        }
        made = [
            {**asdict(one), "settings": _settings(winners[one.method])} for one in _contrasts(judged, pairs, declaration)
        ]
        found.append({"steps": steps, "contrasts": made})
    return found


def _inclusion(declaration: Declaration, found: Sequence[Contrast]) -> list[str]:
    """A method that contains the baseline must not lose to it: if it does, the tuning failed (Choi et al. 2019)."""
    said = []
    for one in found:
        face = registry.get(one.method).face if one.method in registry.METHODS else None
        if face is not None and face.method == one.versus and one.verdict == "hurts":
            said.append(
                f"{one.method} contains {one.versus} (at {face.axis} {face.value:g}) and yet loses to it: its tuning failed; "
                "give it more --trials."
            )
    return said
