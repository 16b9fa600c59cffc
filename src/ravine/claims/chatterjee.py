"""Chatterjee and Zielinski on coherent gradients: arXiv 2008.01217 (m-coherence) and arXiv 2203.10036.

The m-coherence of m examples is m |mean g|^2 / mean |g|^2: 1 where their gradients are orthogonal, m where they are
identical, below 1 where they cancel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.laboratory import Laboratory
from ravine.claims.rows import DenseNets, Descent, accuracy, cross_entropy, gradients, minibatches
from ravine.problems.digits import digits

CLASSES = 10
LABELS = ("real", "random")

# Coherence along the training.

RATES, MOMENTUM = (0.3, 0.05), 0.9  # heavy-ball form
FITTED = 0.1  # a loss below which the mean gradient vanishes, and with it the coherence of the training examples
ORTHOGONAL = 1.5  # m-coherence that is well above that of orthogonal gradients


@dataclass(frozen=True)
class Scale:
    """Sizes of the coherence experiment: examples, units of the two hidden layers, the most steps, seeds."""

    examples: int
    units: int
    steps: int
    seeds: int

    @property
    def nets(self) -> DenseNets:
        """The nets."""
        return DenseNets((64, self.units, self.units, CLASSES))

    @property
    def words(self) -> str:
        """In one line."""
        return f"{self.examples:,} digits, net 64-{self.units}-{self.units}-10, full batch, {self.seeds} seeds"


SCALES: Mapping[Budget, Scale] = {"quick": Scale(256, 128, 600, 5), "evening": Scale(512, 128, 3_000, 20)}


def coherent(nets: DenseNets, rows: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss (runs,), its gradient (runs, P) and the m-coherence (runs,) of the gradients of single examples.

    An example's gradient of a layer's weights is an outer product of what enters the layer and of the slope of the loss
    in what leaves it, so that its squared norm is a product of two, and none of these gradients is formed.
    """
    leaf = rows.detach().requires_grad_()
    layers = nets.layers(leaf, x)
    losses = cross_entropy(layers[-1][1], y)
    slopes, *deltas = torch.autograd.grad(losses.sum(), [leaf, *(leaves for _, leaves in layers)])
    examples = x.shape[-2]
    squares = sum(
        (enters.square().sum(-1) + 1) * (examples * delta).square().sum(-1)
        for (enters, _), delta in zip(layers, deltas, strict=True)
    )
    assert isinstance(squares, Tensor)
    return losses.detach(), slopes, (examples * slopes.square().sum(1) / squares.mean(1)).detach()


@dataclass(frozen=True)
class Courses:
    """Trainings of all seeds: loss and m-coherence before each step, (steps, seeds), NaN once the loss was FITTED."""

    losses: Tensor
    coherence: Tensor

    @property
    def peak(self) -> tuple[list[float], list[float]]:
        """Of each seed the highest m-coherence, and its step."""
        highest, at = self.coherence.nan_to_num(0).max(0)
        return highest.tolist(), at.double().tolist()

    def at(self, steps: Tensor) -> list[float]:
        """The m-coherence of each seed at a step of its own, or the last one."""
        known = (~self.coherence.isnan()).sum(0) - 1
        found: list[float] = self.coherence.gather(0, torch.minimum(steps, known)[None])[0].tolist()
        return found

    @property
    def halved(self) -> Tensor:
        """Of each seed the first step before which the loss is at most half of that at the start."""
        return (self.losses <= self.losses[0] / 2).double().argmax(0)


def courses(scale: Scale, seeds: Sequence[int]) -> dict[tuple[str, float], Courses]:
    """Full-batch trainings with each kind of labels at each rate; a seed fixes examples, random labels and start."""
    inputs, targets = digits().train
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    chosen = [torch.randperm(len(inputs), generator=generator)[: scale.examples] for generator in generators]
    drawn = [torch.randint(CLASSES, (scale.examples,), generator=generator) for generator in generators]
    kinds = [(labels, rate) for labels in LABELS for rate in RATES]
    x = torch.stack([inputs[rows] for rows in chosen]).repeat(len(kinds), 1, 1)
    real, random = torch.stack([targets[rows] for rows in chosen]), torch.stack(drawn)
    y = torch.cat([real if labels == "real" else random for labels, _ in kinds])
    rates = torch.tensor([rate for _, rate in kinds]).repeat_interleave(len(seeds))
    descent = Descent("momentum", scale.nets.start(seeds).repeat(len(kinds), 1), lr=rates, momentum=MOMENTUM)
    losses, values, fitted = [], [], torch.zeros(len(rates), dtype=torch.bool)
    for _ in range(scale.steps):
        loss, slopes, value = coherent(scale.nets, descent.rows, x, y)
        fitted |= ~(loss >= FITTED)
        losses.append(loss)
        values.append(torch.where(fitted, torch.nan, value))
        if fitted.all():
            break
        descent.step(slopes)
    shape = (len(losses), len(kinds), len(seeds))
    all_losses, all_values = torch.stack(losses).view(shape), torch.stack(values).view(shape)
    return {kind: Courses(all_losses[:, k], all_values[:, k]) for k, kind in enumerate(kinds)}


def coherence(laboratory: Laboratory) -> Evidence:
    """Coherence on real and on random labels."""
    scale = SCALES[laboratory.budget]
    laboratory.listener.phase(f"{len(LABELS) * len(RATES) * scale.seeds} runs of up to {scale.steps:,} steps")
    found = courses(scale, range(scale.seeds))
    unit, findings = "m-coherence", []
    rows: list[list[Cell]] = []
    for rate in RATES:
        of = {labels: found[labels, rate] for labels in LABELS}
        half = of["real"].halved
        early = {labels: of[labels].at(half) for labels in LABELS}
        highest, when = ({labels: of[labels].peak[k] for labels in LABELS} for k in (0, 1))
        findings += [
            criteria.less(
                f"lr {rate:g}: when the loss on real labels is halved, they have more coherence than random ones",
                early["random"],
                early["real"],
                unit,
            ),
            criteria.above(
                f"lr {rate:g}: with random labels it rises well above 1, too", highest["random"], ORTHOGONAL, unit
            ),
            criteria.less(
                f"lr {rate:g}: with random labels it is highest later than with real ones",
                when["real"],
                when["random"],
                "steps to the top",
            ),
        ]
        rows += [
            [
                f"{rate:g}",
                labels,
                float(of[labels].coherence[0].mean()),
                *(_mean(values[labels]) for values in (early, highest, when)),
            ]
            for labels in LABELS
        ]
    columns = ["lr", "labels", "at the start", "at half the loss on real labels", "highest", "at step"]
    notes = [
        "The papers measure ResNets and AlexNet on ImageNet; they give curves, whose numbers are not known to us.",
        f"Heavy-ball momentum {MOMENTUM:g}. Measured on the examples that are trained on, as in the papers, and until "
        f"the loss is below {FITTED:g}: near a minimum the mean gradient vanishes, and the m-coherence falls below 1.",
        f"At learning rate {RATES[0]:g} the loss on random labels jumps now and then. The highest values are those of "
        "the jumps, where the gradients of many examples agree.",
    ]
    figures = {
        f"Coherence along the training, learning rate {rate:g}": figure(
            [_curve(f"{labels} labels", found[labels, rate]) for labels in reversed(LABELS)],
            f"m-coherence of the training examples along the training at learning rate {rate:g}",
            "step",
            "m-coherence",
            points=False,
            log_y=True,
        )
        for rate in RATES
    }
    table = Table(f"m-coherence of {scale.examples} examples, means over seeds", columns, rows)
    return Evidence(findings, [table], figures, notes)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _curve(name: str, of: Courses) -> pl.DataFrame:
    """The steps before any seed has fitted."""
    values = of.coherence[: int((~of.coherence.isnan().any(1)).sum())]
    return series(name, range(len(values)), values.tolist())


# The median of three gradients: what is not shared by two of three groups does not count.

NET = DenseNets((64, 64, 64, CLASSES))
GROUPS = 3
CORRUPT = 0.5
RATE = 0.1
LOST = 0.02  # of test accuracy, that does not count


@dataclass(frozen=True)
class Suppression:
    """Sizes of the experiment on the median of three: training rows, rows of a group, steps, seeds."""

    rows: int
    group: int
    steps: int
    seeds: int

    @property
    def words(self) -> str:
        """In one line."""
        return f"{self.rows:,} digits, half of random labels; {self.steps:,} steps of SGD, {self.seeds} seeds"


SUPPRESSIONS: Mapping[Budget, Suppression] = {
    "quick": Suppression(1_000, 32, 3_000, 8),
    "evening": Suppression(1_400, 32, 30_000, 20),
}


@dataclass(frozen=True)
class Learnt:
    """Accuracies (seeds,): on training rows of random and of real labels, and on the test rows."""

    memorized: Tensor
    real: Tensor
    test: Tensor


def train_groups(combine: str, scale: Suppression, seeds: Sequence[int]) -> Learnt:
    """SGD along the mean or the elementwise median of the gradients of three groups of a mini-batch."""
    problem = digits()
    inputs, targets = problem.train
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(inputs), generator=generator)[: scale.rows]
        wrong = torch.arange(scale.rows) < CORRUPT * scale.rows
        labels = torch.where(wrong, torch.randint(CLASSES, (scale.rows,), generator=generator), targets[rows])
        drawn.append((inputs[rows], labels))
    x, y = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    batches = minibatches(scale.rows, GROUPS * scale.group, scale.steps, seeds)
    each = torch.arange(len(seeds))[:, None]
    descent = Descent("sgd", NET.start(seeds), lr=RATE)
    for batch in batches:
        x_now = x[each, batch].view(-1, scale.group, 64)
        y_now = y[each, batch].view(-1, scale.group)

        def losses(rows: Tensor, x_now: Tensor = x_now, y_now: Tensor = y_now) -> Tensor:
            return cross_entropy(NET.outputs(rows, x_now), y_now)

        slopes = gradients(losses, descent.rows.repeat_interleave(GROUPS, 0))[1].view(len(seeds), GROUPS, -1)
        descent.step(slopes.mean(1) if combine == "mean" else slopes.median(1).values)
    wrong_rows = round(CORRUPT * scale.rows)
    outputs = NET.outputs(descent.rows, x)
    return Learnt(
        accuracy(outputs[:, :wrong_rows], y[:, :wrong_rows]),
        accuracy(outputs[:, wrong_rows:], y[:, wrong_rows:]),
        accuracy(NET.outputs(descent.rows, problem.test[0]), problem.test[1]),
    )


def suppression(laboratory: Laboratory) -> Evidence:
    """The median of three gradients against their mean, with half of the labels random."""
    scale = SUPPRESSIONS[laboratory.budget]
    found = {}
    for combine in ("mean", "median"):
        laboratory.listener.phase(f"{combine} of {GROUPS}: {scale.seeds} runs of {scale.steps:,} steps")
        found[combine] = train_groups(combine, scale, range(scale.seeds))
    mean, median = found["mean"], found["median"]
    findings = [
        criteria.less(
            "The median of three gradients memorizes fewer random labels than their mean",
            median.memorized.tolist(),
            mean.memorized.tolist(),
            "accuracy on rows of random labels",
        ),
        criteria.less(
            "Its test error is not higher",
            (1 - median.test).tolist(),
            (1 - mean.test).tolist(),
            "test errors, a share",
            LOST,
        ),
    ]
    parts = ("memorized", "real", "test")
    rows: list[list[Cell]] = [
        [combine, *(float(getattr(of, part).mean()) for part in parts)] for combine, of in found.items()
    ]
    columns = ["gradients combined by", "training rows of random labels", "training rows of real labels", "test rows"]
    shown = figure(
        [series(combine, range(3), [getattr(of, part).tolist() for part in parts]) for combine, of in found.items()],
        "Accuracy on training rows of random labels (0), of real labels (1), and on test rows (2)",
        "rows: 0 of random labels, 1 of real labels, 2 test",
        "accuracy",
        height=220,
    )
    note = (
        f"Both at learning rate {RATE:g}, three groups of {scale.group} rows a step. A tenth of the random labels is "
        "right by chance. The paper trains ImageNet; it also winsorizes gradients, which is not done here."
    )
    table = Table("Accuracies, means over seeds", columns, rows)
    return Evidence(findings, [table], {"Accuracy by kind of row": shown}, [note])


CLAIMS = (
    Claim(
        name="chatterjee-coherence",
        sentence="Early in training the gradients of examples are far more coherent with real than with random labels.",
        source="Chatterjee and Zielinski 2022 (arXiv 2203.10036), and 2020 (arXiv 2008.01217), abstracts",
        plans={budget: scale.words for budget, scale in SCALES.items()},
        investigate=coherence,
    ),
    Claim(
        name="chatterjee-median",
        sentence="Suppressing what few examples share, by the median of three gradients, reduces memorization.",
        source="Chatterjee and Zielinski 2022 (arXiv 2203.10036)",
        plans={budget: scale.words for budget, scale in SUPPRESSIONS.items()},
        investigate=suppression,
    ),
)
