"""Schedulers of torch drive our optimizers as they drive torch's: a full cycle, with the values read from the group."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler as theirs
from torch.optim.swa_utils import SWALR

from cases_optim import Make as Table
from cases_optim import assert_same, every, keys, run
from ravine.errors import UserError
from ravine.optim import Adam, Momentum, Nesterov
from ravine.schedules import Cosine, SutskeverMomentum

Make: TypeAlias = Callable[[list[Tensor]], torch.optim.Optimizer]
STEPS = 24

TWINS: dict[str, tuple[Make, Make]] = {
    "Momentum": (lambda p: Momentum(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "Nesterov": (lambda p: Nesterov(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)),
    "Adam": (lambda p: Adam(p, lr=0.1), lambda p: torch.optim.Adam(p, lr=0.1)),
}


def plateau(optimizer: torch.optim.Optimizer) -> theirs.ReduceLROnPlateau:
    return theirs.ReduceLROnPlateau(optimizer, factor=0.5, patience=2, cooldown=1, min_lr=0.01)


def sequential(optimizer: torch.optim.Optimizer) -> theirs.SequentialLR:
    parts = [
        theirs.LinearLR(optimizer, start_factor=0.1, total_iters=6),
        theirs.CosineAnnealingLR(optimizer, T_max=10),
        theirs.ExponentialLR(optimizer, gamma=0.7),
    ]
    return theirs.SequentialLR(optimizer, parts, milestones=[6, 16])


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "OneCycleLR": lambda o: theirs.OneCycleLR(o, max_lr=0.5, total_steps=STEPS, base_momentum=0.8, max_momentum=0.97),
    "CyclicLR": lambda o: theirs.CyclicLR(o, base_lr=0.01, max_lr=0.3, step_size_up=5, step_size_down=7),
    "LambdaLR": lambda o: theirs.LambdaLR(o, lambda step: 1 / (1 + step)),
    "ReduceLROnPlateau": plateau,
    "SequentialLR": sequential,
    "SWALR": lambda o: SWALR(o, swa_lr=0.02, anneal_epochs=10),
    "CosineAnnealingWarmRestarts": lambda o: theirs.CosineAnnealingWarmRestarts(o, T_0=5, T_mult=2),
}
MOMENTUM = {"OneCycleLR", "CyclicLR"}
"""Those that cycle the momentum too."""


def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in ((3, 2), (4,))]


def drive(make: Make, schedule: Callable[[torch.optim.Optimizer], Any]) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """The group as each step found it, and the parameters after it."""
    params = parameters()
    optimizer = make(params)
    scheduler = schedule(optimizer)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        found = {name: optimizer.param_groups[0].get(name) for name in ("lr", "momentum", "betas")}
        optimizer.step()
        assert {name: optimizer.param_groups[0].get(name) for name in found} == found
        yield found, torch.cat([param.detach().flatten() for param in params])
        if step < STEPS - 1:
            loss = (5.0, 4.0, 3.0)[min(step, 2)]  # it stops to fall
            scheduler.step(*([loss] if isinstance(scheduler, theirs.ReduceLROnPlateau) else []))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("twin", TWINS)
def test_a_full_cycle_is_torch_s(twin: str, scheduler: str) -> None:
    ours, torchs = (list(drive(make, SCHEDULERS[scheduler])) for make in TWINS[twin])
    for (group, point), (expected, there) in zip(ours, torchs, strict=True):
        assert group == expected
        torch.testing.assert_close(point, there, rtol=1e-10, atol=1e-12)
    rates = [group["lr"] for group, _ in ours]
    assert len(set(rates)) >= 4
    momenta = [group["momentum"] if group["betas"] is None else group["betas"][0] for group, _ in ours]
    assert (len(set(momenta)) > 5) == (scheduler in MOMENTUM)


def test_one_cycle_reads_back_what_it_promises() -> None:
    groups = [group for group, _ in drive(TWINS["Nesterov"][0], SCHEDULERS["OneCycleLR"])]
    rates, momenta = [group["lr"] for group in groups], [group["momentum"] for group in groups]
    assert (rates[0], max(rates), rates[-1]) == pytest.approx((0.02, 0.5, 0.02 / 1e4), rel=0.03)
    assert (momenta[0], min(momenta), momenta[-1]) == pytest.approx((0.97, 0.8, 0.97), rel=0.01)


@pytest.mark.parametrize("form", ["ema", "sutskever"])
@pytest.mark.parametrize("kind", [Momentum, Nesterov])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_other_forms_see_the_same_values(kind: type[Momentum | Nesterov], form: Any, scheduler: str) -> None:
    ours = [group for group, _ in drive(lambda p: kind(p, lr=0.1, form=form), SCHEDULERS[scheduler])]
    assert ours == [group for group, _ in drive(TWINS["Momentum"][1], SCHEDULERS[scheduler])]


MOVING: dict[str, Callable[[torch.optim.Optimizer, bool], Any]] = {
    "OneCycleLR": lambda o, both: theirs.OneCycleLR(o, 0.1, total_steps=STEPS, cycle_momentum=both),
    "CyclicLR": lambda o, both: theirs.CyclicLR(o, 0.01, 0.1, step_size_up=5, cycle_momentum=both),
    "LambdaLR": lambda o, _: theirs.LambdaLR(o, lambda step: 1 / (step + 1)),
}


@every
@pytest.mark.parametrize("scheduler", MOVING)
def test_every_optimizer_steps_by_what_a_scheduler_writes(make: Table, scheduler: str) -> None:
    # The twin has the same values written by hand.
    driven, edited = parameters(), parameters()
    optimizer, twin = make(driven), make(edited)
    has_momentum = bool({"momentum", "betas"} & optimizer.defaults.keys())
    moving = MOVING[scheduler](optimizer, has_momentum)
    rates, momenta = set(), set()
    for step in range(STEPS - 1):
        group = {name: optimizer.param_groups[0][name] for name in keys(optimizer) if name != "scale"}
        rates.add(group["lr"])
        momenta.add(group["betas"][0] if "betas" in group else group.get("momentum"))
        twin.param_groups[0].update(group)
        run(optimizer, driven, range(step, step + 1))
        run(twin, edited, range(step, step + 1))
        moving.step()
    assert_same(driven, edited)
    assert len(rates) > 5
    assert (len(momenta) > 5) == (has_momentum and scheduler in MOMENTUM)


def test_a_scheduler_of_torch_and_a_schedule_of_ours_share_a_group() -> None:
    momentum = SutskeverMomentum(0.9, period=4)
    params = parameters()
    optimizer = Momentum(params, lr=0.1, momentum=momentum)
    scheduler = theirs.ExponentialLR(optimizer, 0.9)
    for step in range(STEPS):
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        group = optimizer.param_groups[0]
        assert (group["lr"], group["momentum"]) == (pytest.approx(0.1 * 0.9**step), momentum(step))
        scheduler.step()


def test_two_schedules_for_one_name_raise() -> None:
    params = parameters()
    optimizer = Momentum(params, lr=Cosine(0.1, 0.0, 10))
    scheduler = theirs.ExponentialLR(optimizer, 0.9)
    optimizer.step()
    scheduler.step()
    with pytest.raises(UserError, match="lr was set to"):
        optimizer.step()
