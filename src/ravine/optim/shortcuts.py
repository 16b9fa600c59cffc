"""Rules that torch has no kernel of, in fewer passes than their bodies take.

By its kernel of Adam (RMSProp, NAdam, AdamP), by another order of the same arithmetic (SGDF), or by not looking at what
a step has along the weights where it is not taken away (SGDP, AdamP). They take a block at a time, as the bodies do;
those of SGDP and AdamP, which look at rows, some rows. Like a kernel, each is a second body of its rule, equal up to
rounding. Where the square of a gradient overflows, those by Adam's kernel go on as torch's optimizers do, for it is
multiplied by 1 - beta2 before; the bodies end in infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ravine import rules
from ravine.optim.kernels import takes
from ravine.rules.base import Rule, Tensors
from ravine.rules.projected import along, cosines, row_dots, row_numbers

LARGE = 32 * 1024
"""Elements of the largest tensor that has the body."""

Shortcut: TypeAlias = Callable[[Tensor, Tensor, Tensors, Tensors], None]
"""`Rule.apply`, with room in the state for every temporary. It does not tell autograd of what it writes."""

LATE = torch.tensor(math.inf, dtype=torch.float32, device="cpu")
"""The number of a step at which Adam's kernel has no bias left to correct: that is in the coefficients."""


def _divided(
    param: Tensor, grad: Tensor, mean: Tensor, squares: Tensor, *, lr: float, keep: float, gain: Tensor, eps: Tensor
) -> None:
    """``mean <- keep mean + (1 - keep) g; s <- (1 - gain) s + gain g^2; w <- w - lr mean / (sqrt(s) + eps)``."""
    torch._fused_adam_(
        [param],
        [grad],
        [mean],
        [squares],
        [],
        [LATE],
        lr=lr,
        beta1=keep,
        beta2=1 - float(gain),
        weight_decay=0.0,
        eps=float(eps),
        amsgrad=False,
        maximize=False,
    )


def _rmsprop(param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
    mean = state["ratio"].zero_()  # nothing of it is kept, but it must be finite
    _divided(param, grad, mean, state["square_avg"], lr=float(c["lr"]), keep=0.0, gain=c["gain"], eps=c["eps"])


def _nadam(param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
    """``fresh g + past m``, where m has seen g, is the m before that moved towards g, but for its length."""
    mean, gain, fresh, past = state["exp_avg"], *(float(c[name]) for name in ("gain1", "fresh", "past"))
    direction, length = state["direction"].copy_(mean), fresh + past
    keep = past * (1 - gain) / length
    mean.lerp_(grad, gain)
    lr = float(c["lr"]) * length
    _divided(param, grad, direction, state["exp_avg_sq"], lr=lr, keep=keep, gain=c["gain2"], eps=c["eps"])


def _sgdf(param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
    """With the root of K, as 1 / sqrt(of_mean + ((g - m^)^2 + eps) / s): three passes, and five in the body.

    What it lacks, the root of of_mean, comes with the step.
    """
    mean, variance, residual, gain = (state[name] for name in ("exp_avg", "exp_var", "residual", "gain"))
    mean.lerp_(grad, float(c["gain1"]))
    variance.lerp_(torch.ops.aten.mse_loss.out(grad, mean, 0, out=gain), float(c["gain2"]))  # 0: not reduced
    torch.add(grad, mean, alpha=-float(c["unbias"]), out=residual)
    torch.addcmul(c["eps"], residual, residual, out=gain)
    torch.addcdiv(c["of_mean"], gain, variance, out=gain).rsqrt_()
    param.addcmul_(gain, residual, value=-float(c["along_residual"]))
    param.add_(mean, alpha=-float(c["along_mean"]))


STRIP = 256 * 1024
"""Elements of the rows that are looked at together, so that they stay in the cache."""

Rows: TypeAlias = tuple[Tensor, ...]
"""Some rows, or all, of parameter, gradient, step and slots."""


def _by_rows(whole: Rows, make: Callable[..., object], scale: float, c: Tensors, room: Tensor) -> None:
    """``w <- factor w + scale step``, some rows at a time; ``make(grad, step, *slots)`` makes their step.

    The factor is that of `ravine.rules.projected.step_projected`.
    """
    param, _, step, *_ = whole
    if param.dim() < 2:
        make(*whole[1:])
        _join(param, step, scale, _kept(c))
        return
    runs = math.ceil(len(param) / max(1, STRIP // param[0].numel()))
    strips = list(zip(*(tensor.chunk(runs) for tensor in whole), strict=True))
    numbers = []
    for point, *rest in strips:
        make(*rest)
        numbers.append(row_numbers(point, rest[0], room[: len(point)], {}))
    strips.reverse()  # those that were looked at last are still in the cache
    numbers.reverse()
    for (point, _, move, *_), factor in zip(strips, _multipliers(strips, numbers, scale, c, room), strict=True):
        _join(point, move, scale, factor)


def _multipliers(
    strips: list[Rows], numbers: Sequence[tuple[Tensor, Tensor, Tensor]], scale: float, c: Tensors, room: Tensor
) -> Iterator[Tensor | float]:
    """What each strip is multiplied by; what its step has along the weights is looked at only where it is to go."""
    row = strips[0][0][0]
    dots = (row_dots(point, move, room[: len(point)]) for point, _, move, *_ in strips)
    sizes, slopes, with_grad = (torch.cat(column) for column in zip(*numbers, strict=True))
    small = float(c["delta"] / math.sqrt(row.numel()))  # in the dtype of the cosines, as in the body
    if float(cosines(sizes, slopes, with_grad, c).max()) < small:
        pulls = torch.split_with_sizes(along(-scale, sizes, c), [len(point) for point, *_ in strips])
        for each, pull in zip(dots, pulls, strict=True):
            yield each.mul_(pull).add_(_kept(c, c["wd_ratio"])).view(-1, *[1] * row.dim())
        return
    size, slope = torch.linalg.vector_norm(sizes), torch.linalg.vector_norm(slopes)
    if cosines(size, slope, with_grad.sum(), c) < c["delta"] / math.sqrt(row.numel() * len(sizes)):
        yield from [_kept(c, c["wd_ratio"]) - scale * along(torch.cat(list(dots)).sum(), size, c)] * len(strips)
    else:
        yield from [_kept(c)] * len(strips)


def _kept(c: Tensors, ratio: Tensor | float = 1.0) -> Tensor | float:
    """What the weight decay leaves, where it is so many times as strong."""
    return 1 - c["decay"] * ratio if "decay" in c else 1.0


def _join(point: Tensor, move: Tensor, scale: float, factor: Tensor | float) -> None:
    """``w <- factor w + scale move``: in a pass less where the learning rate is in the move already."""
    if not isinstance(factor, Tensor):
        point.add_(move, alpha=scale)
    elif scale == 1:
        torch.addcmul(move, point, factor, out=point)
    else:
        point.mul_(factor).add_(move, alpha=scale)


def _sgdp(param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
    def make(slope: Tensor, velocity: Tensor) -> None:
        torch.addcmul(slope, velocity, c["momentum"], out=velocity)

    _by_rows((param, grad, state["momentum_buffer"]), make, -float(c["lr"]), c, state["product"])


def _adamp(param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
    lr, keep = float(c["lr"]), 1 - float(c["gain1"])

    def make(slope: Tensor, step: Tensor, mean: Tensor, squares: Tensor) -> None:
        _divided(step.zero_(), slope, mean, squares, lr=lr, keep=keep, gain=c["gain2"], eps=c["eps"])

    whole = param, grad, state["ratio"], state["exp_avg"], state["exp_avg_sq"]
    _by_rows(whole, make, 1.0, c, state["product"])


SHORTCUTS: Mapping[type[Rule], Shortcut] = {
    rules.RMSProp: _rmsprop,
    rules.NAdam: _nadam,
    rules.FilteredDescent: _sgdf,
    rules.SGDP: _sgdp,
    rules.AdamP: _adamp,
}


def shortcut_of(rule: Rule, tensors: tuple[Tensor, ...]) -> Shortcut | None:
    """The shortcut of a rule that may be taken with these: the parameter, its gradient, its slots and its room, if any.

    Only large ones: small ones have the body, alone as well as gathered with others.
    """
    shortcut = SHORTCUTS.get(type(rule)) if tensors[0].numel() > LARGE else None
    return shortcut if shortcut and not _otherwise(rule) and takes(tensors) else None


def _otherwise(rule: Rule) -> bool:
    """Whether a rule has an option that its shortcut has not."""
    return (isinstance(rule, rules.SGDP | rules.AdamP) and rule.nesterov) or (
        isinstance(rule, rules.FilteredDescent) and rule.gain != "sqrt(K)"
    )
