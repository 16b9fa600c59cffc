"""The trials of one method: what was tried, how it ranks, and which of it stands up to further seeds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from ravine.errors import WorkError
from ravine.study import space
from ravine.study.methods import Method, get
from ravine.study.search.requests import Configuration, Coroutine, Request, Result, Run
from ravine.study.search.scoring import Outcome, learns, outcome
from ravine.study.search.settings import SCREENING_SEEDS, Settings
from ravine.study.space import Box, Side

SCREENING_ROUNDS = 4  # as many candidates as are wanted in each
CLIFF_ROUNDS = 2  # after so many, a candidate that fails on the seeds at the cliff alone will do
SAME_SCORE = 12  # decimals; means of equal counts differ by rounding


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


class Search:
    """What is known of one method so far."""

    def __init__(self, method: Method, settings: Settings) -> None:
        self.method, self.settings = method, settings
        self.results: dict[Run, Result] = {}
        self.phases: dict[Configuration, str] = {}  # of the trials, in the order in which they were tried

    def judged_by(self, settings: Settings) -> "Search":
        """The same runs, ranked by another endpoint."""
        other = Search(self.method, settings)
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
        self, configurations: Iterable[Configuration], steps: int, wanted: int, at_cliff: Sequence[int] = ()
    ) -> Coroutine[tuple[list[Configuration], list[Configuration], list[str]]]:
        """The best configurations that learn on the screening seeds too, those skipped for it, and warnings.

        Three tuning seeds alone select the cliff: a learning rate that fails on one seed in five. Candidates next to
        settings that fail are screened on the seeds `at_cliff` too, for one failure among the evaluation seeds makes
        the interval several times wider; those that fail only there stand where too few others do. If none of wanted x
        SCREENING_ROUNDS candidates learns, the best by tuning score stand, with a warning.
        """
        ranked = self.ranking(configurations, steps)
        candidates = [c for c in ranked if not any(o.diverged for o in self.outcomes(c, steps))]
        screened: list[Configuration] = []
        learned: list[Configuration] = []  # on the screening seeds
        passed: list[Configuration] = []  # at the cliff too
        for number in range(SCREENING_ROUNDS):
            batch = candidates[number * wanted : (number + 1) * wanted]
            survivors = yield from self._survivors(batch, self.settings.screening, steps)
            doubtful = [c for c in survivors if at_cliff and self._at_a_cliff(c, ranked)]
            stood = yield from self._survivors(doubtful, (*self.settings.screening, *at_cliff), steps)
            screened += batch
            learned += survivors
            passed += [c for c in survivors if c not in doubtful or c in stood]
            enough = learned if number + 1 >= CLIFF_ROUNDS else passed
            if len(enough) >= wanted:
                break
        best = [*passed, *(c for c in learned if c not in passed)][:wanted]
        skipped = [c for c in screened if c not in passed and c not in best]
        if best:
            return best, skipped, []
        return ranked[:wanted], skipped, [_no_survivor(self.method.name, self.settings.tuning_seeds)]

    def _survivors(
        self, candidates: Sequence[Configuration], seeds: Sequence[int], steps: int
    ) -> Coroutine[list[Configuration]]:
        """The candidates that learn on all of the seeds."""
        yield from self.train("screen", candidates, seeds, steps)
        return [c for c in candidates if self._learns(c, seeds, steps)]

    def _learns(self, configuration: Configuration, seeds: Sequence[int], steps: int) -> bool:
        return learns([self.results[run] for run in configuration.runs(seeds, steps)])

    def _at_a_cliff(self, candidate: Configuration, tried: Iterable[Configuration]) -> bool:
        """Whether a neighbour at a larger learning rate loses learning on a tuning seed."""
        axes = get(candidate.method).axes
        return any(
            other.method == candidate.method
            and other.lr > candidate.lr
            and space.near(axes, other.hyper, candidate.hyper)
            and not self._learns(other, self.settings.tuning, self.settings.steps)
            for other in tried
        )

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


def _no_survivor(name: str, tuning_seeds: int) -> str:
    return (
        f"{name}: none of its best configurations learns on all of {SCREENING_SEEDS} further seeds, so the best on the"
        f" {tuning_seeds} tuning seeds stand; expect runs that fail."
    )
