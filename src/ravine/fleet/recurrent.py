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
    """h_t = f(W x_t + U h_{t-1} + b) with f = tanh or relu, by two operators that loop over time.

    x: (time, batch, features); h_0: (batch, hidden); W, U, b. Returns all h_t, (time, batch, hidden). Left to autograd,
    a stack of runs would read and write thirteen times the size of all its states, which do not fit into the cache.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, initial: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, relu: bool) -> Tensor:
        """All states."""
        states: Tensor = torch.ops.ravine.elman_states(x, initial, w_ih, w_hh, bias, relu)
        return states

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps what the backward pass needs."""
        x, initial, w_ih, w_hh, _, ctx.relu = inputs
        ctx.save_for_backward(output, x, initial, w_ih, w_hh)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x (if asked for), h_0, W, U and b."""
        inputs = ctx.needs_input_grad[0]
        of_x, *others = torch.ops.ravine.elman_slopes(gradient, *ctx.saved_tensors, ctx.relu, inputs)
        return of_x if inputs else None, *others, None


def elman_states(x: Tensor, initial: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """All h_t: (time, batch, hidden) of x (time, batch, features), or (time, runs, batch, hidden) of a stack.

    Of a stack x is (time, runs, batch, features), and all else has the runs first.
    """
    if x.ndim == 3:
        initial, w_ih, w_hh, bias = (tensor.unsqueeze(0) for tensor in (initial, w_ih, w_hh, bias))
        return elman_states(x.unsqueeze(1), initial, w_ih, w_hh, bias, relu).squeeze(1)
    states = x.new_empty(*x.shape[:3], w_hh.shape[1])
    inward, onward, bias = w_ih.transpose(1, 2), w_hh.transpose(1, 2), bias.unsqueeze(1)
    before = initial
    for given, state in zip(x.unbind(0), states.unbind(0), strict=True):
        torch.baddbmm(bias, given, inward, out=state).baddbmm_(before, onward)
        before = state.relu_() if relu else tanh_(state)
    return states


def elman_slopes(
    gradient: Tensor,
    states: Tensor,
    x: Tensor,
    initial: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    relu: bool,
    inputs: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Back through time: d_t = f'(z_t) (gradient_t + U' d_{t+1}); the slopes of x, h_0, W, U and b.

    Shapes as in `elman_states`; that of x is empty unless `inputs`. Every sum over time takes its part while
    d_t is in the cache.
    """
    if x.ndim == 3:
        gradient, states, x = (tensor.unsqueeze(1) for tensor in (gradient, states, x))
        initial, w_ih, w_hh = (tensor.unsqueeze(0) for tensor in (initial, w_ih, w_hh))
        of_x, *others = elman_slopes(gradient, states, x, initial, w_ih, w_hh, relu, inputs)
        of_x = of_x.squeeze(1) if inputs else of_x
        return of_x, *(slope.squeeze(0) for slope in others)  # type: ignore[return-value]  # four of them
    of_x = torch.empty_like(x, memory_format=torch.contiguous_format) if inputs else x.new_empty(0)
    of_w_ih, of_w_hh = torch.zeros_like(w_ih).transpose(1, 2).contiguous(), torch.zeros_like(w_hh)
    of_bias = torch.zeros_like(w_hh[:, 0])
    carried = torch.zeros_like(initial)
    for time in reversed(range(len(x))):
        delta = carried.add_(gradient[time])
        if relu:
            torch.ops.aten.threshold_backward.grad_input(delta, states[time], 0, grad_input=delta)
        else:
            torch.ops.aten.tanh_backward.grad_input(delta, states[time], grad_input=delta)
        of_w_hh.baddbmm_(delta.transpose(1, 2), states[time - 1] if time > 0 else initial)
        of_w_ih.baddbmm_(x[time].transpose(1, 2), delta)
        of_bias += delta.sum(1)
        if inputs:
            torch.bmm(delta, w_ih, out=of_x[time])
        carried = torch.bmm(delta, w_hh)
    return of_x, carried, of_w_ih.transpose(1, 2).contiguous(), of_w_hh, of_bias


def tanh_(x: Tensor) -> Tensor:
    """tanh in place; on a CPU by oneDNN: a third of the time of torch's own kernel, at the same accuracy."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return x.copy_(x.to_mkldnn().tanh_().to_dense())
    return x.tanh_()


def _stacked(tensor: Tensor, dim: int | None, place: int, runs: int) -> Tensor:
    """A tensor with the dimension of the runs at `place`, whether it differs among them or not (`dim` is None)."""
    if dim is not None:
        return tensor.movedim(dim, place)
    return tensor.unsqueeze(place).expand(*tensor.shape[:place], runs, *tensor.shape[place:])


def _states_of_runs(info: Any, dims: tuple[Any, ...], *given: Any) -> tuple[Tensor, int]:
    places = (1, 0, 0, 0, 0)
    stacked = [_stacked(*one, info.batch_size) for one in zip(given, dims, places, strict=False)]
    return torch.ops.ravine.elman_states(*stacked, *given[len(places) :]), 1


def _slopes_of_runs(info: Any, dims: tuple[Any, ...], *given: Any) -> tuple[Any, tuple[int | None, ...]]:
    places = (1, 1, 1, 0, 0, 0)
    stacked = [_stacked(*one, info.batch_size) for one in zip(given, dims, places, strict=False)]
    return torch.ops.ravine.elman_slopes(*stacked, *given[len(places) :]), (1 if given[-1] else None, 0, 0, 0, 0)


def _shape_of_states(x: Tensor, initial: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, relu: bool) -> Tensor:
    return x.new_empty(*x.shape[:-1], w_hh.shape[-2])


def _shapes_of_slopes(
    gradient: Tensor,
    states: Tensor,
    x: Tensor,
    initial: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    relu: bool,
    inputs: bool,
) -> tuple[Tensor, ...]:
    of_x = x.new_empty(x.shape if inputs else 0)
    shapes = (initial.shape, w_ih.shape, w_hh.shape, w_hh.shape[:-1])
    return of_x, *(x.new_empty(shape) for shape in shapes)


# Not `torch.library.custom_op`, whose autograd kernel does not work below `torch.func.grad`.
_OPERATORS: Any = torch.library.Library("ravine", "DEF")  # type: ignore[no-untyped-call]
_STATES = "Tensor x, Tensor initial, Tensor w_ih, Tensor w_hh"
_OPERATORS.define(f"elman_states({_STATES}, Tensor bias, bool relu) -> Tensor")
_OPERATORS.define(
    f"elman_slopes(Tensor gradient, Tensor states, {_STATES}, bool relu, bool inputs)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
for _body, _of_runs, _shapes in (
    (elman_states, _states_of_runs, _shape_of_states),
    (elman_slopes, _slopes_of_runs, _shapes_of_slopes),
):
    _OPERATORS.impl(_body.__name__, _body, "CompositeExplicitAutograd")
    torch.library.register_vmap(f"ravine::{_body.__name__}", _of_runs, lib=_OPERATORS)
    torch.library.register_fake(f"ravine::{_body.__name__}", _shapes, lib=_OPERATORS)


def elman(relu: bool) -> Layer:
    """The layer of ``torch.nn.RNN``; both biases are added to all inputs at once."""

    def layer(
        x: Tensor, state: State, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None, reverse: bool
    ) -> tuple[Tensor, State]:
        bias = torch.zeros_like(w_hh[:, 0]) if b_ih is None or b_hh is None else b_ih + b_hh
        given = x.flip(0) if reverse else x
        states: Tensor = Elman.apply(given, state[0], w_ih, w_hh, bias, relu)  # type: ignore[no-untyped-call]
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
