"""Stochastic rounding: its distribution, that it is exact in the mean, and that it is repeatable on every path."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cases_optim import Make, assert_same, every, give_gradients, parameters, through_bytes
from ravine.errors import UserError
from ravine.optim import SGD, Adam, AdamP, Momentum, RMSProp, RuleOptimizer, convert
from ravine.optim.rounding import draws, to_bfloat16

CPU = torch.device("cpu")
SHAPES: list[tuple[int, ...]] = [(3, 4), (5,), (), (0,), (100, 200), (3, 4)]


def halves() -> list[Tensor]:
    return parameters(dtype=torch.bfloat16, shapes=SHAPES)


def rounded(values: Tensor, *key: int) -> Tensor:
    result = values.clone()
    to_bfloat16(result, draws(CPU, *key), torch.empty_like(values, dtype=torch.int32))
    return result


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_the_nearer_number_is_the_likelier(sign: float, share: float) -> None:
    low, high, count = 1.0, 1.0 + 2**-7, 100_000  # neighbours in bfloat16
    found = rounded(torch.full((count,), sign * (low + share * (high - low)))).abs()
    assert set(found.tolist()) <= {low, high}
    up = float((found == high).float().mean())
    assert up == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / count) + 2**-15)


def test_what_is_written_is_a_bfloat16_next_to_the_value() -> None:
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-38, 38, 50_000)
    found = rounded(values)
    assert torch.equal(found, found.bfloat16().float())
    cut = (values.view(torch.int32) & -65536).view(torch.float32)  # towards zero
    further = ((values.view(torch.int32) & -65536) + 65536).view(torch.float32)
    assert ((found == cut) | (found == further)).all()


def test_what_is_no_number_stays() -> None:
    quiet = torch.tensor([0x7FFFFFFF, -1, 0x7F800001], dtype=torch.int32).view(torch.float32)
    for k in range(20):
        assert rounded(quiet, k).isnan().all()
        assert torch.equal(rounded(torch.tensor([torch.inf, -torch.inf, 0.0, -0.0]), k).signbit(), torch.tensor([0, 1, 0, 1]).bool())  # fmt: skip  # noqa: E501
        assert torch.equal(rounded(torch.tensor([torch.inf, -torch.inf]), k), torch.tensor([torch.inf, -torch.inf]))


def test_small_steps_add_up() -> None:
    nearest, random = (torch.ones(4_000, dtype=torch.bfloat16).requires_grad_() for _ in range(2))
    for param in (nearest, random):
        param.grad = -torch.ones_like(param)
    lost, kept = SGD([nearest], lr=1e-3), SGD([random], lr=1e-3)
    kept.round_stochastically()
    for _ in range(100):
        lost.step()
        kept.step()
    assert (nearest == 1).all()  # each step is less than half of 1/128
    step_of_one = math.sqrt(100 * 1e-3 / 128)  # at most: the variance of a rounding is (x - low) (high - x)
    assert float(random.detach().float().mean()) == pytest.approx(1.1, abs=4 * step_of_one / math.sqrt(4_000))


@every
def test_the_state_is_not_rounded_and_the_parameters_are_neighbours(make: Make) -> None:
    ours, twins = halves(), halves()
    wide = [param.detach().float().requires_grad_() for param in twins]
    optimizer, exact = make(ours), make(wide)
    optimizer.round_stochastically()
    give_gradients(ours, 0)
    for param, copied in zip(ours, wide, strict=True):
        assert param.grad is not None
        copied.grad = param.grad.float()
    optimizer.step()
    exact.step()
    for param, copied in zip(ours, wide, strict=True):
        apart = (param.detach().float() - copied.detach()).abs()
        assert (apart <= 2**-7 * copied.detach().abs() + 1e-30).all()
        for name, value in optimizer.state[param].items():
            torch.testing.assert_close(value, exact.state[copied][name])
    assert any(not torch.equal(p.detach(), q.detach().bfloat16()) for p, q in zip(ours, wide, strict=True))


def run(optimizer: RuleOptimizer, params: list[Tensor], steps: range) -> None:
    for step in steps:
        give_gradients(params, step)
        optimizer.step()


@pytest.mark.parametrize("way", ["checkpoint", "deepcopy", "compiled"])
def test_a_run_is_repeated_bit_by_bit(way: str) -> None:
    ours, twins = halves(), halves()
    groups: list[dict[str, Any]] = [{"params": ours[:2]}, {"params": ours[2:], "lr": 0.1}]
    optimizer: RuleOptimizer = Adam(groups)
    optimizer.round_stochastically(seed=3)
    torch.manual_seed(0)
    run(optimizer, ours, range(6))
    torch.manual_seed(1)
    groups = [{"params": twins[:2]}, {"params": twins[2:], "lr": 0.1}]
    again: Any = Adam(groups)
    again.round_stochastically(seed=3)
    if way == "compiled":
        again.compile(lambda graph, examples: graph)
    run(again, twins, range(3))
    if way == "deepcopy":
        twins, again = copy.deepcopy((twins, again))
    if way == "checkpoint":
        twins = [param.detach().clone().requires_grad_() for param in twins]
        loaded = Adam([{"params": twins[:2]}, {"params": twins[2:]}])
        loaded.load_state_dict(through_bytes(again.state_dict()))
        again = loaded
    run(again, twins, range(3, 6))
    assert_same(ours, twins)


def test_seeds_steps_groups_and_parts_have_draws_of_their_own() -> None:
    def moved(place: int = 0, seed: int = 0, before: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        params = [torch.ones(2_000, dtype=dtype).requires_grad_() for _ in range(2)]
        optimizer = SGD([{"params": [param]} for param in params], lr=1e-3)
        optimizer.round_stochastically(seed)
        for _ in range(before + 1):
            with torch.no_grad():
                params[place].fill_(1.0)
            params[place].grad = -torch.ones_like(params[place])
            optimizer.step()
        return params[place].detach()

    found = [moved(), moved(place=1), moved(seed=1), moved(before=1)]
    assert torch.equal(moved(), found[0])
    for k, left in enumerate(found):
        assert all(not torch.equal(left, right) for right in found[k + 1 :])


def test_other_parameters_are_as_without() -> None:
    def given() -> list[Tensor]:
        return [torch.ones(5, 5, dtype=dtype).requires_grad_() for dtype in (torch.bfloat16, torch.float16, torch.float32)]  # fmt: skip  # noqa: E501

    ours, twins = given(), given()
    optimizer, twin = Momentum(ours, lr=0.01), Momentum(twins, lr=0.01)
    optimizer.round_stochastically()
    run(optimizer, ours, range(4))
    run(twin, twins, range(4))
    assert_same(ours[1:], twins[1:])
    assert not torch.equal(ours[0], twins[0])


def test_a_sparse_gradient_is_rounded_too() -> None:
    param = torch.ones(2_000, 2, dtype=torch.bfloat16).requires_grad_()
    optimizer = SGD([param], lr=1e-3)
    optimizer.round_stochastically()
    rows = torch.arange(0, 2_000, 2)[None]
    param.grad = torch.sparse_coo_tensor(
        rows, -torch.ones(1_000, 2, dtype=torch.bfloat16), param.shape, check_invariants=True
    )
    optimizer.step()
    assert (param[1::2] == 1).all()
    assert set(param.detach().float().flatten().tolist()) == {1.0, 1.0 + 2**-7}


def test_loading_takes_the_rounding_of_a_file_that_has_one() -> None:
    optimizer, other = Momentum(halves()), Momentum(halves())
    optimizer.round_stochastically(5)
    without = Momentum(halves()).state_dict()
    older = Momentum(halves()).state_dict()
    for group in older["param_groups"]:
        del group["rounding"]
    for saved in (without, older, torch.optim.SGD(halves(), lr=0.1, momentum=0.9).state_dict()):
        optimizer.load_state_dict(saved)
        assert optimizer.param_groups[0]["rounding"] == 5
    other.round_stochastically(np.int64(6))  # type: ignore[arg-type]  # whoever has it from numpy
    optimizer.load_state_dict(through_bytes(other.state_dict()))
    assert optimizer.param_groups[0]["rounding"] == 6


def test_an_optimizer_pickled_before_there_was_rounding_goes_on() -> None:
    optimizer = Momentum(halves())
    del optimizer.param_groups[0]["rounding"]
    again = copy.deepcopy(optimizer)
    run(again, again.param_groups[0]["params"], range(1))
    again.load_state_dict(again.state_dict())


def test_a_group_added_later_is_rounded_and_none_ends_it() -> None:
    first, later = (torch.ones(2_000, dtype=torch.bfloat16).requires_grad_() for _ in range(2))
    optimizer = SGD([first], lr=1e-3)
    optimizer.round_stochastically()
    optimizer.add_param_group({"params": [later]})
    for param in (first, later):
        param.grad = -torch.ones_like(param)
    optimizer.step()
    assert set(first.tolist()) == set(later.tolist()) == {1.0, 1.0 + 2**-7}
    assert not torch.equal(first, later)
    optimizer.round_stochastically(None)
    before = first.detach().clone()
    optimizer.step()
    assert torch.equal(first, before)


@pytest.mark.parametrize("make", [RMSProp, AdamP])
def test_a_compiled_optimizer_rounds_as_one_that_is_not(make: Make) -> None:
    shapes: list[tuple[int, ...]] = [(64, 64)] * 20  # together they are large
    ours, twins = (parameters(dtype=torch.bfloat16, shapes=shapes) for _ in range(2))
    optimizer, twin = make(ours), make(twins)
    twin.compile(lambda graph, examples: graph)
    for each, params in ((optimizer, ours), (twin, twins)):
        each.round_stochastically()
        run(each, params, range(3))
    assert_same(ours, twins)


class Own(torch.nn.Parameter):
    """A subclass of its own."""


def test_another_form_goes_on_with_the_draws() -> None:
    ours, twins = halves(), halves()
    optimizer, before = Momentum(ours, lr=0.25, momentum=0.5), Momentum(twins, lr=0.25, momentum=0.5)
    for each, params in ((optimizer, ours), (before, twins)):
        each.round_stochastically(seed=2)
        run(each, params, range(3))
    after = convert(before, "ema")  # by powers of two, so that nothing is rounded otherwise
    run(optimizer, ours, range(3, 6))
    run(after, twins, range(3, 6))
    assert_same(ours, twins)


def test_wrong_use_gets_a_sentence() -> None:
    with pytest.raises(UserError, match="no parameter in bfloat16"):
        Momentum(parameters()).round_stochastically()
    with pytest.raises(UserError, match="seed"):
        Momentum(halves()).round_stochastically(-1)
    optimizer = Momentum(halves())
    optimizer.round_stochastically()
    params = optimizer.param_groups[0]["params"]
    give_gradients(params, 0)
    torch._dynamo.reset()
    with pytest.raises(UserError, match=r"within torch\.compile"):
        torch.compile(optimizer.step, backend="eager")()
    params[0].__class__ = Own
    with pytest.raises(UserError, match="sharded"):
        optimizer.step()
    assert optimizer.param_groups[0]["step"] == 0
    with pytest.raises(UserError, match="no option 'rounding'"):
        Momentum([{"params": halves(), "rounding": 3}])
