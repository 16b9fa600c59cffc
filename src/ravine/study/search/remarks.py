"""What a search has to say of its own tuning: where the best setting lies, and what more could change it."""

from collections.abc import Iterator, Sequence

from ravine.study.methods import Method
from ravine.study.search.requests import Configuration
from ravine.study.search.settings import Settings
from ravine.study.search.trials import Trial
from ravine.study.space import Box, Side


def remarks(
    method: Method,
    settings: Settings,
    box: Box,
    extensions: Sequence[Side],
    trials: Sequence[Trial],
    winner: Configuration,
) -> Iterator[str]:
    """What a reader should know: a winner at the edge of its range, many failures, too many steps or too few."""
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
