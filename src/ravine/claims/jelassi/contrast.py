"""Low-contrast digits, in the place of the paper's small-margin images, Sec. 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.jelassi.shared import PAPER, SMALL_SHARE, errors
from ravine.claims.laboratory import PILOT_SEED, Laboratory
from ravine.claims.rows import DenseNets, Descent, accuracy, cross_entropy, gradients
from ravine.problems.digits import digits

CONTRAST = 0.2
RATES = (0.1, 0.3, 1.0, 3.0, 10.0)  # in EMA form
GAMMAS = (0.9, 0.99)
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
    gammas = (0.0, *GAMMAS)
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
    for gamma in GAMMAS:
        name = f"GD+M {gamma:g}"
        same, own = by_arm[gamma, best[0.0]], by_arm[gamma, best[gamma]]
        unit = "test error on faint digits"
        findings += [
            criteria.above(f"{name} fits the training data", own[0], 0.99, "training accuracy"),
            criteria.less(
                f"{name} errs less on faint digits than GD at the same eta {best[0.0]:g}",
                errors(same[1]),
                errors(plain[1]),
                unit,
            ),
            criteria.less(
                f"{name} at its best eta {best[gamma]:g} errs less on faint digits than GD at its best",
                errors(own[1]),
                errors(plain[1]),
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


CLAIMS = (
    Claim(
        name="jelassi-contrast",
        sentence="Momentum generalizes better than gradient descent on images of small margin (here faint digits).",
        source=f"{PAPER}, experiments on images of small margin",
        plans={budget: scale.words for budget, scale in IMAGES.items()},
        investigate=contrast,
    ),
)
