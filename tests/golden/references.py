"""Every rule as a few lines of float64 NumPy, written from its paper and from nothing in ravine.

An update takes one parameter ``w``, its gradient ``g`` (of the same shape, to be descended, coupled weight decay
added), its state ``s`` (zeros before the first step, written over) and the hyper-parameters ``h`` of this step; it
returns the new parameter. Beside the rule's own numbers, ``h`` has ``step`` (from 1), ``norm`` (the Euclidean norm of
the whole gradient, all parameters together) and ``next_momentum`` (the momentum of the next step). State has torch's
names where torch has the rule, and a single average or sum of gradients is the ``momentum_buffer``.
"""
# mypy: disable-error-code="no-any-return"
# (A hyper-parameter is a number, a pair or a flag, and what is computed with Any is Any.)

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
State: TypeAlias = defaultdict[str, Array]
Hyper: TypeAlias = Mapping[str, Any]
Update: TypeAlias = Callable[[Array, Array, State, Hyper], Array]


# Momentum, in its three forms.


def sgd(w: Array, g: Array, s: State, h: Hyper) -> Array:
    return w - h["lr"] * g


def momentum(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """Heavy ball, the learning rate outside the buffer."""
    v = s["momentum_buffer"] = h["momentum"] * s["momentum_buffer"] + g
    return w - h["lr"] * v


def nesterov(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """Heavy ball looking ahead with the momentum of this step: what torch has."""
    v = s["momentum_buffer"] = h["momentum"] * s["momentum_buffer"] + g
    return w - h["lr"] * (g + h["momentum"] * v)


def ema_momentum(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """The mean of gradients in place of their sum."""
    b = h["momentum"]
    m = s["momentum_buffer"] = b * s["momentum_buffer"] + (1 - b) * g
    return w - h["lr"] * m


def ema_nesterov(w: Array, g: Array, s: State, h: Hyper) -> Array:
    b = h["momentum"]
    m = s["momentum_buffer"] = b * s["momentum_buffer"] + (1 - b) * g
    return w - h["lr"] * (b * m + (1 - b) * g)


def sutskever_momentum(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """Sutskever et al. 2013, Eqs. 1-2: the velocity holds the learning rates at which it was gathered."""
    v = s["momentum_buffer"] = h["momentum"] * s["momentum_buffer"] - h["lr"] * g
    return w + v


def sutskever_nesterov(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """Sutskever et al. 2013, Eqs. 3-4, ``w`` being the point of the gradient, theta + mu v, before and after."""
    theta = w - h["momentum"] * s["momentum_buffer"]
    v = s["momentum_buffer"] = h["momentum"] * s["momentum_buffer"] - h["lr"] * g
    return theta + v + h["next_momentum"] * v


def quasi_hyperbolic(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """QHM, Ma and Yarats 2019, Eqs. 3-4."""
    b, nu = h["momentum"], h["nu"]
    m = s["momentum_buffer"] = b * s["momentum_buffer"] + (1 - b) * g
    return w - h["lr"] * ((1 - nu) * g + nu * m)


def aggregated(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """AggMo, Lucas et al. 2019, Eq. 4: the mean of several heavy balls; their velocities are minus these."""
    total = np.zeros_like(w)
    for i, b in enumerate(h["betas"], start=1):
        v = s[f"momentum_buffer_{i}"] = b * s[f"momentum_buffer_{i}"] + g
        total += v
    return w - h["lr"] / len(h["betas"]) * total


def early_momentum(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """SGDEM, Ramezani-Kebrya et al. 2018: momentum in steps 1 to ``until``, none after; written with two iterates."""
    mu = h["momentum"] if h["step"] <= h["until"] else 0.0
    previous = s["previous"] if h["step"] > 1 else w
    s["previous"] = w
    return w + mu * (w - previous) - h["lr"] * g


def random_scaling(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """SGDM with random scaling, Zhang and Cutkosky 2024: ``scale`` ~ Exp(1) times the update, not the gradient."""
    b = h["momentum"]
    m = s["momentum_buffer"] = b * s["momentum_buffer"] + (1 - b) * g
    return w - h["scale"] * h["lr"] * m


def sngm(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """Zhao et al. 2020, Algorithm 1: one norm over all parameters; a gradient of zero adds nothing."""
    u = s["momentum_buffer"] = h["momentum"] * s["momentum_buffer"] + (g / h["norm"] if h["norm"] else g)
    return w - h["lr"] * u


# Signs. The sign of zero is zero.


def signsgd(w: Array, g: Array, s: State, h: Hyper) -> Array:
    return w - h["lr"] * np.sign(g)


def signum(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """Bernstein et al. 2018, Algorithm 2."""
    b = h["momentum"]
    m = s["momentum_buffer"] = b * s["momentum_buffer"] + (1 - b) * g
    return w - h["lr"] * np.sign(m)


def lion(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """Chen et al. 2023, Algorithm 2, with its decoupled decay."""
    b1, b2 = h["betas"]
    c = b1 * s["exp_avg"] + (1 - b1) * g
    s["exp_avg"] = b2 * s["exp_avg"] + (1 - b2) * g
    return w - h["lr"] * (np.sign(c) + h["weight_decay"] * w)


# A step size for every coordinate.


def adagrad(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """Duchi et al. 2011, diagonal; eps outside the root, the sum begins at zero."""
    v = s["sum"] = s["sum"] + g * g
    return w - h["lr"] * g / (np.sqrt(v) + h["eps"])


def rmsprop(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """Tieleman and Hinton 2012; eps outside the root, no bias correction."""
    a = h["alpha"]
    v = s["square_avg"] = a * s["square_avg"] + (1 - a) * g * g
    return w - h["lr"] * g / (np.sqrt(v) + h["eps"])


def adam(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """Kingma and Ba 2015, Algorithm 1; betas that change are corrected by powers of their present value."""
    (b1, b2), t = h["betas"], h["step"]
    m = s["exp_avg"] = b1 * s["exp_avg"] + (1 - b1) * g
    v = s["exp_avg_sq"] = b2 * s["exp_avg_sq"] + (1 - b2) * g * g
    return w - h["lr"] * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + h["eps"])


def adam_uncorrected(w: Array, g: Array, s: State, h: Hyper) -> Array:
    b1, b2 = h["betas"]
    m = s["exp_avg"] = b1 * s["exp_avg"] + (1 - b1) * g
    v = s["exp_avg_sq"] = b2 * s["exp_avg_sq"] + (1 - b2) * g * g
    return w - h["lr"] * m / (np.sqrt(v) + h["eps"])


def adamw(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """Loshchilov and Hutter 2019, Algorithm 2, with torch's decay: times lr, not times the schedule alone."""
    return adam(w, g, s, h) - h["lr"] * h["weight_decay"] * w


def nadam(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """Dozat 2016, Algorithm 2, as torch has it: beta1 (1 - 0.96^(t psi) / 2) warmed up, v as in Adam."""
    (b1, b2), t = h["betas"], h["step"]
    mu, following = (b1 * (1 - 0.5 * 0.96 ** (k * h["momentum_decay"])) for k in (t, t + 1))
    product = s["mu_product"] = mu * s.get("mu_product", np.ones(()))
    m = s["exp_avg"] = b1 * s["exp_avg"] + (1 - b1) * g
    v = s["exp_avg_sq"] = b2 * s["exp_avg_sq"] + (1 - b2) * g * g
    ahead = following * m / (1 - product * following) + (1 - mu) * g / (1 - product)
    return w - h["lr"] * ahead / (np.sqrt(v / (1 - b2**t)) + h["eps"])


def adamomentum(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """AdaMomentum, Wang et al. 2021: the second moment of the momentum; eps goes into it at every step."""
    (b1, b2), t = h["betas"], h["step"]
    m = s["exp_avg"] = b1 * s["exp_avg"] + (1 - b1) * g
    v = s["exp_avg_sq"] = b2 * s["exp_avg_sq"] + (1 - b2) * m * m + h["eps"]
    return w - h["lr"] * (m / (1 - b1**t)) / np.sqrt(v / (1 - b2**t))


def sgdf(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """SGDF: the gradient filtered with ``gain * K^power``; (1, 1) in 2024, (2, 1) in 2025, (1, .5) in 2026."""
    (b1, b2), t = h["betas"], h["step"]
    m = s["exp_avg"] = b1 * s["exp_avg"] + (1 - b1) * g
    var = s["exp_var"] = b2 * s["exp_var"] + (1 - b2) * (g - m) ** 2
    m_hat = m / (1 - b1**t)
    var_hat = var * (1 - b1) * (1 - b1 ** (2 * t)) / ((1 + b1) * (1 - b2**t))
    innovation = g - m_hat
    k = var_hat / (var_hat + innovation**2 + h["eps"])
    return w - h["lr"] * (m_hat + h["gain"] * k ** h["power"] * innovation)


# Projection away from the radial direction of weights whose scale does not matter; Heo et al. 2021.


def cosines(w: Array, g: Array, eps: float) -> Array:
    """|cos| of the rows of two matrices."""
    dots: Array = np.abs((w * g).sum(axis=1))
    return dots / (np.linalg.norm(w, axis=1) + eps) / (np.linalg.norm(g, axis=1) + eps)


def projected(w: Array, g: Array, update: Array, h: Hyper) -> tuple[Array, float]:
    """``update`` and the factor of weight decay: by channels, else by the layer, else as they are."""
    for rows in (len(w), 1) if w.ndim > 1 else ():
        matrix = w.reshape(rows, -1)
        if cosines(matrix, g.reshape(rows, -1), h["eps"]).max() < h["delta"] / np.sqrt(matrix.shape[1]):
            unit = matrix / (np.linalg.norm(matrix, axis=1, keepdims=True) + h["eps"])
            flat = update.reshape(rows, -1)
            return (flat - unit * (unit * flat).sum(axis=1, keepdims=True)).reshape(w.shape), h["wd_ratio"]
    return update, 1.0


def sgdp(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """Heo et al. 2021, Algorithm 1, with the decay of the authors' code: over 1 - momentum."""
    v = s["momentum_buffer"] = h["momentum"] * s["momentum_buffer"] + g
    update, ratio = projected(w, g, g + h["momentum"] * v if h["nesterov"] else v, h)
    return w * (1 - h["lr"] * h["weight_decay"] * ratio / (1 - h["momentum"])) - h["lr"] * update


def adamp(w: Array, g: Array, s: State, h: Hyper) -> Array:
    """Heo et al. 2021, Algorithm 2."""
    (b1, b2), t = h["betas"], h["step"]
    m = s["exp_avg"] = b1 * s["exp_avg"] + (1 - b1) * g
    v = s["exp_avg_sq"] = b2 * s["exp_avg_sq"] + (1 - b2) * g * g
    ahead = b1 * m + (1 - b1) * g if h["nesterov"] else m
    update, ratio = projected(w, g, ahead / (np.sqrt(v / (1 - b2**t)) + h["eps"]), h)
    return w * (1 - h["lr"] * h["weight_decay"] * ratio) - h["lr"] / (1 - b1**t) * update


@dataclass(frozen=True)
class Reference:
    """An update, and whether weight decay is added to the gradient before it (else the update has its own)."""

    update: Update
    coupled: bool = True


REFERENCES = {
    "sgd": Reference(sgd),
    "momentum": Reference(momentum),
    "nesterov": Reference(nesterov),
    "ema-momentum": Reference(ema_momentum),
    "ema-nesterov": Reference(ema_nesterov),
    "sutskever-momentum": Reference(sutskever_momentum),
    "sutskever-nesterov": Reference(sutskever_nesterov),
    "qhm": Reference(quasi_hyperbolic),
    "aggmo": Reference(aggregated),
    "early-momentum": Reference(early_momentum),
    "random-scaling": Reference(random_scaling),
    "sngm": Reference(sngm),
    "signsgd": Reference(signsgd),
    "signum": Reference(signum),
    "lion": Reference(lion, coupled=False),
    "adagrad": Reference(adagrad),
    "rmsprop": Reference(rmsprop),
    "adam": Reference(adam),
    "adam-uncorrected": Reference(adam_uncorrected),
    "adamw": Reference(adamw, coupled=False),
    "nadam": Reference(nadam),
    "adamomentum": Reference(adamomentum),
    "sgdf": Reference(sgdf),
    "sgdp": Reference(sgdp, coupled=False),
    "adamp": Reference(adamp, coupled=False),
}


def new_state(params: Sequence[Array]) -> list[State]:
    """The state of every parameter before the first step."""
    return [defaultdict(lambda: np.zeros(())) for _ in params]


def step(
    reference: Reference,
    params: Sequence[Array],
    grads: Sequence[Array],
    states: Sequence[State],
    h: Hyper,
    maximize: bool = False,
) -> list[Array]:
    """The parameters after one step. ``h`` has no norm: it is taken here, of the gradient with its coupled decay."""
    slopes = [-g if maximize else g for g in grads]
    if reference.coupled:
        slopes = [g + h.get("weight_decay", 0.0) * w for w, g in zip(params, slopes, strict=True)]
    norm = np.sqrt(sum(float((g * g).sum()) for g in slopes))
    given = {"weight_decay": 0.0, **h, "norm": norm}
    return [reference.update(w, g, s, given) for w, g, s in zip(params, slopes, states, strict=True)]
