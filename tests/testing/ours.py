"""Cases of all our optimizers, made from the table of rules: a new rule is covered as soon as it stands there."""

from functools import partial
from typing import Any

import numpy as np
import torch

from ravine.optim import OF_RULE, RandomScaling, RuleOptimizer
from ravine.schedules import ExponentialScale
from ravine.testing import Array, Case, Decay, Equation, Randomness, State, case_of
from testing.equations import equation

GAINS = {"K": {"gain": 1.0, "power": 1.0}, "2K": {"gain": 2.0, "power": 1.0}, "sqrt(K)": {"gain": 1.0, "power": 0.5}}

TWIN: dict[str, Any] = {"module": "torch.optim", "tolerance": 0.0}
TWINS: dict[str, Case] = {
    "sgd": case_of(torch.optim.SGD, hyper={"momentum": None}, **TWIN),
    "momentum": case_of(torch.optim.SGD, **TWIN),
    "nesterov": case_of(torch.optim.SGD, options={"nesterov": True}, **TWIN),
    "adagrad": case_of(torch.optim.Adagrad, **TWIN),
    "rmsprop": case_of(torch.optim.RMSprop, hyper={"momentum": None}, **TWIN),
    "adam": case_of(torch.optim.Adam, **TWIN),
    "adamw": case_of(torch.optim.AdamW, **TWIN),
    "nadam": case_of(torch.optim.NAdam, **{**TWIN, "tolerance": 1e-8}),  # torch keeps mu_product in float32
}


def sgdf(params: list[Array], grads: list[Array], state: State, h: Any) -> list[Array]:
    return equation("sgdf")(params, grads, state, {**h, **GAINS[h["gain"]]})


def random_scaling(params: list[Array], grads: list[Array], state: State, h: Any) -> list[Array]:
    return equation("random-scaling")(params, grads, state, {**h, "scale": h["scale"](h["step"] - 1)})


def adam(params: list[Array], grads: list[Array], state: State, h: Any) -> list[Array]:
    return equation("adam" if h["bias_correction"] else "adam-uncorrected")(params, grads, state, h)


EQUATIONS: dict[str, Equation] = {"sgdf": sgdf, "random-scaling": random_scaling, "adam": adam}


def scales(seed: int, n: int) -> Array:
    """The factors of ``n`` steps of `RandomScaling`: how far it goes along a gradient of 1."""
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = RandomScaling([p], lr=1.0, momentum=0.0, scale=ExponentialScale(seed))
    at = [0.0]
    for _ in range(n):
        p.grad = torch.ones_like(p)
        optimizer.step()
        at.append(-p.item())
    return np.diff(at)


FIELDS: dict[str, dict[str, Any]] = {
    "sgdf": {"hyper": {"gain": ("sqrt(K)", "2K")}},
    "aggmo": {"hyper": {"betas": ((0.9, 0.5, 0.99), (0.6, 0.3, 0.8))}},
    "early-momentum": {"hyper": {"until": (10.0, 2.0)}},
    "sngm": {"hyper": {"weight_decay": (0.0, 0.3)}},  # so that a gradient of zero adds nothing to the norm
    "random-scaling": {
        "hyper": {"scale": (ExponentialScale(0), ExponentialScale(1))},
        "randomness": Randomness(scales, mean=1.0, variance=1.0),
        "prelude": "from ravine.schedules import ExponentialScale",
    },
}
"""What the signature does not say."""


def case(name: str) -> Case:
    """The case of a rule, by its name in `OF_RULE`."""
    make = OF_RULE[name]
    optimizer, options = (make.func, dict(make.keywords)) if isinstance(make, partial) else (make, {})
    assert isinstance(optimizer, type)
    assert issubclass(optimizer, RuleOptimizer)
    one = optimizer([torch.zeros(1, requires_grad=True)], **options)
    rule = one.rule_of(one.param_groups[0])
    decay: Decay = (
        "its own" if rule.decoupled and not rule.elementwise else "decoupled" if rule.decoupled else "coupled"
    )
    return case_of(
        optimizer,
        name=name,
        options=options,
        equation=EQUATIONS.get(name) or equation(name),
        twin=TWINS.get(name),
        tolerance=1e-12,
        decay=decay,
        graphs=1,
        state_bytes=4.0 * len(rule.slots),
        couples=rule.normed,
        module="ravine.optim",
        **FIELDS.get(name, {}),
    )


CASES = [case(name) for name in OF_RULE]
