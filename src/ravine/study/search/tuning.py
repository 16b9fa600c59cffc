"""Tunes one method: probe -> coarse -> local -> extensions -> screening -> finalists.

What `tune` asks for depends on the method, the settings and the results alone: adding a method to a study changes
nothing for the others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ravine.study import space
from ravine.study.infer import CHANCES
from ravine.study.methods import Method, get
from ravine.study.search.drive import together
from ravine.study.search.probing import probe_all
from ravine.study.search.remarks import remarks
from ravine.study.search.requests import Configuration, Coroutine
from ravine.study.search.settings import Settings
from ravine.study.search.trials import Search, Trial
from ravine.study.space import Box, Side

EXTENSIONS = 2


@dataclass(frozen=True)
class Tuned:
    """The outcome of a search.

    finalists: up to four configurations, the winner first (one on the face is of the contained method); trials: all
    that were tried, in order; ranges: (low, high) of every searched hyper-parameter, extensions included; skipped:
    configurations that lost learning on a screening seed; horizons: (steps, finalists at those steps); fixed: the
    winner of the equal-dimension search; defaults: the untuned setting; secondary: (endpoint, winner by its validation
    values).
    """

    method: str
    finalists: tuple[Configuration, ...]
    trials: tuple[Trial, ...]
    ranges: Mapping[str, tuple[float, float]]
    extensions: tuple[Side, ...]
    skipped: tuple[Configuration, ...]
    horizons: tuple[tuple[int, tuple[Configuration, ...]], ...]
    fixed: Configuration
    defaults: Configuration
    secondary: tuple[tuple[str, Configuration], ...]
    warnings: tuple[str, ...] = ()

    def trial(self, configuration: Configuration) -> Trial:
        """The trial of a configuration."""
        return next(trial for trial in self.trials if trial.configuration == configuration)


def tune(method: Method, settings: Settings) -> Coroutine[Tuned]:
    """Tunes a method within its K trials; equal settings and results give an equal outcome.

    Raises UserError if no learning rate lowers the training loss, WorkError if every configuration diverges.
    """
    search = Search(method, settings)
    parts = space.shares(settings.trials, method.face is not None)
    ranges, warnings = yield from probe_all(method, settings)
    box = space.box(method, ranges[method.name], settings.steps)

    face: list[Configuration] = []
    if method.face is not None:
        contained = get(method.face.method)
        face = _lr_points(contained, ranges[contained.name], parts.face, settings)
    unit = space.unit_points(parts.coarse, box.dimension, settings.study_seed, "coarse", settings.copy)
    coarse = [Configuration(method.name, hyper) for hyper in space.spread(box, unit)]
    yield from search.run("coarse", face + coarse)

    fixed = _lr_points(method, ranges[method.name], space.quarter(settings.trials), settings)
    yield from search.train("fixed", fixed, settings.tuning, settings.steps)

    if parts.local:
        centres = search.ranking(coarse, settings.steps)[: math.ceil(len(coarse) / 4)]
        unit = space.unit_points(parts.local, box.dimension, settings.study_seed, "local", settings.copy)
        settled = space.local(box, [centre.hyper for centre in centres], unit)
        yield from search.run("local", [Configuration(method.name, hyper) for hyper in settled])

    extensions: list[Side] = []
    while len(extensions) < EXTENSIONS and (side := search.winner_at(box)) is not None:
        extensions.append(side)
        phase, beyond = f"extension-{len(extensions)}", box.beyond(side)
        count = space.quarter(settings.trials)
        unit = space.unit_points(count, box.dimension, settings.study_seed, phase, settings.copy)
        yield from search.run(phase, [Configuration(method.name, hyper) for hyper in space.spread(beyond, unit)])
        box = box.joined(beyond)
    search.refuse_if_all_diverged()

    tried, horizons = list(search.phases), settings.horizon_steps
    wanted = len(CHANCES)
    screens = [search.screen(tried, settings.steps, wanted, settings.cliff), search.screen(fixed, settings.steps, 1)]
    screens += [search.screen(tried, steps, wanted) for steps in horizons]
    others = [settings.judged_by(other) for other in settings.secondary]
    screens += [search.judged_by(other).screen(tried, settings.steps, 1) for other in others]
    (best, skipped, screening), (equal, _, _), *rest = yield from together(screens)
    at_horizons, by_others = rest[: len(horizons)], rest[len(horizons) :]

    trials = search.trials()
    return Tuned(
        method=method.name,
        finalists=tuple(best),
        trials=trials,
        ranges=box.ranges,
        extensions=tuple(extensions),
        skipped=tuple(skipped),
        horizons=tuple((steps, tuple(passed)) for steps, (passed, _, _) in zip(horizons, at_horizons, strict=True)),
        fixed=equal[0],
        defaults=Configuration(method.name, method.defaults),
        secondary=tuple((other.endpoint, passed[0]) for other, (passed, _, _) in zip(others, by_others, strict=True)),
        warnings=(*warnings, *screening, *remarks(method, settings, box, extensions, trials, best[0])),
    )


def _lr_points(method: Method, lr: tuple[float, float], count: int, settings: Settings) -> list[Configuration]:
    """The first coarse learning rates of a method, all else at its anchor: the face, and the equal-dimension search."""
    line = Box((method.axes[0],), (lr[0],), (lr[1],))
    unit = space.unit_points(count, 1, settings.study_seed, "coarse", settings.copy)
    hypers = space.spread(line, unit)
    return [Configuration(method.name, tuple(sorted({**dict(hyper), **method.anchors}.items()))) for hyper in hypers]
