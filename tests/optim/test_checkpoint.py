"""A state dict holds everything and shares nothing; older files and torch's are read, what does not fit is refused."""

import copy
import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cases_optim import (
    FLOAT64,
    SHAPES,
    TWINS,
    Make,
    assert_near,
    assert_same,
    copy_into,
    every,
    parameters,
    run,
    through_bytes,
    twins,
)
from ravine.errors import UserError
from ravine.optim import (
    OF_RULE,
    AdaGrad,
    Adam,
    AdamW,
    Momentum,
    Nesterov,
    RMSProp,
    RuleOptimizer,
)
from ravine.schedules import Cosine, SutskeverMomentum


def named(params: list[Tensor], names: Sequence[str] = "abcde") -> list[tuple[str, Tensor]]:
    return list(zip(names, params, strict=True))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_resuming_is_going_on(make: Make, dtype: torch.dtype) -> None:
    ours, resumed = parameters(dtype=dtype), parameters(dtype=dtype)
    optimizer = make(ours, lr=0.1)
    run(optimizer, ours, range(4))
    fresh = make(resumed, lr=0.7)
    fresh.load_state_dict(through_bytes(optimizer.state_dict()))
    for a, b in zip(ours, resumed, strict=True):
        b.data.copy_(a)
        for name, value in optimizer.state[a].items():
            assert torch.equal(fresh.state[b][name], value)
            assert fresh.state[b][name].dtype == value.dtype
    run(optimizer, ours, range(4, 8))
    run(fresh, resumed, range(4, 8))
    assert_same(ours, resumed)


@every
def test_a_load_shares_nothing(make: Make) -> None:
    ours, theirs = parameters(), parameters()
    optimizer, other = make(ours), make(theirs)
    run(optimizer, ours, range(3))
    other.load_state_dict(optimizer.state_dict())
    saved = through_bytes(optimizer.state_dict())
    run(other, theirs, range(3))
    for index, state in saved["state"].items():
        for name, value in state.items():
            assert torch.equal(optimizer.state[ours[index]][name], value)


def test_names_of_the_state() -> None:
    expected = {
        "sgd": [], "adagrad": ["sum"], "rmsprop": ["square_avg"], "signsgd": [], "lion": ["exp_avg"],
        "early-momentum": ["momentum_buffer", "step"], "sgdf": ["exp_avg", "exp_var", "step"],
        "aggmo": ["momentum_buffer_1", "momentum_buffer_2", "momentum_buffer_3"],
        "nadam": ["exp_avg", "exp_avg_sq", "mu_product", "step"],
        **{name: ["exp_avg", "exp_avg_sq", "step"] for name in ("adam", "adamw", "adamomentum", "adamp")},
    }  # fmt: skip
    for name, make in OF_RULE.items():
        params = parameters()
        optimizer = make(params)
        run(optimizer, params, range(1))
        assert sorted(optimizer.state[params[0]]) == expected.get(name, ["momentum_buffer"])


def test_hooks_may_rewrite_what_is_loaded() -> None:
    params = parameters()
    optimizer = Momentum(params)
    run(optimizer, params, range(2))

    def double(_: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        state = {i: {"momentum_buffer": 2 * s["momentum_buffer"]} for i, s in saved["state"].items()}
        return {**saved, "state": state}

    others = parameters()
    fresh = Momentum(others)
    fresh.register_load_state_dict_pre_hook(double)
    fresh.load_state_dict(optimizer.state_dict())
    assert torch.equal(fresh.state[others[0]]["momentum_buffer"], 2 * optimizer.state[params[0]]["momentum_buffer"])


@every
def test_names_map_a_permuted_order(make: Make) -> None:
    ours, others = parameters(shapes=[(4,), (4,), (3,)]), parameters(shapes=[(4,), (4,), (3,)])
    optimizer = make(named(ours, "abc"), lr=0.1)
    run(optimizer, ours, range(3))
    order = [2, 1, 0]
    other = make([("abc"[k], others[k]) for k in order], lr=0.7)
    other.load_state_dict(optimizer.state_dict())
    for a, b in zip(ours, others, strict=True):
        b.data.copy_(a)
    run(optimizer, ours, range(3, 5))
    run(other, others, range(3, 5))
    for a, b in zip(ours, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)  # a norm of all goes by their order
    assert other.param_groups[0]["param_names"] == ["c", "b", "a"]


def test_names_that_differ_raise_before_anything_changes() -> None:
    ours = parameters()
    optimizer = Momentum(named(ours))
    run(optimizer, ours, range(2))
    others = Momentum(named(parameters(), ("a", "b", "c", "d", "layer.weight")))
    with pytest.raises(UserError, match=r"no parameter 'layer.weight', which Momentum steps"):
        others.load_state_dict(optimizer.state_dict())
    with pytest.raises(UserError, match=r"has a parameter 'e', which Momentum does not step"):
        Momentum(named(parameters()[:4], "abcd")).load_state_dict(optimizer.state_dict())
    assert not others.state


def test_names_are_found_in_other_groups_of_as_many() -> None:
    ours, others = parameters(shapes=[(4,), (5,)]), parameters(shapes=[(4,), (5,)])
    optimizer = Momentum([{"params": [("a", ours[0])]}, {"params": [("b", ours[1])]}])
    run(optimizer, ours, range(2))
    other = Momentum([{"params": [("b", others[1])]}, {"params": [("a", others[0])]}])
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(other.state[others[1]]["momentum_buffer"], optimizer.state[ours[1]]["momentum_buffer"])


def older(state: dict[str, Any]) -> dict[str, Any]:
    """As version 0 wrote it: without schedules and version."""
    groups = [{k: v for k, v in group.items() if k not in ("version", "schedules")} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def test_files_of_version_0_are_read() -> None:
    ours, others = parameters(), parameters()
    optimizer = Nesterov(ours, lr=0.1, momentum=SutskeverMomentum(0.9, period=2))
    run(optimizer, ours, range(4))
    other = Nesterov(others, lr=0.7, momentum=SutskeverMomentum(0.9, period=2))
    other.load_state_dict(older(optimizer.state_dict()))
    for a, b in zip(ours, others, strict=True):
        b.data.copy_(a)
    run(optimizer, ours, range(4, 7))
    run(other, others, range(4, 7))
    assert_same(ours, others)


@pytest.mark.parametrize("day", ["2026-11-21"])
def test_files_of_another_day_are_read_and_gone_on_with(day: str) -> None:
    """`older/make.py` wrote them."""
    written = torch.load(Path(__file__).parent / "older" / f"{day}.pt", weights_only=True)
    assert len(written) == 7
    for rule, then in written.items():
        params = [at.clone().requires_grad_() for at in then["at"]]
        optimizer = OF_RULE[rule](params, lr=0.5)
        optimizer.load_state_dict(then["state"])
        run(optimizer, params, range(4, 7))
        assert optimizer.param_groups[0]["step"] == 7
        assert_near(params, then["after"])


def test_an_option_that_an_older_file_lacks_stays_and_is_said() -> None:
    params = parameters()
    optimizer = Momentum(params, lr=0.3)
    run(optimizer, params, range(1))
    saved = optimizer.state_dict()
    del saved["param_groups"][0]["maximize"]
    fresh = Momentum(parameters(), lr=0.1, maximize=True)
    with pytest.warns(UserWarning, match="from an older Momentum, without 'maximize': it stays True"):
        fresh.load_state_dict(saved)
    assert (fresh.param_groups[0]["maximize"], fresh.param_groups[0]["lr"]) == (True, 0.3)


def test_a_file_of_a_later_version_is_refused() -> None:
    saved = Momentum(parameters()).state_dict()
    saved["param_groups"][0]["version"] += 1
    with pytest.raises(UserError, match="is of version 2, and this ravine reads up to 1"):
        Momentum(parameters()).load_state_dict(saved)


def test_schedules_go_on_from_a_checkpoint() -> None:
    def make(params: list[Tensor]) -> Nesterov:
        return Nesterov(params, lr=Cosine(0.1, 0.0, 10), momentum=SutskeverMomentum(0.9, period=2))

    ours, resumed = parameters(), parameters()
    optimizer = make(ours)
    run(optimizer, ours, range(4))
    fresh = make(resumed)
    fresh.load_state_dict(through_bytes(optimizer.state_dict()))
    for a, b in zip(ours, resumed, strict=True):
        b.data.copy_(a)
    assert fresh.param_groups[0]["momentum"] == optimizer.param_groups[0]["momentum"] == 0.75
    run(optimizer, ours, range(4, 8))
    run(fresh, resumed, range(4, 8))
    assert_same(ours, resumed)


def test_schedules_are_in_the_file_and_come_back_from_it() -> None:
    ours, others = parameters(), parameters()
    optimizer = Adam(ours, lr=Cosine(0.1, 0.0, 10), betas=(SutskeverMomentum(0.9, period=2), 0.99))
    run(optimizer, ours, range(4))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    plain = Adam(others)  # it knows of no schedule
    plain.load_state_dict(torch.load(file, weights_only=True))
    assert plain.param_groups[0]["schedules"] == optimizer.param_groups[0]["schedules"]
    for a, b in zip(ours, others, strict=True):
        b.data.copy_(a)
    run(optimizer, ours, range(4, 8))
    run(plain, others, range(4, 8))
    assert_same(ours, others)


def test_numbers_of_the_file_replace_schedules() -> None:
    saved = Momentum(parameters(), lr=0.2).state_dict()
    optimizer = Momentum(parameters(), lr=Cosine(0.1, 0.0, 10))
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["schedules"] == {}
    assert optimizer.param_groups[0]["lr"] == 0.2


def test_a_function_of_the_user_must_be_given_again() -> None:
    def halves(step: int) -> float:
        return float(0.5**step)

    params = parameters()
    optimizer = Momentum(params, lr=halves)
    run(optimizer, params, range(3))
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["schedules"] == {"lr": None}
    with pytest.raises(UserError, match="lr followed a function, which is not in the saved state"):
        Momentum(parameters()).load_state_dict(saved)
    again = Momentum(parameters(), lr=halves)
    again.load_state_dict(saved)
    assert again.param_groups[0]["lr"] == 0.25


@twins
def test_loads_the_state_of_torch(make: Make, twin: Make, request: pytest.FixtureRequest) -> None:
    theirs, ours = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    before = twin(theirs, lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(before, lambda step: 0.5)  # leaves initial_lr in the group
    run(before, theirs, range(4))
    optimizer = make(ours)
    optimizer.load_state_dict(through_bytes(before.state_dict()))
    for a, b in zip(theirs, ours, strict=True):
        b.data.copy_(a)
    assert optimizer.param_groups[0]["lr"] == 0.05
    run(before, theirs, range(4, 8))
    run(optimizer, ours, range(4, 8))
    near = FLOAT64.get(request.node.callspec.id, 1e-14)
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=near, atol=near)


@pytest.mark.parametrize(
    ("make", "twin"),
    [
        (lambda p: Momentum(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        (lambda p: Adam(p, lr=0.1), lambda p: torch.optim.Adam(p, lr=0.1)),
    ],
)
def test_torch_loads_our_state(make: Make, twin: Callable[..., torch.optim.Optimizer]) -> None:
    ours, theirs = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    optimizer, other = make(ours), twin(theirs)
    run(optimizer, ours, range(3))
    saved = optimizer.state_dict()
    for group, own in zip(saved["param_groups"], other.param_groups, strict=True):
        group.update({name: value for name, value in own.items() if name not in group and name != "params"})
    other.load_state_dict(saved)
    for a, b in zip(ours, theirs, strict=True):
        b.data.copy_(a)
    run(optimizer, ours, range(3, 6))
    run(other, theirs, range(3, 6))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_state_of_another_rule_is_refused() -> None:
    def saved(make: Callable[..., torch.optim.Optimizer], **options: Any) -> dict[str, Any]:
        params = parameters()
        optimizer = make(params, **options)
        run(optimizer, params, range(1))
        return optimizer.state_dict()

    ema = functools.partial(Momentum, form="ema")
    refused: list[tuple[RuleOptimizer, dict[str, Any], str]] = [
        (Nesterov(parameters()), saved(Momentum), "of the rule 'momentum', and Nesterov has 'nesterov'"),
        (ema(parameters()), saved(torch.optim.SGD, momentum=0.9), "torch has no optimizer with the same rule"),
        (ema(parameters()), saved(Momentum), "of the rule 'momentum', and Momentum has 'ema-momentum'"),
        (Adam(parameters()), saved(torch.optim.AdamW), "decoupled_weight_decay=True"),
        (AdamW(parameters()), saved(torch.optim.Adam), "decoupled_weight_decay=False"),
        (Momentum(parameters()), saved(torch.optim.SGD, momentum=0.9, nesterov=True), "nesterov=True"),
        (Nesterov(parameters()), saved(torch.optim.SGD, momentum=0.9), "nesterov=False"),
        (Momentum(parameters()), saved(torch.optim.SGD, momentum=0.9, dampening=0.5), "dampening=0.5"),
        (Adam(parameters()), saved(torch.optim.Adam, amsgrad=True), "amsgrad=True"),
        (AdaGrad(parameters()), saved(torch.optim.Adagrad, lr_decay=0.1), "lr_decay=0.1"),
        (RMSProp(parameters()), saved(torch.optim.Adagrad), "without 'alpha'"),
        (Momentum(parameters(shapes=SHAPES[::-1])), saved(Momentum), r"parameter 0 has shape \(3, 4\)"),
    ]
    for optimizer, state, sentence in refused:
        with pytest.raises(UserError, match=sentence):
            optimizer.load_state_dict(state)
        assert not optimizer.state


@pytest.mark.parametrize("path", [{"foreach": True}, {"fused": True}], ids=["foreach", "fused"])
def test_the_way_in_which_torch_steps_is_no_part_of_its_rule(path: dict[str, Any]) -> None:
    ours, theirs = parameters(), parameters()
    twin = torch.optim.Adam(theirs, **path)
    run(twin, theirs, range(2))
    copy_into(theirs, ours)
    optimizer = Adam(ours)
    optimizer.load_state_dict(twin.state_dict())
    run(twin, theirs, range(2, 4))
    run(optimizer, ours, range(2, 4))
    assert_near(ours, theirs)


def test_what_was_loaded_may_change_without_the_optimizer() -> None:
    ours, theirs = parameters(), parameters()
    optimizer, other = Adam(ours), Adam(theirs)
    run(optimizer, ours, range(3))
    saved = optimizer.state_dict()
    other.load_state_dict(saved)
    kept = copy.deepcopy(other.state_dict())
    pointers = {value.data_ptr() for state in optimizer.state.values() for value in state.values() if value.numel()}
    pointers |= {value.data_ptr() for state in saved["state"].values() for value in state.values() if value.numel()}
    assert not pointers & {v.data_ptr() for state in other.state.values() for v in state.values() if v.numel()}
    for state in saved["state"].values():
        for value in state.values():
            value.fill_(7.0)
    saved["param_groups"][0].update(lr=7.0, schedules={"lr": None})
    assert str(other.state_dict()) == str(kept)


def test_half_precision_state_of_torch_becomes_single_precision() -> None:
    theirs, ours = parameters(dtype=torch.bfloat16), parameters(dtype=torch.bfloat16)
    before = torch.optim.Adam(theirs)
    run(before, theirs, range(3))
    optimizer = Adam(ours)
    optimizer.load_state_dict(before.state_dict())
    for a, b in zip(theirs, ours, strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            assert optimizer.state[b][name].dtype == torch.float32
            assert torch.equal(optimizer.state[b][name], before.state[a][name].float())


@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_files_of_an_older_torch_are_read(rule: str) -> None:
    # It knew neither maximize nor foreach, capturable, differentiable, fused, decoupled_weight_decay; steps were int.
    theirs, ours = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    before = TWINS[rule](theirs, lr=0.1)
    run(before, theirs, range(4))
    saved = copy.deepcopy(before.state_dict())
    known = {"lr", "momentum", "dampening", "weight_decay", "nesterov", "betas", "eps", "amsgrad", "params"}
    saved["param_groups"] = [{k: v for k, v in group.items() if k in known} for group in saved["param_groups"]]
    for state in saved["state"].values():
        if "step" in state:
            state["step"] = int(state["step"])
    optimizer = OF_RULE[rule](ours)
    optimizer.load_state_dict(saved)
    copy_into(theirs, ours)
    run(before, theirs, range(4, 8))
    run(optimizer, ours, range(4, 8))
    assert_near(theirs, ours, 1e-13)
