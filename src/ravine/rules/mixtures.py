"""Steps along a mixture: of gradient and velocity, or of several velocities."""

from collections.abc import Mapping
from functools import cache

from torch import Tensor

from ravine.rules.base import Hyper, Numbers, Rule, Tensors, fraction, learning_rate


class QuasiHyperbolicMomentum(Rule):
    """QHM: ``m <- mu m + (1 - mu) g; w <- w - lr ((1 - nu) g + nu m)``, m = 0 at the start.

    Ma and Yarats 2019, Eq. 3 and 4, EMA form. nu = 0 is gradient descent, nu = 1 `EMAMomentum`, nu = mu `EMANesterov`.
    Defaults: the authors' rule of thumb nu = .7, mu = .999, and lr .01, which is ours (their class asks for all three).
    Their lr is one of EMA form as well: 1.0 where heavy-ball form at .9 takes .1. Torch has no such rule.
    """

    name = "qhm"
    hyper: Mapping[str, Hyper] = {
        "lr": learning_rate(1e-2),
        "momentum": fraction(0.999, "share of the velocity that a step keeps"),
        "nu": Hyper(0.7, 0.0, 1.0, high_open=False, meaning="share of the velocity in the direction of a step"),
    }
    slots = ("momentum_buffer",)

    def coefficients(self, h: Numbers) -> Numbers:
        return {**h, "gain": 1 - h["momentum"], "fresh": h["lr"] * (1 - h["nu"]), "past": h["lr"] * h["nu"]}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        average = state["momentum_buffer"].lerp_(grad, c["gain"])
        param.addcmul_(grad, c["fresh"], value=-1)
        param.addcmul_(average, c["past"], value=-1)


class AggregatedMomentum(Rule):
    """AggMo: ``v_i <- b_i v_i + g; w <- w - (lr / K) sum_i v_i`` for i = 1..K, all v_i = 0 at the start.

    Lucas, Sun, Zemel and Grosse 2019 ("Aggregated momentum: stability through passive damping"), Eq. 4, whose
    velocities are minus these; heavy-ball form in every velocity. lr / K is the paper's: some libraries take lr.
    Defaults: b = (0, .9, .99), which is 1 - .1^(i-1) with K = 3, as theirs, and lr .001, which is ours. K = 1 is
    `Momentum`. The state is K times the parameters. Torch has no such rule.
    """

    name = "aggmo"

    def __init__(self, betas: tuple[float, ...] = (0.0, 0.9, 0.99)) -> None:
        self.count = len(betas)
        shares = {f"beta{i}": fraction(b, f"share of velocity {i} that a step keeps") for i, b in enumerate(betas, 1)}
        self.hyper = {"lr": learning_rate(1e-3), **shares}
        self.slots = tuple(f"momentum_buffer_{i}" for i in range(1, self.count + 1))

    @staticmethod
    @cache
    def of(count: int) -> "AggregatedMomentum":
        """The rule with so many velocities, always the same object."""
        return AggregatedMomentum(tuple(1 - 0.1**i for i in range(count)))

    def coefficients(self, h: Numbers) -> Numbers:
        return {**h, "lr": h["lr"] / self.count}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        for i, slot in enumerate(self.slots, 1):
            velocity = state[slot].mul_(c[f"beta{i}"]).add_(grad)
            param.addcmul_(velocity, c["lr"], value=-1)
