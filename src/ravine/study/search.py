"""Tunes one method: probe -> coarse -> local -> extensions -> screening -> finalists.

`tune` is a coroutine: it yields a `Request` for runs and is sent their results, so the same code runs on the real
engine, on a simulated one and on a stored table. What it asks for depends on the method, the settings and those results
alone: adding a method to a study changes nothing for the others.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Protocol, TypeAlias, TypeVar

import numpy as np

from ravine.errors import UserError, WorkError
from ravine.study import space
from ravine.study.infer import CHANCES, Finalists
from ravine.study.methods import Hyper, Method, get
from ravine.study.space import Box, Floats, Side

SCREENING_SEEDS = 5
SCREENING_ROUNDS = 4  # as many candidates as are wanted in each
EXTENSIONS = 2
DIVERGED_AT = 3.0  # times the loss at initialization: what a diverged run scores where the endpoint is a loss
SMALLEST_LOSS = float(np.finfo(np.float32).tiny)  # a loss of zero has no logarithm
SAME_SCORE = 12  # decimals; means of equal counts differ by rounding

COPY_STRIDE, SCREENING_FROM, EVALUATION_FROM = 1_000_000, 1_000, 10_000


@dataclass(frozen=True)
class Run:
    """The identity of a run; equal runs are trained once. `hyper`: the searched hyper-parameters, sorted by name."""

    method: str
    hyper: Hyper
    seed: int
    steps: int
    test: bool = False


@dataclass(frozen=True)
class Request:
    """Runs that a coroutine waits for.

    phase: "probe", "coarse", "fixed" (the equal-dimension search), "local", "extension-1", "extension-2", "screen" or
    "evaluate".
    """

    phase: str
    runs: tuple[Run, ...]


class Result(Protocol):
    """What a run gave. Curves have one value per entry of `steps`, the steps after which it was evaluated."""

    @property
    def initial_loss(self) -> float:
        """Training loss at initialization."""

    @property
    def final_train_loss(self) -> float:
        """Training loss after the last step."""

    @property
    def diverged_at(self) -> int | None:
        """The step at which the run was given up, None if it was not."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps after which the run was evaluated, ascending."""

    @property
    def validation(self) -> Mapping[str, Floats]:
        """Curves of "loss" and of every metric on the validation data."""

    @property
    def test(self) -> Mapping[str, Floats] | None:
        """The same on the test data, if the run asked for it."""


Results: TypeAlias = Mapping[Run, Result]
T = TypeVar("T")
Coroutine: TypeAlias = Generator[Request, Results, T]


@dataclass(frozen=True)
class Settings:
    """What the search of every method in a study has in common.

    endpoint: "loss" or the name of a metric, on validation data while tuning; worst: what a diverged run scores, in the
    metric's unit (None for a loss: 3 times the loss at initialization); copy: number of an independent repetition of
    the search (other points, other tuning and screening seeds, the same evaluation seeds); horizons: also find the best
    settings at T/4 and T/2 steps, which needs a constant learning rate; secondary: further endpoints (name, higher is
    better, worst), each with a best setting of its own.
    """

    trials: int
    tuning_seeds: int
    seeds: int
    steps: int
    endpoint: str
    higher_is_better: bool
    worst: float | None
    study_seed: int
    copy: int = 0
    horizons: bool = True
    secondary: tuple[tuple[str, bool, float | None], ...] = ()

    def __post_init__(self) -> None:
        if self.tuning_seeds > SCREENING_FROM:
            raise UserError(f"At most {SCREENING_FROM} tuning seeds are possible, not {self.tuning_seeds}.")
        if self.endpoint != "loss" and self.worst is None:
            raise UserError(f"The metric {self.endpoint!r} must declare its worst value, which a diverged run scores.")

    @property
    def tuning(self) -> range:
        """Seeds that choose the settings."""
        return range(self.copy * COPY_STRIDE, self.copy * COPY_STRIDE + self.tuning_seeds)

    @property
    def screening(self) -> range:
        """Further tuning seeds, on which a finalist must not lose learning."""
        first = self.copy * COPY_STRIDE + SCREENING_FROM
        return range(first, first + SCREENING_SEEDS)

    @property
    def evaluation(self) -> range:
        """Seeds that the verdict is about, the same for every method and copy."""
        return range(EVALUATION_FROM, EVALUATION_FROM + self.seeds)

    def judged_by(self, secondary: tuple[str, bool, float | None]) -> "Settings":
        """The same settings with a secondary endpoint in the place of the primary one."""
        name, higher_is_better, worst = secondary
        return replace(self, endpoint=name, higher_is_better=higher_is_better, worst=worst, secondary=())

    @property
    def horizon_steps(self) -> tuple[int, ...]:
        """T/4 and T/2, where they are steps at all."""
        return tuple(sorted({self.steps // 4, self.steps // 2} - {0})) if self.horizons else ()


@dataclass(frozen=True)
class Configuration:
    """A method with a setting of its searched hyper-parameters."""

    method: str
    hyper: Hyper

    def runs(self, seeds: Iterable[int], steps: int, test: bool = False) -> tuple[Run, ...]:
        """One run per seed."""
        return tuple(Run(self.method, self.hyper, seed, steps, test) for seed in seeds)

    @property
    def lr(self) -> float:
        """The learning rate."""
        return dict(self.hyper)["lr"]


@dataclass(frozen=True)
class Trial:
    """A configuration on the tuning seeds.

    score: mean of the best validation score, larger is better; loss: mean of the best validation loss, inf if a run
    diverged; best_step: median step of the best validation score; diverged: number of tuning runs that did.
    """

    configuration: Configuration
    phase: str
    score: float
    loss: float
    best_step: float
    diverged: int


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


# --- scores -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """A run within a horizon: score and step of its best checkpoint, least validation loss, whether it diverged."""

    score: float
    loss: float
    step: int
    diverged: bool


def worst_score(settings: Settings, initial_loss: float) -> float:
    """The score of a diverged run: the metric's worst value, or -log(3 x the loss at initialization).

    Raises UserError if a loss starts at or below zero, WorkError if it is not finite.
    """
    if settings.endpoint != "loss":
        assert settings.worst is not None  # Settings checks it
        return settings.worst if settings.higher_is_better else -settings.worst
    if not math.isfinite(initial_loss):
        raise WorkError("The loss at initialization is not finite: check the data and the initialization of the model.")
    if initial_loss <= 0:
        raise UserError(_not_positive(initial_loss))
    return -math.log(DIVERGED_AT * initial_loss)


def _not_positive(loss: float) -> str:
    return f"The loss takes the value {loss:g}, and ratios need a positive one: declare a metric as the endpoint."


def oriented(values: Floats, settings: Settings, worst: float) -> Floats:
    """Endpoint values as scores, larger is better: a metric in its unit, a loss as -log(loss); never below `worst`.

    What is not finite scores `worst`; a loss of zero counts as 1.2e-38. Raises UserError if a loss is negative.
    """
    finite = np.isfinite(values)
    if settings.endpoint == "loss":
        if (values[finite] < 0).any():
            raise UserError(_not_positive(float(values[finite].min())))
        scores = -np.log(np.clip(np.where(finite, values, 1.0), SMALLEST_LOSS, None))
    else:
        scores = np.where(finite, values, 0.0) * (1 if settings.higher_is_better else -1)
    oriented_values: Floats = np.where(finite, np.maximum(scores, worst), worst)
    return oriented_values


def outcome(result: Result, settings: Settings, steps: int, test: bool = False) -> Outcome:
    """A run within `steps` steps at its checkpoint that is best on validation, the first of equals.

    The score is the validation score there, or with `test` the test score there. A run that diverged within the horizon
    scores the worst value. Raises WorkError if the test data were asked for and not evaluated.
    """
    worst = worst_score(settings, result.initial_loss)
    seen = int(np.searchsorted(result.steps, steps, side="right"))
    diverged = result.diverged_at is not None and result.diverged_at <= steps
    if diverged or seen == 0:
        return Outcome(worst, math.inf, steps, diverged)
    scores = oriented(result.validation[settings.endpoint][:seen], settings, worst)
    at = int(np.argmax(scores))
    score = float(scores[at])
    if test:
        if result.test is None:
            raise WorkError("A run of the evaluation was stored without its test values: run the study again.")
        score = float(oriented(result.test[settings.endpoint][at : at + 1], settings, worst)[0])
    losses = result.validation["loss"][:seen]
    loss = float(np.min(np.where(np.isfinite(losses), losses, math.inf)))
    return Outcome(score, loss, result.steps[at], diverged)


def learns(results: Sequence[Result]) -> bool:
    """Whether all runs of a configuration learn: none diverged, and each one lowered its training loss.

    A run whose units died at a large step ends a little below its initial loss; so each must lower its loss by at least
    half the share that the best of them does.
    """
    if any(result.diverged_at is not None for result in results):
        return False
    gains = [
        (r.initial_loss - r.final_train_loss) / max(abs(r.initial_loss), SMALLEST_LOSS)
        if math.isfinite(r.final_train_loss)
        else -math.inf
        for r in results
    ]
    return min(gains) > 0 and min(gains) >= max(gains) / 2


# --- the search -------------------------------------------------------------------------------------------------------


def tune(method: Method, settings: Settings) -> Coroutine[Tuned]:
    """Tunes a method within its K trials; equal settings and results give an equal outcome.

    Raises UserError if no learning rate lowers the training loss, WorkError if every configuration diverges.
    """
    search = _Search(method, settings)
    parts = space.shares(settings.trials, method.face is not None)
    ranges, warnings = yield from _probe_all(method, settings)
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
    screens = [search.screen(tried, settings.steps, wanted), search.screen(fixed, settings.steps, 1)]
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
        warnings=(*warnings, *screening, *_warnings(method, settings, box, extensions, trials, best[0])),
    )


def _lr_points(method: Method, lr: tuple[float, float], count: int, settings: Settings) -> list[Configuration]:
    """The first coarse learning rates of a method, all else at its anchor: the face, and the equal-dimension search."""
    line = Box((method.axes[0],), (lr[0],), (lr[1],))
    unit = space.unit_points(count, 1, settings.study_seed, "coarse", settings.copy)
    hypers = space.spread(line, unit)
    return [Configuration(method.name, tuple(sorted({**dict(hyper), **method.anchors}.items()))) for hyper in hypers]


class _Search:
    """What is known of one method so far."""

    def __init__(self, method: Method, settings: Settings) -> None:
        self.method, self.settings = method, settings
        self.results: dict[Run, Result] = {}
        self.phases: dict[Configuration, str] = {}  # of the trials, in the order in which they were tried

    def judged_by(self, settings: Settings) -> "_Search":
        """The same runs, ranked by another endpoint."""
        other = _Search(self.method, settings)
        other.results, other.phases = self.results, self.phases
        return other

    def train(
        self, phase: str, configurations: Sequence[Configuration], seeds: Iterable[int], steps: int
    ) -> Coroutine[None]:
        """Has the configurations trained on all seeds."""
        runs = (run for configuration in configurations for run in configuration.runs(seeds, steps))
        missing = tuple(run for run in dict.fromkeys(runs) if run not in self.results)
        if missing:
            self.results.update((yield Request(phase, missing)))

    def run(self, phase: str, configurations: Sequence[Configuration]) -> Coroutine[None]:
        """Has trials trained on the tuning seeds."""
        self.phases.update((configuration, phase) for configuration in configurations)
        yield from self.train(phase, configurations, self.settings.tuning, self.settings.steps)

    def outcomes(self, configuration: Configuration, steps: int) -> list[Outcome]:
        """How a configuration did on the tuning seeds within a horizon."""
        runs = configuration.runs(self.settings.tuning, self.settings.steps)
        return [outcome(self.results[run], self.settings, steps) for run in runs]

    def ranking(self, configurations: Iterable[Configuration], steps: int) -> list[Configuration]:
        """Best first: by mean score, then mean best validation loss, then the smaller learning rate."""

        def key(configuration: Configuration) -> tuple[float, float, float]:
            outcomes = self.outcomes(configuration, steps)
            score, loss = _mean(o.score for o in outcomes), _mean(o.loss for o in outcomes)
            return -round(score, SAME_SCORE), round(loss, SAME_SCORE), configuration.lr

        return sorted(configurations, key=key)

    def winner_at(self, box: Box) -> Side | None:
        """The side of the learning rate's range that the winner is at; the face is at none."""
        winner = self.ranking(self.phases, self.settings.steps)[0]
        return box.edge(winner.hyper, self.method.axes[0]) if winner.method == self.method.name else None

    def refuse_if_all_diverged(self) -> None:
        """Raises WorkError if no run of any trial came to its end."""
        steps = self.settings.steps
        if all(o.diverged for configuration in self.phases for o in self.outcomes(configuration, steps)):
            lrs = [configuration.lr for configuration in self.phases]
            raise WorkError(
                f"Every configuration of {self.method.name} diverges within {steps} steps at learning rates from"
                f" {min(lrs):.3g} to {max(lrs):.3g}: scale the data or the loss down, clip the gradient,"
                " or leave the method out."
            )

    def screen(
        self, configurations: Iterable[Configuration], steps: int, wanted: int
    ) -> Coroutine[tuple[list[Configuration], list[Configuration], list[str]]]:
        """The best configurations that learn on the screening seeds too, those skipped for it, and warnings.

        Three tuning seeds alone select the cliff: a learning rate that fails on one seed in five. If none of
        wanted x SCREENING_ROUNDS candidates passes, the best by tuning score stand, with a warning.
        """
        ranked = self.ranking(configurations, steps)
        candidates = [c for c in ranked if not any(o.diverged for o in self.outcomes(c, steps))]
        passed: list[Configuration] = []
        skipped: list[Configuration] = []
        for first in range(0, min(len(candidates), wanted * SCREENING_ROUNDS), wanted):
            batch = candidates[first : first + wanted]
            yield from self.train("screen", batch, self.settings.screening, steps)
            for configuration in batch:
                runs = configuration.runs(self.settings.screening, steps)
                (passed if learns([self.results[run] for run in runs]) else skipped).append(configuration)
            if len(passed) >= wanted:
                return passed[:wanted], skipped, []
        if passed:
            return passed, skipped, []
        return ranked[:wanted], skipped, [_no_survivor(self.method.name, self.settings.tuning_seeds)]

    def trials(self) -> tuple[Trial, ...]:
        """The trials in the order in which they were tried."""
        return tuple(self._trial(configuration, phase) for configuration, phase in self.phases.items())

    def _trial(self, configuration: Configuration, phase: str) -> Trial:
        outcomes = self.outcomes(configuration, self.settings.steps)
        return Trial(
            configuration,
            phase,
            score=_mean(o.score for o in outcomes),
            loss=_mean(o.loss for o in outcomes),
            best_step=median(o.step for o in outcomes),
            diverged=sum(o.diverged for o in outcomes),
        )


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)


# --- the probe --------------------------------------------------------------------------------------------------------


def _probe_all(method: Method, settings: Settings) -> Coroutine[tuple[dict[str, tuple[float, float]], list[str]]]:
    """Learning rate ranges of the method and of the one that it contains, and warnings about the method's own."""
    probed = [method] if method.face is None else [method, get(method.face.method)]
    found = yield from together([probe(m, settings) for m in probed])
    return {m.name: lr for m, (lr, _) in zip(probed, found, strict=True)}, found[0][1]


def probe(method: Method, settings: Settings) -> Coroutine[tuple[tuple[float, float], list[str]]]:
    """(low, high) of the learning rate by powers of two at the anchor momentum, min(T, 50) steps and the tuning seeds.

    Raises UserError if no learning rate lowers the training loss.
    """
    steps = space.probe_steps(settings.steps)
    changes: dict[int, float] = {}
    while exponents := space.exponents_to_probe(changes):
        points = {e: _anchored(method, 2.0**e).runs(settings.tuning, steps) for e in exponents}
        results = yield Request("probe", tuple(run for runs in points.values() for run in runs))
        changes |= {e: median(_change(results[run]) for run in runs) for e, runs in points.items()}
    found = space.lr_range(changes)
    if found is None:
        raise UserError(
            f"No learning rate from {2.0 ** min(changes):.2g} to {2.0 ** max(changes):.2g} lowers the training loss in"
            f" {steps} steps: every configuration of {method.name} diverges or stands still; check the loss, the"
            " initialization and the scale of the data."
        )
    warnings = []
    if space.failing_exponent(changes) is None:
        warnings.append(
            f"{method.name}: every learning rate up to {2.0 ** max(changes):.2g} lowers the training loss, so the"
            f" range is taken around the best one, {found[0]:.2g} to {found[1]:.2g}."
        )
    return found, warnings


def _anchored(method: Method, lr: float) -> Configuration:
    return Configuration(method.name, tuple(sorted({"lr": lr, **method.anchors}.items())))


def _change(result: Result) -> float:
    """Final minus initial training loss; inf if diverged."""
    change = result.final_train_loss - result.initial_loss
    return change if result.diverged_at is None and math.isfinite(change) else math.inf


# --- warnings ---------------------------------------------------------------------------------------------------------


def _no_survivor(name: str, tuning_seeds: int) -> str:
    return (
        f"{name}: none of its best configurations learns on all of {SCREENING_SEEDS} further seeds, so the best on the"
        f" {tuning_seeds} tuning seeds stand; expect runs that fail."
    )


def _warnings(
    method: Method,
    settings: Settings,
    box: Box,
    extensions: Sequence[Side],
    trials: Sequence[Trial],
    winner: Configuration,
) -> Iterator[str]:
    if winner.method == method.name:
        values = dict(winner.hyper)
        for axis in method.axes:
            side = box.edge(winner.hyper, axis)
            if side is None or (side == "upper" and method.face is not None and axis.name == method.face.axis):
                continue  # beyond the upper end of 1 - momentum lies the face, which was tried
            low, high = box.ranges[axis.name]
            extended = f" after {len(extensions)} extensions" if extensions and axis.kind == "lr" else ""
            yield (
                f"{method.name}: the best {axis.name}, {values[axis.name]:.3g}, is at the boundary of the range"
                f" {low:.3g} to {high:.3g}{extended}; a better one may lie outside."
            )
    infeasible = sum(trial.diverged > 0 for trial in trials)
    if infeasible > len(trials) / 2:
        yield f"{method.name}: {infeasible} of {len(trials)} configurations diverged on a tuning seed: few were of use."
    best = next(trial.best_step for trial in trials if trial.configuration == winner)
    if best <= settings.steps / 10:
        yield (
            f"{method.name}: the best setting is at its best at step {best:g} of {settings.steps} and no better"
            " after it; fewer steps would do."
        )
    elif best > settings.steps * 3 / 4:
        yield (
            f"{method.name}: the best setting still improves at step {best:g} of {settings.steps}; the verdict is about"
            " this number of steps, and more may change it."
        )


# --- evaluation -------------------------------------------------------------------------------------------------------


def evaluate_request(tuned: Tuned, settings: Settings) -> Request:
    """The runs on the evaluation seeds, test data included: finalists, other winners, defaults."""
    whole = [*tuned.finalists, tuned.fixed, tuned.defaults, *(winner for _, winner in tuned.secondary)]
    wanted = [(configuration, settings.steps) for configuration in whole]
    wanted += [(configuration, steps) for steps, best in tuned.horizons for configuration in best]
    runs = (run for configuration, steps in wanted for run in configuration.runs(settings.evaluation, steps, test=True))
    return Request("evaluate", tuple(dict.fromkeys(runs)))


def judge(
    configurations: Sequence[Configuration],
    settings: Settings,
    results: Results,
    steps: int | None = None,
    trials: int | None = None,
) -> Finalists:
    """The test scores of finalists, best first, on the evaluation seeds, at the checkpoints best on validation.

    trials: how many settings their search tried; None for a setting that was given. steps: their length, T if None.
    """
    steps = settings.steps if steps is None else steps
    runs = [configuration.runs(settings.evaluation, steps, test=True) for configuration in configurations]
    outcomes = [[outcome(results[run], settings, steps, test=True) for run in row] for row in runs]
    return Finalists(
        scores=np.array([[o.score for o in row] for row in outcomes]),
        weights=np.array(CHANCES[: len(configurations)]),
        diverged=np.array([[o.diverged for o in row] for row in outcomes]),
        trials=trials,
    )


# --- running coroutines side by side ----------------------------------------------------------------------------------


def _rounds(coroutines: Sequence[Coroutine[T]]) -> Generator[list[Request], Results, list[T]]:
    """Advances all coroutines together; yields what the unfinished ones wait for, returns what all of them returned."""
    done: dict[int, T] = {}
    waiting: dict[int, Request] = {}

    def advance(i: int, step: Callable[[], Request]) -> None:
        try:
            waiting[i] = step()
        except StopIteration as stop:
            waiting.pop(i, None)
            done[i] = stop.value

    for i, coroutine in enumerate(coroutines):
        advance(i, coroutine.__next__)
    while waiting:
        results = yield list(waiting.values())
        for i, request in list(waiting.items()):
            own = {run: results[run] for run in request.runs}
            advance(i, partial(coroutines[i].send, own))
    return [done[i] for i in range(len(coroutines))]


def together(coroutines: Sequence[Coroutine[T]]) -> Coroutine[list[T]]:
    """Several coroutines in the same phase as one: their requests of a round are one request without repetitions."""
    rounds = _rounds(coroutines)
    try:
        requests = next(rounds)
        while True:
            runs = dict.fromkeys(run for request in requests for run in request.runs)
            requests = rounds.send((yield Request(requests[0].phase, tuple(runs))))
    except StopIteration as stop:
        returned: list[T] = stop.value
        return returned


def drive(coroutines: Sequence[Coroutine[T]], run: Callable[[list[Request]], Results]) -> list[T]:
    """Runs coroutines to their ends, round by round; `run` gives the results of all runs in a list of requests."""
    rounds = _rounds(coroutines)
    try:
        requests = next(rounds)
        while True:
            requests = rounds.send(run(requests))
    except StopIteration as stop:
        returned: list[T] = stop.value
        return returned


def full_request(tuned: Tuned, settings: Settings) -> Request:
    """Every trial on every evaluation seed, with test data (`--full`)."""
    configurations = [trial.configuration for trial in tuned.trials]
    runs = (run for one in configurations for run in one.runs(settings.evaluation, settings.steps, test=True))
    return Request("full", tuple(dict.fromkeys(runs)))


def tables(tuned: Tuned, settings: Settings, results: Results) -> tuple[Floats, Floats]:
    """Validation and test scores of all trials on the evaluation seeds, each (trials, seeds), after `full_request`."""
    rows = [t.configuration.runs(settings.evaluation, settings.steps, test=True) for t in tuned.trials]
    kinds = (False, True)
    validation, test = (
        np.array([[outcome(results[run], settings, settings.steps, test=kind).score for run in row] for row in rows])
        for kind in kinds
    )
    return validation, test


def curves(
    configuration: Configuration, settings: Settings, results: Results, seeds: Iterable[int], test: bool
) -> Floats:
    """Validation scores at every evaluation, (seeds, evaluations); from a divergence on, the worst score."""
    runs = configuration.runs(seeds, settings.steps, test)
    found = []
    for run in runs:
        result = results[run]
        worst = worst_score(settings, result.initial_loss)
        scores = oriented(result.validation[settings.endpoint], settings, worst)
        found.append(scores if result.diverged_at is None else np.append(scores[:-1], worst))
    length = max(map(len, found))
    return np.array([np.append(scores, np.full(length - len(scores), scores[-1])) for scores in found])
