"""The recurrent layers of a stack against torch's own, in float64: values, all gradients, one run and many."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ravine.fleet import recurrent

RUNS, TIME, BATCH, FEATURES, HIDDEN = 3, 5, 4, 2, 6


def weights(relu: bool, seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    layer = nn.RNN(FEATURES, HIDDEN, nonlinearity="relu" if relu else "tanh", dtype=torch.float64)
    return [parameter.detach() for parameter in layer.parameters()]


def judged(outputs: Tensor, last: Tensor) -> Tensor:
    times = torch.linspace(-1, 1, TIME, dtype=outputs.dtype).view(-1, 1, 1)
    return (outputs * times).sum() + last.square().sum()


def ours(relu: bool, x: Tensor, initial: Tensor, given: list[Tensor]) -> Tensor:
    layer = recurrent.elman(relu)
    w_ih, w_hh, b_ih, b_hh = given
    outputs, (last,) = layer(x, (initial,), w_ih, w_hh, b_ih, b_hh, False)
    return judged(outputs, last)


def torchs(relu: bool, x: Tensor, initial: Tensor, given: list[Tensor]) -> Tensor:
    layer = nn.RNN(FEATURES, HIDDEN, nonlinearity="relu" if relu else "tanh", dtype=torch.float64)
    names = [name for name, _ in layer.named_parameters()]
    outputs, last = functional_call(layer, dict(zip(names, given, strict=True)), (x, initial.unsqueeze(0)))
    return judged(outputs, last)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shared", [False, True], ids=["own inputs", "shared inputs"])
def test_values_and_gradients_of_a_stack_are_those_of_torch(relu: bool, shared: bool) -> None:
    x = torch.randn(*(() if shared else (RUNS,)), TIME, BATCH, FEATURES, dtype=torch.float64)
    initial = torch.randn(RUNS, BATCH, HIDDEN, dtype=torch.float64)
    given = [torch.stack(tensors) for tensors in zip(*(weights(relu, seed) for seed in range(RUNS)), strict=True)]

    def slopes(of: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor, list[Tensor]]]:
        return grad(lambda x, initial, given: of(relu, x, initial, given), argnums=(0, 1, 2))

    of_x, of_initial, of_given = vmap(slopes(ours), in_dims=(None if shared else 0, 0, 0))(x, initial, given)
    for run in range(RUNS):
        own = [tensor[run].clone().requires_grad_() for tensor in given]
        inputs = (x if shared else x[run]).clone().requires_grad_()
        start = initial[run].clone().requires_grad_()
        torchs(relu, inputs, start, own).backward()  # type: ignore[no-untyped-call]
        for found, leaf in zip(
            (of_x[run], of_initial[run], *(tensor[run] for tensor in of_given)), (inputs, start, *own), strict=True
        ):
            torch.testing.assert_close(found, leaf.grad, rtol=1e-12, atol=1e-12)


def test_inputs_that_need_no_gradient_get_none() -> None:
    given = [tensor.requires_grad_() for tensor in weights(False, 0)]
    x, initial = torch.randn(TIME, BATCH, FEATURES).double(), torch.zeros(BATCH, HIDDEN).double()
    ours(False, x, initial, given).backward()  # type: ignore[no-untyped-call]
    assert x.grad is None
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in given)


def test_tanh_is_as_accurate_as_torchs() -> None:
    """To two roundings, relative, from the smallest numbers to saturation; also where the sign turns."""
    x = torch.cat([torch.linspace(-12, 12, 100_001), torch.logspace(-30, 0, 1_000), -torch.logspace(-30, 0, 1_000)])
    exact = torch.tanh(x.double())
    error = (recurrent.tanh_(x.clone()).double() - exact).abs()
    assert bool((error <= 2 * torch.finfo(torch.float32).eps * exact.abs()).all())
    assert recurrent.tanh_(torch.zeros(3)).tolist() == [0, 0, 0]
    assert recurrent.tanh_(torch.full((3,), torch.inf)).tolist() == [1, 1, 1]
    assert recurrent.tanh_(torch.full((3,), torch.nan)).isnan().all()
