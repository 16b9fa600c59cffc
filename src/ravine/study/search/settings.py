"""What the search of every method in a study has in common."""

from dataclasses import dataclass, replace

from ravine.errors import UserError

SCREENING_SEEDS = 5
CLIFF_SEEDS = 15  # more, for a finalist whose neighbours lose learning
COPY_STRIDE, SCREENING_FROM, EVALUATION_FROM = 1_000_000, 1_000, 10_000


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
    def cliff(self) -> range:
        """More of the same, for finalists next to settings that lose learning."""
        return range(self.screening.stop, self.screening.stop + CLIFF_SEEDS)

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
