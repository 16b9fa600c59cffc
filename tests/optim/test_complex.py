"""A complex parameter is stepped as its real and imaginary parts, on every path."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cases_optim import Make, rule_of, through_bytes, twins
from ravine.errors import UserError
from ravine.optim import OF_RULE, SGD, SNGM, AdaGrad, Adam, Momentum, RuleOptimizer, convert

ALIKE = {name: make for name, make in OF_RULE.items() if rule_of(make([torch.zeros(1)])).elementwise}
alike = pytest.mark.parametrize("make", ALIKE.values(), ids=ALIKE)

SHAPES: list[tuple[int, ...]] = [(3, 4), (5,), (), (0,), (2, 0), (40_000,)]


def parameters(dtype: torch.dtype = torch.complex64) -> tuple[list[Tensor], list[Tensor]]:
    """Complex parameters, and real ones that hold the same numbers."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, dtype=dtype, generator=generator) for shape in SHAPES]
    return [one.clone().requires_grad_() for one in drawn], [torch.view_as_real(one).requires_grad_() for one in drawn]


def give_gradients(ours: list[Tensor], pairs: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for param, pair in zip(ours, pairs, strict=True):
        param.grad = torch.randn(param.shape, dtype=param.dtype, generator=generator)
        pair.grad = torch.view_as_real(param.grad).clone()


def assert_alike(ours: list[Tensor], pairs: list[Tensor], steps: int) -> None:
    near = 4 * steps * torch.finfo(pairs[0].dtype).eps  # the pairs are packed, or stepped by a kernel
    for param, pair in zip(ours, pairs, strict=True):
        torch.testing.assert_close(torch.view_as_real(param.detach()), pair.detach(), rtol=near, atol=near)


@alike
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "maximize": True}])
def test_the_step_is_that_of_both_parts(make: Make, dtype: torch.dtype, options: dict[str, Any]) -> None:
    ours, pairs = parameters(dtype)
    optimizer, twin = make(ours, **options), make(pairs, **options)
    for step in range(5):
        give_gradients(ours, pairs, step)
        optimizer.step()
        twin.step()
    assert_alike(ours, pairs, 5)
    for param in ours:
        assert all(optimizer.state[param][name].dtype == dtype for name in rule_of(optimizer).slots)


@twins
def test_the_step_is_torchs(make: Make, twin: Any) -> None:
    ours, pairs = parameters()
    theirs = [param.detach().clone().requires_grad_() for param in ours]
    left, right = make(ours, lr=0.1), twin(theirs, lr=0.1)
    for step in range(4):
        give_gradients(ours, pairs, step)
        for param, other in zip(ours, theirs, strict=True):
            other.grad = param.grad
        left.step()
        right.step()
    for param, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(param, other, rtol=1e-5, atol=1e-5)
    again = make([param.detach().clone().requires_grad_() for param in ours], lr=0.1)
    again.load_state_dict(right.state_dict())
    for kept, param in zip(again.param_groups[0]["params"], theirs, strict=True):
        for name in rule_of(again).slots:
            torch.testing.assert_close(again.state[kept][name], right.state[param][name])


def test_what_lies_otherwise_is_stepped_in_place() -> None:
    whole = torch.randn(4, 6, dtype=torch.complex64)
    ours = torch.nn.Parameter(whole.t())
    pair = torch.nn.Parameter(torch.view_as_real(whole.t()).clone())
    optimizer, twin = Momentum([ours]), Momentum([pair])
    for step in range(3):
        give_gradients([ours], [pair], step)
        assert ours.grad is not None
        ours.grad = ours.grad.conj().resolve_conj().conj() if step else ours.grad.mT.contiguous().mT
        assert ours.grad.is_conj() == bool(step)
        optimizer.step()
        twin.step()
    torch.testing.assert_close(torch.view_as_real(whole.t()), pair.detach())


def test_a_compiled_step_sees_that_a_gradient_lies_otherwise() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(4, 6, dtype=torch.complex64, generator=generator)[:, ::2]
    gradients = [wide.conj(), wide, torch._neg_view(wide), wide.clone().conj(), wide.clone()]
    param = torch.zeros(4, 3, dtype=torch.complex64).requires_grad_()
    optimizer = Momentum([param], lr=1.0, momentum=0.0)
    optimizer.compile(by_strides)
    for gradient in gradients:
        param.grad = gradient
        with torch.no_grad():
            param.zero_()
        optimizer.step()
        torch.testing.assert_close(param.detach(), -gradient.resolve_conj().resolve_neg())


def by_strides(graph: Any, examples: list[Tensor]) -> Any:
    """Like a compiler that asserts no layout: it reads memory by the strides of its examples."""
    layouts = [(one.shape, one.stride()) for one in examples]

    def call(*given: Tensor) -> Any:
        seen = [one.as_strided(*layout) for one, layout in zip(given, layouts, strict=True)]
        assert not any(one.is_neg() or one.is_conj() for one in seen)
        return graph(*seen)

    return call


def test_a_parameter_that_is_an_unwritten_conjugate_raises() -> None:
    with pytest.raises(UserError, match="resolve_conj"):
        SGD([torch.nn.Parameter(torch.ones(3, dtype=torch.complex64).conj())])


def test_complex_state_does_not_go_into_a_real_parameter() -> None:
    ours, pairs = parameters()
    optimizer = Momentum(ours[1:2])
    give_gradients(ours, pairs, 0)
    optimizer.step()
    with pytest.raises(UserError, match="complex numbers"):
        Momentum([torch.zeros(5).requires_grad_()]).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("make", [SGD, AdaGrad, Adam])
def test_a_sparse_gradient_gives_the_steps_of_a_dense_one(make: Make) -> None:
    ours, twin = parameters()[0][0], parameters()[0][0]
    left, right = make([ours]), make([twin])
    for step in range(3):
        values = torch.randn(2, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(step))
        ours.grad = torch.sparse_coo_tensor(torch.tensor([[0, 2]]), values, (3, 4), check_invariants=True)
        twin.grad = ours.grad.to_dense()
        left.step()
        right.step()
    torch.testing.assert_close(ours, twin)


def test_a_checkpoint_goes_on_bit_by_bit() -> None:
    ours, pairs = parameters()
    optimizer = Adam(ours)
    give_gradients(ours, pairs, 0)
    optimizer.step()
    copies = [param.detach().clone().requires_grad_() for param in ours]
    again = Adam(copies)
    again.load_state_dict(through_bytes(optimizer.state_dict()))
    give_gradients(ours, pairs, 1)
    for param, copy in zip(ours, copies, strict=True):
        copy.grad = param.grad
    optimizer.step()
    again.step()
    assert all(torch.equal(param, copy) for param, copy in zip(ours, copies, strict=True))


@pytest.mark.parametrize("make", [Momentum, SNGM, Adam])
def test_one_graph_steps_complex_parameters(make: Make) -> None:
    torch._dynamo.reset()
    graphs: list[object] = []

    def count(graph: Any, examples: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph

    ours, pairs = parameters()
    traced = [param.detach().clone().requires_grad_() for param in ours]
    optimizer, twin, other = make(ours), make(pairs), make(traced)
    optimizer.compile(count)
    step_traced = torch.compile(other.step, backend=count)
    for step in range(3):
        give_gradients(ours, pairs, step)
        for param, copy in zip(ours, traced, strict=True):
            copy.grad = param.grad
        optimizer.step()
        twin.step()
        step_traced()
    assert_alike(ours, pairs, 3)
    assert_alike(traced, pairs, 3)
    assert len(graphs) == 2


def test_forms_are_converted() -> None:
    ours, pairs = parameters()
    before: RuleOptimizer = Momentum(ours, lr=0.1)
    straight: RuleOptimizer = Momentum(pairs, lr=0.1)
    for step in range(3):
        give_gradients(ours, pairs, step)
        before.step()
        straight.step()
    after = convert(before, "ema")
    for step in range(3, 6):
        give_gradients(ours, pairs, step)
        after.step()
        straight.step()
    assert_alike(ours, pairs, 6)


def test_real_and_complex_parameters_share_a_norm() -> None:
    ours, other = parameters()[0][:2], torch.randn(3).requires_grad_()
    optimizer = SNGM([*ours, other], lr=1.0, momentum=0.0)
    before = [param.detach().clone() for param in (*ours, other)]
    for param in (*ours, other):
        param.grad = torch.ones_like(param)
    optimizer.step()
    moved = math.sqrt(
        sum(
            float((a - b).abs().square().sum())
            for a, b in zip(before, (p.detach() for p in (*ours, other)), strict=True)
        )
    )
    assert moved == pytest.approx(1.0, rel=1e-5)
