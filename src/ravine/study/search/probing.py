"""The range of a method's learning rate, found by powers of two."""

import math
from statistics import median

from ravine.errors import UserError
from ravine.study import space
from ravine.study.methods import Method, get
from ravine.study.search.drive import together
from ravine.study.search.requests import Configuration, Coroutine, Request, Result
from ravine.study.search.settings import Settings


def probe_all(method: Method, settings: Settings) -> Coroutine[tuple[dict[str, tuple[float, float]], list[str]]]:
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
