"""The initialization of recurrent nets as echo-state networks."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from ravine.errors import UserError
from ravine.init.layers import RECURRENT, Setter, check_links, check_scale, gates, parameters, put, weighted

M = TypeVar("M", bound=nn.Module)


def echo_state_(
    model: M,
    *,
    input_scale: float,
    targets: Tensor | None = None,
    links: int = 15,
    spectral_radius: float = 1.1,
    output_scale: float = 0.1,
    generator: torch.Generator | None = None,
) -> M:
    """Recurrent layers as echo-state networks and linear layers as their outputs, in place.

    Recurrent weights: `links` incoming links a unit, as in `sparse_`, then the whole matrix is divided by the largest
    modulus of its eigenvalues (in float64) and multiplied by `spectral_radius`: just above 1, states neither die out
    nor explode at once. Input weights: input_scale * N(0, 1), dense. Linear layers: output_scale * N(0, 1), dense.
    Biases: 0, but for the last linear layer if `targets` are given (rows, ..., outputs): their mean over all but the
    last dimension, so that the first errors are centred. Without it the net first learns to produce that mean from its
    states, and their oscillations die out.

    For an LSTM or GRU the recurrent weight of each gate is such a matrix. A second recurrent layer on top of the first
    takes its states as inputs.

    The paper's scales: spectral_radius 1.1, output_scale .1, and input_scale .001 for tasks with many irrelevant inputs
    (addition, multiplication), .1 for those without (memorization).

    Raises UserError when a word is out of range, there is no recurrent layer, a recurrent matrix is not square or all
    its eigenvalues are 0, or `targets` do not fit the outputs.
    Sources: Jaeger and Haas, Harnessing nonlinearity, 2004; Sutskever, Martens, Dahl and Hinton 2013 (Sec. 4, Table 4).
    """
    check_links("echo_state_", links)
    for name, value in (
        ("input_scale", input_scale),
        ("spectral_radius", spectral_radius),
        ("output_scale", output_scale),
    ):
        check_scale("echo_state_", name, value)
    layers = weighted(model, "echo_state_")
    recurrent = [layer for layer in layers if isinstance(layer, RECURRENT)]
    outputs = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if not recurrent:
        raise UserError(f"echo_state_: there is no recurrent layer in this {type(model).__name__}")
    setter = Setter(generator)
    for layer in recurrent:
        setter.zero(layer)
        for name, weight in parameters(layer, "weight"):
            if not setter.fresh(weight):
                continue
            if name.startswith("weight_ih"):
                put(weight, input_scale * setter.normal(weight.shape))
            else:
                put(weight, _reservoir(name, weight, gates(layer), links, spectral_radius, setter))
    for output in outputs:
        setter.zero(output)
        if setter.fresh(output.weight):
            put(output.weight, output_scale * setter.normal(output.weight.shape))
    if targets is not None:
        _centre(outputs, targets)
    return model


def _reservoir(name: str, weight: Tensor, blocks: int, links: int, radius: float, setter: Setter) -> Tensor:
    """The recurrent weight (blocks * units, units), each block sparse and of this spectral radius."""
    units = weight.shape[1]
    if weight.shape[0] != blocks * units:
        raise UserError(f"echo_state_: {name} {tuple(weight.shape)} is not square, so it has no spectral radius")
    made = []
    for _ in range(blocks):
        block = setter.sparse(units, units, links)
        largest = torch.linalg.eigvals(block.cpu()).abs().max().item()
        if largest < 1e-8:
            raise UserError(f"echo_state_: all eigenvalues of {name} are 0, which no factor mends; give more links")
        made.append(block * (radius / largest))
    return torch.cat(made)


def _centre(outputs: list[nn.Linear], targets: Tensor) -> None:
    """Sets the bias of the last linear layer to the mean of the targets (rows, ..., outputs)."""
    if not outputs or outputs[-1].bias is None:
        raise UserError("echo_state_: targets= sets the bias of the last linear layer, and there is none")
    bias = outputs[-1].bias
    if targets.ndim < 2 or targets.shape[-1] != len(bias):
        raise UserError(
            f"echo_state_: targets= of shape {tuple(targets.shape)} do not fit {len(bias)} outputs; give (rows, ..., "
            f"{len(bias)})"
        )
    put(bias, targets.double().flatten(0, -2).mean(0))
