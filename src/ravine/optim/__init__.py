"""The rules as drop-in optimizers: torch's contract, parameter names and defaults.

>>> import torch
>>> from ravine.optim import Nesterov
>>> from ravine.schedules import SutskeverMomentum
>>> model = torch.nn.Linear(2, 1)
>>> optimizer = Nesterov(model.parameters(), lr=0.1, momentum=SutskeverMomentum(highest=0.9, period=50))
>>> loss = model(torch.ones(3, 2)).square().mean()
>>> loss.backward()
>>> optimizer.step()
>>> optimizer.param_groups[0]["momentum"]
0.5

Every hyper-parameter is a number or a schedule; `RuleOptimizer` says what all of them have in common. ``weight_decay``
is coupled, as in torch: weight_decay * w is added to the gradient; an optimizer that decouples it says so. ``maximize``
steps up the gradient. The docstring of each class names its rule in `ravine.rules`, where the source, and what differs
from torch and from the authors' code, is written.
"""

from collections.abc import Callable, Mapping
from functools import partial

from torch.optim.optimizer import ParamsT

from ravine.optim.adaptive import AdaGrad, Adam, AdaMomentum, AdamW, NAdam, RMSProp
from ravine.optim.base import RuleOptimizer, Value
from ravine.optim.convert import convert
from ravine.optim.groups import packed
from ravine.optim.momentum import (
    QHM,
    SGD,
    SGDF,
    SNGM,
    AggMo,
    EarlyMomentum,
    Momentum,
    Nesterov,
    RandomScaling,
)
from ravine.optim.projected import SGDP, AdamP
from ravine.optim.sign import Lion, SignSGD, Signum

__all__ = [
    "QHM",
    "SGD",
    "SGDF",
    "SGDP",
    "SNGM",
    "AdaGrad",
    "AdaMomentum",
    "Adam",
    "AdamP",
    "AdamW",
    "AggMo",
    "EarlyMomentum",
    "Lion",
    "Momentum",
    "NAdam",
    "Nesterov",
    "RMSProp",
    "RandomScaling",
    "RuleOptimizer",
    "SignSGD",
    "Signum",
    "Value",
    "convert",
    "for_rule",
]

OF_RULE: dict[str, Callable[..., RuleOptimizer]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "ema-momentum": partial(Momentum, form="ema"),
    "ema-nesterov": partial(Nesterov, form="ema"),
    "sutskever-momentum": partial(Momentum, form="sutskever"),
    "sutskever-nesterov": partial(Nesterov, form="sutskever"),
    "early-momentum": EarlyMomentum,
    "qhm": QHM,
    "aggmo": AggMo,
    "sngm": SNGM,
    "random-scaling": RandomScaling,
    "sgdf": SGDF,
    "sgdp": SGDP,
    "adagrad": AdaGrad,
    "rmsprop": RMSProp,
    "signsgd": SignSGD,
    "signum": Signum,
    "lion": Lion,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": NAdam,
    "adamomentum": AdaMomentum,
    "adamp": AdamP,
}
"""The optimizer of each rule in `ravine.rules.RULES`, by the rule's name."""


def for_rule(rule: str, params: ParamsT, hyper: Mapping[str, Value]) -> RuleOptimizer:
    """The optimizer of a rule by its name, with hyper-parameters by the rule's names (beta1 and beta2, not betas).

    >>> import torch
    >>> for_rule("ema-momentum", [torch.zeros(3, requires_grad=True)], {"lr": 0.1, "momentum": 0.5}).defaults["form"]
    'ema'
    """
    return OF_RULE[rule](params, **packed(hyper))
