"""Sign methods: every element moves by lr."""

from torch.optim.optimizer import ParamsT

from ravine import rules
from ravine.optim.base import RuleOptimizer, Value


class SignSGD(RuleOptimizer):
    """signSGD, `ravine.rules.SignSGD`: ``w <- w - lr sign(g)``, sign(0) = 0."""

    rule = rules.SignSGD()

    def __init__(self, params: ParamsT, lr: Value = 1e-3, *, weight_decay: Value = 0.0, maximize: bool = False) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, maximize=maximize)


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
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, maximize=maximize)


class Lion(RuleOptimizer):
    """Lion, `ravine.rules.Lion`: ``w <- w - lr sign(b1 m + (1 - b1) g); m <- b2 m + (1 - b2) g``, decoupled decay."""

    rule = rules.Lion()

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-4,
        *,
        betas: tuple[Value, Value] = (0.9, 0.99),
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize)
