"""Sizes, layouts and dtypes: blocks, strides, half precision, mixtures."""

import pytest
import torch
from torch import Tensor

from cases_optim import (
    Make,
    assert_same,
    every,
    give_gradients,
    parameters,
    rule_of,
    run,
)
from ravine.optim import OF_RULE, arithmetic
from ravine.rules import get


@every
@pytest.mark.parametrize("beyond", [-1, 0, 1, 7])
def test_block_by_block_is_the_whole(make: Make, beyond: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "BLOCK", 64)
    cut, whole = parameters(shapes=[(128 + beyond,)]), parameters(shapes=[(128 + beyond,)])
    run(make(cut, weight_decay=0.1), cut, range(5))
    monkeypatch.setattr(arithmetic, "BLOCK", 1000)
    run(make(whole, weight_decay=0.1), whole, range(5))
    assert_same(cut, whole)


def test_blocks_are_cut_from_contiguous_tensors_only() -> None:
    def may_cut(param: Tensor) -> bool:
        return arithmetic.may_cut(get("momentum"), (param, param, param))

    block = torch.zeros(3, arithmetic.BLOCK)
    assert may_cut(block)
    assert not may_cut(block.t())
    assert [point.numel() for point, _ in arithmetic.cut((block, block))] == [arithmetic.BLOCK] * 3


@every
def test_strided_parameters_and_gradients(make: Make) -> None:
    straight = parameters(shapes=[(6, 10)])
    turned = [straight[0].detach().t().contiguous().t().requires_grad_()]
    assert not turned[0].is_contiguous()
    one, two = make(straight), make(turned)
    for step in range(5):
        give_gradients(straight, step)
        grad = straight[0].grad
        assert grad is not None
        turned[0].grad = grad.clone()  # laid out unlike its parameter
        one.step()
        two.step()
    torch.testing.assert_close(straight[0], turned[0], rtol=1e-6, atol=1e-6)  # norms are summed in another order


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [7, 64, 65])
def test_half_precision_parameters_have_single_precision_state(make: Make, dtype: torch.dtype, size: int) -> None:
    # Each step is the step of a float32 twin, whose parameter is then rounded.
    params = parameters(dtype=dtype, shapes=[(size,)])
    shadow = [params[0].detach().float().requires_grad_()]
    optimizer, twin = make(params, lr=0.1), make(shadow, lr=0.1)
    for step in range(5):
        give_gradients(params, step)
        grad = params[0].grad
        assert grad is not None
        shadow[0].grad = grad.float()
        optimizer.step()
        twin.step()
        shadow[0].data.copy_(shadow[0].to(dtype))
        assert torch.equal(params[0].float(), shadow[0])
    assert all(optimizer.state[params[0]][name].dtype == torch.float32 for name in rule_of(optimizer).slots)


@pytest.mark.parametrize("make", [make for name, make in OF_RULE.items() if name != "sngm"])
def test_mixed_dtypes_and_groups_are_stepped_as_if_alone(make: Make) -> None:
    def make_params() -> list[Tensor]:
        return [*parameters(1), *parameters(2, torch.float64), *parameters(3, torch.bfloat16)]

    together, alone = make_params(), make_params()
    half = len(together) // 2
    groups = [{"params": together[:half]}, {"params": together[half:], "lr": 0.3, "weight_decay": 0.1}]
    run(make(groups, lr=0.1), together, range(5))
    first, second = make(alone[:half], lr=0.1), make(alone[half:], lr=0.3, weight_decay=0.1)
    for step in range(5):
        give_gradients(alone, step)
        first.step()
        second.step()
    assert_same(together, alone)
