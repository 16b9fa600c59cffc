"""The gradient and the curvature products against dense matrices, and what is left of the model: nothing changed."""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cases_measure import data, dense, dense_hessian, objective
from ravine.curvature import Objective, gauss_newton, hessian
from ravine.errors import UserError


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.RNNBase]) -> None:
        super().__init__()
        self.rnn, self.out = kind(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x.view(-1, 2, 2))[0][:, -1])  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(2, 1, 4, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x.view(-1, 2, 2)).flatten(1))  # type: ignore[no-any-return]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))  # type: ignore[no-any-return]


def normalized() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)),
    "convolutional": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 2, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(18, 3)
    ),
    "batch norm and dropout": normalized,
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "attention": Attention,
    "tied": Tied,
    "partly frozen": lambda: nn.Sequential(nn.Linear(4, 5).requires_grad_(False), nn.Tanh(), nn.Linear(5, 3)),
}


def of(name: str, **options: object) -> Objective:
    torch.manual_seed(1)
    return Objective(MODELS[name]().double(), [data(12)], loss=F.cross_entropy, **options)  # type: ignore[arg-type]


def test_the_hessian_is_the_dense_one() -> None:
    measured = hessian(objective())(torch.eye(43, dtype=torch.float64))
    torch.testing.assert_close(measured, dense_hessian(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", MODELS)
def test_the_hessian_is_the_slope_of_the_gradient(name: str) -> None:
    found = of(name)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(found.size, generator=generator, dtype=torch.float64)
    product = hessian(found)(v[None])[0]

    def shift(size: float) -> None:
        with torch.no_grad():
            for p, piece in zip(
                found.parameters, torch.split(size * v, [p.numel() for p in found.parameters]), strict=True
            ):
                p.add_(piece.view(p.shape))

    shift(1e-5)
    ahead = found.gradient()
    shift(-2e-5)
    behind = found.gradient()
    torch.testing.assert_close((ahead - behind) / 2e-5, product, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_products_of_several_vectors_are_those_of_each(name: str) -> None:
    found = of(name)
    vectors = torch.randn(3, found.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for matrix in (hessian(found), gauss_newton(found)):
        together = matrix(vectors)
        torch.testing.assert_close(torch.cat([matrix(v[None]) for v in vectors]), together, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_gauss_newton_is_j_h_j(name: str) -> None:
    """J by one backward pass per output, H = (diag(p) - p p') / rows for cross-entropy."""
    found = of(name)
    part = found.parts[0]
    x, _ = part.batch
    with found.fixed(part):
        outputs = found.model(x)
    dense_matrix = torch.zeros(found.size, found.size, dtype=torch.float64)
    for row in outputs:
        slopes = [torch.autograd.grad(o, found.parameters, retain_graph=True, allow_unused=True) for o in row]
        jacobian = torch.stack([found.join(slope) for slope in slopes])
        p = row.detach().softmax(0)
        dense_matrix += jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian / len(x)
    measured = gauss_newton(found)(torch.eye(found.size, dtype=torch.float64))
    torch.testing.assert_close(measured, dense_matrix, rtol=1e-10, atol=1e-12)


def test_gauss_newton_of_a_linear_model_is_its_hessian() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    found = Objective(model, [(x, x[:, :1])], loss=F.mse_loss)
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(gauss_newton(found)(eye), 2 * x.T @ x / 20)
    torch.testing.assert_close(hessian(found)(eye), 2 * x.T @ x / 20)


def test_micro_batches_add_up_whatever_their_sizes() -> None:
    whole, parts = objective(), objective(micro_batch=7)
    assert [part.rows for part in parts.parts] == [7] * 6 + [6]
    v = torch.randn(2, whole.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(parts.loss(), whole.loss())
    torch.testing.assert_close(parts.gradient(), whole.gradient())
    torch.testing.assert_close(hessian(parts)(v), hessian(whole)(v))
    torch.testing.assert_close(gauss_newton(parts)(v), gauss_newton(whole)(v))


def test_single_precision_and_recurrent_kernels_are_differentiated_twice() -> None:
    torch.manual_seed(0)
    x, y = data(12)
    found = Objective(Recurrent(nn.LSTM), [(x.float(), y)], loss=F.cross_entropy)
    double = Objective(copy.deepcopy(found.model).double(), [(x, y)], loss=F.cross_entropy)
    v = torch.randn(1, found.size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(hessian(found)(v).double(), hessian(double)(v.double()), rtol=1e-4, atol=1e-5)


class Counting(nn.Module):
    """Counts its passes in an attribute, and keeps what it saw in a buffer that it rebinds."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = normalized(), 0
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen = 0.9 * self.seen + x.detach().mean(0)
        return self.inner(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_nothing_is_left_changed(mode: str) -> None:
    torch.manual_seed(0)
    model = Counting().double()
    model.inner[2].eval()  # a frozen layer stays so
    x, y = data(12)
    F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    before = copy.deepcopy(model.state_dict())
    slopes = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]["key"].copy()
    found = Objective(model, [(x, y)], loss=F.cross_entropy, mode=mode, micro_batch=4)  # type: ignore[arg-type]
    found.loss(), found.gradient()
    hessian(found)(torch.ones(1, found.size, dtype=torch.float64))
    gauss_newton(found)(torch.ones(1, found.size, dtype=torch.float64))
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(a, p.grad) for a, p in zip(slopes, model.parameters(), strict=True) if p.grad is not None)
    assert (model.calls, model.training, model.inner[2].training) == (1, True, False)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state(legacy=False)["state"]["key"])


def test_mode_eval_measures_without_dropout() -> None:
    torch.manual_seed(0)
    model = normalized().double()
    x, y = data(12)
    measured = Objective(model, [(x, y)], loss=F.cross_entropy, mode="eval").loss()
    torch.testing.assert_close(measured, F.cross_entropy(model.eval()(x), y).detach())


def test_mode_train_leaves_frozen_layers_frozen() -> None:
    """Also while the model is in eval mode between two measurements."""
    torch.manual_seed(0)
    model = normalized().double()
    norm = model[1].eval()
    x, y = data(12)
    found = Objective(model, [(x, y)], loss=F.cross_entropy)
    seen: list[tuple[bool, bool]] = []
    norm.register_forward_hook(lambda module, given, returned: seen.append((module.training, model.training)))
    frozen = found.loss()
    model.eval()
    torch.testing.assert_close(found.loss(), frozen)
    assert seen == [(False, True), (False, True)]
    assert not norm.training and not model.training
    thawed = Objective(model.train(), [(x, y)], loss=F.cross_entropy)
    assert not torch.isclose(thawed.loss(), frozen)


class Restless(nn.Module):
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.rand(x.shape, generator=self.own, dtype=x.dtype)


class Restful(nn.Module):
    """Draws in its own forward, before a layer that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()
        self.own = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + torch.rand(x.shape, generator=self.own, dtype=x.dtype))  # type: ignore[no-any-return]


def test_one_row_left_over_for_batch_norm_gets_a_sentence() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    alone = Objective(model, [data()], loss=F.cross_entropy, micro_batch=len(data()[0]) - 1)
    with pytest.raises(UserError, match="a micro-batch has one row, and BatchNorm"):
        alone.gradient()


def wrong(**changes: object) -> Objective:
    given: dict[str, object] = {"model": dense(), "batches": [data()], "loss": F.cross_entropy, **changes}
    return Objective(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": dense().eval()}, "the model is in eval mode.*call model.train"),
        ({"loss": lambda a, b: F.cross_entropy(a, b, reduction="sum")}, "grows 2 times.*so it is a sum"),
        ({"loss": lambda a, b: F.cross_entropy(a, b, reduction="none")}, "one number, not a tensor of shape"),
        ({"loss": lambda a, b: 0.0 * F.cross_entropy(a, b) / 0.0}, "gradient of '0.weight' is not finite on the first"),
        ({"model": nn.Sequential(nn.Linear(4, 4), Restless(), nn.Linear(4, 3)).double()}, "first at the module '1'"),
        ({"model": Restful()}, "first at what the module 'layer' is given, by the forward"),
        ({"model": lambda x: x}, "must be a torch.nn.Module, not of type function"),
        ({"model": dense().requires_grad_(False)}, "no parameter that requires"),
        ({"batches": data()}, r"every batch is a pair \(inputs, targets\), and one is a Tensor: give"),
        ({"batches": [(*data(), data()[0])]}, "and one is 3 things"),
        ({"batches": [{"x": data()[0]}]}, "and one is a dict"),
        ({"batches": []}, "no batch to measure on"),
        ({"batches": [(data()[0], data()[1][:5])]}, "one row per example"),
        ({"loss": None}, "exactly one of loss="),
        ({"micro_batch": 0}, "at least one row"),
        ({"mode": "test"}, "'train' or 'eval'"),
    ],
)
def test_wrong_use_gets_a_sentence(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        wrong(**changes)


class Once(torch.autograd.Function):
    """x -> x^2, with a backward pass that may not be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * slope  # type: ignore[no-any-return]


class Outside(Once):
    """The same, with a backward pass that is not marked, and that autograd does not see."""

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            return 2 * x * slope  # type: ignore[no-any-return]


class Partly(torch.autograd.Function):
    """x^2 + y^2, with a backward pass that autograd sees only a part of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x * x + y * y

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        return 2 * x * slope, (2 * y * slope).detach()


class Zero(Once):
    """sign(x), whose derivative is a constant 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return torch.zeros_like(slope)


class Applied(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize("matrix", [hessian, gauss_newton])
@pytest.mark.parametrize("place", ["loss", "first layer", "last layer"])
@pytest.mark.parametrize(
    ("function", "reason"), [(Once, "'Once' is marked once_differentiable"), (Outside, "'Outside' leaves autograd")]
)
def test_what_can_be_differentiated_once_gets_a_sentence(
    matrix: Callable[[Objective], object], place: str, function: type[torch.autograd.Function], reason: str
) -> None:
    """torch gives a part of the Hessian of such a loss as zero, without a word."""
    square = Applied(function)
    last = [nn.Linear(4, 3), square]
    layers: list[nn.Module] = [nn.Linear(4, 3)] if place == "loss" else last
    model = nn.Sequential(*layers, *([nn.Linear(3, 3)] if place == "first layer" else [])).double()
    x, y = data(12)
    loss = (lambda z, y: square(z).sum(1).mean()) if place == "loss" else F.cross_entropy
    found = Objective(model, [(x, y)], loss=loss)
    assert found.gradient().norm() > 0
    with pytest.raises(UserError, match=reason):
        matrix(found)


def test_one_of_two_slopes_without_a_graph_gets_a_sentence() -> None:
    def both(z: Tensor, y: Tensor) -> Tensor:
        return Partly.apply(z, z.sin()).mean()  # type: ignore[no-any-return, no-untyped-call]

    def first(z: Tensor, y: Tensor) -> Tensor:
        return Partly.apply(z, y.to(z.dtype)[:, None]).mean()  # type: ignore[no-any-return, no-untyped-call]

    model = nn.Linear(4, 3).double()
    with pytest.raises(UserError, match="'Partly' leaves autograd"):
        hessian(Objective(model, [data(12)], loss=both))
    found = Objective(model, [data(12)], loss=first)  # nobody asks for the other slope
    units = torch.eye(found.size, dtype=torch.float64)
    plain = Objective(model, [data(12)], loss=lambda z, y: z.square().mean())
    torch.testing.assert_close(hessian(found)(units), hessian(plain)(units))


def test_a_derivative_that_is_zero_hides_nothing() -> None:
    found = Objective(
        nn.Linear(4, 3).double(), [data(12)], loss=lambda z, y: Applied(Zero)(z).mean() + z.square().mean()
    )
    units = torch.eye(found.size, dtype=torch.float64)
    plain = Objective(found.model, [data(12)], loss=lambda z, y: z.square().mean())
    torch.testing.assert_close(hessian(found)(units), hessian(plain)(units))


def test_gauss_newton_needs_outputs_and_loss_apart() -> None:
    x, y = data()
    found = Objective(dense(), [(x, y)], batch_loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]))
    assert found.gradient().norm() > 0
    with pytest.raises(UserError, match="give loss= in place of batch_loss="):
        gauss_newton(found)
