"""optax for numbers: its transformations behind torch's interface, float64, for the checks of numbers only."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch

from ravine.testing import Case, case_of, checks
from testing.equations import equation

jax.config.update("jax_enable_x64", True)

NUMBERS = {"equation", "sensitivity"}
REASON = "optax is pure functions of arrays: it has no such contract, and is here for its numbers"
Transform = Callable[[dict[str, Any]], optax.GradientTransformation]


class Optax(torch.optim.Optimizer):
    """One transformation, made anew at each step with the numbers of the group, over the state that it keeps."""

    def __init__(self, params: Any, transform: Transform, **options: Any) -> None:
        super().__init__(params, options)
        self.transform = transform
        self.held: Any = None

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        params = [jnp.asarray(p.detach().numpy()) for p in group["params"]]
        grads = [jnp.asarray(p.grad.numpy()) for p in group["params"]]
        transform = self.transform(group)
        if self.held is None:
            self.held = transform.init(params)
        updates, self.held = transform.update(grads, self.held, params)
        with torch.no_grad():
            for p, update in zip(group["params"], updates, strict=True):
                p.add_(torch.tensor(jax.device_get(update)))


def sgd(nesterov: bool) -> Transform:
    return lambda h: optax.chain(
        optax.add_decayed_weights(h["weight_decay"]), optax.sgd(h["lr"], momentum=h["momentum"], nesterov=nesterov)
    )


def adam(h: dict[str, Any]) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(h["weight_decay"]), optax.adam(h["lr"], *h["betas"], eps=h["eps"]))


def adamw(h: dict[str, Any]) -> optax.GradientTransformation:
    return optax.adamw(h["lr"], *h["betas"], eps=h["eps"], weight_decay=h["weight_decay"])


def lion(h: dict[str, Any]) -> optax.GradientTransformation:
    return optax.lion(h["lr"], *h["betas"], weight_decay=h["weight_decay"])


def rmsprop(h: dict[str, Any]) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(h["weight_decay"]),
        optax.rmsprop(h["lr"], decay=h["alpha"], eps=h["eps"], eps_in_sqrt=False),
    )


def cases() -> list[Case]:
    """The cases, with every check but those of numbers exempt."""
    values = {
        "lr": (0.1, 0.03),
        "momentum": (0.9, 0.6),
        "betas": ((0.9, 0.99), (0.6, 0.8)),
        "alpha": (0.9, 0.6),
        "eps": (1e-8, 0.1),
        "weight_decay": (0.05, 0.3),
    }
    exempt = {check.name: REASON for check in checks() if check.name not in NUMBERS}
    rules: list[tuple[str, str, Transform, str]] = [
        ("sgd", "momentum", sgd(False), "lr momentum weight_decay"),
        ("sgd(nesterov)", "nesterov", sgd(True), "lr momentum weight_decay"),
        ("adam", "adam", adam, "lr betas eps weight_decay"),
        ("adamw", "adamw", adamw, "lr betas eps weight_decay"),
        ("lion", "lion", lion, "lr betas weight_decay"),
        ("rmsprop", "rmsprop", rmsprop, "lr alpha eps weight_decay"),
    ]
    return [
        case_of(
            Optax,
            name=name,
            hyper={key: values[key] for key in keys.split()},
            options={"transform": transform},
            equation=equation(reference),
            exempt=exempt,
            module="conformance.optax_optimizer",
        )
        for name, reference, transform, keys in rules
    ]
