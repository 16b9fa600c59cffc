"""From tuned methods and the runs on the evaluation seeds to `verdict.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ravine.study import methods as registry
from ravine.study import search, space
from ravine.study.declare import Declaration
from ravine.study.infer import Finalists, contrasts
from ravine.study.search import Configuration, Coroutine, Request, Results, Settings, Tuned
from ravine.study.targets import contrast_times, ladder
from ravine.study.variance import study_variance


def study_method(name: str, settings: Settings, full: bool) -> Coroutine[Tuned]:
    """Tunes a method, then runs what is judged on the evaluation seeds; with `full`, every trial on all of them."""
    tuned = yield from search.tune(registry.get(name), settings)
    yield search.evaluate_request(tuned, settings)
    if full:
        yield search.full_request(tuned, settings)
    return tuned


def current_configuration(declaration: Declaration) -> Configuration | None:
    """What the user runs now, as a configuration."""
    if declaration.current is None:
        return None
    hyper = {name: float(value) for name, value in declaration.current.items() if name != "method"}
    return Configuration(str(declaration.current["method"]), tuple(sorted(hyper.items())))


def study_current(configuration: Configuration, settings: Settings) -> Coroutine[None]:
    """Runs the user's own setting on the evaluation seeds."""
    yield Request("current", configuration.runs(settings.evaluation, settings.steps, test=True))


def conclude(
    declaration: Declaration, tuned: Mapping[str, Tuned], results: Results, caveats: Sequence[str]
) -> dict[str, Any]:
    """The content of `verdict.json`: no clock times, so that equal work gives equal bytes."""
    settings, own = declaration.settings, current_configuration(declaration)
    judged = {n: search.judge(one.finalists, settings, results, trials=len(one.trials)) for n, one in tuned.items()}
    if own is not None:
        judged["current"] = search.judge((own,), settings, results)
    found = _contrasts(judged, declaration.pairs, declaration, {n: one.finalists[0] for n, one in tuned.items()})
    between = [pair for pair in declaration.pairs if "current" not in pair]

    def compared(
        chosen: Mapping[str, Sequence[Configuration]], steps: int | None = None, trials: int | None = None
    ) -> list[dict[str, Any]]:
        judged = {name: search.judge(one, settings, results, steps, trials) for name, one in chosen.items()}
        return _contrasts(judged, between, declaration, {name: one[0] for name, one in chosen.items()})

    return {
        "problem": declaration.problem,
        "baseline": declaration.baseline,
        "endpoint": declaration.endpoint.name,
        "unit": declaration.endpoint.unit,
        "margin": declaration.endpoint.margin,
        "steps": declaration.steps,
        "contrasts": found,
        "methods": {name: _method(one, judged[name]) for name, one in tuned.items()},
        "current": None if own is None else {"settings": _settings(own), "score": _mean(judged["current"])},
        "equal_dimension": compared(
            {n: (one.fixed,) for n, one in tuned.items()}, trials=space.quarter(settings.trials)
        ),
        "defaults": compared({n: (one.defaults,) for n, one in tuned.items()}),
        "horizons": [
            {
                "steps": steps,
                "contrasts": compared({n: one.horizons[k][1] for n, one in tuned.items()}, steps, settings.trials),
            }
            for k, steps in enumerate(settings.horizon_steps)
        ],
        "secondary": _secondary(declaration, tuned, results),
        "time_to_target": _time_to_target(declaration, tuned, results),
        "study_variance": _study_variance(declaration, tuned, results) if declaration.full else None,
        "warnings": [warning for one in tuned.values() for warning in one.warnings] + _inclusion(declaration, found),
        "caveats": list(caveats),
    }


def _secondary(declaration: Declaration, tuned: Mapping[str, Tuned], results: Results) -> list[dict[str, Any]]:
    """The other endpoints, each at the settings that are best for it: differences and intervals, no verdict word."""
    settings, found = declaration.settings, []
    for k, other in enumerate(settings.secondary):
        judged = {
            name: search.judge((one.secondary[k][1],), settings.judged_by(other), results)
            for name, one in tuned.items()
        }
        pairs = [pair for pair in declaration.pairs if "current" not in pair]
        made = contrasts(judged, pairs, 0.0, declaration.alpha, declaration.study_seed)
        kept = ("method", "versus", "difference", "interval", "interval_unadjusted", "seeds", "diverged")
        unit = "log-ratio of loss" if other[0] == "loss" else other[0]
        rows = [
            {**{name: asdict(one)[name] for name in kept}, "settings": _settings(tuned[one.method].secondary[k][1])}
            for one in made
        ]
        found.append({"endpoint": other[0], "unit": unit, "contrasts": rows})
    return found


def _time_to_target(declaration: Declaration, tuned: Mapping[str, Tuned], results: Results) -> list[dict[str, Any]]:
    """Steps to reach what the baseline reached on its tuning seeds: validation scores on the evaluation seeds."""
    settings = declaration.settings
    best = tuned[declaration.baseline].finalists[0]
    targets = ladder(search.curves(best, settings, results, settings.tuning, test=False))
    curves = {
        name: search.curves(one.finalists[0], settings, results, settings.evaluation, test=True)
        for name, one in tuned.items()
    }
    length = len(declaration.evaluations)
    whole = {name: np.pad(rows, ((0, 0), (0, length - rows.shape[1])), mode="edge") for name, rows in curves.items()}
    pairs = [pair for pair in declaration.pairs if "current" not in pair]
    found = [
        asdict(one)
        for method, versus in pairs
        for one in contrast_times((method, whole[method]), (versus, whole[versus]), declaration.evaluations, targets)
    ]
    return found


def _study_variance(declaration: Declaration, tuned: Mapping[str, Tuned], results: Results) -> dict[str, Any]:
    """What other searches and other seeds would have found (`--full`)."""
    tables = {name: search.tables(one, declaration.settings, results) for name, one in tuned.items()}
    pairs = [pair for pair in declaration.pairs if "current" not in pair]
    found = study_variance(
        {name: table[0] for name, table in tables.items()},
        {name: table[1] for name, table in tables.items()},
        pairs,
        key=declaration.study_seed,
    )
    return {
        "expected": {name: values.tolist() for name, values in found.expected.items()},
        "interval": {name: values.tolist() for name, values in found.interval.items()},
        "pairs": [
            {
                "method": method,
                "versus": versus,
                "wins": found.wins[method, versus].tolist(),
                "tuning_share": found.tuning_share[method, versus].tolist(),
                "seed_share": found.seed_share[method, versus].tolist(),
            }
            for method, versus in pairs
        ],
    }


def _contrasts(
    judged: Mapping[str, Finalists],
    pairs: Sequence[tuple[str, str]],
    declaration: Declaration,
    chosen: Mapping[str, Configuration],
) -> list[dict[str, Any]]:
    made = contrasts(judged, pairs, declaration.endpoint.margin, declaration.alpha, declaration.study_seed)
    return [{**asdict(one), "settings": _settings(chosen[one.method])} for one in made]


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
            for one, weight, mean in zip(tuned.finalists, judged.chances, means, strict=True)
        ],
        "score": float(means[0]),
        "diverged": int(judged.diverged[0].sum()),
        "trials": len(tuned.trials),
        "ranges": {name: list(bounds) for name, bounds in tuned.ranges.items()},
        "extensions": list(tuned.extensions),
        "skipped": [_settings(one) for one in tuned.skipped],
        "gradient_equivalents_per_step": registry.get(tuned.method).cost,
    }


def _inclusion(declaration: Declaration, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A method that contains another must not lose to it: if it does, the tuning failed (Choi et al. 2019)."""
    said = []
    for one in found:
        face = registry.get(one["method"]).face
        if face is not None and face.method == one["versus"] and one["verdict"] == "hurts":
            said.append(
                f"{one['method']} contains {one['versus']} (at {face.axis} {face.value:g}) and yet loses to it: its"
                " tuning failed; give it more --trials."
            )
    return said
