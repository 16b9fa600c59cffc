"""The dense standards, for comparison with the sparse initializations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ravine.errors import UserError
from ravine.init.layers import Setter, check_scale, gates, parameters, put, weighted

M = TypeVar("M", bound=nn.Module)


Draw = Callable[[Setter, int, int, int], Tensor]  # (setter, units, sources, elements of the kernel) -> (units, sources)


def _normal(variance: Callable[[int, int], float]) -> Draw:
    return lambda setter, units, sources, kernel: (
        setter.normal((units, sources)) * variance(sources, units * kernel) ** 0.5
    )


def _uniform(variance: Callable[[int, int], float]) -> Draw:
    """Uniform on (-a, a) with a^2 = 3 variance."""
    return lambda setter, units, sources, kernel: (
        (2 * setter.uniform((units, sources)) - 1) * (3 * variance(sources, units * kernel)) ** 0.5
    )


def _orthogonal(setter: Setter, units: int, sources: int, kernel: int) -> Tensor:
    """Orthonormal rows or columns, whichever are fewer, uniform over all such matrices: Q of QR, signs by R."""
    q, r = torch.linalg.qr(setter.normal((max(units, sources), min(units, sources))))
    tall: Tensor = q * r.diagonal().sign()
    return tall if units >= sources else tall.T


DENSE: Mapping[str, Draw] = {
    "lecun": _normal(lambda fan_in, fan_out: 1 / fan_in),
    "glorot": _uniform(lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
    "he": _normal(lambda fan_in, fan_out: 2 / fan_in),
    "orthogonal": _orthogonal,
}
"""kind -> weights of gain 1."""


def dense_(model: M, kind: str = "glorot", *, gain: float = 1.0, generator: torch.Generator | None = None) -> M:
    """A dense standard initialization of a whole model, in place: weights gain * W, biases 0.

    kind, with fan_in the sources of a unit and fan_out the links that leave one (units * kernel elements):
    - "lecun": N(0, 1 / fan_in) (LeCun, Bottou, Orr and Müller, Efficient BackProp, 1998);
    - "glorot": uniform with variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010, Eq. 16, the "normalized" one);
    - "he": N(0, 2 / fan_in), for ReLU (He, Zhang, Ren and Sun 2015, Eq. 10);
    - "orthogonal": orthonormal rows or columns (Saxe, McClelland and Ganguli 2014); of a convolution, of its
      (channels, sources) matrix.

    Layers are those of `sparse_`; in an LSTM or GRU each gate's matrix is drawn for itself, as is each layer's input
    and recurrent weight. Raises UserError for an unknown kind, a gain not above 0, or a model without such layers.
    """
    if kind not in DENSE:
        raise UserError(f"dense_: there is no kind {kind!r}; choose one of {', '.join(DENSE)}")
    check_scale("dense_", "gain", gain)
    setter = Setter(generator)
    for layer in weighted(model, "dense_"):
        setter.zero(layer)
        for name, weight in parameters(layer, "weight"):
            if setter.fresh(weight):
                blocks = gates(layer) if name.startswith(("weight_ih", "weight_hh")) else 1
                put(weight, gain * torch.cat([_drawn(kind, weight, blocks, setter) for _ in range(blocks)]))
    return model


def _drawn(kind: str, weight: Tensor, blocks: int, setter: Setter) -> Tensor:
    return DENSE[kind](setter, weight.shape[0] // blocks, weight[0].numel(), weight[0, 0].numel())
