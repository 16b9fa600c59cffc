"""Sato and Iiduka, "Role of momentum in smoothing the objective function", 2024, and its sequel of AAAI 2025.

SHB is momentum in heavy-ball form, NSHB in EMA form. The noise of the search direction d is |d - G|^2, where G is the
gradient of all examples; the degree of smoothing is the learning rate times its root. Reviewers of a later version
asked whether that explains more than the effective learning rate lr / (1 - momentum) does: their comparison stands
beside the claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import torch
from torch import Tensor

from ravine import measure
from ravine.claims import criteria
from ravine.claims.charts import figure, line, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Finding, Table
from ravine.claims.laboratory import PILOT_SEED, Laboratory
from ravine.claims.rows import DenseNets, Descent, accuracy, cross_entropy, gradients, minibatches
from ravine.problems.digits import digits
from ravine.schedules import Setting
from ravine.schedules.base import at
from ravine.schedules.noise import LEVERS, Lever, NoiseDecay, degree_of_smoothing

PAPER = "Sato and Iiduka 2024 (arXiv 2402.02325)"
NET = DenseNets((64, 32, 32, 10))
MOMENTUM = 0.9
MEASUREMENTS = 50  # of a training, all in its second half
ERRORS = "test errors, a share"


@dataclass(frozen=True)
class Arm:
    """A method: SGD (momentum 0), SHB, or in EMA form NSHB; lr as its form has it."""

    label: str
    lr: float
    momentum: float = 0.0
    ema: bool = False

    @property
    def heavy_ball_lr(self) -> float:
        """The learning rate of the same method in heavy-ball form."""
        return self.lr * (1 - self.momentum) if self.ema else self.lr


@dataclass(frozen=True)
class Trained:
    """What came of arms on seeds, (arms, seeds) each, taken over the second half of the training.

    noise: mean |d - G|^2. batch_noise: mean |g - G|^2 of the mini-batch's gradient g, the paper's C^2 / b. bound: the
    largest |G|^2, its K^2. error: share of wrong test digits. loss: on all training rows.
    """

    noise: Tensor
    batch_noise: Tensor
    bound: Tensor
    error: Tensor
    loss: Tensor


def train(arms: Sequence[Arm], batch_size: int, steps: int, seeds: Sequence[int]) -> Trained:
    """All arms on all seeds at once; a seed fixes start and mini-batches of every arm."""
    inputs, targets = digits().train
    batches = minibatches(len(inputs), batch_size, steps, seeds)
    lr, momentum, own_lr = (
        torch.tensor(values).repeat_interleave(len(seeds))
        for values in zip(*((arm.heavy_ball_lr, arm.momentum, arm.lr) for arm in arms), strict=True)
    )
    descent = Descent("momentum", NET.start(seeds).repeat(len(arms), 1), lr=lr, momentum=momentum)
    directions, slopes, full = [], [], []
    every = max(steps // (2 * MEASUREMENTS), 1)
    for step, batch in enumerate(batches):
        x, y = inputs[batch].repeat(len(arms), 1, 1), targets[batch].repeat(len(arms), 1)
        slope = _slopes(descent.rows, x, y)
        before = descent.rows.clone()
        descent.step(slope)
        if step >= steps // 2 and step % every == 0:
            directions.append((before - descent.rows) / own_lr[:, None])
            slopes.append(slope)
            full.append(_slopes(before, inputs, targets))
    shape = (len(arms), len(seeds))
    noise, batch_noise = (
        torch.tensor([_noise(taken, full, run) for run in range(len(lr))]).view(shape) for taken in (directions, slopes)
    )
    bound = torch.stack([one.square().sum(1) for one in full]).amax(0).view(shape)
    error, loss = _judged(descent.rows)
    return Trained(noise, batch_noise, bound.double(), error.view(shape), loss.view(shape))


def _slopes(rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return gradients(lambda leaf: cross_entropy(NET.outputs(leaf, x), y), rows)[1]


def _noise(taken: Sequence[Tensor], full: Sequence[Tensor], run: int) -> float:
    return measure.search_direction_noise([one[run] for one in taken], [one[run] for one in full]).value


def _judged(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Test error and training loss (runs,); 1 and infinite for a run that diverged."""
    problem = digits()
    loss = cross_entropy(NET.outputs(rows, problem.train[0]), problem.train[1]).double()
    error = 1 - accuracy(NET.outputs(rows, problem.test[0]), problem.test[1])
    return torch.where(loss.isfinite(), error, 1.0), torch.where(loss.isfinite(), loss, torch.inf)


# The noise of the search direction and its bounds.


@dataclass(frozen=True)
class Scale:
    """Sizes: steps of a training, and seeds."""

    steps: int
    seeds: int

    @property
    def words(self) -> str:
        """In one line."""
        return f"digits, net 64-32-32-10; {self.steps:,} steps, {self.seeds} seeds"


SCALES: Mapping[Budget, Scale] = {"quick": Scale(1_000, 8), "evening": Scale(10_000, 20)}
BATCHES = (8, 128)
NOISE_ARMS = (
    Arm("SGD", 0.05),
    Arm("SHB", 0.005, MOMENTUM),
    Arm("NSHB", 0.05, MOMENTUM, ema=True),
)
"""At the same effective learning rate."""


def bounds(arm: Arm, batch_noise: Tensor, bound: Tensor) -> Tensor:
    """The paper's upper bound of the noise of an arm's direction, from C^2 / b and K^2; of NSHB that of v1 to v3."""
    if arm.ema:
        return batch_noise + 4 * arm.momentum**2 * (batch_noise + bound)
    pairs = zip(batch_noise.tolist(), bound.tolist(), strict=True)
    return torch.tensor([degree_of_smoothing(1.0, arm.momentum, 1, c, k**0.5) ** 2 for c, k in pairs])


def noise(laboratory: Laboratory) -> Evidence:
    """The noise of SGD, SHB and NSHB at two batch sizes."""
    scale = SCALES[laboratory.budget]
    found: dict[int, Trained] = {}
    for batch_size in BATCHES:
        laboratory.listener.phase(f"batches of {batch_size}: {len(NOISE_ARMS) * scale.seeds} runs")
        found[batch_size] = train(NOISE_ARMS, batch_size, scale.steps, range(scale.seeds))
    findings: list[Finding] = []
    rows: list[list[Cell]] = []
    for batch_size, trained in found.items():
        sgd, shb, nshb = trained.noise
        words = f"batches of {batch_size}"
        findings += [
            criteria.below(
                f"{words}: SHB has more noise than SGD", (sgd / shb).tolist(), 1.0, "SGD's over SHB's noise"
            ),
            criteria.below(
                f"{words}: NSHB has more noise than SGD, as its bound has",
                (sgd / nshb).tolist(),
                1.0,
                "SGD's over NSHB's",
            ),
        ]
        for k, arm in enumerate(NOISE_ARMS):
            limit = bounds(arm, trained.batch_noise[k], trained.bound[k])
            if arm.momentum:
                findings.append(
                    criteria.below(
                        f"{words}: the noise of {arm.label} is below its bound",
                        (trained.noise[k] / limit).tolist(),
                        1.0,
                        "noise over bound",
                    )
                )
            rows.append([batch_size, arm.label, arm.lr, float(trained.noise[k].mean()), float(limit.mean())])
    few, many = (found[batch_size].noise for batch_size in BATCHES)
    ratio = BATCHES[0] / BATCHES[1]
    findings.append(
        criteria.above(
            f"From batches of {BATCHES[0]} to {BATCHES[1]} the noise of SHB falls much less than SGD's, to {ratio:.3g}",
            (many[1] / few[1]).tolist(),
            2 * ratio,
            "share of SHB's noise that is left",
        )
    )
    shown = figure(
        [
            series(arm.label, BATCHES, [found[batch_size].noise[k].tolist() for batch_size in BATCHES])
            for k, arm in enumerate(NOISE_ARMS)
        ],
        "Noise of the search direction by batch size",
        "batch size",
        "mean |d - G|^2",
        log_x=True,
        log_y=True,
    )
    notes = [
        f"At the same effective learning rate, {NOISE_ARMS[0].lr:g}. C^2 / b and K^2 are measured: the mean noise of "
        "the mini-batch's gradient, and the largest |G|^2. Of SGD the bound is an identity.",
        "The bound of NSHB is that of the first three versions; in later ones it goes to 0 with the batch, as SGD's. "
        "The paper measures ResNet18 and WRN-28-10 on CIFAR-100.",
    ]
    columns = ["batch size", "method", "lr", "noise", "bound"]
    table = Table("Noise of the search direction, means over seeds", columns, rows)
    return Evidence(findings, [table], {"Noise by batch size": shown}, notes)


# Degree of smoothing against test accuracy, at equal and at matched learning rates.

RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
GRID_BATCHES = (8, 32, 128)
LARGE = GRID_BATCHES[-1]
RATE = 0.1  # the paper's
GRID = tuple(Arm(label, rate, momentum) for label, momentum in (("SGD", 0.0), ("SHB", MOMENTUM)) for rate in RATES)


def smoothing(laboratory: Laboratory) -> Evidence:
    """Test errors of SGD and SHB over learning rates and batch sizes."""
    scale = SCALES[laboratory.budget]
    found: dict[int, Trained] = {}
    for batch_size in GRID_BATCHES:
        laboratory.listener.phase(f"batches of {batch_size}: {len(GRID) * scale.seeds} runs")
        found[batch_size] = train(GRID, batch_size, scale.steps, range(scale.seeds))
    pilot = train(GRID, LARGE, scale.steps, range(PILOT_SEED, PILOT_SEED + 3)).error.mean(1)
    best = {
        label: min((k for k, arm in enumerate(GRID) if arm.label == label), key=lambda k: float(pilot[k]))
        for label in ("SGD", "SHB")
    }

    def errors(arm: Arm) -> list[float]:
        taken: list[float] = found[LARGE].error[GRID.index(arm)].tolist()
        return taken

    def compared(words: str, shb: Arm, sgd: Arm) -> Finding:
        return criteria.less(f"{words}: SHB errs less than SGD", errors(shb), errors(sgd), ERRORS)

    shb = Arm("SHB", RATE, MOMENTUM)
    slow = Arm("SHB", RATES[RATES.index(RATE) - 2], MOMENTUM)  # whose effective learning rate is RATE
    chosen = {label: GRID[k] for label, k in best.items()}
    smoothed, bounded, effective = _smoothing(found), _bounds(found), _effective(found)
    explained = {
        "degree of smoothing, measured": _explained(found, smoothed),
        "degree of smoothing, by its formula": _explained(found, bounded),
        "effective learning rate": _explained(found, effective),
    }
    findings = [
        compared(f"Batches of {LARGE}, both at lr {RATE:g}, as in the paper", shb, Arm("SGD", RATE)),
        compared(f"Batches of {LARGE}, both at effective lr {RATE:g}, as the critics ask", slow, Arm("SGD", RATE)),
        compared(
            f"Batches of {LARGE}, each at its best lr ({chosen['SHB'].lr:g} and {chosen['SGD'].lr:g})",
            chosen["SHB"],
            chosen["SGD"],
        ),
        criteria.less(
            "Over all runs the degree of smoothing explains the test error better than the effective learning rate",
            explained["effective learning rate"],
            explained["degree of smoothing, measured"],
            "shares of the variance explained (R^2)",
        ),
    ]
    rows: list[list[Cell]] = [
        [
            batch_size,
            arm.label,
            *(float(found[batch_size].error[GRID.index(Arm(arm.label, rate, arm.momentum))].mean()) for rate in RATES),
        ]
        for batch_size in GRID_BATCHES
        for arm in (GRID[0], GRID[-1])
    ]
    table = Table("Test error by learning rate, means over seeds", ["batch size", "method", *map(str, RATES)], rows)
    fit = Table(
        "Share of the variance of the test error that a quadratic in the logarithm explains, mean over seeds",
        list(explained),
        [[float(np.mean(shares)) for shares in explained.values()]],
    )
    notes = [
        "The paper trains ResNet18 and WRN-28-10 on CIFAR-100 for 200 epochs at lr .1 and momentum .9. Here all batch "
        "sizes have the same number of steps, so that batch size is not confounded with the number of updates.",
        "At the same lr SHB has ten times the effective learning rate. The best lr are chosen on other seeds. Runs "
        "that end above the loss of guessing are left out of the fits and of the figures.",
        "The degree of smoothing is measured in the second half of a training, where runs that fit have less noise. "
        f"That of the paper's formula has one C^2 and one K for all, here those of SGD at lr {RATE:g}; it is shown and "
        "not judged.",
    ]
    figures = {
        "Test error by degree of smoothing": _plotted(found, smoothed, "degree of smoothing, lr sqrt(mean |d - G|^2)"),
        "Test error by the formula of the degree of smoothing": _plotted(
            found, bounded, "degree of smoothing, formula"
        ),
        "Test error by effective learning rate": _plotted(found, effective, "effective learning rate"),
    }
    return Evidence(findings, [table, fit], figures, notes)


Values = Mapping[int, Tensor]
"""Of each batch size, (arms of GRID, seeds)."""


def _smoothing(found: Mapping[int, Trained]) -> Values:
    rates = torch.tensor([[arm.lr] for arm in GRID], dtype=torch.float64)
    return {batch_size: rates * trained.noise.sqrt() for batch_size, trained in found.items()}


def _bounds(found: Mapping[int, Trained]) -> Values:
    """The degree of smoothing that the paper's formula gives, with one C^2 and one K for all: of SGD at RATE."""
    few, place = min(found), GRID.index(Arm("SGD", RATE))
    variance, bound = few * float(found[few].batch_noise[place].mean()), float(found[few].bound[place].max()) ** 0.5
    return {
        b: torch.tensor(
            [[degree_of_smoothing(arm.lr, arm.momentum, b, variance, bound)] for arm in GRID], dtype=torch.float64
        ).expand_as(trained.error)
        for b, trained in found.items()
    }


def _effective(found: Mapping[int, Trained]) -> Values:
    rates = torch.tensor([[arm.lr / (1 - arm.momentum)] for arm in GRID], dtype=torch.float64)
    return {batch_size: rates.expand_as(trained.error) for batch_size, trained in found.items()}


def _explained(found: Mapping[int, Trained], values: Values) -> list[float]:
    """R^2 of the quadratic in log(x) that fits the test errors of all learning runs best; of each seed."""
    shares = []
    for seed in range(next(iter(found.values())).error.shape[1]):
        pairs = [
            (float(values[batch_size][arm, seed]), float(trained.error[arm, seed]))
            for batch_size, trained in found.items()
            for arm in range(len(GRID))
            if float(trained.loss[arm, seed]) < np.log(10)
        ]
        x, y = np.log([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
        left = y - np.polyval(np.polyfit(x, y, 2), x)
        shares.append(float(1 - left.var() / y.var()))
    return shares


def _plotted(found: Mapping[int, Trained], values: Values, x: str) -> alt.LayerChart:
    """Test errors of the settings that learn on all seeds, a line a method and batch size."""
    parts = []
    for batch_size, trained in found.items():
        learns = (trained.loss < np.log(10)).all(1)
        for label in ("SGD", "SHB"):
            arms = [k for k, arm in enumerate(GRID) if arm.label == label and learns[k]]
            taken = [trained.error[k].tolist() for k in arms]
            parts.append(
                series(f"{label}, b = {batch_size}", [float(values[batch_size][k].mean()) for k in arms], taken)
            )
    return figure(parts, f"Test error against the {x}", x, "test error", log_x=True, log_y=True)


# Noise that falls on schedule.

START = Arm("constant", RATE, MOMENTUM)
START_BATCH = 16
BALANCE = 1.503  # the authors' for batches of 16


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
            slopes = _slopes(descent.rows, inputs[rows], targets[rows])
            descent.step(slopes, lr=at(self.lr, step), momentum=at(self.momentum, step))
        error, loss = _judged(descent.rows)
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


MATCHED = "SGD at the effective lr of momentum"


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
            criteria.less(f"Noise that falls by {by}: lower test error", errors[by], errors[START.label], ERRORS),
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
        name="sato-noise",
        sentence="Momentum adds noise to the search direction, as its bounds tell, and at large batches it stays.",
        source=f"{PAPER}, search-direction noise",
        plans={budget: scale.words for budget, scale in SCALES.items()},
        investigate=noise,
    ),
    Claim(
        name="sato-smoothing",
        sentence="How well a run generalizes is told by its degree of smoothing, so that SHB wins at large batches.",
        source=f"{PAPER}, degree of smoothing and test accuracy",
        plans={budget: scale.words for budget, scale in SCALES.items()},
        investigate=smoothing,
    ),
    Claim(
        name="sato-schedules",
        sentence="Training is better if the degree of smoothing falls on schedule, by whichever of its factors.",
        source=f"{PAPER}, implicit graduated optimization; AAAI 2025 (arXiv 2412.11501)",
        plans={budget: scale.words for budget, scale in STAGES.items()},
        investigate=schedules,
    ),
)
