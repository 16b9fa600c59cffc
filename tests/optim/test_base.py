"""Torch's contract: gradients, closures, overflow, schedules, groups, reset, hooks, copies."""

import copy
import inspect
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._C._profiler import _ExperimentalConfig
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile

from cases_optim import (
    Make,
    apart,
    assert_same,
    every,
    give_gradients,
    keys,
    parameters,
    rule_of,
    run,
)
from ravine.errors import UserError
from ravine.optim import (
    Adam,
    Momentum,
    NAdam,
    Nesterov,
)
from ravine.schedules import Cosine


@every
def test_the_gradient_is_only_read(make: Make) -> None:
    params = parameters()
    optimizer = make(params, weight_decay=0.1, maximize=True)
    give_gradients(params, 0)
    before = [p.grad for p in params]
    kept = [g.clone() for g in before if g is not None]
    optimizer.step()
    assert all(p.grad is g for p, g in zip(params, before, strict=True))
    assert_same([p.grad for p in params if p.grad is not None], kept)


@apart
def test_late_missing_and_frozen_gradients(make: Make) -> None:
    early, late, never = parameters(shapes=[(4,), (4,), (4,)])
    alone = late.detach().clone().requires_grad_()
    start = never.detach().clone()
    optimizer, twin = make([early, late, never], lr=0.1), make([alone], lr=0.1)
    for step in range(8):
        give_gradients([early, late, alone], step)
        alone.grad = late.grad
        if step < 3 or step == 5:
            late.grad = None
        else:
            twin.step()
        optimizer.step()
    assert torch.equal(late, alone)
    assert torch.equal(never, start)
    assert never not in optimizer.state


@every
def test_a_closure_runs_with_grad_and_its_loss_comes_back(make: Make) -> None:
    (param,) = parameters(shapes=[(3,)])
    optimizer = make([param])
    start = param.detach().clone()

    def closure() -> float:
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    assert optimizer.step(closure) == pytest.approx((start**2).sum().item())
    assert not torch.equal(param, start)
    give_gradients([param], 0)
    assert optimizer.step() is None


@every
@pytest.mark.parametrize("bad", [0, 2])
def test_a_skipped_step_leaves_everything_alone(make: Make, bad: int) -> None:
    params, twins = parameters(shapes=[(9,)]), parameters(shapes=[(9,)])
    optimizer, twin = make(params, lr=0.1), make(twins, lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(5):
        weights = torch.randn(9, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = (params[0] * weights).sum() * (math.inf if step == bad else 1.0)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        if step != bad:
            twins[0].grad = weights
            twin.step()
    assert_same(params, twins)
    for name, value in optimizer.state[params[0]].items():
        assert torch.equal(value, twin.state[twins[0]][name])


@pytest.mark.parametrize("make", [Momentum, Nesterov, Adam, NAdam])
@pytest.mark.parametrize("bad", [0, 2])
def test_overflow_with_dirty_memory_leaves_everything_alone(make: Make, bad: int) -> None:
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    try:
        params, twins = parameters(shapes=[(10_000,), (9,), (3,)]), parameters(shapes=[(10_000,), (9,), (3,)])
        optimizer, twin = make(params, lr=0.1), make(twins, lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for step in range(4):
            optimizer.zero_grad()
            loss = torch.stack([p.sum() for p in params]).sum() * (float("inf") if step == bad else 1.0)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            before = copy.deepcopy(optimizer.state_dict())
            scaler.step(optimizer)
            scaler.update()
            if step == bad:
                after = optimizer.state_dict()
                assert before["param_groups"] == after["param_groups"]
                assert before["state"].keys() == after["state"].keys()
                for k, state in before["state"].items():
                    assert all(torch.equal(value, after["state"][k][name]) for name, value in state.items())
            else:
                for p in twins:
                    p.grad = torch.ones_like(p)
                twin.step()
        assert_same(params, twins)
    finally:
        torch.use_deterministic_algorithms(False)


@every
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_integers_raise_and_complex_parameters_where_rows_count(make: Make) -> None:
    rows = not rule_of(make(parameters())).elementwise
    for dtype in (torch.int64, torch.complex32, *([torch.complex64] if rows else [])):
        with pytest.raises(UserError, match=f"of {'real' if rows else 'real or complex'} numbers, not of {dtype}"):
            make([torch.zeros(3, dtype=dtype)])


@every
def test_every_hyper_parameter_takes_a_schedule(make: Make) -> None:
    schedule = Cosine(0.5, 0.1, 6)
    for name in keys(make(parameters())):
        if name in rule_of(make(parameters())).foresees:
            continue  # an edited value is not known a step ahead
        ours, edited = parameters(), parameters()
        rest = make(parameters()).defaults["betas"][1:] if name == "betas" else ()
        value: Any = (schedule, *rest) if name == "betas" else schedule
        optimizer, twin = make(ours, **{name: value}), make(edited, **({"scale": 1.0} if name == "scale" else {}))
        for step in range(8):
            number = schedule(step)
            twin.param_groups[0][name] = (number, *rest) if name == "betas" else number
            run(twin, edited, range(step, step + 1))
            run(optimizer, ours, range(step, step + 1))
            assert optimizer.param_groups[0][name] == twin.param_groups[0][name]
        assert_same(ours, edited)


def test_a_group_takes_a_schedule_later_and_gives_it_up() -> None:
    params = parameters()
    optimizer = Adam(params, betas=(0.9, Cosine(0.9, 0.5, 4)))
    run(optimizer, params, range(3))
    group = optimizer.param_groups[0]
    assert group["betas"] == (0.9, Cosine(0.9, 0.5, 4)(2))
    group["lr"] = Cosine(1.0, 0.0, 10)  # counts the steps of its group, not from now
    run(optimizer, params, range(3, 4))
    assert group["lr"] == Cosine(1.0, 0.0, 10)(3)
    group["lr"] = 0.1
    with pytest.raises(UserError, match=r"lr was set to 0\.1 in a group where a schedule gives it"):
        optimizer.step()
    del group["schedules"]["lr"]
    run(optimizer, params, range(4, 5))
    assert group["lr"] == 0.1


@apart
def test_a_group_added_midway(make: Make) -> None:
    first, second, alone = parameters(1), parameters(2), parameters(2)
    optimizer, twin = make(first), make(alone, lr=0.2)
    run(optimizer, first, range(3))
    group = {"params": second, "lr": 0.2}
    optimizer.add_param_group(group)
    assert set(group) == {"params", "lr"}  # the caller's dictionary is the caller's
    run(optimizer, second, range(3))
    run(twin, alone, range(3))
    assert_same(second, alone)


@every
def test_reset_state_is_a_new_start(make: Make) -> None:
    ours, others = parameters(), parameters()
    optimizer = make(ours, lr=0.1)
    run(optimizer, ours, range(3))
    optimizer.reset_state()
    assert not optimizer.state
    for a, b in zip(ours, others, strict=True):
        b.data.copy_(a)
    fresh = make(others, lr=0.1)
    fresh.param_groups[0]["step"] = optimizer.param_groups[0]["step"]
    fresh.show_schedules(fresh.param_groups[0])
    run(optimizer, ours, range(3, 6))
    run(fresh, others, range(3, 6))
    assert_same(ours, others)


def test_reset_of_a_group_or_of_a_parameter() -> None:
    a, b, c = parameters(shapes=[(3,), (3,), (3,)])
    optimizer = Momentum([{"params": [a, b]}, {"params": [c]}], lr=Cosine(0.1, 0.0, 10))
    run(optimizer, [a, b, c], range(3))
    optimizer.reset_state(b)
    assert set(optimizer.state) == {a, c}
    optimizer.reset_state(optimizer.param_groups[1])
    assert set(optimizer.state) == {a}
    assert [group["step"] for group in optimizer.param_groups] == [3, 3]
    optimizer.reset_state(optimizer.param_groups[0], schedules=True)
    assert [group["step"] for group in optimizer.param_groups] == [0, 3]
    assert optimizer.param_groups[0]["lr"] == 0.1
    saved = optimizer.state_dict()
    assert saved["state"] == {}
    run(optimizer, [a, b, c], range(1))
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[1]["lr"] == Cosine(0.1, 0.0, 10)(3)
    kept = dict(optimizer.state)
    with pytest.raises(
        UserError, match=r"reset_state was given what Momentum does not step: a parameter of shape \(2,"
    ):
        optimizer.reset_state(a, torch.zeros(2))
    with pytest.raises(UserError, match="does not step"):
        optimizer.reset_state({"params": [a]})
    with pytest.raises(UserError, match="schedules belong to a group"):
        optimizer.reset_state(a, schedules=True)
    assert optimizer.state == kept


def test_hooks_of_torch_run() -> None:
    seen: list[str] = []
    params = parameters()
    optimizer = Nesterov(params)
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.register_state_dict_pre_hook(lambda *_: seen.append("saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "mark": 1})
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("loaded"))
    run(optimizer, params, range(1))
    assert optimizer.state_dict()["mark"] == 1
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["before", "after", "saving", "saving", "loaded"]


@pytest.mark.parametrize("threads", [False, True])
def test_a_profiler_sees_the_step(threads: bool) -> None:
    params = parameters()
    optimizer = Nesterov(params)
    give_gradients(params, 0)
    everywhere = _ExperimentalConfig(profile_all_threads=threads)
    with profile(activities=[ProfilerActivity.CPU], experimental_config=everywhere) as profiled:
        optimizer.step()
    assert [event.count for event in profiled.key_averages() if event.key == "Optimizer.step#Nesterov.step"] == [1]


def test_hooks_get_what_the_step_was_given_and_may_change_it() -> None:
    params = parameters()
    optimizer = Nesterov(params)
    seen: list[object] = []
    optimizer.register_step_pre_hook(lambda _, args, kwargs: seen.append((args, kwargs)))
    three = lambda: 3.0  # noqa: E731
    optimizer.step()
    optimizer.step(three)
    optimizer.step(closure=three)
    assert seen == [((optimizer,), {}), ((optimizer, three), {}), ((optimizer,), {"closure": three})]
    optimizer.register_step_pre_hook(lambda _, args, kwargs: (args, {**kwargs, "closure": three}))
    assert optimizer.step() == 3.0
    assert list(inspect.signature(optimizer.step).parameters) == ["closure"]


def test_hooks_of_all_optimizers_run_and_those_of_a_subclass_once() -> None:
    class Careful(Nesterov):
        def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
            return super().step(closure)

    seen: list[str] = []
    of_all = register_optimizer_step_post_hook(lambda optimizer, *_: seen.append(type(optimizer).__name__))
    try:
        for make in (Nesterov, Careful):
            optimizer = make(parameters())
            optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
            optimizer.step()
    finally:
        of_all.remove()
    optimizer.step()
    assert seen == ["before", "Nesterov", "before", "Careful", "before"]


@every
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_on_alike(make: Make, copied: Callable[[Any], Any]) -> None:
    params = parameters()
    optimizer = make(params, lr=Cosine(0.1, 0.01, 8))
    run(optimizer, params, range(3))
    twin, twins = copied((optimizer, params))
    run(optimizer, params, range(3, 6))
    run(twin, twins, range(3, 6))
    assert_same(params, twins)
    assert twin.param_groups[0]["params"][0] is twins[0]


def test_a_copy_has_the_options_of_the_original() -> None:
    optimizer = Momentum(parameters(), lr=0.1)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert twin.defaults == optimizer.defaults
        twin.add_param_group({"params": parameters(1)})
        assert twin.param_groups[1].keys() == optimizer.param_groups[0].keys()


@every
def test_a_step_without_any_gradient_does_nothing(make: Make) -> None:
    params = parameters()
    optimizer = make(params)
    start = [p.detach().clone() for p in params]
    optimizer.step()
    assert_same(params, start)
    assert not optimizer.state
    make([torch.zeros(0, requires_grad=True)]).step()
    empty = torch.zeros(3, 0, requires_grad=True)
    empty.grad = torch.zeros(3, 0)
    alone = make([empty])
    alone.step()
    assert all(value.shape in (empty.shape, ()) for value in alone.state[empty].values())


def test_overflow_of_half_precision_leaves_single_precision_state_alone() -> None:
    params = parameters(dtype=torch.bfloat16, shapes=[(9,)])  # the scaler takes no float16 gradients
    optimizer = Adam(params, lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    give_gradients(params, 0)
    optimizer.step()
    point, state = params[0].detach().clone(), copy.deepcopy(optimizer.state[params[0]])
    optimizer.zero_grad()
    scaler.scale((params[0].float() * math.inf).sum()).backward()  # type: ignore[no-untyped-call]
    scaler.step(optimizer)
    assert torch.equal(params[0], point)
    assert all(torch.equal(value, state[name]) for name, value in optimizer.state[params[0]].items())
    assert state["exp_avg"].dtype == torch.float32


def test_numbers_that_are_edited_in_place_reach_the_next_step() -> None:
    def ends(edit: Callable[[dict[str, Any]], None], **options: Any) -> Tensor:
        params = parameters(shapes=[(3,)])
        optimizer = Adam(params, **options)
        for step in range(3):
            give_gradients(params, step)
            optimizer.step()
            edit(optimizer.param_groups[0])
        return params[0].detach()

    usual = ends(lambda _: None, lr=0.1, betas=(0.9, 0.99))
    halved = ends(lambda group: group.update(lr=0.05), lr=0.1, betas=(0.9, 0.99))
    assert not torch.equal(usual, halved)
    assert torch.equal(ends(lambda group: group["lr"].fill_(0.05), lr=torch.tensor(0.1), betas=(0.9, 0.99)), halved)
    slower = ends(lambda group: group.update(betas=(0.5, 0.99)), lr=0.1, betas=(0.9, 0.99))
    assert torch.equal(ends(lambda group: group["betas"].__setitem__(0, 0.5), lr=0.1, betas=[0.9, 0.99]), slower)
