"""Simulated training: runs answered by formulas in place of networks, so that the search has a known truth."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ravine.study.runner import Curves
from ravine.study.search import Request, Run, Settings

SETTINGS = Settings(
    trials=64,
    tuning_seeds=3,
    seeds=6,
    steps=400,
    endpoint="accuracy",
    higher_is_better=True,
    worst=0.0,
    study_seed=0,
)
LOSS = replace(SETTINGS, endpoint="loss", higher_is_better=False, worst=None)


def uniform(*words: object) -> float:
    """A number in [0, 1) that depends on the words alone."""
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def complement(run: Run) -> float:
    """1 - momentum of a run, 1 for a method without."""
    values = dict(run.hyper)
    return 1 - values.get("momentum", values.get("beta1", 0.0))


def lr(run: Run) -> float:
    return dict(run.hyper)["lr"]


def constant(
    run: Run, accuracy: float, loss: float = 1.0, initial: float = 2.0, diverged_at: int | None = None
) -> Curves:
    """A run with the same accuracy and loss at each of ten evaluations."""
    steps = tuple(sorted({max(1, run.steps * i // 10) for i in range(1, 11)}))
    curves = {"accuracy": np.full(len(steps), accuracy), "loss": np.full(len(steps), loss)}
    return Curves(initial, loss, diverged_at, steps, curves, curves if run.test else None)


@dataclass(frozen=True)
class Surface:
    """A response that is smooth in (log of the effective learning rate, log(1 - momentum)) up to a limit.

    Training fails at lr >= limit (1 + momentum) and diverges at four times that. Seeds shift the accuracy of all
    methods alike; `spread` is the size of that, `noise` of what a run has for itself. From `cliff` times the limit
    upwards a share `lottery` of the seeds loses learning, though the accuracy of the others is the higher for it.
    """

    best: float = 0.1  # effective learning rate
    best_complement: float = 0.1
    limit: float = 1.3
    spread: float = 0.01
    noise: float = 0.002
    cliff: float = math.inf
    lottery: float = 0.3

    def quality(self, run: Run) -> float:
        c = complement(run)
        distance = math.log(lr(run) / c / self.best) ** 2 + 0.2 * math.log(c / self.best_complement) ** 2
        return math.exp(-0.02 * distance)

    def limit_of(self, run: Run) -> float:
        return self.limit * (2 - complement(run))

    def __call__(self, run: Run) -> Curves:
        steps = tuple(sorted({max(1, run.steps * i // 20) for i in range(1, 21)}))
        relative = lr(run) / self.limit_of(run)
        on_cliff = relative >= self.cliff
        failed = relative >= 1 or (on_cliff and uniform("cliff", run.seed, run.hyper) < self.lottery)
        grown = 1 - np.exp(-0.02 * np.array(steps))
        quality = (0.0 if failed else self.quality(run)) * grown
        shift = self.spread * uniform("seed", run.seed) + self.noise * uniform("run", run)
        accuracy = 0.1 + 0.85 * quality + shift + 0.03 * on_cliff * (not failed)
        loss = 2.3 * (1 + 0.001 * failed - 0.95 * quality)
        curves = {"accuracy": accuracy, "loss": loss}
        diverged_at = max(1, run.steps // 10) if relative >= 4 else None
        return Curves(2.3, float(loss[-1]), diverged_at, steps, curves, curves if run.test else None)


def gradient_descent(curvature: float) -> Callable[[Run], Curves]:
    """Heavy ball (gradient descent at momentum 0) on curvature x^2 / 2 from x = 1, in closed form.

    v' = b v + h x, x' = x - lr v': the state (x, v) is multiplied by one matrix each step.
    """

    def run_it(run: Run) -> Curves:
        h, b, eta = curvature, 1 - complement(run), lr(run)
        step = np.array([[1 - eta * h, -eta * b], [h, b]])
        with np.errstate(over="ignore", invalid="ignore"):
            x = float((np.linalg.matrix_power(step, run.steps) @ np.array([1.0, 0.0]))[0])
            loss = h * x * x / 2 if math.isfinite(x) else math.inf
        curves = {"loss": np.array([loss])}
        return Curves(h / 2, loss, None, (run.steps,), curves, curves if run.test else None)

    return run_it


@dataclass
class Engine:
    """Trains what is asked for once, and remembers the rounds."""

    train: Callable[[Run], Curves]
    rounds: list[list[Request]] = field(default_factory=list)
    stored: dict[Run, Curves] = field(default_factory=dict)

    def __call__(self, requests: list[Request]) -> Mapping[Run, Curves]:
        self.rounds.append(requests)
        for request in requests:
            self.stored.update((run, self.train(run)) for run in request.runs if run not in self.stored)
        return self.stored

    def asked(self, phase: str) -> list[Run]:
        return [
            run for requests in self.rounds for request in requests if request.phase == phase for run in request.runs
        ]
