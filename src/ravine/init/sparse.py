"""Sparse initialization: a few strong links into every unit, however many there could be."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from ravine.errors import UserError
from ravine.init.layers import FORWARD, RECURRENT, Setter, check_links, check_scale, parameters, put, weighted

M = TypeVar("M", bound=nn.Module)
Units = Literal["logistic", "tanh"]
TANH_BIAS = 0.5


def sparse_(
    model: M,
    links: int = 15,
    *,
    scale: float = 1.0,
    units: Units | None = None,
    generator: torch.Generator | None = None,
) -> M:
    """Sparse initialization of a whole model, in place.

    Into every unit go `links` links from distinct sources, chosen uniformly, with weights scale * c * N(0, 1); all its
    other incoming weights are 0. A unit with fewer than `links` possible sources takes them all. So the size of a
    unit's input depends neither on the width of the layer before it nor on depth, and units stay different from one
    another. A unit is a row of a linear layer's (out, in) weight, a channel of a convolution (its sources are the
    in / groups * kernel elements that it sees), or a gate of a unit of an RNN, LSTM or GRU, which gets `links` from
    the layer's inputs and as many from its own states.

    The factor c lets tanh units begin like logistic ones: 1, halved if the units before are tanh, halved again if these
    are. Biases are 0, and 1/2 for tanh units. So logistic nets have c = 1 everywhere, tanh nets 1/2 in the first
    layer, 1/4 in the hidden ones and 1/2 in a linear or logistic layer after them. In recurrent layers c = 1 and biases
    are 0 (a scale of 1/sqrt(links) gives their inputs unit variance).

    units: "logistic" or "tanh", the kind of all feed-forward layers but the last, which is taken for a linear output.
        None reads the kind off the model: a layer is tanh if the next module after it that is a layer or `nn.Tanh`, in
        the order of `model.modules()`, is `nn.Tanh`; what `forward` calls as a function is not seen there.
    scale: multiplies all weights; the paper's factor (1 trains, 2 does, 1/2 and 5 fail), at least above 0.

    `torch.nn.init.sparse_` is another thing: it sets a fraction of every *column* of an (out, in) matrix to zero, which
    limits outgoing links, leaves the number of incoming ones to chance and growing with the width, and has a standard
    deviation of .01.

    Raises UserError when a word is out of range or the model has no layer of these kinds.
    Sources: Martens, Deep learning via Hessian-free optimization, 2010 (Sec. 5); Sutskever, Martens, Dahl and Hinton
    2013 (Sec. 3.1). Martens drew sources with replacement, so that some of his units have fewer links; Sutskever did
    not.
    """
    check_links("sparse_", links)
    check_scale("sparse_", "scale", scale)
    if units is not None and units not in get_args(Units):
        raise UserError(f"sparse_: units= must be 'logistic', 'tanh' or None, not {units!r}")
    layers = weighted(model, "sparse_")
    tanh = _tanh_layers(model) if units is None else set(map(id, layers[:-1])) if units == "tanh" else set()
    setter, before = Setter(generator), False
    for layer in layers:
        if isinstance(layer, FORWARD):
            here = id(layer) in tanh
            factor = scale * 0.5 ** (before + here)
            if layer.bias is not None and setter.fresh(layer.bias):
                put(layer.bias, TANH_BIAS if here else 0.0)
            before = here
        else:
            factor = scale
            setter.zero(layer)
            before = False
        for _, weight in parameters(layer, "weight"):
            if setter.fresh(weight):
                put(weight, factor * setter.sparse(weight.shape[0], weight[0].numel(), links))
    return model


def sparse_weight_(
    weight: Tensor, links: int = 15, *, scale: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Sparse initialization of one weight, in place: each row (first index) gets `links` entries of N(0, scale^2).

    The rule of `sparse_` for a single matrix (units, sources...), with c = 1. Raises UserError when a word is out of
    range or the weight has fewer than two dimensions.
    """
    check_links("sparse_weight_", links)
    check_scale("sparse_weight_", "scale", scale)
    if weight.ndim < 2:
        raise UserError(f"sparse_weight_ takes a weight (units, sources...), not one of shape {tuple(weight.shape)}")
    put(weight, scale * Setter(generator).sparse(weight.shape[0], weight[0].numel(), links))
    return weight


def _tanh_layers(model: nn.Module) -> set[int]:
    """Ids of the feed-forward layers whose next neighbour among layers and `nn.Tanh` is `nn.Tanh`."""
    order = [
        module
        for _, module in model.named_modules(remove_duplicate=False)  # one nn.Tanh may stand in several places
        if isinstance(module, (*FORWARD, *RECURRENT, nn.Tanh))
    ]
    return {id(one) for one, after in pairwise(order) if isinstance(after, nn.Tanh)}
