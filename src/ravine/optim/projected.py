"""SGDP and AdamP: the step loses its part along weights whose scale does not matter."""

from typing import ClassVar

from torch.optim.optimizer import ParamsT

from ravine import rules
from ravine.optim.base import RuleOptimizer, Value
from ravine.optim.groups import Group
from ravine.rules.base import Rule


class SGDP(RuleOptimizer):
    """SGDP, `ravine.rules.SGDP`: ``v <- mu v + g; w <- w - lr P(v)``, P(g + mu v) with nesterov; decoupled decay."""

    rule = rules.SGDP()
    looking_ahead: ClassVar[Rule] = rules.SGDP(nesterov=True)

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-3,
        *,
        momentum: Value = 0.9,
        nesterov: bool = False,
        delta: Value = 0.1,
        wd_ratio: Value = 0.1,
        eps: Value = 1e-8,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
            delta=delta,
            wd_ratio=wd_ratio,
            eps=eps,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    def rule_of(self, group: Group) -> Rule:
        return self.looking_ahead if group["nesterov"] else self.rule


class AdamP(RuleOptimizer):
    """AdamP, `ravine.rules.AdamP`: ``w <- w - lr P(m^ / (sqrt(s^) + eps))``; decoupled decay."""

    rule = rules.AdamP()
    looking_ahead: ClassVar[Rule] = rules.AdamP(nesterov=True)

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-3,
        *,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-8,
        nesterov: bool = False,
        delta: Value = 0.1,
        wd_ratio: Value = 0.1,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            nesterov=nesterov,
            delta=delta,
            wd_ratio=wd_ratio,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    def rule_of(self, group: Group) -> Rule:
        return self.looking_ahead if group["nesterov"] else self.rule
