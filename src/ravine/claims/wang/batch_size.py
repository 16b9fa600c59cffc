"""Batch size: SGD and SGDM at equal learning rates, with small, medium and large batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ravine.claims import criteria
from ravine.claims.charts import figure
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import ERROR, LOSS, SAME, Field, Sweep, sweep
from ravine.claims.wang.shared import METHODS, PAPER


@dataclass(frozen=True)
class Batches:
    """Trainings at three batch sizes."""

    small: Field
    medium: Field
    large: Field

    @property
    def words(self) -> str:
        """In one line."""
        return "; ".join(field.words for field in (self.small, self.medium, self.large))


BATCHES: Mapping[Budget, Batches] = {
    "quick": Batches(Field("digits", 16, 900, 10), Field("digits", 128, 300, 8), Field("digits", None, 150, 5)),
    "evening": Batches(
        Field("fashion-mnist", 32, 2_000, 4, 1),
        Field("fashion-mnist", 512, 500, 4, 1),
        Field("fashion-mnist", 8_192, 60, 4, 1),
    ),
    "paper": Batches(
        Field("cifar10", 128, 20_000, 3, 1), Field("cifar10", 512, 10_000, 3, 1), Field("cifar10", 4_096, 2_000, 3, 1)
    ),
}
RATES = (0.1, 0.3, 1.0, 2.0, 4.0)
SMALL_RATES = (0.1, 0.3)


def batch_size(laboratory: Laboratory) -> Evidence:
    """SGD and SGDM at equal eta, at three batch sizes."""
    batches = BATCHES[laboratory.budget]
    fields = (batches.small, batches.medium, batches.large)

    def swept(field: Field) -> tuple[Sweep, Sweep]:
        sgd, sgdm = (sweep(laboratory, field, rule, RATES, None, **hyper) for rule, hyper in METHODS.values())
        return sgd, sgdm

    found = [swept(field) for field in fields]
    names = [_name(field) for field in fields]
    findings = [
        criteria.equal(f"{name}: SGD is as good as SGDM, each at its best rate", sgd.error, sgdm.error, SAME, ERROR)
        for name, (sgd, sgdm) in zip(names[:2], found[:2], strict=True)
    ]
    sgd, sgdm = found[0]
    findings += [
        criteria.equal(
            f"{names[0]}: the two do not differ at learning rate {rate:g}",
            sgd.errors_at(rate),
            sgdm.errors_at(rate),
            SAME,
            ERROR,
        )
        for rate in SMALL_RATES
    ]
    sgd, sgdm = found[2]
    findings += [
        criteria.less(f"{names[2]}: SGDM's training loss is lower, each at its best rate", sgdm.loss, sgd.loss, LOSS),
        criteria.less(f"{names[2]}: SGDM has fewer test errors, each at its best rate", sgdm.error, sgd.error, ERROR),
        criteria.less(
            f"{names[2]}: at learning rate {RATES[-1]:g} SGDM has fewer test errors",
            sgdm.errors_at(RATES[-1]),
            sgd.errors_at(RATES[-1]),
            ERROR,
        ),
    ]
    rows: list[Sequence[Cell]] = [
        [name, method, shown(one.loss), *one.shown]
        for name, pair in zip(names, found, strict=True)
        for method, one in zip(METHODS, pair, strict=True)
    ]
    table = Table(fields[0].problem, ["", "", "training loss", "test error", "its best rate"], rows)
    figures = {
        f"Test error against the learning rate, {name}": figure(
            [one.errors(method) for method, one in zip(METHODS, pair, strict=True)],
            f"Test error against the learning rate, {name}",
            "eta",
            "test error",
            log_x=True,
            height=200,
        )
        for name, pair in zip(names, found, strict=True)
    }
    notes = [
        "eta is the learning rate in EMA form: torch's momentum .9 has a tenth of it. It is constant.",
        "Every batch size has a length of its own, since few epochs of full batches are few steps: compare methods, "
        "not batch sizes. The paper trained ResNet-50 on ImageNet over equal epochs.",
        f"Rates are chosen on other seeds, for training loss and test error each its own; equal is within {SAME:g}.",
    ]
    return Evidence(findings, [table], figures, notes)


def _name(field: Field) -> str:
    return "full batch" if field.batch_size is None else f"batches of {field.batch_size:,}"


CLAIMS = (
    Claim(
        name="wang-batch-size",
        sentence="Tuned SGD matches SGDM at small and medium batches; momentum pays at large ones.",
        source=f"{PAPER}, experiments on ImageNet",
        plans={budget: batches.words for budget, batches in BATCHES.items()},
        investigate=batch_size,
    ),
)
