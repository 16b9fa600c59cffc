"""Torch's kernels step as the bodies of the rules do, and are called only where that is so."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from cases_optim import Make, give_gradients, parameters, rule_of, run
from ravine import rules
from ravine.optim import (
    OF_RULE,
    SGD,
    SGDF,
    SGDP,
    Adam,
    AdamP,
    AdamW,
    Momentum,
    NAdam,
    RMSProp,
    RuleOptimizer,
    arithmetic,
    batches,
    kernels,
    shortcuts,
)
from ravine.optim.kernels import FEW, KERNELS, MANY, VERY_LARGE, kernel_of
from ravine.optim.shortcuts import LARGE, SHORTCUTS, Shortcut
from ravine.rules.base import Tensors
from ravine.rules.projected import row_numbers

CALLED = {name: make for name, make in OF_RULE.items() if kernel_of(rule_of(make(parameters())))}
"""Optimizers of the rules of which torch has a kernel."""

SIZES: list[tuple[int, ...]] = [(), (0,), (1,), (7,), (8, 8), (65,), (5, 201), (2, 0)]
"""About the widths of vectors, and without elements."""

called = pytest.mark.parametrize("make", CALLED.values(), ids=CALLED)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of parameters in each call of a kernel."""
    found: list[int] = []
    step = batches.Called.step

    def counted(one: batches.Called) -> None:
        found.append(len(one.places) + len(one.sources))
        step(one)

    monkeypatch.setattr(batches.Called, "step", counted)
    return found


def without(make: Make, params: list[Tensor], **options: float) -> RuleOptimizer:
    """An optimizer that steps by the body of its rule: its parameters are of a class that kernels do not take."""
    for param in params:
        param.__class__ = Own
    return make(params, **options)


class Own(torch.nn.Parameter):
    """A subclass that changes nothing."""


def edit(optimizer: RuleOptimizer, step: int) -> None:
    """Other hyper-parameters for each step, and one step without momentum."""
    group = optimizer.param_groups[0]
    group["lr"] = 0.1 / (step + 1)
    if "momentum" in group:
        group["momentum"] = 0.9 - 0.1 * step if step != 4 else 0.0
    if "betas" in group:
        group["betas"] = (0.9 - 0.1 * step, 0.99 - 0.01 * step) if step != 4 else (0.0, 0.9)


def assert_alike(left: RuleOptimizer, ours: list[Tensor], right: RuleOptimizer, twins: list[Tensor]) -> None:
    """Whether parameters and state are equal up to the rounding of some steps."""
    for a, b in zip(ours, twins, strict=True):
        near = 16 * torch.finfo(a.dtype).eps
        torch.testing.assert_close(a.detach(), b.detach().as_subclass(Tensor), rtol=near, atol=near)
        assert left.state[a].keys() == right.state[b].keys()
        for name, value in left.state[a].items():
            torch.testing.assert_close(value, right.state[b][name].as_subclass(Tensor), rtol=near, atol=near)


def test_every_kernel_is_that_of_a_rule() -> None:
    assert {type(rule_of(make(parameters()))) for make in CALLED.values()} == KERNELS.keys()


@called
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("decay", "maximize"), [(0.0, False), (0.1, True)])
def test_a_kernel_is_the_body(make: Make, dtype: torch.dtype, decay: float, maximize: bool, calls: list[int]) -> None:
    shapes = [*SIZES, *SIZES, (FEW + 1,), *SIZES, (3,)]
    ours, twins = parameters(dtype=dtype, shapes=shapes), parameters(dtype=dtype, shapes=shapes)
    options = {"weight_decay": decay, "maximize": maximize}
    optimizer, twin = make(ours, **options), without(make, twins, **options)
    for step in range(8):
        for params, each in ((ours, optimizer), (twins, twin)):
            edit(each, step)
            run(each, params, range(step, step + 1))
        assert_alike(optimizer, ours, twin, twins)
    assert calls == [len(shapes)] * 8
    assert [part.small for part in optimizer._arranged[0].parts] == [len(shapes) - 1]  # many: stepped by one thread


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("count", [MANY - 1, MANY])
def test_many_small_tensors_are_stepped_by_one_thread_and_nobody_else_notices(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, int]] = []

    def threads() -> int:
        with ThreadPoolExecutor(1) as another:
            return another.submit(torch.get_num_threads).result()

    def looked(params: list[Tensor], *columns: list[Tensor], **numbers: float) -> None:
        seen.append((len(params), torch.get_num_threads(), threads()))

    def stepped() -> int:
        params = parameters(shapes=[(FEW + 1,), *[(FEW,)] * count, (FEW + 2,)])
        run(Momentum(params), params, range(1))
        return torch.get_num_threads()

    monkeypatch.setattr(kernels, "KERNELS", {rules.Momentum: looked})
    expected = [(count, 1, 2), (2, 2, 2)] if count == MANY else [(count + 2, 2, 2)]
    assert stepped() == 2
    assert seen == expected
    with ThreadPoolExecutor(1) as new:  # where the number is what OpenMP has, until torch is asked
        assert new.submit(stepped).result() == 2
    assert seen == expected * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("decay", "maximize"), [(0.0, False), (0.0, True), (0.1, False), (0.1, True)])
def test_large_tensors_may_have_another_kernel(
    dtype: torch.dtype, decay: float, maximize: bool, calls: list[int]
) -> None:
    shapes: list[tuple[int, ...]] = [(7,), (VERY_LARGE,), (3, VERY_LARGE), (VERY_LARGE - 1,)]
    ours, twins = parameters(dtype=dtype, shapes=shapes), parameters(dtype=dtype, shapes=shapes)
    optimizer = SGD(ours, weight_decay=decay, maximize=maximize)
    twin = without(SGD, twins, weight_decay=decay, maximize=maximize)
    for step in range(3):
        for params, each in ((ours, optimizer), (twins, twin)):
            edit(each, step)
            run(each, params, range(step, step + 1))
        assert_alike(optimizer, ours, twin, twins)
    assert calls == [2, 2] * 3


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of the tensor at each shortcut."""
    found: list[int] = []

    def counted(step: Shortcut) -> Shortcut:
        def count(param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
            found.append(param.numel())
            step(param, grad, state, c)

        return count

    monkeypatch.setattr(shortcuts, "SHORTCUTS", {rule: counted(step) for rule, step in SHORTCUTS.items()})
    return found


shortened = pytest.mark.parametrize("make", [RMSProp, NAdam, SGDF, SGDP, AdamP])


@shortened
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("decay", "maximize"), [(0.0, False), (0.1, True)])
def test_a_shortcut_is_the_body(
    make: Make, dtype: torch.dtype, decay: float, maximize: bool, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "BLOCK", 40_000)
    monkeypatch.setattr(shortcuts, "STRIP", 25_000)
    shapes: list[tuple[int, ...]] = [(7,), (3, 11_001), (75_001,), (LARGE,), (40, 30, 30)]
    ours, twins = parameters(dtype=dtype, shapes=shapes), parameters(dtype=dtype, shapes=shapes)
    options = {"weight_decay": decay, "maximize": maximize}
    optimizer, twin = make(ours, **options), without(make, twins, **options)
    for step in range(6):
        for params, each in ((ours, optimizer), (twins, twin)):
            edit(each, step)
            if make is RMSProp:
                each.param_groups[0]["alpha"] = 0.9 - 0.2 * step if step < 5 else 0.0
            if make in (SGDP, AdamP):
                each.param_groups[0]["delta"] = 10.0 if step % 2 else 0.1  # with and without a projection
            run(each, params, range(step, step + 1))
        assert_alike(optimizer, ours, twin, twins)
    whole = rule_of(optimizer).elementwise is False
    assert taken == [33_003, *([75_001] if whole else [37_501, 37_500]), 36_000] * 6


@shortened
def test_a_shortcut_takes_nothing_from_one_block_to_the_next(make: Make, taken: list[int]) -> None:
    params = parameters(shapes=[(3, 11_001), (3, 11_001)])
    optimizer = make(params)
    for step in range(2):
        give_gradients(params, step)
        grad = params[0].grad
        assert grad is not None
        grad[0, 0] = torch.inf
        optimizer.step()
    assert taken
    assert params[0].isfinite().sum() < params[0].numel()
    assert params[1].isfinite().all()


@shortened
def test_autograd_sees_what_a_shortcut_has_stepped(make: Make, taken: list[int]) -> None:
    param = torch.ones(2, LARGE).requires_grad_()
    loss = (param**2).sum()
    torch.autograd.backward(loss, retain_graph=True)
    make([param]).step()
    assert taken
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(loss)


@shortened
def test_a_shortcut_sees_that_a_gradient_is_a_negative_view(make: Make, taken: list[int]) -> None:
    ours, twins = parameters(shapes=[(3, 11_001)]), parameters(shapes=[(3, 11_001)])
    optimizer, twin = make(ours), make(twins)
    give_gradients(ours, 0)
    give_gradients(twins, 0)
    assert ours[0].grad is not None
    ours[0].grad = torch._neg_view(-ours[0].grad)
    optimizer.step()
    twin.step()
    assert taken
    assert_alike(optimizer, ours, twin, twins)


@shortened
def test_a_shortcut_sees_that_the_gradient_is_the_parameter(make: Make, taken: list[int]) -> None:
    ours, twins = parameters(shapes=[(3, 11_001)]), parameters(shapes=[(3, 11_001)])
    optimizer, twin = make(ours), without(make, twins)
    for _ in range(2):
        for params, each in ((ours, optimizer), (twins, twin)):
            params[0].grad = params[0].detach()
            each.step()
    assert taken
    assert_alike(optimizer, ours, twin, twins)


@pytest.mark.parametrize("make", [RMSProp, NAdam, SGDF, SGDP, AdamP, Momentum])
def test_a_parameter_that_is_a_negative_view_has_the_body(make: Make, taken: list[int], calls: list[int]) -> None:
    ours, twins = parameters(shapes=[(3, 11_001)]), parameters(shapes=[(3, 11_001)])
    ours = [torch._neg_view(-ours[0].detach()).requires_grad_()]
    optimizer, twin = make(ours), make(twins)
    for params, each in ((ours, optimizer), (twins, twin)):
        run(each, params, range(2))
    assert len(taken) + len(calls) == 2  # the twin's
    assert_alike(optimizer, ours, twin, twins)


@shortened
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_shortcut_steps_a_copy_of_half_precision(
    make: Make, dtype: torch.dtype, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, twins = parameters(dtype=dtype, shapes=[(3, 11_001)]), parameters(dtype=dtype, shapes=[(3, 11_001)])
    optimizer, twin = make(ours), make(twins)
    run(optimizer, ours, range(3))
    monkeypatch.setattr(shortcuts, "SHORTCUTS", {})
    run(twin, twins, range(3))
    assert taken == [33_003] * 3
    torch.testing.assert_close(ours[0], twins[0])
    for name, value in optimizer.state[ours[0]].items():
        torch.testing.assert_close(value, twin.state[twins[0]][name], rtol=1e-5, atol=1e-6)


def test_where_a_square_overflows_a_shortcut_goes_on_as_torch_does(taken: list[int]) -> None:
    ours, twins = parameters(shapes=[(3, 11_001)]), parameters(shapes=[(3, 11_001)])
    optimizer, twin = RMSProp(ours), torch.optim.RMSprop(twins)
    for step in range(3):
        for params in (ours, twins):
            give_gradients(params, step)
            grad = params[0].grad
            assert grad is not None
            if step == 0:
                grad[0, 0] = 1e20
        optimizer.step()
        twin.step()
    assert taken
    assert ours[0].isfinite().all()
    torch.testing.assert_close(ours[0], twins[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [SGDP, AdamP])
@pytest.mark.parametrize("view", ["rows", "layer", "neither", "half of the rows"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_shortcut_projects_what_the_body_projects(
    make: Make, view: str, decay: float, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def counted(point: Tensor, slope: Tensor, room: Tensor, state: Tensors) -> tuple[Tensor, Tensor, Tensor]:
        looks.append(len(point))
        return row_numbers(point, slope, room, state)

    monkeypatch.setattr(shortcuts, "row_numbers", counted)
    monkeypatch.setattr(shortcuts, "STRIP", 25_000)  # two rows
    ours, twins, free = (parameters(shapes=[(4, 100, 100)], dtype=torch.float64) for _ in range(3))
    options = {"weight_decay": decay, "lr": 1e-3}
    optimizer, twin = make(ours, **options), without(make, twins, **options)
    unprojected = make(free, **options, delta=0.0)
    for step in range(3):
        for params in (ours, twins, free):
            give_gradients(params, step)
            with torch.no_grad():
                w, grad = params[0].flatten(1), params[0].grad
                assert grad is not None
                along = (grad.flatten(1) * w).sum(1, keepdim=True) / w.square().sum(1, keepdim=True)
                if view == "half of the rows":  # those of the first strip
                    along[2:] = -1.0
                if view != "neither":
                    grad -= (along * w).view_as(grad)
                if view == "layer":  # what two rows have along them, the other two have against them
                    signs = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=w.dtype)[:, None]
                    grad += (signs * w / w.square().sum(1, keepdim=True)).view_as(grad) * 100
        for each in (optimizer, twin, unprojected):
            each.step()
        assert_alike(optimizer, ours, twin, twins)
    assert taken == [40_000] * 6
    assert looks == [2, 2] * 6
    assert torch.equal(ours[0], free[0]) == (view not in ("rows", "layer"))


@pytest.mark.parametrize("make", [SGDP, AdamP])
@pytest.mark.parametrize("length", [2, 3, 5, 10])
def test_a_cosine_at_the_threshold_is_none_below_it(make: Make, length: int, taken: list[int]) -> None:
    ours, twins = ([torch.ones(LARGE, length).requires_grad_()] for _ in range(2))
    optimizer, twin = make(ours, lr=0.1, delta=1.0), without(make, twins, lr=0.1, delta=1.0)
    for params, each in ((ours, optimizer), (twins, twin)):
        params[0].grad = torch.zeros(LARGE, length)
        params[0].grad[:, 0] = 1.0  # the cosine is 1 / sqrt(length)
        each.step()
    assert taken
    assert_alike(optimizer, ours, twin, twins)


@shortened
def test_small_tensors_have_the_body_also_together(make: Make, taken: list[int]) -> None:
    params = parameters(shapes=[(10, 100)] * (LARGE // 1000 + 1))
    run(make(params), params, range(1))
    assert not taken


def test_the_other_gains_of_sgdf_have_the_body(taken: list[int]) -> None:
    for gain in ("K", "2K"):
        params = parameters(shapes=[(3, 11_001)])
        run(SGDF(params, gain=gain), params, range(1))
    assert not taken


@pytest.mark.parametrize("make", [SGDP, AdamP])
def test_a_projection_with_nesterov_has_the_body(make: Make, taken: list[int]) -> None:
    params = parameters(shapes=[(3, 11_001)])
    run(make(params, nesterov=True), params, range(1))
    assert not taken


@pytest.fixture(params=[False, True], ids=["small numbers", "small numbers are 0"])
def _smallest(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whether the processor takes numbers below the smallest normal one for 0, as it does in the fleet's workers."""
    torch.set_flush_denormal(request.param)
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("_smallest")
def test_without_momentum_the_velocity_is_the_gradient() -> None:
    params = parameters(dtype=torch.float64, shapes=[(70,)])
    optimizer = Momentum(params, momentum=0.9)
    run(optimizer, params, range(3))
    optimizer.param_groups[0]["momentum"] = 0.0
    params[0].grad = torch.zeros(70, dtype=torch.float64)
    optimizer.step()
    assert not optimizer.state[params[0]]["momentum_buffer"].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_the_body(dtype: torch.dtype, calls: list[int]) -> None:
    params = parameters(dtype=dtype)
    run(Momentum(params), params, range(2))
    assert not calls


def test_what_does_not_lie_in_line_has_the_body_at_that_step(calls: list[int]) -> None:
    ours, twins = parameters(shapes=[(6, 10), (7,)]), parameters(shapes=[(6, 10), (7,)])
    optimizer, twin = Momentum(ours), without(Momentum, twins)
    for step in range(9):
        for params, each in ((ours, optimizer), (twins, twin)):
            give_gradients(params, step)
            grad = params[0].grad
            assert grad is not None
            if step in (2, 3):
                params[0].grad = grad.t().contiguous().t()
            if step == 5:
                params[0].data = params[0].data.t().contiguous().t()
            if step == 7:
                params[0].data = params[0].data.contiguous()
            each.step()
        assert_alike(optimizer, ours, twin, twins)
    assert calls == [2, 2, 1, 1, 2, 1, 1, 2, 2]


def test_autograd_sees_what_a_kernel_has_stepped() -> None:
    params = [torch.ones(3).requires_grad_(), torch.ones(2, 2).requires_grad_()]
    loss = torch.stack([(param**2).sum() for param in params]).sum()
    torch.autograd.backward(loss, retain_graph=True)
    SGD(params, lr=1.0).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(loss)


@pytest.mark.parametrize("gradient", ["old", "new"])
def test_a_parameter_of_another_shape_than_its_state_raises(gradient: str) -> None:
    params = parameters(shapes=[(4, 3)])
    optimizer = Momentum(params)
    run(optimizer, params, range(1))
    params[0].data = torch.zeros(3, 4)  # as many elements, so that a kernel could step them in the wrong order
    if gradient == "new":
        give_gradients(params, 1)
    with pytest.raises(RuntimeError, match="must match the size"):
        optimizer.step()
    assert not params[0].any()


def test_a_negative_view_is_a_gradient() -> None:
    real, imaginary = torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    torch.autograd.backward((torch.complex(real, imaginary).conj() ** 2 * (1 + 2j)).abs())
    assert imaginary.grad is not None
    assert imaginary.grad.is_neg()
    wanted = imaginary.detach() - imaginary.grad
    SGD([imaginary], lr=1.0).step()
    assert torch.equal(imaginary, wanted)


@called
def test_torchs_defaults_change_nothing(make: Make) -> None:
    ours, twins = parameters(), parameters()
    optimizer, twin = make(ours), make(twins)
    for k in range(3):
        give_gradients(ours, k)
        with torch.device("meta"):
            optimizer.step()
        run(twin, twins, range(k, k + 1))
    assert_alike(optimizer, ours, twin, twins)


def test_gradients_with_gaps_in_their_rows_are_stepped_right() -> None:
    params = [torch.zeros(4, 3).requires_grad_()]
    values = torch.arange(12.0).view(3, 4).t()[:2]  # of two rows, not contiguous
    params[0].grad = torch.sparse_coo_tensor(
        torch.tensor([[0, 2]]), values, (4, 3), is_coalesced=True, check_invariants=True
    )
    SGD(params, lr=1.0).step()
    assert torch.equal(params[0][[0, 2]], -values)


def test_parameters_with_different_numbers_of_steps_have_a_call_each(calls: list[int]) -> None:
    params = parameters(shapes=[(3,), (3,), (3,)])
    optimizer = AdamW(params)
    give_gradients(params, 0)
    params[2].grad = None
    optimizer.step()
    run(optimizer, params, range(1, 2))
    assert sorted(calls) == [1, 2, 2]


def test_adam_without_bias_correction_has_the_body(calls: list[int]) -> None:
    params = parameters()
    run(Adam(params, bias_correction=False), params, range(1))
    assert not calls


def test_a_class_derived_from_a_rule_keeps_its_own_body() -> None:
    class Still(rules.GradientDescent):
        def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
            pass

    class StillSGD(SGD):
        rule = Still()

    params = parameters(shapes=[(3,)])
    start = params[0].detach().clone()
    run(StillSGD(params, lr=1.0), params, range(2))
    assert torch.equal(params[0], start)


def test_what_is_traced_by_torch_has_the_body(calls: list[int]) -> None:
    params, twins = parameters(), parameters()
    optimizer, twin = Momentum(params), without(Momentum, twins)
    step = torch.compile(optimizer.step, backend="eager")
    for k in range(3):
        give_gradients(params, k)
        give_gradients(twins, k)
        step()
        twin.step()
    assert not calls
    assert_alike(optimizer, params, twin, twins)
