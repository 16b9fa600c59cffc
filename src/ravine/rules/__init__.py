"""Update rules, each written once: in-place tensor arithmetic that knows neither models nor files."""

from ravine.errors import UserError
from ravine.rules.adaptive import AdaGrad, Adam, RMSProp
from ravine.rules.base import WEIGHT_DECAY, Hyper, Rule, hint
from ravine.rules.gradient import GradientDescent
from ravine.rules.momentum import EMAMomentum, Momentum, Nesterov
from ravine.rules.sign import SignSGD, Signum

__all__ = [
    "RULES",
    "WEIGHT_DECAY",
    "AdaGrad",
    "Adam",
    "EMAMomentum",
    "GradientDescent",
    "Hyper",
    "Momentum",
    "Nesterov",
    "RMSProp",
    "Rule",
    "SignSGD",
    "Signum",
    "get",
]

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        GradientDescent(),
        Momentum(),
        Nesterov(),
        EMAMomentum(),
        AdaGrad(),
        RMSProp(),
        SignSGD(),
        Signum(),
        Adam(),
    )
}


def get(name: str) -> Rule:
    """The rule of that name; `UserError` with the nearest name if there is none."""
    if name in RULES:
        return RULES[name]
    raise UserError(f"there is no rule {name!r}: {hint(name, RULES)}")
