"""Update rules, each written once: in-place tensor arithmetic that knows neither models nor files."""

from ravine.errors import UserError
from ravine.rules.adaptive import AdaGrad, Adam, AdaMomentum, AdamW, NAdam, RMSProp
from ravine.rules.base import DECOUPLED_DECAY, WEIGHT_DECAY, Hyper, Rule, hint
from ravine.rules.filters import FilteredDescent
from ravine.rules.gradient import GradientDescent
from ravine.rules.mixtures import AggregatedMomentum, QuasiHyperbolicMomentum
from ravine.rules.momentum import (
    EarlyMomentum,
    EMAMomentum,
    EMANesterov,
    Momentum,
    Nesterov,
    SutskeverMomentum,
    SutskeverNesterov,
)
from ravine.rules.projected import SGDP, AdamP
from ravine.rules.scaled import NormalizedMomentum, RandomScaling
from ravine.rules.sign import Lion, SignSGD, Signum

__all__ = [
    "DECOUPLED_DECAY",
    "RULES",
    "SGDP",
    "WEIGHT_DECAY",
    "AdaGrad",
    "AdaMomentum",
    "Adam",
    "AdamP",
    "AdamW",
    "AggregatedMomentum",
    "EMAMomentum",
    "EMANesterov",
    "EarlyMomentum",
    "FilteredDescent",
    "GradientDescent",
    "Hyper",
    "Lion",
    "Momentum",
    "NAdam",
    "Nesterov",
    "NormalizedMomentum",
    "QuasiHyperbolicMomentum",
    "RMSProp",
    "RandomScaling",
    "Rule",
    "SignSGD",
    "Signum",
    "SutskeverMomentum",
    "SutskeverNesterov",
    "get",
]

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        GradientDescent(),
        Momentum(),
        Nesterov(),
        EMAMomentum(),
        EMANesterov(),
        SutskeverMomentum(),
        SutskeverNesterov(),
        EarlyMomentum(),
        QuasiHyperbolicMomentum(),
        AggregatedMomentum(),
        NormalizedMomentum(),
        RandomScaling(),
        FilteredDescent(),
        SGDP(),
        AdaGrad(),
        RMSProp(),
        SignSGD(),
        Signum(),
        Lion(),
        Adam(),
        AdamW(),
        NAdam(),
        AdaMomentum(),
        AdamP(),
    )
}


def get(name: str) -> Rule:
    """The rule of that name; `UserError` with the nearest name if there is none."""
    if name in RULES:
        return RULES[name]
    raise UserError(f"there is no rule {name!r}: {hint(name, RULES)}")
