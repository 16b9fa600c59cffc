"""Single steps: closed forms of their lengths, and Adam's corrected averages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ravine import rules
from ravine.claims import criteria
from ravine.claims.charts import figure, line
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Finding, Table
from ravine.claims.efimov.shared import PAPER, ROUNDING
from ravine.claims.laboratory import Laboratory
from ravine.rules import Rule
from ravine.rules.adaptive import Adam

LR = 0.1
LONG = 2_000
REPLICATES: Mapping[Budget, int] = {"quick": 20_000, "evening": 200_000}


def moves(rule: Rule, gradients: Tensor, hyper: Mapping[str, float]) -> Tensor:
    """What each step adds to the parameter, for given gradients (steps, ...), lr = `LR` and eps = 0."""
    h = {name: torch.tensor(value, dtype=torch.float64) for name, value in {"lr": LR, "eps": 0.0, **hyper}.items()}
    w = torch.zeros_like(gradients[0])
    state = {slot: torch.zeros_like(w) for slot in rule.slots}
    seen = []
    for step, gradient in enumerate(gradients, 1):
        before = w.clone()
        rule.update(w, gradient, state, h | {"step": torch.tensor(float(step), dtype=torch.float64)})
        seen.append(w - before)
    return torch.stack(seen)


def lengths(t: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Per method the lengths of steps along a constant gradient, measured and by formula, in learning rates."""
    constant = torch.full((len(t), 1), 3.7, dtype=torch.float64)
    given: dict[str, tuple[Rule, Mapping[str, float], Tensor]] = {
        "AdaGrad": (rules.get("adagrad"), {}, t.rsqrt()),
        "RMSProp": (rules.get("rmsprop"), {"alpha": 0.9}, (1 - 0.9**t).rsqrt()),
        "Adam": (rules.get("adam"), {"beta1": 0.9, "beta2": 0.999}, torch.ones_like(t)),
        "Adam without correction": (
            Adam(bias_correction=False),
            {"beta1": 0.9, "beta2": 0.999},
            (1 - 0.9**t) * (1 - 0.999**t).rsqrt(),
        ),
    }
    return {name: (-moves(rule, constant, hyper)[:, 0] / LR, formula) for name, (rule, hyper, formula) in given.items()}


FORMULAS = {
    "AdaGrad": "AdaGrad's step decays: the t-th along a constant gradient is lr / sqrt(t)",
    "RMSProp": "RMSProp's does not: it is lr / sqrt(1 - b^t), and tends to lr",
    "Adam": "Adam's is lr from the first step on, whatever the gradient's size",
    "Adam without correction": "Without bias correction it is lr (1 - b1^t) / sqrt(1 - b2^t): 3.16 lr at first",
}


def single_steps(laboratory: Laboratory) -> Evidence:
    """Closed forms of steps, and Adam's corrected averages in their first steps."""
    t = torch.arange(1, LONG + 1, dtype=torch.float64)
    found = lengths(t)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(200, 50, dtype=torch.float64, generator=generator)
    wild = drawn * 10 ** (12 * torch.rand(drawn.shape, dtype=torch.float64, generator=generator) - 6)
    signs = moves(rules.get("rmsprop"), wild, {"alpha": 0.0}) + LR * wild.sign()
    averaged = moves(rules.get("ema-momentum"), drawn, {"momentum": 0.9}) - 0.1 * moves(
        rules.get("momentum"), drawn, {"momentum": 0.9}
    )
    findings = [
        *(
            criteria.exact(
                sentence, float((found[name][0] - found[name][1]).abs().max()), 1e-10, "largest deviation, in lr"
            )
            for name, sentence in FORMULAS.items()
        ),
        criteria.exact(
            "RMSProp without averaging is sign descent (gradients of sizes from 1e-6 to 1e6)",
            float(signs.abs().max()),
            ROUNDING,
            "largest deviation",
        ),
        criteria.exact(
            "The article's momentum is torch's with lr (1 - b)",
            float(averaged.abs().max()),
            ROUNDING,
            "largest deviation",
        ),
        *_unbiased(REPLICATES[laboratory.budget]),
    ]
    at = (1, 2, 10, 100, 1_000)
    rows: list[Sequence[Cell]] = [
        [name, *(float(measured[k - 1]) for k in at)] for name, (measured, _) in found.items()
    ]
    table = Table("Length of the t-th step along a constant gradient, in lr", ["t", *map(str, at)], rows)
    kept = sorted({round(10 ** (k / 20)) for k in range(67)})
    curves = [line(name, kept, [float(measured[k - 1]) for k in kept]) for name, (measured, _) in found.items()]
    chart = figure(
        curves, "Length of the steps along a constant gradient", "step", "length, in lr", log_x=True, points=False
    )
    notes = ["eps is 0 here. RMSProp is at .9; it has no bias correction, so its first step is 3.16 lr too."]
    return Evidence(findings, [table], {"Length of a step along a constant gradient": chart}, notes)


def _unbiased(replicates: int) -> Iterator[Finding]:
    """That the corrected averages estimate E g = 1 and E g^2 = 5 (noise of variance 4) from the first steps on."""
    rule, generator = rules.get("adam"), torch.Generator().manual_seed(0)
    gradients = 1 + 2 * torch.randn(3, replicates, dtype=torch.float64, generator=generator)
    h = {name: torch.tensor(value, dtype=torch.float64) for name, value in (("lr", LR), ("eps", 0.0))}
    h |= {name: torch.tensor(value, dtype=torch.float64) for name, value in (("beta1", 0.9), ("beta2", 0.999))}
    w = torch.zeros(replicates, dtype=torch.float64)
    state = {slot: torch.zeros_like(w) for slot in rule.slots}
    for step, gradient in enumerate(gradients, 1):
        rule.update(w, gradient, state, h | {"step": torch.tensor(float(step), dtype=torch.float64)})
        if step in (1, 3):
            for slot, beta, name, truth in (
                ("exp_avg", 0.9, "m / (1 - b1^t)", 1.0),
                ("exp_avg_sq", 0.999, "v / (1 - b2^t)", 5.0),
            ):
                values = (state[slot] / (1 - beta**step)).tolist()
                yield criteria.expected(
                    f"Adam's corrected average {name} is unbiased at t = {step}",
                    values,
                    truth,
                    f"mean of {replicates:,} draws",
                )


CLAIMS = (
    Claim(
        name="efimov-steps",
        sentence="AdaGrad's steps decay, RMSProp's do not and are signs without averaging; Adam corrects its first.",
        source=f"{PAPER}, AdaGrad, RMSProp and Adam",
        plans={budget: f"float64, seconds; {count:,} draws" for budget, count in REPLICATES.items()},
        investigate=single_steps,
    ),
)
