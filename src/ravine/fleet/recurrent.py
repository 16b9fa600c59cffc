"""Recurrent layers as plain products, for a stack: torch's own kernels have no rule for many runs at once.

The equations are those of ``torch.nn.RNN``, ``LSTM`` and ``GRU``; the product with the inputs is made for all time
steps at once, the steps are taken one by one. Taken in place of torch's functions while a stack is traced
(`ravine.fleet.draws`).
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

State: TypeAlias = tuple[Tensor, ...]
# (input part of the pre-activations, state, recurrent weight, recurrent bias) -> next state, the output first
Cell: TypeAlias = Callable[[Tensor, State, Tensor, Tensor | None], State]


def tanh_cell(z: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """h' = tanh(z + W h + b)."""
    return (torch.tanh(z + F.linear(state[0], weight, bias)),)


def relu_cell(z: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """h' = relu(z + W h + b)."""
    return (torch.relu(z + F.linear(state[0], weight, bias)),)


def lstm_cell(z: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """i, f, g, o = z + W h + b; c' = sigmoid(f) c + sigmoid(i) tanh(g); h' = sigmoid(o) tanh(c')."""
    i, f, g, o = (z + F.linear(state[0], weight, bias)).chunk(4, dim=-1)
    cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def gru_cell(z: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """r, u = sigmoid(z + W h + b); n = tanh(z_n + r (W h + b)_n); h' = (1 - u) n + u h."""
    z_r, z_u, z_n = z.chunk(3, dim=-1)
    h_r, h_u, h_n = F.linear(state[0], weight, bias).chunk(3, dim=-1)
    reset, update = torch.sigmoid(z_r + h_r), torch.sigmoid(z_u + h_u)
    new = torch.tanh(z_n + reset * h_n)
    return (new + update * (state[0] - new),)


def run(
    cell: Cell,
    x: Tensor,
    initial: State,
    weights: Sequence[Tensor],
    biased: bool,
    layers: int,
    dropout: Callable[[Tensor], Tensor],
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, State]:
    """All layers and directions; inputs (time, batch, features), or (batch, time, features) with `batch_first`.

    `weights` as torch orders them: per layer and direction W_ih, W_hh and, if `biased`, b_ih, b_hh. `dropout` is
    applied between layers. Returns the outputs of the last layer and the final states, each (layers * directions,
    batch, hidden).
    """
    if batch_first:
        x = x.transpose(0, 1)
    directions, each = 2 if bidirectional else 1, 4 if biased else 2
    finals: list[State] = []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            w_ih, w_hh, *biases = weights[k * each : (k + 1) * each]
            b_ih, b_hh = biases or (None, None)
            state = tuple(part[k] for part in initial)
            output, state = _layer(cell, x, state, w_ih, w_hh, b_ih, b_hh, reverse=direction == 1)
            outputs.append(output)
            finals.append(state)
        x = outputs[0] if directions == 1 else torch.cat(outputs, dim=-1)
        if layer + 1 < layers:
            x = dropout(x)
    final = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
    return (x.transpose(0, 1) if batch_first else x), final


def _layer(
    cell: Cell,
    x: Tensor,
    state: State,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, State]:
    steps = F.linear(x, w_ih, b_ih).unbind(0)
    outputs = []
    for z in reversed(steps) if reverse else steps:
        state = cell(z, state, w_hh, b_hh)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if reverse else outputs), state


def replacement(cell: Cell) -> Callable[..., Any]:
    """What stands in for ``torch.rnn_tanh`` and its kin; packed sequences and projections are left to torch."""

    def replaced(dropout_of: Callable[..., Tensor], func: Callable[..., Any], x: Tensor, *words: Any) -> Any:
        if len(words) != 8 or not isinstance(words[2], bool):
            return func(x, *words)
        hidden, weights, biased, layers, p, training, bidirectional, batch_first = words
        if len(weights) != layers * (2 if bidirectional else 1) * (4 if biased else 2):
            return func(x, *words)
        initial = tuple(hidden) if isinstance(hidden, (tuple, list)) else (hidden,)

        def dropout(value: Tensor) -> Tensor:
            return dropout_of(value, p, training)

        output, final = run(cell, x, initial, weights, biased, layers, dropout, bidirectional, batch_first)
        return output, *final

    return replaced


CELLS: dict[Callable[..., Any], Cell] = {
    torch.rnn_tanh: tanh_cell,
    torch.rnn_relu: relu_cell,
    torch.lstm: lstm_cell,
    torch.gru: gru_cell,
}
