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
is coupled, as in torch: weight_decay * w is added to the gradient. ``maximize`` steps up the gradient.
"""

from typing import Any, ClassVar

from torch.optim.optimizer import ParamsT

from ravine import rules
from ravine.errors import UserError
from ravine.optim.base import Group, RuleOptimizer, Value
from ravine.rules.base import Rule

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "EMAMomentum",
    "Momentum",
    "Nesterov",
    "RMSProp",
    "RuleOptimizer",
    "SignSGD",
    "Signum",
    "Value",
]


class SGD(RuleOptimizer):
    """Gradient descent, `ravine.rules.GradientDescent`: ``w <- w - lr g``."""

    rule = rules.GradientDescent()
    torch_options: ClassVar[dict[str, bool] | None] = {}

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-3,
        *,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "weight_decay": weight_decay}
        super().__init__(params, {**options, "maximize": maximize})


class Momentum(RuleOptimizer):
    """Classical momentum in heavy-ball form, `ravine.rules.Momentum`: ``v <- mu v + g; w <- w - lr v``."""

    rule = rules.Momentum()
    torch_options: ClassVar[dict[str, bool] | None] = {}

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-3,
        *,
        momentum: Value = 0.9,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**options, "maximize": maximize})


class Nesterov(RuleOptimizer):
    """Nesterov's momentum in torch's form, `ravine.rules.Nesterov`: ``v <- mu v + g; w <- w - lr (g + mu v)``."""

    rule = rules.Nesterov()
    torch_options: ClassVar[dict[str, bool] | None] = {"nesterov": True}

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-3,
        *,
        momentum: Value = 0.9,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**options, "maximize": maximize})


class EMAMomentum(RuleOptimizer):
    """Momentum in EMA form, `ravine.rules.EMAMomentum`: ``m <- mu m + (1 - mu) g; w <- w - lr m``."""

    rule = rules.EMAMomentum()

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-2,
        *,
        momentum: Value = 0.9,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**options, "maximize": maximize})


class AdaGrad(RuleOptimizer):
    """AdaGrad, `ravine.rules.AdaGrad`: ``s <- s + g^2; w <- w - lr g / (sqrt(s) + eps)``."""

    rule = rules.AdaGrad()
    torch_options: ClassVar[dict[str, bool] | None] = {}

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-2,
        *,
        eps: Value = 1e-10,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "maximize": maximize})


class RMSProp(RuleOptimizer):
    """RMSProp, `ravine.rules.RMSProp`: ``s <- alpha s + (1 - alpha) g^2; w <- w - lr g / (sqrt(s) + eps)``."""

    rule = rules.RMSProp()
    torch_options: ClassVar[dict[str, bool] | None] = {}

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-2,
        *,
        alpha: Value = 0.99,
        eps: Value = 1e-8,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "maximize": maximize})


class SignSGD(RuleOptimizer):
    """signSGD, `ravine.rules.SignSGD`: ``w <- w - lr sign(g)``, sign(0) = 0."""

    rule = rules.SignSGD()

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-3,
        *,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "weight_decay": weight_decay}
        super().__init__(params, {**options, "maximize": maximize})


class Signum(RuleOptimizer):
    """Signum, `ravine.rules.Signum`: ``m <- mu m + (1 - mu) g; w <- w - lr sign(m)``, sign(0) = 0."""

    rule = rules.Signum()

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-3,
        *,
        momentum: Value = 0.9,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**options, "maximize": maximize})


class Adam(RuleOptimizer):
    """Adam, `ravine.rules.Adam`, with bias correction or without.

    ``betas`` is (beta1, beta2) in the constructor and in a group, as in torch; each is a number or a schedule.
    """

    rule = rules.Adam()
    torch_options: ClassVar[dict[str, bool] | None] = {}
    uncorrected = rules.Adam(bias_correction=False)

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-3,
        *,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-8,
        weight_decay: Value = 0.0,
        bias_correction: bool = True,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "bias_correction": bias_correction, "maximize": maximize})

    def rule_of(self, group: Group) -> Rule:
        return self.rule if group["bias_correction"] else self.uncorrected

    def read(self, group: Group) -> dict[str, Any]:
        try:
            beta1, beta2 = group["betas"]
        except (TypeError, ValueError):
            raise UserError(f"betas is {group['betas']!r}: give (beta1, beta2)") from None
        return {**{name: group[name] for name in ("lr", "eps", "weight_decay")}, "beta1": beta1, "beta2": beta2}

    def write(self, group: Group, name: str, value: float) -> None:
        beta1, beta2 = group["betas"]
        if name == "beta1":
            group["betas"] = (value, beta2)
        elif name == "beta2":
            group["betas"] = (beta1, value)
        else:
            super().write(group, name, value)
