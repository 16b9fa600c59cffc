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
# (inputs (time, batch, features), state, W_ih, W_hh, b_ih, b_hh, backwards in time?) -> outputs, final state
Layer: TypeAlias = Callable[[Tensor, State, Tensor, Tensor, Tensor | None, Tensor | None, bool], tuple[Tensor, State]]


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


def gated(cell: Cell) -> Layer:
    """A layer that takes its cell step by step and leaves the backward pass to autograd."""

    def layer(
        x: Tensor, state: State, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None, reverse: bool
    ) -> tuple[Tensor, State]:
        steps = F.linear(x, w_ih, b_ih).unbind(0)
        outputs = []
        for z in reversed(steps) if reverse else steps:
            state = cell(z, state, w_hh, b_hh)
            outputs.append(state[0])
        return torch.stack(outputs[::-1] if reverse else outputs), state

    return layer


class Elman(torch.autograd.Function):
    """h_t = f(z_t + W h_{t-1}) with f = tanh or relu; the gradient of W is one product over all time steps.

    z: (time, batch, hidden); h_0: (batch, hidden); W: (hidden, hidden). Returns all h_t, (time, batch, hidden).
    Autograd would make one product a step for the gradient of W, and add them up.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, initial: Tensor, weight: Tensor, relu: bool) -> Tensor:
        """All states."""
        state, states = initial, []
        for part in z.unbind(0):
            state = state @ weight.transpose(0, 1) + part
            state = torch.relu(state) if relu else torch.tanh(state)
            states.append(state)
        return torch.stack(states)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
        """Keeps what the backward pass needs."""
        _, initial, weight, ctx.relu = inputs
        ctx.save_for_backward(initial, weight, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Back through time: d_t = f'(z_t) (gradient_t + d_{t+1} W); W gets the sum of d_t' h_{t-1}."""
        initial, weight, states = ctx.saved_tensors
        slopes = (states > 0).to(states.dtype) if ctx.relu else 1 - states * states
        carried, deltas = torch.zeros_like(initial), []
        for slope, part in zip(reversed(slopes.unbind(0)), reversed(gradient.unbind(0)), strict=True):
            delta = (carried + part) * slope
            carried = delta @ weight
            deltas.append(delta)
        stacked = torch.stack(deltas[::-1])
        before = torch.cat([initial.unsqueeze(0), states[:-1]])
        return stacked, carried, stacked.flatten(0, 1).transpose(0, 1) @ before.flatten(0, 1), None


def elman(relu: bool) -> Layer:
    """The layer of ``torch.nn.RNN``; both biases are added to all inputs at once."""

    def layer(
        x: Tensor, state: State, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None, reverse: bool
    ) -> tuple[Tensor, State]:
        z = F.linear(x, w_ih, None if b_ih is None or b_hh is None else b_ih + b_hh)
        states: Tensor = Elman.apply(z.flip(0) if reverse else z, state[0], w_hh, relu)  # type: ignore[no-untyped-call]
        return (states.flip(0) if reverse else states), (states[-1],)

    return layer


def run(
    layer_of: Layer,
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
            output, state = layer_of(x, state, w_ih, w_hh, b_ih, b_hh, direction == 1)
            outputs.append(output)
            finals.append(state)
        x = outputs[0] if directions == 1 else torch.cat(outputs, dim=-1)
        if layer + 1 < layers:
            x = dropout(x)
    final = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
    return (x.transpose(0, 1) if batch_first else x), final


def replacement(layer: Layer) -> Callable[..., Any]:
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

        output, final = run(layer, x, initial, weights, biased, layers, dropout, bidirectional, batch_first)
        return output, *final

    return replaced


LAYERS: dict[Callable[..., Any], Layer] = {
    torch.rnn_tanh: elman(relu=False),
    torch.rnn_relu: elman(relu=True),
    torch.lstm: gated(lstm_cell),
    torch.gru: gated(gru_cell),
}
