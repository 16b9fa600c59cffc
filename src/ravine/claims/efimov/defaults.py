"""The recommended numbers of momentum and Adam against others, on the digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.criteria import shown
from ravine.claims.efimov.shared import PAPER
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import ERROR, SAME, Field, column, every_seed, train

DIGITS: Mapping[Budget, Field] = {
    "quick": Field("digits", 32, 300, 5, 2),
    "evening": Field("digits", 32, 2_000, 20, 4),
}
BETAS_1 = (0.0, 0.5, 0.9, 0.99)
BETAS_2 = (0.9, 0.99, 0.999)
ADAM_RATES = (0.001, 0.003, 0.01, 0.03)
MOMENTA = (0.0, 0.5, 0.9, 0.99)
MOMENTUM_RATES = (0.1, 0.2, 0.5, 1.0, 2.0)


def defaults(laboratory: Laboratory) -> Evidence:
    """The recommended settings of momentum and Adam against the best others of a grid, each at its best rate."""
    field = DIGITS[laboratory.budget]
    found = {
        "momentum": _tuned(field, "ema-momentum", MOMENTUM_RATES, [{"momentum": b} for b in MOMENTA]),
        "Adam": _tuned(field, "adam", ADAM_RATES, [{"beta1": a, "beta2": b} for a, b in product(BETAS_1, BETAS_2)]),
    }
    recommended = {"momentum": "momentum .9", "Adam": "beta1 .9, beta2 .999"}
    findings, tables = [], []
    for method, tried in found.items():
        name = recommended[method]
        others = {other: one for other, one in tried.items() if other != name}
        best = min(others, key=lambda other: others[other].pilot)
        findings.append(
            criteria.less(
                f"{method}: the recommended {name} is as good as the best other, {best}",
                tried[name].errors,
                others[best].errors,
                ERROR,
                margin=SAME,
            )
        )
        rows: list[Sequence[Cell]] = [[other, shown(one.errors), one.rate] for other, one in tried.items()]
        tables.append(Table(f"{method}: test error on the digits", ["", "share of errors", "best rate"], rows))
    chart = figure(
        [series("momentum", MOMENTA, [one.errors for one in found["momentum"].values()])],
        "Test error against momentum, each at its best learning rate",
        "momentum, EMA form",
        "test error",
    )
    notes = [
        "Of each setting the best learning rate, and of the others the best setting, are chosen on "
        f"{field.pilots} other seeds; equal is a difference below {SAME:g}.",
        "One small net: it says that the defaults do no harm here, not that they are best elsewhere.",
    ]
    return Evidence(findings, tables, {"Test error against momentum": chart}, notes)


@dataclass(frozen=True)
class _Tuned:
    """A setting at its best rate: the mean error of the pilot, and the errors of the seeds that judge."""

    rate: float
    pilot: float
    errors: list[float]


def _tuned(
    field: Field, rule: str, rates: Sequence[float], settings: Sequence[Mapping[str, float]]
) -> dict[str, _Tuned]:
    grid = list(product(settings, rates))
    hyper = {name: column([setting[name] for setting, _ in grid]) for name in settings[0]}
    seeds = every_seed(field.pilots, field.seeds)
    error = train(rule, seeds, field.steps, field.batch_size, {"lr": column([rate for _, rate in grid]), **hyper}).error
    found = {}
    for k, setting in enumerate(settings):
        part = error[k * len(rates) : (k + 1) * len(rates)]
        pilot = part[:, : field.pilots].mean(1)
        best = int(pilot.argmin())
        errors: list[float] = part[best, field.pilots :].tolist()
        name = ", ".join(f"{name} {value:g}".replace("0.", ".") for name, value in setting.items())
        found[name] = _Tuned(rates[best], float(pilot[best]), errors)
    return found


CLAIMS = (
    Claim(
        name="efimov-defaults",
        sentence="Momentum .9, and Adam's .9 and .999, are good settings.",
        source=f"{PAPER}, recommendations",
        plans={budget: field.words for budget, field in DIGITS.items()},
        investigate=defaults,
    ),
)
