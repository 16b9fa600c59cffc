"""Gradient descent and the momentum methods that move every element alike."""

from collections.abc import Mapping
from typing import ClassVar

from torch.optim.optimizer import ParamsT

from ravine import rules
from ravine.errors import UserError
from ravine.optim.base import RuleOptimizer, Value
from ravine.optim.groups import Group, unpacked
from ravine.rules.base import Rule, hint
from ravine.rules.filters import GAINS, Gain
from ravine.schedules import ExponentialScale, Form


class SGD(RuleOptimizer):
    """Gradient descent, `ravine.rules.GradientDescent`: ``w <- w - lr g``."""

    rule = rules.GradientDescent()
    torch_options: ClassVar[dict[str, dict[str, bool]]] = {"sgd": {}}

    def __init__(self, params: ParamsT, lr: Value = 1e-3, *, weight_decay: Value = 0.0, maximize: bool = False) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, maximize=maximize)


class _OfForms(RuleOptimizer):
    """A momentum method in three forms; ``lr`` is by default that of the form's rule."""

    forms: ClassVar[Mapping[str, Rule]]

    def __init__(
        self,
        params: ParamsT,
        lr: Value | None = None,
        *,
        momentum: Value = 0.9,
        form: Form = "heavy-ball",
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        rate = self.rule_of({"form": form}).hyper["lr"].default if lr is None else lr
        super().__init__(params, lr=rate, momentum=momentum, form=form, weight_decay=weight_decay, maximize=maximize)

    def rule_of(self, group: Group) -> Rule:
        if group["form"] not in self.forms:
            raise UserError(f"there is no form {group['form']!r} of momentum: {hint(group['form'], self.forms)}")
        return self.forms[group["form"]]


class Momentum(_OfForms):
    """Classical momentum in one of three forms, v = 0 at the start.

    - "heavy-ball", as torch's SGD (`ravine.rules.Momentum`): ``v <- mu v + g; w <- w - lr v``;
    - "ema" (`ravine.rules.EMAMomentum`): ``v <- mu v + (1 - mu) g; w <- w - lr v``;
    - "sutskever" (`ravine.rules.SutskeverMomentum`): ``v <- mu v - lr g; w <- w + v``.

    ``lr`` is by default .001, and .01 in EMA form: the same steps at momentum .9.
    """

    rule = rules.Momentum()
    forms: ClassVar[Mapping[str, Rule]] = {
        "heavy-ball": rule,
        "ema": rules.EMAMomentum(),
        "sutskever": rules.SutskeverMomentum(),
    }
    torch_options: ClassVar[dict[str, dict[str, bool]]] = {"momentum": {}}


class Nesterov(_OfForms):
    """Nesterov's momentum in one of three forms, v = 0 at the start; the parameters are the look-ahead point.

    - "heavy-ball", as torch's SGD (`ravine.rules.Nesterov`): ``v <- mu v + g; w <- w - lr (g + mu v)``;
    - "ema" (`ravine.rules.EMANesterov`): ``v <- mu v + (1 - mu) g; w <- w - lr ((1 - mu) g + mu v)``;
    - "sutskever" (`ravine.rules.SutskeverNesterov`): ``v <- mu v - lr g; w <- w + mu' v - lr g``, mu' being the
      momentum of the next step as its schedule gives it (mu where there is no schedule).

    ``lr`` is by default .001, and .01 in EMA form: the same steps at momentum .9.
    """

    rule = rules.Nesterov()
    forms: ClassVar[Mapping[str, Rule]] = {
        "heavy-ball": rule,
        "ema": rules.EMANesterov(),
        "sutskever": rules.SutskeverNesterov(),
    }
    torch_options: ClassVar[dict[str, dict[str, bool]]] = {"nesterov": {"nesterov": True}}


class EarlyMomentum(RuleOptimizer):
    """SGDEM, `ravine.rules.EarlyMomentum`: ``v <- mu v - lr g; w <- w + v``, and mu = 0 after step ``until``."""

    rule = rules.EarlyMomentum()

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-3,
        *,
        momentum: Value = 0.9,
        until: Value = 200.0,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, until=until, weight_decay=weight_decay, maximize=maximize)


class QHM(RuleOptimizer):
    """QHM, `ravine.rules.QuasiHyperbolicMomentum`: ``m <- mu m + (1 - mu) g; w <- w - lr ((1 - nu) g + nu m)``."""

    rule = rules.QuasiHyperbolicMomentum()

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-2,
        *,
        momentum: Value = 0.999,
        nu: Value = 0.7,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, nu=nu, weight_decay=weight_decay, maximize=maximize)


class AggMo(RuleOptimizer):
    """AggMo, `ravine.rules.AggregatedMomentum`: ``v_i <- b_i v_i + g; w <- w - (lr / K) sum_i v_i``.

    ``betas`` are b_1..b_K, as many as there are to be velocities; the groups may differ in their number.
    """

    rule = rules.AggregatedMomentum()

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-3,
        *,
        betas: tuple[Value, ...] = (0.0, 0.9, 0.99),
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize)

    def rule_of(self, group: Group) -> Rule:
        count = sum(name.startswith("beta") for name in unpacked(group))
        if not count:
            raise UserError(f"betas is {group['betas']!r}: give at least one number, the momentum of a velocity")
        return rules.AggregatedMomentum.of(count)


class SNGM(RuleOptimizer):
    """SNGM, `ravine.rules.NormalizedMomentum`: ``u <- mu u + g / |g|; w <- w - lr u``.

    |g| is the norm of the gradients of all parameters that have one, in all groups.
    """

    rule = rules.NormalizedMomentum()

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 0.1,
        *,
        momentum: Value = 0.9,
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, maximize=maximize)


class RandomScaling(RuleOptimizer):
    """Randomly scaled momentum, `ravine.rules.RandomScaling`: ``m <- mu m + (1 - mu) g; w <- w - s lr m``.

    ``scale`` gives s, one a step for all parameters of a group, as a schedule: by default Exp(1) with seed 0. Being a
    function of the step, it goes on from a checkpoint as if it had not stopped.
    """

    rule = rules.RandomScaling()

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 1e-2,
        *,
        momentum: Value = 0.9,
        scale: Value = ExponentialScale(seed=0),  # noqa: B008  (immutable)
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, scale=scale, weight_decay=weight_decay, maximize=maximize)


class SGDF(RuleOptimizer):
    """SGDF, `ravine.rules.FilteredDescent`: ``w <- w - lr (m^ + gain (g - m^))``.

    ``gain`` is "K" (the paper of 2024), "2K" (the authors' code in 2025) or "sqrt(K)" (their code since 2026).
    """

    rule = rules.FilteredDescent()
    by_gain: ClassVar[Mapping[str, Rule]] = {gain: rules.FilteredDescent(gain) for gain in GAINS}

    def __init__(
        self,
        params: ParamsT,
        lr: Value = 0.5,
        *,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-8,
        gain: Gain = "sqrt(K)",
        weight_decay: Value = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, gain=gain, weight_decay=weight_decay, maximize=maximize)

    def rule_of(self, group: Group) -> Rule:
        if group["gain"] not in self.by_gain:
            raise UserError(f"SGDF has no gain {group['gain']!r}: {hint(group['gain'], self.by_gain)}")
        return self.by_gain[group["gain"]]
