"""Noise that falls on schedule, by learning rate, momentum or batch size, against constant settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, line
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Finding, Table
from ravine.claims.laboratory import PILOT_SEED, Laboratory
from ravine.claims.nets import ERROR
from ravine.claims.rows import Descent, minibatches
from ravine.claims.sato.shared import MOMENTUM, NET, PAPER, RATE, Arm, judged, slopes, train
from ravine.problems.digits import digits
from ravine.schedules import Setting
from ravine.schedules.base import at
from ravine.schedules.noise import LEVERS, Lever, NoiseDecay

START = Arm("constant", RATE, MOMENTUM)
START_BATCH = 16
BALANCE = 1.503  # the authors' for batches of 16
MATCHED = "SGD at the effective lr of momentum"


@dataclass(frozen=True)
class Stages:
    """Sizes: stages of the schedules, steps of each, seeds."""

    stages: int
    stage_steps: int
    seeds: int

    @property
    def words(self) -> str:
        """In one line."""
        return f"digits, net 64-32-32-10; {self.stages} stages of {self.stage_steps} steps, {self.seeds} seeds"


STAGES: Mapping[Budget, Stages] = {"quick": Stages(20, 60, 8), "evening": Stages(20, 300, 16)}


@dataclass(frozen=True)
class Course:
    """A training whose learning rate and momentum (heavy-ball form) and batch size are numbers or schedules."""

    lr: Setting
    momentum: Setting
    batch_size: Setting

    def train(self, batches: Tensor, seeds: Sequence[int]) -> tuple[list[float], list[float]]:
        """Training losses and test errors after as many steps as there are batches, by seed.

        batches (steps, seeds, size): of each the first rows are taken.
        """
        inputs, targets = digits().train
        descent = Descent("momentum", NET.start(seeds))
        for step, batch in enumerate(batches):
            rows = batch[:, : round(at(self.batch_size, step))]
            slope = slopes(descent.rows, inputs[rows], targets[rows])
            descent.step(slope, lr=at(self.lr, step), momentum=at(self.momentum, step))
        error, loss = judged(descent.rows)
        return loss.tolist(), error.tolist()


def courses(scale: Stages, variance: float, bound: float) -> dict[str, Course]:
    """The constant course, one for each lever of `ravine.schedules.NoiseDecay`, and SGD as slow as the second lever."""

    def plan(by: Lever) -> NoiseDecay:
        sizes = (scale.stages, scale.stage_steps, START.lr, START.momentum, START_BATCH, variance, bound)
        return NoiseDecay(by, *sizes, balance=BALANCE)

    plans = {by: plan(by) for by in LEVERS}
    falling = plans["momentum"].momentum
    made = {START.label: Course(START.lr, START.momentum, START_BATCH)}
    made |= {by: Course(plan.lr, plan.momentum, plan.batch_size) for by, plan in plans.items()}
    return made | {MATCHED: Course(lambda step: START.lr / (1 - falling(step)), 0.0, START_BATCH)}


def schedules(laboratory: Laboratory) -> Evidence:
    """The noise schedules against constant settings, and against SGD of the same effective learning rate."""
    scale = STAGES[laboratory.budget]
    steps = scale.stages * scale.stage_steps
    pilot = train([START], START_BATCH, steps, range(PILOT_SEED, PILOT_SEED + 3))
    variance, bound = START_BATCH * float(pilot.batch_noise.mean()), float(pilot.bound.max()) ** 0.5
    losses: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    made = courses(scale, variance, bound)
    largest = max(round(at(course.batch_size, step)) for course in made.values() for step in range(steps))
    batches = minibatches(len(digits().train[0]), largest, steps, range(scale.seeds))
    for name, course in made.items():
        laboratory.listener.phase(f"{name}: {scale.seeds} runs of {steps:,} steps")
        losses[name], errors[name] = course.train(batches, range(scale.seeds))
    findings: list[Finding] = []
    for by in LEVERS:
        findings += [
            criteria.lower(f"Noise that falls by {by}: lower training loss", losses[by], losses[START.label]),
            criteria.less(f"Noise that falls by {by}: lower test error", errors[by], errors[START.label], ERROR),
        ]
    findings.append(
        criteria.lower(
            "As the critics ask: momentum that falls has a lower training loss than SGD with its effective lr",
            losses["momentum"],
            losses[MATCHED],
        )
    )
    rows: list[list[Cell]] = [
        [
            name,
            float(np.mean(losses[name])),
            float(np.mean(errors[name])),
            *(at(setting, steps - 1) for setting in (course.lr, course.momentum, course.batch_size)),
        ]
        for name, course in made.items()
    ]
    stages = range(0, steps, scale.stage_steps)
    effective = [
        line(name, stages, [at(course.lr, step) / (1 - at(course.momentum, step)) for step in stages])
        for name, course in made.items()
        if name != MATCHED
    ]
    shown = figure(
        effective,
        "Effective learning rate of the schedules",
        "step",
        "effective learning rate",
        points=False,
        log_y=True,
    )
    notes = [
        f"SHB from lr {START.lr:g}, momentum {START.momentum:g} and batches of {START_BATCH}; power .9, balance "
        f"{BALANCE:g}. C^2 = {variance:.3g} and K = {bound:.3g} are measured on the constant course with other seeds. "
        "Every course has the same number of steps, whatever its batches.",
        "The paper trains on CIFAR-100, a stage an epoch, and makes a new optimizer at every stage, which throws the "
        "velocity away; here it stays. The accuracies of its table are not known to us.",
    ]
    columns = ["course", "training loss", "test error", "lr at the end", "momentum at the end", "batch size at the end"]
    table = Table("At the end, means over seeds", columns, rows)
    return Evidence(findings, [table], {"Effective learning rate of the schedules": shown}, notes)


CLAIMS = (
    Claim(
        name="sato-schedules",
        sentence="Training is better if the degree of smoothing falls on schedule, by whichever of its factors.",
        source=f"{PAPER}, implicit graduated optimization; AAAI 2025 (arXiv 2412.11501)",
        plans={budget: scale.words for budget, scale in STAGES.items()},
        investigate=schedules,
    ),
)
