"""What a study will cost and what it can detect, before its first step; and how it is made to fit a given time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ravine.errors import UserError
from ravine.study import methods as registry
from ravine.study.infer import CHANCES
from ravine.study.power import detectable
from ravine.study.search import SCREENING_SEEDS, Settings
from ravine.study.space import FIRST_PROBE, probe_steps, quarter, shares

FEWEST_TRIALS, FEWEST_SEEDS, FEWEST_STEPS = 16, 10, 10
STARTING_SECONDS = 10.0  # workers start, the executor is measured, the report is written
EVALUATION_SHARE = 1.25  # a run-step with its share of evaluations, in bare run-steps
BYTES_PER_RUN = 8_000
FINALISTS = len(CHANCES)


@dataclass(frozen=True)
class Plan:
    """The cost of a study, and the smallest true difference that it finds with 80 % power (None if that is unknown)."""

    runs: int
    steps: int
    hours: float
    disk_bytes: int
    detectable: float | None
    unit: str
    executor: str
    directory: Path | None = None
    lines: list[str] = field(default_factory=list)


def count(methods: Sequence[str], settings: Settings, current: bool) -> tuple[int, int]:
    """(runs, run-steps) of a study, at most: what is best in several ways runs once.

    Without extension rounds, and without further screening where candidates fail it or lie next to settings that fail.
    """
    whole = probing = shorter = 0
    winners = len(settings.secondary)
    for name in methods:
        method = registry.get(name)
        parts = shares(settings.trials, method.face is not None)
        reused = method.face is not None and method.face.method in methods
        trials = settings.trials - (parts.face if reused else 0)
        # the equal-dimension search of a method that searches its learning rate alone is part of its trials
        several = len(method.axes) > 1
        chosen = FINALISTS + several + winners
        whole += (trials + several * quarter(settings.trials)) * settings.tuning_seeds
        whole += chosen * SCREENING_SEEDS + (chosen + 1) * settings.seeds
        probing += len(FIRST_PROBE) * settings.tuning_seeds * (1 if method.face is None or reused else 2)
        shorter += FINALISTS * (SCREENING_SEEDS + settings.seeds)
    if current:
        whole += settings.seeds
    horizon_steps = sum(settings.horizon_steps)
    runs = whole + probing + shorter * len(settings.horizon_steps)
    return runs, whole * settings.steps + probing * probe_steps(settings.steps) + shorter * horizon_steps


def seconds(run_steps: int, per_run_step: float, workers: int) -> float:
    """How long that many run-steps take with that many workers."""
    return STARTING_SECONDS + run_steps * per_run_step * EVALUATION_SHARE / workers


def fit(
    methods: Sequence[str], settings: Settings, current: bool, per_run_step: float, workers: int, time: float
) -> Settings:
    """Settings that fit into `time` seconds: fewer trials first, then fewer seeds, then fewer steps.

    Each stops at a number that leaves verdicts possible; raises UserError if even these take longer.
    """

    def fits(candidate: Settings) -> bool:
        return seconds(count(methods, candidate, current)[1], per_run_step, workers) <= time

    for name, least in (("trials", FEWEST_TRIALS), ("seeds", FEWEST_SEEDS), ("steps", FEWEST_STEPS)):
        value: int = getattr(settings, name)
        while not fits(settings) and value > least:
            value = max(least, math.floor(0.9 * value))
            settings = replace(settings, **{name: value})  # type: ignore[arg-type]
    if not fits(settings):
        needed = seconds(count(methods, settings, current)[1], per_run_step, workers)
        raise UserError(f"the smallest study takes about {needed:.0f} seconds, not {time:g}: give more --time")
    return settings


def power_of(
    values: Sequence[Sequence[Sequence[float]]], settings: Settings, margin: float, names: Sequence[str]
) -> float | None:
    """The detectable difference, guessed from the spread over seeds after a few steps of a pilot.

    values: (settings, seeds, metrics), metrics in the order of `names`, the loss first.
    """
    pilot = np.array(values, dtype=float)
    losses = pilot[:, :, 0].mean(axis=1)
    if not np.isfinite(losses).any():
        return None
    best = pilot[int(np.nanargmin(np.where(np.isfinite(losses), losses, np.nan)))][:, names.index(settings.endpoint)]
    if not np.isfinite(best).all() or (settings.endpoint == "loss" and not (best > 0).all()):
        return None
    if settings.endpoint == "loss":
        best = np.log(best)
    return float(detectable(settings.seeds, math.sqrt(2) * float(best.std(ddof=1)), margin))


def describe(plan: Plan, settings: Settings, methods: Sequence[str], workers: int, notes: Sequence[str]) -> Plan:
    """The plan with the lines that a person reads."""
    about = "about " + (f"{plan.hours * 60:.1f} minutes" if plan.hours < 1 else f"{plan.hours:.1f} hours")
    lines = [
        f"{len(methods)} methods ({', '.join(methods)}), {settings.trials} trials x {settings.tuning_seeds} tuning"
        f" seeds each, {FINALISTS} finalists x {settings.seeds} evaluation seeds, {settings.steps} steps",
        f"{plan.runs:,} runs, {plan.steps:,} run-steps, {about} on {workers} workers ({plan.executor}),"
        f" {plan.disk_bytes / 1e6:.0f} MB on disk",
    ]
    if plan.detectable is not None:
        lines.append(
            f"can detect a true difference of {plan.detectable:.3g} ({plan.unit}) with 80 % power, if seeds spread as"
            " after 20 steps"
        )
    return replace(plan, lines=[*lines, *notes])
