"""Adaptive methods: each element's step is divided by a root of its squared gradients."""

from typing import ClassVar

from torch.optim.optimizer import ParamsT

from ravine import rules
from ravine.optim.base import RuleOptimizer, Value
from ravine.optim.groups import Group
from ravine.rules.base import Rule


class AdaGrad(RuleOptimizer):
    """AdaGrad, `ravine.rules.AdaGrad`: ``s <- s + g^2; w <- w - lr g / (sqrt(s) + eps)``."""

    rule = rules.AdaGrad()
    torch_options: ClassVar[dict[str, dict[str, bool]]] = {"adagrad": {}}

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-2,
        *,
        eps: Value = 1e-10,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, eps=eps, weight_decay=weight_decay, maximize=maximize)


class RMSProp(RuleOptimizer):
    """RMSProp, `ravine.rules.RMSProp`: ``s <- alpha s + (1 - alpha) g^2; w <- w - lr g / (sqrt(s) + eps)``."""

    rule = rules.RMSProp()
    torch_options: ClassVar[dict[str, dict[str, bool]]] = {"rmsprop": {}}

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
        super().__init__(params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, maximize=maximize)


class Adam(RuleOptimizer):
    """Adam, `ravine.rules.Adam`: ``w <- w - lr m^ / (sqrt(s^) + eps)``, with bias correction or without.

    ``betas`` is (beta1, beta2) in the constructor and in a group, as in torch; each is a number or a schedule.
    """

    rule = rules.Adam()
    torch_options: ClassVar[dict[str, dict[str, bool]]] = {"adam": {}}
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
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            bias_correction=bias_correction,
            maximize=maximize,
        )

    def rule_of(self, group: Group) -> Rule:
        return self.rule if group["bias_correction"] else self.uncorrected


class AdamW(RuleOptimizer):
    """AdamW, `ravine.rules.AdamW`: Adam with the decoupled decay ``w <- (1 - lr weight_decay) w``, .01 by default."""

    rule = rules.AdamW()
    torch_options: ClassVar[dict[str, dict[str, bool]]] = {"adamw": {"decoupled_weight_decay": True}}

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-3,
        *,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-8,
        weight_decay: Value = 1e-2,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize)


class NAdam(RuleOptimizer):
    """NAdam, `ravine.rules.NAdam`: Adam with Nesterov's momentum, which grows to beta1 at rate ``momentum_decay``."""

    rule = rules.NAdam()
    torch_options: ClassVar[dict[str, dict[str, bool]]] = {"nadam": {}}

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 2e-3,
        *,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-8,
        momentum_decay: Value = 4e-3,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            momentum_decay=momentum_decay,
            weight_decay=weight_decay,
            maximize=maximize,
        )


class AdaMomentum(RuleOptimizer):
    """AdaMomentum, `ravine.rules.AdaMomentum`: ``w <- w - lr m^ / sqrt(s^)``, s being the mean of m^2, plus eps."""

    rule = rules.AdaMomentum()

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-3,
        *,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-8,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize)
