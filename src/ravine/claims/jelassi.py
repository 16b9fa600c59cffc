"""Jelassi and Li, "Towards understanding how momentum improves generalization in deep learning", ICML 2022.

Momentum is in EMA form, G <- g G + (1 - g) grad, W <- W - eta G, so that gradient descent and momentum have the same
eta and the same effective learning rate. The sizes are ours: the paper's asymptotic scalings allow many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.laboratory import PILOT_SEED, Laboratory
from ravine.claims.rows import DenseNets, Descent, accuracy, cross_entropy, gradients
from ravine.problems.digits import digits

PAPER = "Jelassi and Li, ICML 2022 (arXiv 2207.05931)"
CHANCE = 0.6  # accuracies below count as guessing between two classes

# Small-margin data: Sec. 3 and 4, Theorems.

ALPHA, BETA = 2.0, 0.1  # strength of the feature in examples of large and of small margin
SMALL_SHARE = 0.1
NOISE = 0.3  # standard deviation of the noise patches
START = 0.02  # standard deviation of the initial weights
NEURONS = 5
ETA = 0.5
OTHER_ETAS = (0.05, 2.0, 10.0)  # for the control that the learning rate does not do it
GAMMAS = (0.9, 0.99, 0.998)


@dataclass(frozen=True)
class Margins:
    """Sizes of the small-margin experiment."""

    dimension: int
    examples: int
    patches: int
    steps: int
    seeds: int
    gammas: Sequence[float] = GAMMAS
    tests: int = 4_000

    @property
    def words(self) -> str:
        """In one line."""
        size = f"{self.examples} examples of {self.patches} patches in {self.dimension} dimensions"
        return f"{size}; {self.steps:,} full-batch steps, {self.seeds} seeds"


MARGINS: Mapping[Budget, Margins] = {
    "quick": Margins(100, 200, 3, 5_000, 8),
    "evening": Margins(200, 500, 3, 10_000, 20, (0.5, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998)),
}


@dataclass(frozen=True)
class Patches:
    """Examples of several seeds, in coordinates whose first is the feature w_star.

    label (seeds, examples) +-1; signal (seeds, examples), the patch label * ALPHA or label * BETA times w_star;
    small (seeds, examples), whether it is BETA; noise (seeds, examples, patches - 1, dimension - 1), the other patches,
    which are orthogonal to w_star. Where the signal's patch stands does not matter to a sum over patches.
    """

    label: Tensor
    signal: Tensor
    small: Tensor
    noise: Tensor


def draw(seeds: Sequence[int], scale: Margins, examples: int, share: float) -> Patches:
    """Examples of each seed, a share of them with a small margin."""
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        label = 2.0 * torch.randint(2, (examples,), generator=generator) - 1
        small = torch.rand(examples, generator=generator) < share
        noise = NOISE * torch.randn(examples, scale.patches - 1, scale.dimension - 1, generator=generator)
        drawn.append((label, label * torch.where(small, BETA, ALPHA), small, noise))
    return Patches(*(torch.stack(parts) for parts in zip(*drawn, strict=True)))


def parts_of_output(rows: Tensor, patches: Patches) -> tuple[Tensor, Tensor]:
    """What the feature and what the noise adds to f(X) = sum of <w_r, X_j>^3 over neurons r and patches j.

    rows (seeds, arms, NEURONS, dimension); both of shape (seeds, arms, examples).
    """
    seeds, arms, neurons, dimension = rows.shape
    along = patches.signal[:, None, :, None] * rows[:, :, None, :, 0]
    flat = patches.noise.flatten(1, 2)
    across = flat @ rows[..., 1:].reshape(seeds, arms * neurons, dimension - 1).mT
    examples = patches.label.shape[1]
    cubes = (across * across * across).view(seeds, examples, -1, arms, neurons).sum((2, 4))
    return (along * along * along).sum(-1), cubes.mT


@dataclass(frozen=True)
class MarginArm:
    """One way to train: momentum (0: gradient descent), learning rate, and the examples that it sees."""

    label: str
    gamma: float
    eta: float = ETA
    sees: str = "all"


def margin_arms(gammas: Sequence[float]) -> list[MarginArm]:
    """Gradient descent and momenta, then the controls."""
    most = max(gammas)
    return [
        MarginArm("GD", 0.0),
        *(MarginArm(f"GD+M {gamma:g}", gamma) for gamma in gammas),
        *(MarginArm(f"GD, eta {eta:g}", 0.0, eta) for eta in OTHER_ETAS),
        MarginArm(f"GD+M {most:g}, small margins alone", most, sees="small"),
        MarginArm("GD, large margins alone", 0.0, sees="large"),
        MarginArm(f"GD+M {most:g}, large margins alone", most, sees="large"),
    ]


@dataclass(frozen=True)
class Learnt:
    """What the arms have learnt, by arm and seed: (arms, seeds) each.

    fitted: accuracy on the training examples that the arm sees. small, large: test accuracies by margin. feature: the
    largest <w_r, w_star>. noise_share: how much of y f(X) of the small-margin training examples comes from their noise.
    curve: (times, arms, seeds) the feature along the training, every so many steps.
    """

    fitted: Tensor
    small: Tensor
    large: Tensor
    feature: Tensor
    noise_share: Tensor
    curve: Tensor
    every: int


def train_margins(arms: Sequence[MarginArm], scale: Margins, seeds: Sequence[int]) -> Learnt:
    """All arms on all seeds, from the same weights of a seed."""
    data = draw(seeds, scale, scale.examples, SMALL_SHARE)
    shape = (len(seeds), len(arms), NEURONS, scale.dimension)
    weight = torch.stack([_weights(data, arm.sees) for arm in arms], 1)
    first = torch.stack(
        [torch.randn(shape[2:], generator=torch.Generator().manual_seed(2**32 + seed)) for seed in seeds]
    )
    start = (START * first)[:, None].expand(shape).reshape(-1, NEURONS * scale.dimension)

    def losses(rows: Tensor) -> Tensor:
        along, across = parts_of_output(rows.view(shape), data)
        return (softplus(-data.label[:, None] * (along + across)) * weight).sum(-1).flatten()

    each = torch.tensor([(arm.eta, arm.gamma) for arm in arms]).repeat(len(seeds), 1)
    descent = Descent("ema-momentum", start, lr=each[:, 0], momentum=each[:, 1])
    every, curve = max(scale.steps // 100, 1), []
    for step in range(scale.steps):
        if step % every == 0:
            curve.append(_feature(descent.rows.view(shape)))
        descent.step(gradients(losses, descent.rows)[1])
    rows = descent.rows.view(shape)
    tests = draw([PILOT_SEED + seed for seed in seeds], scale, scale.tests, 0.5)
    right = _right(rows, tests)
    along, across = (_mean(part * data.label[:, None], data.small) for part in parts_of_output(rows, data))
    return Learnt(
        fitted=(_right(rows, data) * weight).sum(-1).T,
        small=_mean(right, tests.small).T,
        large=_mean(right, ~tests.small).T,
        feature=_feature(rows).T,
        noise_share=(across / (along + across)).T,
        curve=torch.stack(curve).mT,
        every=every,
    )


def _weights(data: Patches, sees: str) -> Tensor:
    """(seeds, examples): the share of each example in the loss."""
    seen = {"all": torch.ones_like(data.small), "small": data.small, "large": ~data.small}[sees].float()
    return seen / seen.sum(1, keepdim=True)


def _right(rows: Tensor, patches: Patches) -> Tensor:
    """(seeds, arms, examples), 1 where the sign of f(X) is the label."""
    along, across = parts_of_output(rows, patches)
    return ((along + across) * patches.label[:, None] > 0).float()


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """(seeds, arms): the mean of values (seeds, arms, examples) over some examples of each seed."""
    return (values * where[:, None]).sum(-1) / where.sum(-1)[:, None]


def _feature(rows: Tensor) -> Tensor:
    """(seeds, arms): the largest <w_r, w_star>."""
    return rows[..., 0].amax(-1)


def margin(laboratory: Laboratory) -> Evidence:
    """Small-margin data, with the controls: learning rate, small margins alone, large margins alone."""
    scale = MARGINS[laboratory.budget]
    arms = margin_arms(scale.gammas)
    laboratory.listener.phase(f"{len(arms) * scale.seeds} runs of {scale.steps:,} steps")
    learnt = train_margins(arms, scale, range(scale.seeds))
    places = {arm.label: k for k, arm in enumerate(arms)}
    most = f"GD+M {max(scale.gammas):g}"

    def small(label: str) -> list[float]:
        return learnt.small[places[label]].tolist()

    both = torch.minimum(learnt.fitted[0], learnt.fitted[places[most]])
    large = torch.minimum(learnt.large[0], learnt.large[places[most]])
    worst = [max(of) for of in zip(*(small(f"GD, eta {eta:g}") for eta in OTHER_ETAS), strict=True)]
    alone = torch.minimum(*(learnt.large[places[f"{label}, large margins alone"]] for label in ("GD", most)))
    unit = "accuracy on small margins"
    findings = [
        criteria.above(f"GD and {most} fit the training data", both.tolist(), 0.99, "lower training accuracy"),
        criteria.above(f"GD and {most} learn the large margins", large.tolist(), 0.99, "lower test accuracy"),
        criteria.below("GD guesses on test data of small margin", small("GD"), CHANCE, unit),
        criteria.above(f"{most} classifies test data of small margin", small(most), 0.75, unit),
        criteria.less(f"{most} is better there than GD", _errors(small(most)), _errors(small("GD")), "test error"),
        criteria.above(
            "GD fits the small-margin data through their noise",
            learnt.noise_share[0].tolist(),
            0.5,
            "share of the noise in their training margin",
        ),
        criteria.less(
            f"GD's feature stays smaller than that of {most}",
            learnt.feature[0].tolist(),
            learnt.feature[places[most]].tolist(),
            "the largest <w, w*>",
        ),
        criteria.below(f"Control: GD guesses at eta {_listed(OTHER_ETAS)}, too", worst, CHANCE, f"largest {unit}"),
        criteria.below(
            f"Control: {most} trained on the small margins alone guesses, so the large ones carry it",
            small(f"{most}, small margins alone"),
            CHANCE,
            unit,
        ),
        criteria.above(
            "Control: trained on the large margins alone both classify them",
            alone.tolist(),
            0.99,
            "lower test accuracy",
        ),
    ]
    columns = ["arm", "training", "test, large", "test, small", "lowest to highest", "feature", "coasting length"]
    table = Table(
        "Accuracies and feature, means over seeds", columns, [_row(arm, learnt, k) for k, arm in enumerate(arms)]
    )
    notes = [
        "The paper states theorems for growing dimension, and no table for these sizes. Coasting length is "
        "sqrt(2 eta / (1 - g)), how far the velocity at 1 / ALPHA carries the feature: our estimate, not the paper's. "
        f"Momentum is expected to help once that passes about 1 / BETA = {1 / BETA:g}, for which .9 is too small.",
        f"eta {ETA:g} in EMA form, ALPHA {ALPHA:g}, BETA {BETA:g}, {SMALL_SHARE:.0%} small margins, noise {NOISE:g}, "
        f"{NEURONS} neurons; no weight decay, for which the paper has a tiny one.",
        f"One start in {2**NEURONS} has no neuron along the feature. From there GD does not learn it, not even of the "
        "large margins; with many neurons, as in the paper, there is no such start.",
    ]
    trained = [arm for arm in arms if arm.sees == "all" and arm.eta == ETA]
    times = [learnt.every * k for k in range(len(learnt.curve))]
    figures = {
        "Feature along the training": figure(
            [series(arm.label, times, learnt.curve[:, places[arm.label]].tolist()) for arm in trained],
            "The largest product of a neuron with the feature, by step",
            "step",
            "feature, the largest <w, w*>",
            points=False,
        ),
        "Accuracy by margin": figure(
            [
                series(
                    f"{name} margin",
                    [1 / (1 - arm.gamma) for arm in trained],
                    [of[places[arm.label]].tolist() for arm in trained],
                )
                for name, of in (("large", learnt.large), ("small", learnt.small))
            ],
            "Test accuracy by momentum",
            "1 / (1 - g), steps that momentum remembers",
            "test accuracy",
            log_x=True,
        ),
    }
    return Evidence(findings, [table], figures, notes)


def _errors(accuracies: Sequence[float]) -> list[float]:
    return [1 - one for one in accuracies]


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _row(arm: MarginArm, learnt: Learnt, k: int) -> list[Cell]:
    small = learnt.small[k]
    means = [float(of[k].mean()) for of in (learnt.fitted, learnt.large, learnt.small)]
    ends = f"{float(small.min()):.3f} to {float(small.max()):.3f}"
    coasting = (2 * arm.eta / (1 - arm.gamma)) ** 0.5 if arm.gamma else None
    return [arm.label, *means, ends, float(learnt.feature[k].mean()), coasting]


# Low-contrast digits: Sec. 5, in the place of its small-margin images.

CONTRAST = 0.2
RATES = (0.1, 0.3, 1.0, 3.0, 10.0)  # in EMA form
DIGIT_GAMMAS = (0.9, 0.99)
NET = DenseNets((64, 32, 10))


@dataclass(frozen=True)
class Images:
    """Sizes of the digits experiment: training and validation rows, steps, seeds that judge and that choose."""

    rows: int
    validation: int
    steps: int
    seeds: int
    pilot_seeds: int

    @property
    def words(self) -> str:
        """In one line."""
        return f"{self.rows} digits, a tenth of low contrast; {self.steps:,} full-batch steps, {self.seeds} seeds"


IMAGES: Mapping[Budget, Images] = {
    "quick": Images(500, 400, 1_000, 8, 2),
    "evening": Images(1_000, 400, 5_000, 20, 4),
}


@dataclass(frozen=True)
class Contrasts:
    """Accuracies (runs,) on the training rows, and on others at low and at full contrast."""

    fitted: Tensor
    low: Tensor
    full: Tensor


def train_digits(runs: Sequence[tuple[float, float, int]], scale: Images, *, test: bool) -> Contrasts:
    """Runs (momentum, learning rate, seed) on digits, judged on validation or on test rows."""
    problem = digits()
    inputs, targets = problem.train
    seeds = sorted({seed for _, _, seed in runs})
    orders = {seed: torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed)) for seed in seeds}
    chosen = torch.stack([orders[seed][: scale.rows] for _, _, seed in runs])
    faint = torch.arange(scale.rows) < SMALL_SHARE * scale.rows
    x, y = inputs[chosen] * torch.where(faint, CONTRAST, 1.0)[:, None], targets[chosen]
    starts = dict(zip(seeds, NET.start(seeds), strict=True))
    gammas, rates = (torch.tensor([run[k] for run in runs]) for k in (0, 1))
    descent = Descent("ema-momentum", torch.stack([starts[seed] for _, _, seed in runs]), lr=rates, momentum=gammas)
    for _ in range(scale.steps):
        descent.step(gradients(lambda rows: cross_entropy(NET.outputs(rows, x), y), descent.rows)[1])
    if test:
        held, answers = problem.test
    else:
        held_rows = torch.stack([orders[seed][scale.rows : scale.rows + scale.validation] for _, _, seed in runs])
        held, answers = inputs[held_rows], targets[held_rows]
    rows = descent.rows
    return Contrasts(
        accuracy(NET.outputs(rows, x), y),
        accuracy(NET.outputs(rows, CONTRAST * held), answers),
        accuracy(NET.outputs(rows, held), answers),
    )


def contrast(laboratory: Laboratory) -> Evidence:
    """Full-batch descent on digits of which some are faint, with and without momentum."""
    scale = IMAGES[laboratory.budget]
    gammas = (0.0, *DIGIT_GAMMAS)
    pilots = range(PILOT_SEED, PILOT_SEED + scale.pilot_seeds)
    tried = [(gamma, rate, seed) for gamma in gammas for rate in RATES for seed in pilots]
    laboratory.listener.phase(f"learning rates: {len(tried)} runs of {scale.steps:,} steps")
    low = train_digits(tried, scale, test=False).low.view(len(gammas), len(RATES), -1).mean(-1)
    best = {gamma: RATES[int(low[k].argmax())] for k, gamma in enumerate(gammas)}
    arms = [(gamma, rate) for gamma in gammas for rate in dict.fromkeys((best[gamma], best[0.0]))]
    judged = [(*arm, seed) for arm in arms for seed in range(scale.seeds)]
    laboratory.listener.phase(f"{len(judged)} runs of {scale.steps:,} steps")
    found = train_digits(judged, scale, test=True)
    by_arm = {
        arm: [of.view(len(arms), -1)[k].tolist() for of in (found.fitted, found.low, found.full)]
        for k, arm in enumerate(arms)
    }
    plain = by_arm[0.0, best[0.0]]
    findings = [criteria.above("GD fits the training data", plain[0], 0.99, "training accuracy")]
    for gamma in DIGIT_GAMMAS:
        name = f"GD+M {gamma:g}"
        same, own = by_arm[gamma, best[0.0]], by_arm[gamma, best[gamma]]
        unit = "test error on faint digits"
        findings += [
            criteria.above(f"{name} fits the training data", own[0], 0.99, "training accuracy"),
            criteria.less(
                f"{name} errs less on faint digits than GD at the same eta {best[0.0]:g}",
                _errors(same[1]),
                _errors(plain[1]),
                unit,
            ),
            criteria.less(
                f"{name} at its best eta {best[gamma]:g} errs less on faint digits than GD at its best",
                _errors(own[1]),
                _errors(plain[1]),
                unit,
            ),
        ]
    rows: list[list[Cell]] = [
        [
            "GD" if gamma == 0 else f"GD+M {gamma:g}",
            rate,
            *(float(torch.tensor(of).mean()) for of in by_arm[gamma, rate]),
        ]
        for gamma, rate in arms
    ]
    table = Table(
        "Accuracies, means over seeds",
        ["arm", "eta (EMA form)", "training", "test, faint", "test, full contrast"],
        rows,
    )
    tuning = Table(
        "Accuracy on faint validation digits, by eta (pilot seeds)",
        ["arm", *(f"{rate:g}" for rate in RATES)],
        [[f"g = {gamma:g}", *low[k].tolist()] for k, gamma in enumerate(gammas)],
    )
    notes = [
        "The paper trains VGG-19 and ResNet-18 on CIFAR of which some images have a smaller margin; how these are made "
        f"and what momentum gains there is not known to us. Here a tenth of the digits is multiplied by {CONTRAST:g} "
        "(pixels lie in -.5 to .5), the net is 64-32-10, and every step sees all examples.",
    ]
    shown = figure(
        [
            series(name, gammas, [by_arm[gamma, best[gamma]][k] for gamma in gammas])
            for name, k in (("full contrast", 2), ("faint", 1))
        ],
        "Test accuracy by momentum, each at its best learning rate",
        "momentum g",
        "test accuracy",
    )
    return Evidence(findings, [table, tuning], {"Test accuracy at the best learning rates": shown}, notes)


# Gaussian data: the negative control.

INPUTS = 30
TEACHER, STUDENT = DenseNets((INPUTS, 10, 1)), DenseNets((INPUTS, 50, 1))
GAUSSIAN_GAMMAS = (0.9, 0.99)
GAUSSIAN_ETA = 1.0
ALIKE = 0.01  # accuracies whose difference is below count as the same


@dataclass(frozen=True)
class Gaussian:
    """Sizes of the negative control; 500 training and 5,000 test points are the paper's."""

    steps: int
    seeds: int
    rows: int = 500
    tests: int = 5_000

    @property
    def words(self) -> str:
        """In one line."""
        size = f"{self.rows} training and {self.tests:,} test points in {INPUTS} dimensions"
        return f"{size}; {self.steps:,} full-batch steps, {self.seeds} seeds"


GAUSSIANS: Mapping[Budget, Gaussian] = {"quick": Gaussian(2_000, 8), "evening": Gaussian(20_000, 20)}


def train_gaussian(gammas: Sequence[float], scale: Gaussian, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Training and test accuracies (momenta, seeds) of students of a random teacher, from the same start of a seed."""
    teachers, starts = TEACHER.start([PILOT_SEED + seed for seed in seeds]), STUDENT.start(seeds)
    points = torch.stack(
        [
            torch.randn(scale.rows + scale.tests, INPUTS, generator=torch.Generator().manual_seed(2**32 + seed))
            for seed in seeds
        ]
    )
    scores = TEACHER.outputs(teachers, points).squeeze(-1)
    labels = torch.where(scores > scores.median(1, keepdim=True).values, 1.0, -1.0)
    runs = len(gammas)
    x, y = (part[:, : scale.rows].repeat(runs, *[1] * (part.dim() - 1)) for part in (points, labels))
    descent = Descent(
        "ema-momentum",
        starts.repeat(runs, 1),
        lr=GAUSSIAN_ETA,
        momentum=torch.tensor(gammas).repeat_interleave(len(seeds)),
    )

    def margins(rows: Tensor, inputs: Tensor, answers: Tensor) -> Tensor:
        return STUDENT.outputs(rows, inputs).squeeze(-1) * answers

    for _ in range(scale.steps):
        descent.step(gradients(lambda rows: softplus(-margins(rows, x, y)).mean(1), descent.rows)[1])
    held = margins(descent.rows, points[:, scale.rows :].repeat(runs, 1, 1), labels[:, scale.rows :].repeat(runs, 1))
    found = [(part > 0).double().mean(1).view(runs, -1) for part in (margins(descent.rows, x, y), held)]
    return found[0], found[1]


def gaussian(laboratory: Laboratory) -> Evidence:
    """On Gaussian inputs labelled by a teacher net momentum brings nothing."""
    scale = GAUSSIANS[laboratory.budget]
    gammas = (0.0, *GAUSSIAN_GAMMAS)
    laboratory.listener.phase(f"{len(gammas) * scale.seeds} runs of {scale.steps:,} steps")
    fitted, right = train_gaussian(gammas, scale, range(scale.seeds))
    findings = [
        criteria.above("GD and GD+M fit the training data", fitted.amin(0).tolist(), 0.99, "lowest training accuracy"),
        *(
            criteria.equal(
                f"GD+M {gamma:g} generalizes like GD", right[k].tolist(), right[0].tolist(), ALIKE, "test accuracy"
            )
            for k, gamma in enumerate(gammas)
            if gamma
        ),
    ]
    rows: list[list[Cell]] = [
        [f"g = {gamma:g}", float(fitted[k].mean()), float(right[k].mean())] for k, gamma in enumerate(gammas)
    ]
    table = Table("Accuracies, means over seeds", ["momentum", "training", "test"], rows)
    shown = figure(
        [series("test", gammas, right.tolist())], "Test accuracy by momentum", "momentum g", "test accuracy", height=220
    )
    note = (
        f"Teacher 30-10-1, student 30-50-1 with ReLU, labels halved at the median, eta {GAUSSIAN_ETA:g} in EMA form; "
        "the numbers of points and dimensions are the paper's, the nets are ours."
    )
    return Evidence(findings, [table], {"Test accuracy": shown}, [note])


CLAIMS = (
    Claim(
        name="jelassi-margin",
        sentence="Examples that show the feature faintly are memorized by gradient descent, and learnt by momentum.",
        source=f"{PAPER}, Theorems on GD and GD+M",
        plans={budget: scale.words for budget, scale in MARGINS.items()},
        investigate=margin,
    ),
    Claim(
        name="jelassi-contrast",
        sentence="Momentum generalizes better than gradient descent on images of small margin (here faint digits).",
        source=f"{PAPER}, experiments on images of small margin",
        plans={budget: scale.words for budget, scale in IMAGES.items()},
        investigate=contrast,
    ),
    Claim(
        name="jelassi-gaussian",
        sentence="On Gaussian inputs labelled by a teacher net, momentum generalizes like gradient descent.",
        source=f"{PAPER}, experiment on Gaussian data",
        plans={budget: scale.words for budget, scale in GAUSSIANS.items()},
        investigate=gaussian,
    ),
)
