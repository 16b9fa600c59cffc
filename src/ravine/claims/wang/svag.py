"""SVAG, Figure 2: with ell times the noise and an ell-th of the learning rate, curvature matters less and less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import ERROR, SAME, column, every_seed, train
from ravine.claims.rows import cross_entropy
from ravine.claims.wang.shared import METHODS, MOMENTUM, PAPER, svag_weights

BATCH = 128
RATE = 1.5


@dataclass(frozen=True)
class Svag:
    """What a budget affords of SVAG: steps at ell = 1, and seeds."""

    steps: int
    seeds: int
    ells: tuple[int, ...] = (1, 2, 4, 8)

    @property
    def words(self) -> str:
        """In one line."""
        ells = ", ".join(map(str, self.ells))
        return f"digits, two mini-batches of {BATCH} a step, {self.steps} ell steps, ell = {ells}; {self.seeds} seeds"


SVAG: Mapping[Budget, Svag] = {"quick": Svag(300, 8), "evening": Svag(1_000, 20, (1, 2, 4, 8, 16))}


def svag_losses(ell: int, outputs: Tensor, targets: Tensor) -> Tensor:
    """The losses of the two halves of a batch, with the weights of SVAG."""
    half = outputs.shape[1] // 2
    first, second = svag_weights(ell)
    losses = cross_entropy(outputs[:, :half], targets[:, :half]), cross_entropy(outputs[:, half:], targets[:, half:])
    return first * losses[0] + second * losses[1]


def svag(laboratory: Laboratory) -> Evidence:
    """SGD and SGDM at a learning rate at which they differ, with ell times the noise and an ell-th of the rate."""
    scale = SVAG[laboratory.budget]
    seeds = every_seed(0, scale.seeds)
    found: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    for ell in scale.ells:
        lr, losses = column([RATE / ell]), partial(svag_losses, ell)
        for name, (rule, hyper) in METHODS.items():
            trained = train(rule, seeds, scale.steps * ell, 2 * BATCH, {"lr": lr, **hyper}, losses)
            found[name].append(trained.error[0].tolist())
    findings = [
        criteria.less("At ell = 1 SGDM has fewer test errors", found["SGDM"][0], found["SGD"][0], ERROR),
        *(
            criteria.equal(
                f"At ell = {ell} the two do not differ", found["SGD"][place], found["SGDM"][place], SAME, ERROR
            )
            for place, ell in enumerate(scale.ells)
            if ell >= 4
        ),
    ]
    rows: list[Sequence[Cell]] = [
        [f"{ell}", RATE / ell, f"{scale.steps * ell:,}", *(shown(errors[place]) for errors in found.values())]
        for place, ell in enumerate(scale.ells)
    ]
    table = Table("Test error", ["ell", "learning rate", "steps", *found], rows)
    chart = figure(
        [series(name, scale.ells, errors) for name, errors in found.items()],
        "Test error of SGD and SGDM against ell",
        "ell",
        "test error",
        log_x=True,
    )
    notes = [
        f"The learning rate is {RATE:g} at ell = 1, near SGD's limit here; momentum stays {MOMENTUM:g}. "
        f"Equal is within {SAME:g}.",
        "The paper trained ResNet-32 on CIFAR-10 at batches of 512; its curves merge as ell grows.",
    ]
    return Evidence(findings, [table], {"Test error against ell": chart}, notes)


CLAIMS = (
    Claim(
        name="wang-svag",
        sentence="As SVAG takes the curvature out of the comparison, the gap between SGD and SGDM closes.",
        source=f"{PAPER}, Figure 2",
        plans={budget: scale.words for budget, scale in SVAG.items()},
        investigate=svag,
    ),
)
