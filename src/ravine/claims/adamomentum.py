"""Wang et al., "Rethinking Adam: a twofold exponential moving average approach", arXiv 2106.11514: AdaMomentum (AdaM3).

Adam divides the mean gradient m by the root of the mean of g^2, AdaMomentum by that of the mean of m^2, to which eps is
added at every step, so that its floor is eps / (1 - beta2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, line
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import ERROR, Field, sweep
from ravine.claims.rows import Descent

PAPER = "Wang et al. 2021 (arXiv 2106.11514)"
NAMES = {"adam": "Adam", "adamomentum": "AdaMomentum"}

# Single steps.

LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8  # the rules' defaults, and the paper's
ATTENUATION = (1 - BETA1) / (1 + BETA1)
"""Of an alternating gradient by the mean m, 1/19; of the variance of independent gradients, too."""
FLOOR = EPS / (1 - BETA2)
SIZES = tuple(10 ** (k / 4) for k in range(-16, 5))  # of gradients
SETTLED = 10_000  # steps, after which what the first steps left in the means is a millionth
REST = 1e-5
COORDINATES = 400
CLOSE = 0.05


@dataclass(frozen=True)
class Noise:
    """Sizes of the experiment on independent gradients."""

    steps: int
    seeds: int

    @property
    def words(self) -> str:
        """In one line."""
        return f"closed forms in float64; {self.steps:,} steps of independent gradients, {self.seeds} seeds"


NOISES: Mapping[Budget, Noise] = {"quick": Noise(6_000, 8), "evening": Noise(60_000, 20)}


def alternating(rule: str, size: Tensor) -> Tensor:
    """The size of a step, in learning rates, when the gradient is +-size in turn; elementwise."""
    attenuated = ATTENUATION * size
    if rule == "adam":
        return attenuated / (size + EPS)
    return attenuated / (attenuated.square() + FLOOR).sqrt()


def last_step(rule: str, gradient: Callable[[int], Tensor], steps: int) -> Tensor:
    """The last of so many steps, in learning rates, along gradients (coordinates,)."""
    descent = Descent(rule, torch.zeros_like(gradient(0))[None])
    for step in range(steps):
        before = descent.rows.clone()
        descent.step(gradient(step)[None])
    return (before - descent.rows)[0] / LR


def floor_of() -> float:
    """What AdaMomentum's corrected mean square is after some steps without any gradient."""
    descent = Descent("adamomentum", torch.zeros(1, 1, dtype=torch.float64))
    for _ in range(10):
        descent.step(torch.zeros(1, 1, dtype=torch.float64))
    found: float = descent.state["exp_avg_sq"].item() / (1 - BETA2**10)
    return found


def in_noise(rule: str, steps: int, seed: int) -> float:
    """The root mean square of the steps, in learning rates, along independent N(0, 1), once the means have settled."""
    generator = torch.Generator().manual_seed(seed)
    descent = Descent(rule, torch.zeros(1, COORDINATES, dtype=torch.float64))
    squares = []
    for step in range(steps):
        before = descent.rows.clone()
        descent.step(torch.randn(1, COORDINATES, dtype=torch.float64, generator=generator))
        if step >= steps // 2:
            squares.append(float((before - descent.rows).square().mean()))
    return math.sqrt(float(np.mean(squares))) / LR


def steps(laboratory: Laboratory) -> Evidence:
    """Steps along alternating, constant, no and random gradients."""
    scale = NOISES[laboratory.budget]
    sizes = torch.tensor(SIZES, dtype=torch.float64)
    signs = lambda step: sizes if step % 2 == 0 else -sizes  # noqa: E731
    found = {rule: last_step(rule, signs, SETTLED).abs() for rule in NAMES}
    expected = {rule: alternating(rule, sizes) for rule in NAMES}
    constant = {rule: last_step(rule, lambda _: sizes[-1:], SETTLED) for rule in NAMES}
    laboratory.listener.phase(f"independent gradients: {2 * scale.seeds} runs of {scale.steps:,} steps")
    random = {rule: [in_noise(rule, scale.steps, seed) for seed in range(scale.seeds)] for rule in NAMES}
    findings = [
        *(
            criteria.exact(
                f"{name}: along +-G in turn the step is {form}",
                float((found[rule] / expected[rule] - 1).abs().max()),
                REST,
                f"largest relative deviation, G from {SIZES[0]:g} to {SIZES[-1]:g}",
            )
            for (rule, name), form in zip(
                NAMES.items(),
                ("lr a G / (G + eps), a = 1/19", "lr a G / sqrt(a^2 G^2 + eps / (1 - beta2))"),
                strict=True,
            )
        ),
        criteria.exact(
            "The floor of AdaMomentum's mean square is eps / (1 - beta2) = 1e-5, not eps",
            abs(floor_of() / FLOOR - 1),
            REST,
            "relative deviation",
        ),
        criteria.exact(
            f"Along a constant gradient of {SIZES[-1]:g} both take steps of lr",
            max(float((one - 1).abs().max()) for one in constant.values()),
            REST,
            "largest relative deviation",
        ),
        *(
            criteria.equal(
                f"{NAMES[rule]}: along independent gradients the steps have a root mean square of {size:.3g} lr",
                random[rule],
                [size] * scale.seeds,
                CLOSE * size,
                f"root mean squares in lr, measured less {size:.3g}",
            )
            for rule, size in (("adam", ATTENUATION**0.5), ("adamomentum", 1.0))
        ),
    ]
    shown_sizes = [10.0, 1.0, FLOOR**0.5 / ATTENUATION, 1e-2, 1e-3]
    at = {rule: alternating(rule, torch.tensor(shown_sizes, dtype=torch.float64)).tolist() for rule in NAMES}
    rows: list[list[Cell]] = [[size, *(at[rule][k] for rule in NAMES)] for k, size in enumerate(shown_sizes)]
    shown = figure(
        [line(name, SIZES, found[rule].tolist()) for rule, name in NAMES.items()],
        "Step along an alternating gradient, by its size",
        "size of the gradient G",
        "step, in learning rates",
        log_x=True,
        log_y=True,
    )
    notes = [
        "AdaMomentum undoes the attenuation by the mean: where gradients only alternate, or are noise, it still steps "
        "by lr, as long as the attenuated gradient is above the floor; Adam steps by a lr and sqrt(a) lr.",
        f"lr {LR:g}, beta1 {BETA1:g}, beta2 {BETA2:g}, eps {EPS:g}: the paper's and the rules' defaults.",
    ]
    table = Table("Step along +-G in turn, in learning rates", ["G", *NAMES.values()], rows)
    return Evidence(findings, [table], {"Step along an alternating gradient": shown}, notes)


# Training.

RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)
FIELDS: Mapping[Budget, Field] = {
    "quick": Field("digits", 32, 1_000, 16, 3),
    "evening": Field("digits", 32, 20_000, 40, 5),
}


def training(laboratory: Laboratory) -> Evidence:
    """AdaMomentum against Adam on digits, each at its best learning rate of other seeds."""
    field = FIELDS[laboratory.budget]
    found = {}
    for rule, name in NAMES.items():
        laboratory.listener.phase(f"{name}: {len(RATES) * (field.seeds + field.pilots)} runs of {field.steps:,} steps")
        found[rule] = sweep(laboratory, field, rule, RATES)
    adam, other = found["adam"], found["adamomentum"]
    findings = [
        criteria.less("AdaMomentum has a lower test error than Adam", other.error, adam.error, ERROR),
        criteria.lower("AdaMomentum has a lower training loss than Adam", other.loss, adam.loss),
    ]
    rows: list[list[Cell]] = [
        [NAMES[rule], *one.shown, float(np.mean(one.loss)), one.rates[one.best_for_loss]] for rule, one in found.items()
    ]
    columns = ["rule", "test error", "at lr", "training loss", "at lr"]
    shown = figure(
        [one.errors(NAMES[rule]) for rule, one in found.items()],
        "Test error by learning rate",
        "learning rate",
        "test error",
        log_x=True,
        log_y=True,
    )
    note = (
        "The paper trains nets on CIFAR-10 and CIFAR-100, ImageNet, a translator and GANs; its numbers are not known "
        "to us. Learning rates are chosen on other seeds, for each measure by itself; no weight decay, constant rates."
    )
    table = Table("At the best learning rates", columns, rows)
    return Evidence(findings, [table], {"Test error by learning rate": shown}, [note])


CLAIMS = (
    Claim(
        name="adamomentum-steps",
        sentence="AdaMomentum's steps are as long as its learning rate where Adam's are damped by their mean.",
        source=f"{PAPER}, Algorithm 1",
        plans={budget: scale.words for budget, scale in NOISES.items()},
        investigate=steps,
    ),
    Claim(
        name="adamomentum-training",
        sentence="AdaMomentum trains faster and generalizes better than Adam.",
        source=f"{PAPER}, abstract",
        plans={budget: field.words for budget, field in FIELDS.items()},
        investigate=training,
    ),
)
