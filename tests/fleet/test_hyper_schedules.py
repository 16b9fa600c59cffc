"""Runs whose hyper-parameters change with the step: stacks against runs alone, and both when broken off."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cases_fleet import dense, problem, task
from ravine import rules
from ravine.fleet import train as training
from ravine.fleet.single import Single
from ravine.fleet.stacked import Program, Stacked
from ravine.fleet.train import Executor, Trial, Work, train
from ravine.schedules import Piecewise, Setting, SutskeverMomentum

MOMENTA: list[Setting] = [SutskeverMomentum(0.9, 2), 0.5, Piecewise((0.9, 0.0), (3,))]
RATES: list[Setting] = [0.05, Piecewise((0.05, 0.01), (4,)), 0.02]
STEPS = 12


@pytest.mark.parametrize("rule", ["sutskever-nesterov", "sutskever-momentum", "momentum"])
def test_a_stack_follows_schedules_as_runs_alone_do(rule: str) -> None:
    made = task(problem(dense, dtype=torch.float64))
    stack = Stacked(Program(made), rules.get(rule), [0, 1, 0], {"lr": RATES, "momentum": MOMENTA})
    for step in range(STEPS):
        stack.step(step)
    for run, seed in enumerate([0, 1, 0]):
        single = Single(made, rules.get(rule), seed, {"lr": RATES[run], "momentum": MOMENTA[run]})
        for step in range(STEPS):
            single.step(step)
        for name, value in single.parameters().items():
            torch.testing.assert_close(stack.parameters()[name][run], value[0], rtol=1e-10, atol=1e-12)


def test_nesterov_looks_ahead_with_the_momentum_of_the_next_step() -> None:
    """By hand, on the parameters of one run: v' = mu v - lr g; w <- w + mu_next v' - lr g."""
    made = task(problem(dense, dtype=torch.float64, batch_size=50))  # one batch, whose gradient is asked for alone
    schedule = SutskeverMomentum(0.95, 1)
    fleet = Stacked(Program(made), rules.get("sutskever-nesterov"), [0], {"lr": [0.1], "momentum": [schedule]})
    model = made.training(made.model(0))
    velocities = [torch.zeros_like(p) for p in model.parameters()]
    for step in range(5):
        fleet.step(step)
        model.zero_grad()
        model(made.data.train.tensors).backward()
        with torch.no_grad():
            for p, v in zip(model.parameters(), velocities, strict=True):
                assert p.grad is not None
                v.mul_(schedule(step)).sub_(0.1 * p.grad)
                p.add_(schedule(step + 1) * v - 0.1 * p.grad)
    for name, p in model.named_parameters():
        torch.testing.assert_close(fleet.parameters()[name][0], p.detach(), rtol=1e-10, atol=1e-12)


def test_runs_that_stay_keep_their_own_schedules() -> None:
    made = task(problem(dense))
    program, rule = Program(made), rules.get("sutskever-nesterov")
    whole = Stacked(program, rule, [0, 1, 0], {"lr": [0.05] * 3, "momentum": MOMENTA})
    part = Stacked(program, rule, [0, 1, 0], {"lr": [0.05] * 3, "momentum": MOMENTA})
    part.step(0)
    whole.step(0)
    part.keep(torch.tensor([False, True, True]))
    for step in range(1, 8):
        part.step(step)
        whole.step(step)
    for name, value in part.parameters().items():
        torch.testing.assert_close(value, whole.parameters()[name][1:], rtol=1e-5, atol=1e-6)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("executor", ["stacked", "single"])
def test_a_broken_off_work_goes_on_where_its_schedules_were(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    made = task(problem(dense))
    program = Program(made)
    trials = tuple(Trial(run, {"lr": 0.05, "momentum": momentum}) for run, momentum in enumerate(MOMENTA))
    work = Work("sutskever-nesterov", trials, STEPS, False, executor)
    calls: list[int] = []

    def stop(steps: int) -> Any:
        calls.append(steps)
        if len(calls) == 8:
            raise Stopped

    with pytest.raises(Stopped):
        train(made, program, work, tmp_path / "checkpoint", stop)
    again = train(made, program, work, tmp_path / "checkpoint")
    assert again == train(made, program, work)


def test_works_with_other_schedules_have_other_digests() -> None:
    digests = {
        Work("momentum", (Trial(0, {"lr": 0.1, "momentum": momentum}),), STEPS, False, "single").digest
        for momentum in (0.9, SutskeverMomentum(0.9), SutskeverMomentum(0.9, 100))
    }
    assert len(digests) == 3
