"""The gradient as a noisy signal: its average, corrected by what a filter trusts of the new observation."""

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ravine.rules.base import Hyper, Numbers, Rule, Tensors, fraction, learning_rate, room

Gain: TypeAlias = Literal["K", "2K", "sqrt(K)"]
GAINS: tuple[Gain, ...] = get_args(Gain)


class FilteredDescent(Rule):
    """SGDF: the average of the gradients plus a gain times what the new gradient adds to it.

    ``m <- b1 m + (1 - b1) g; s <- b2 s + (1 - b2) (g - m)^2`` with the new m, both 0 at the start; then with
    m^ = m / (1 - b1^t), s^ = s (1 - b1) (1 - b1^2t) / ((1 + b1) (1 - b2^t)), which is the variance of the average m^,
    and K = s^ / (s^ + (g - m^)^2 + eps): ``w <- w - lr (m^ + gain (g - m^))``.

    "Signal processing meets SGD: from momentum to filter", arXiv 2311.02818, and 2603.06120 (CVPR 2026); the equations
    are those of the authors' code (LilYau350/SGDF-Optimizer). They published three gains: K in the paper of 2024, 2K in
    their code of 2025, and the root of K, here the default, in their code since 2026. m is in EMA form, and so is the
    learning rate: .5 here is .05 in heavy-ball form at .9. eps is inside the sum, and there is no root.

    The defaults, lr .5, b1 .9, b2 .999 and eps 1e-8, are those of their code; on ImageNet they take b1 = .5. Their code
    writes the weight decay into ``p.grad``, and since 2026 it has an option to decouple it: here it is coupled, and
    ``p.grad`` is only read.
    """

    name = "sgdf"
    hyper: Mapping[str, Hyper] = {
        "lr": learning_rate(0.5),
        "beta1": fraction(0.9, "share of the mean gradient that a step keeps"),
        "beta2": fraction(0.999, "share of the mean squared deviation that a step keeps"),
        "eps": Hyper(1e-8, 0.0, float("inf"), meaning="term added to the denominator of the gain"),
    }
    slots = ("exp_avg", "exp_var")
    counts = True
    rooms = ("residual", "gain")

    def __init__(self, gain: Gain = "sqrt(K)") -> None:
        self.gain = gain

    def coefficients(self, h: Numbers) -> Numbers:
        b1, b2, t = h["beta1"], h["beta2"], h["step"]
        unbias, of_mean = 1 / (1 - b1**t), (1 - b1) * (1 - b1 ** (2 * t)) / ((1 + b1) * (1 - b2**t))
        by_gain = {"K": of_mean, "2K": 2 * of_mean, "sqrt(K)": of_mean**0.5}[self.gain]
        return {
            **h,
            "gain1": 1 - b1,
            "gain2": 1 - b2,
            "unbias": unbias,
            "of_mean": of_mean,
            "along_mean": h["lr"] * unbias,
            "along_residual": h["lr"] * by_gain,
        }

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        residual, gain = (room(state, name, param) for name in self.rooms)
        mean = state["exp_avg"].lerp_(grad, c["gain1"])
        variance = state["exp_var"].lerp_(torch.sub(grad, mean, out=residual).square_(), c["gain2"])
        torch.addcmul(grad, mean, c["unbias"], value=-1, out=residual)
        torch.mul(variance, c["of_mean"], out=gain).add_(c["eps"]).addcmul_(residual, residual)
        torch.div(variance, gain, out=gain)  # K, but for a factor that all elements share: it comes with the step
        if self.gain == "sqrt(K)":
            gain.sqrt_()
        param.addcmul_(mean, c["along_mean"], value=-1)
        param.addcmul_(gain.mul_(c["along_residual"]), residual, value=-1)
