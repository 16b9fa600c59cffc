"""Rules for weights whose scale does not matter: the update loses its part along the weights (SGDP, AdamP).

Before a normalization the gradient of a weight is orthogonal to it, but a velocity is not, and what it has along the
weight only makes the weight longer, and so the effective step shorter.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ravine.rules.adaptive import Adam, scaled
from ravine.rules.base import Hyper, Numbers, Rule, Tensors, room
from ravine.rules.momentum import HEAVY_BALL

DELTA = Hyper(
    0.1, 0.0, math.inf, meaning="cosine, times the root of a row's length, below which weights count as free of scale"
)
ADAM = Adam()
RATIO = Hyper(0.1, 0.0, math.inf, meaning="factor of the weight decay of weights that count as free of scale")

AT_ONCE = 256 * 1024
"""Elements that are taken at a time on the CPU, so that both passes over them find them in the cache.

A tensor is taken whole where nobody keeps rooms, and for a stack of runs.
"""


def _rows(tensor: Tensor, runs: int) -> Tensor:
    """The weights of each output, (..., rows, length)."""
    return tensor.flatten(runs + 1)


def _blocks(whole: Tensors) -> list[Tensors]:
    """A few rows of every tensor at a time. All blocks share the ``product``: it is used up within a block."""
    param = whole["param"]
    at_once = max(1, AT_ONCE * len(param) // max(1, param.numel()))
    cuts = zip(*(torch.split(tensor, at_once) for tensor in whole.values()), strict=True)
    blocks = [dict(zip(whole, cut, strict=True)) for cut in cuts]
    return [{**block, "product": whole["product"][: len(block["param"])]} for block in blocks]


def _numbers(param: Tensor, grad: Tensor, move: Tensor, product: Tensor, runs: int) -> tuple[Tensor, ...]:
    """|w|, |g|, (w, g) and (w, move) of each row, (..., rows)."""
    w, g, m, product = (_rows(tensor, runs) for tensor in (param, grad, move, product))
    dots = [torch.mul(w, other, out=product).sum(-1) for other in (g, m)]  # torch.linalg.vecdot would allocate
    return torch.linalg.vector_norm(w, dim=-1), torch.linalg.vector_norm(g, dim=-1), *dots


def _orthogonal(sizes: Tensor, slopes: Tensor, dots: Tensor, length: int, c: Tensors) -> Tensor:
    """Whether |cos(w, g)| < delta / sqrt(length), from the norms of w and g and their product."""
    cosines = dots.abs() / (torch.maximum(sizes, c["floor"]) * torch.maximum(slopes, c["floor"]))
    return cosines < c["delta"] / math.sqrt(max(length, 1))


def _retained(numbers: Sequence[Tensor], length: int, c: Tensors) -> Tensor:
    """What a step leaves of the weights of each row, (..., rows), from the `_numbers` of all rows and their length.

    First each output's weights are a row, then the whole tensor is one: the first view in which the gradient is
    orthogonal to all rows is projected, w (w, move) / (|w| + eps)^2.
    """
    sizes, slopes, with_grad, with_move = numbers
    by_row = _orthogonal(sizes, slopes, with_grad, length, c).all(-1, keepdim=True)
    size, slope = (torch.linalg.vector_norm(norms, dim=-1, keepdim=True) for norms in (sizes, slopes))
    by_layer = _orthogonal(size, slope, with_grad.sum(-1, keepdim=True), length * sizes.shape[-1], c)
    of_row = with_move / (sizes + c["floor"]).square()
    of_layer = with_move.sum(-1, keepdim=True) / (size + c["floor"]).square()
    excess = torch.where(by_row, of_row, torch.where(by_layer, of_layer, 0))
    decay = c["decay"] * torch.where(by_row | by_layer, c["wd_ratio"], 1) if "decay" in c else 0
    return 1 - decay + c["lr"] * excess


class Projected(Rule):
    """``w <- (1 - decay r) w - lr P(move)``, P and r as `SGDP` says: 1 for a tensor of one dimension or none.

    A tensor is gone through twice: for four numbers of each row, from which those of all of it come too, and for the
    step. On the CPU that is done a few rows at a time.
    """

    elementwise = False
    decoupled = True

    def __init__(self, nesterov: bool = False) -> None:
        self.nesterov = nesterov

    @abstractmethod
    def move(self, grad: Tensor, kept: Tensors, c: Tensors) -> Tensor:
        """Advance the slots; the move is one of them or of the rooms, but not the ``product``."""

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        runs = c["lr"].dim() and 1
        rooms = {name: room(state, name, param) for name in self.rooms}
        whole = {"param": param, "grad": grad, **{name: state[name] for name in self.slots}, **rooms}
        inner = param.dim() - runs - 1  # dimensions of a row
        if inner < 1:
            move = self.move(grad, whole, c)
            if "decay" in c:
                param.mul_(1 - c["decay"])
            param.addcmul_(move, c["lr"], value=-1)
            return
        by_rows = "product" in state and param.device.type == "cpu" and not runs
        blocks = _blocks(whole) if by_rows else [whole]
        moves, numbers = [], []
        for block in blocks:
            moves.append(self.move(block["grad"], block, c))
            numbers.append(_numbers(block["param"], block["grad"], moves[-1], block["product"], runs))
        of_all = [torch.cat(each, -1) for each in zip(*numbers, strict=True)] if len(blocks) > 1 else numbers[0]
        h = {name: value.reshape(-1, 1) if runs else value for name, value in c.items()}  # against (runs, rows)
        retained = _retained(of_all, math.prod(param.shape[runs + 1 :]), h)
        retained = retained.view(*retained.shape, *[1] * inner)
        shares = torch.split(retained, len(blocks[0]["param"])) if len(blocks) > 1 else [retained]
        for block, move, share in zip(blocks, moves, shares, strict=True):
            block["param"].mul_(share).addcmul_(move, c["lr"], value=-1)


class SGDP(Projected):
    """SGDP: heavy-ball momentum whose step is projected: ``v <- mu v + g; w <- w - lr P(v)``, v = 0 at the start.

    Heo et al. 2021 ("AdamP: slowing down the slowdown for momentum optimizers on scale-invariant weights"). P looks,
    for a tensor of two dimensions or more, first at its rows (the weights of each output), then at all of it as one
    row; where every |cos(g, row)| is less than delta / sqrt(length of the row), it takes away the part of the step
    along each row (cosines of the *gradient*, projection of the *step*); else it does nothing. With ``nesterov`` the
    step is g + mu v. Weight decay is decoupled, as in the authors' code: w <- (1 - lr weight_decay r / (1 - mu)) w
    before the step, r = wd_ratio where there was a projection and else 1.

    The authors' code has momentum 0 as its default, which makes it pointless: here it is .9. They recommend .9 with
    nesterov, lr .1 and weight decay 1e-5. Their code also has a dampening, which is not here.
    """

    name = "sgdp"
    hyper: Mapping[str, Hyper] = {
        **HEAVY_BALL,
        "delta": DELTA,
        "wd_ratio": RATIO,
        "eps": Hyper(1e-8, 0.0, math.inf, meaning="term added to the norms of the weights"),
    }
    slots = ("momentum_buffer",)
    rooms = ("product", "ahead")

    def coefficients(self, h: Numbers) -> Numbers:
        decay = {"decay": h["lr"] * h["weight_decay"] / (1 - h["momentum"])} if "weight_decay" in h else {}
        return {**h, **decay, "floor": h["eps"]}

    def move(self, grad: Tensor, kept: Tensors, c: Tensors) -> Tensor:
        velocity = kept["momentum_buffer"]
        torch.addcmul(grad, velocity, c["momentum"], out=velocity)
        return torch.addcmul(grad, velocity, c["momentum"], out=kept["ahead"]) if self.nesterov else velocity


class AdamP(Projected):
    """AdamP: Adam whose step is projected: ``w <- w - lr P(m^ / (sqrt(s^) + eps))``, P as in `SGDP`.

    Heo et al. 2021, Algorithm 2; m, s, bias correction and eps as in `Adam`. With ``nesterov``, b1 m + (1 - b1) g takes
    the place of m. Weight decay is decoupled: w <- (1 - lr weight_decay r) w before the step, r = wd_ratio where there
    was a projection and else 1. Defaults as in the authors' code.
    """

    name = "adamp"
    hyper: Mapping[str, Hyper] = {**Adam.hyper, "delta": DELTA, "wd_ratio": RATIO}
    slots = ("exp_avg", "exp_avg_sq")
    counts = True
    rooms = ("ratio", "product", "ahead")

    def coefficients(self, h: Numbers) -> Numbers:
        decay = {"decay": h["lr"] * h["weight_decay"]} if "weight_decay" in h else {}
        return {**ADAM.coefficients(h), **decay, "floor": h["eps"]}

    def move(self, grad: Tensor, kept: Tensors, c: Tensors) -> Tensor:
        mean = kept["exp_avg"].lerp_(grad, c["gain1"])
        squares = kept["exp_avg_sq"].lerp_(torch.square(grad, out=kept["ratio"]), c["gain2"])
        direction = torch.lerp(mean, grad, c["gain1"], out=kept["ahead"]) if self.nesterov else mean
        return scaled(direction, squares, c, kept["ratio"])
