"""Torch's own kernels, for the rules of which it has one: all parameters in one call, each read and written once.

Arithmetic in several passes comes nowhere near them, and a compiler not beyond them. A kernel is a second body of its
rule, equal up to rounding, so it is called only for what it is proved on: contiguous tensors on the CPU, in float32 or
float64 throughout. Torch's fused optimizers have faults that begin elsewhere (torch 2.13): in half precision their SGD
leaves elements where they are, after an overflow at the first step it takes a velocity that nobody has filled, and it
has none for a parameter whose gradient is late. Here half precision has the body, and every velocity begins as zeros.
Nor do the kernels look at shapes, or whether a gradient is what its memory says: the caller sees to both. That they do
not tell autograd of what they write is mended here.

They share the elements of every tensor among all threads, which takes longer than to step a small one. So many small
tensors are stepped by one thread: `in_turn`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeAlias

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.autograd.graph import increment_version

from ravine import rules
from ravine.rules.base import Rule

Kernel: TypeAlias = Callable[..., None]
"""Steps a list of parameters, given with one of gradients and one of each slot; then the hyper-parameters, by name."""

DTYPES = (torch.float32, torch.float64)


def _sgd(
    params: list[Tensor],
    grads: list[Tensor],
    velocities: list[Tensor] | tuple[()] = (),
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    maximize: bool,
) -> None:
    """``v <- momentum v + (1 - dampening) g; w <- w - lr v``, or ``w - lr (g + momentum v)`` with nesterov."""
    if velocities and not momentum:  # the kernel would leave them alone, and they are to become the gradient
        torch._foreach_zero_(velocities)
        momentum = sys.float_info.min  # normal: the processor may take smaller numbers for 0
    torch._fused_sgd_(
        params,
        grads,
        velocities,
        weight_decay=weight_decay,
        momentum=momentum,
        lr=lr,
        dampening=dampening,
        nesterov=nesterov,
        maximize=maximize,
        is_first_step=False,
    )
    increment_version(params)


def _added(params: list[Tensor], grads: list[Tensor], *, lr: float, weight_decay: float = 0.0, maximize: bool) -> None:
    """``w <- w - lr g``."""
    if weight_decay:
        _sgd(params, grads, lr=lr, weight_decay=weight_decay, maximize=maximize)
    else:
        torch._foreach_add_(params, grads, alpha=lr if maximize else -lr)


def _ema(
    params: list[Tensor],
    grads: list[Tensor],
    averages: list[Tensor],
    *,
    lr: float,
    momentum: float,
    scale: float = 1.0,
    weight_decay: float = 0.0,
    maximize: bool,
) -> None:
    """``m <- momentum m + (1 - momentum) g; w <- w - scale lr m``."""
    _sgd(
        params,
        grads,
        averages,
        lr=lr * scale,
        momentum=momentum,
        dampening=momentum,
        weight_decay=weight_decay,
        maximize=maximize,
    )


def _adagrad(
    params: list[Tensor],
    grads: list[Tensor],
    sums: list[Tensor],
    *,
    lr: float,
    eps: float,
    weight_decay: float = 0.0,
    maximize: bool,
) -> None:
    steps = [_count(1.0)] * len(params)  # only lr_decay goes by them
    torch._fused_adagrad_(
        params, grads, sums, steps, lr=lr, lr_decay=0.0, weight_decay=weight_decay, eps=eps, maximize=maximize
    )
    increment_version(params)


def _adam(
    kernel: Kernel,
    params: list[Tensor],
    grads: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: float,
    weight_decay: float = 0.0,
    maximize: bool,
) -> None:
    """Adam, or AdamW: they differ in what they do with the weight decay."""
    kernel(
        params,
        grads,
        means,
        squares,
        [],
        [_count(step)] * len(params),
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        eps=eps,
        amsgrad=False,
        maximize=maximize,
    )
    increment_version(params)


def _count(step: float) -> Tensor:
    """A number of steps as the kernels read it, whatever torch's default dtype and device are."""
    return torch.tensor(step, dtype=torch.float32, device="cpu")


KERNELS: Mapping[type[Rule], Kernel] = {
    rules.GradientDescent: _sgd,
    rules.Momentum: _sgd,
    rules.Nesterov: partial(_sgd, nesterov=True),
    rules.EMAMomentum: _ema,
    rules.RandomScaling: _ema,
    rules.AdaGrad: _adagrad,
    rules.Adam: partial(_adam, torch._fused_adam_),
    rules.AdamW: partial(_adam, torch._fused_adamw_),
}

VERY_LARGE = 512 * 1024
"""Elements from which a tensor has the kernel for those beyond the cache."""

OF_VERY_LARGE: Mapping[type[Rule], Kernel] = {rules.GradientDescent: _added}
"""Faster by up to a tenth where all is a matter of bandwidth, and slower elsewhere."""


def kernel_of(rule: Rule, numel: int = 0) -> Kernel | None:
    """Torch's kernel of a rule for so many elements, if any; a class derived from a rule may have another body."""
    if isinstance(rule, rules.Adam) and not rule.bias_correction:
        return None
    kernel = KERNELS.get(type(rule))
    return OF_VERY_LARGE.get(type(rule), kernel) if numel >= VERY_LARGE else kernel


FEW = 4 * 1024
"""Elements of the largest tensor that a kernel steps no faster with a second thread."""

MANY = 24
"""Small tensors from which a call of a kernel by one thread gains what it costs to ask for that."""


@lru_cache(maxsize=1)
def _openmp() -> ThreadpoolController:
    """Sets the number of threads of the calling thread alone: ``torch.set_num_threads`` does so for later ones too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two libraries of OpenMP, which are none of our making
        return ThreadpoolController().select(user_api="openmp")


def in_turn(kernel: Callable[..., None], *columns: Any) -> None:
    """Call a kernel for small tensors, which it then steps one after the other by one thread."""
    if torch.get_num_threads() == 1:  # asked, torch also gives a new thread the number that the user has set
        kernel(*columns)
        return
    with _openmp().limit(limits=1):
        kernel(*columns)


ADD = frozenset(type(rule) for rule in rules.RULES.values() if rule.elementwise and type(rule) not in KERNELS)
"""Rules that add to a parameter without looking at it, if there is no weight decay; derived ones may do as they like.

Those with a kernel are left out: where it is not called, they keep the rounding of torch's optimizers.
"""


def may_add(rule: Rule, params: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Whether what a rule adds to these, which is of that dtype, can be added by `add`."""
    return type(rule) in ADD and all(param.dtype == dtype and takes((param,)) for param in params)


def add(params: list[Tensor], moves: list[Tensor]) -> None:
    """``w <- w + move`` for many small parameters: in half the time of ``torch._foreach_add_``."""
    in_turn(partial(_sgd, lr=1.0, maximize=True), params, moves)


def takes(tensors: tuple[Tensor, ...]) -> bool:
    """Whether a kernel may be called with a parameter and its slots: beyond their end it would write elsewhere."""
    first = tensors[0]
    return (
        plain(first)
        and first.device.type == "cpu"
        and not first.is_neg()
        and first.dtype in DTYPES
        and all(
            tensor.dtype == first.dtype and tensor.shape == first.shape and tensor.is_contiguous() for tensor in tensors
        )
    )


def plain(tensor: Tensor) -> bool:
    """Whether a tensor is of no subclass that has arithmetic of its own."""
    return type(tensor) in (Tensor, torch.nn.Parameter)


def is_itself(tensor: Tensor) -> bool:
    """Whether a strided tensor is what its memory says: no negative, no conjugate, and no zeros without memory."""
    return not (tensor.is_neg() or tensor.is_conj() or tensor._is_zerotensor())
