"""Whole loops: nothing of the training changes, and what is known of them is said."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ravine
from cases_monitor import Clock, Quadratic, bitwise, clock, train
from ravine import optim
from ravine.errors import UserError, WorkError
from ravine.monitor import Monitor, monitor, read
from ravine.monitor.records import Records

__all__ = ["clock"]
CURVATURES = [2.0, 1.0, 0.5, 0.2]


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    )


def data(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(24, 6, generator=generator), torch.randint(3, (24,), generator=generator)


Step = Callable[[nn.Module, torch.optim.Optimizer, Any], None]


def plain(model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
    optimizer.zero_grad()
    x, y = data(int(torch.randint(1000, ())))
    F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def accumulated(model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
    optimizer.zero_grad(set_to_none=False)
    for _ in range(3):
        x, y = data(int(torch.randint(1000, ())))
        (F.cross_entropy(model(x), y) / 3).backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()


def scaled(model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
    optimizer.zero_grad()
    x, y = data(int(torch.randint(1000, ())))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(model(x), y)
    huge = float("inf") if torch.rand(()) < 0.1 else 1.0  # overflows now and then
    scaler.scale(loss * huge).backward()
    scaler.step(optimizer)
    scaler.update()


def closed(model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
    x, y = data(int(torch.randint(1000, ())))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]


LOOPS: dict[str, tuple[Callable[[Any], torch.optim.Optimizer], Step]] = {
    "heavy ball": (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3), plain),
    "adam": (lambda p: torch.optim.Adam(p, lr=1e-3), plain),
    "our nesterov, scheduled": (lambda p: optim.Nesterov(p, lr=lambda t: 0.05 / (1 + t), momentum=0.9), plain),
    "our adamw": (lambda p: optim.AdamW(p, lr=1e-3), plain),
    "accumulated and clipped": (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True), accumulated),
    "scaled": (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), scaled),
    "closure": (lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3), closed),
}


def states(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[object]:
    drawn = (torch.rand(3).tolist(), random.random(), np.random.rand())
    slopes = [p.grad for p in model.parameters()]
    return [bitwise(model.state_dict()), bitwise(optimizer.state_dict()), bitwise(slopes), drawn, model.training]


@pytest.mark.parametrize("name", LOOPS)
def test_training_is_the_same_to_the_bit(name: str, clock: Clock) -> None:
    make, step = LOOPS[name]
    found = []
    for watched in (False, True):
        model = net()
        optimizer = make(model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0) if step is scaled else None
        torch.manual_seed(7), random.seed(7), np.random.seed(7)
        watcher = None
        if watched:
            batches = [data(1), data(2)]
            watcher = Monitor(model, optimizer, loss=F.cross_entropy, batches=batches, budget=1.0, scaler=scaler)
        for _ in range(40):
            step(model, optimizer, scaler)
            clock.now += 0.01
        found.append(states(model, optimizer))
        if watcher is not None:
            seen = watcher.steps
            for dear in ("noise_trace", "sharpness", "update_curvature"):  # it was not idle
                assert seen[dear].drop_nulls().len() > 5
            assert seen.height == watcher.step and (watcher.step == 40 or step is scaled)
            watcher.close()
    assert found[0] == found[1]


def test_the_model_is_left_as_it_was_in_eval_mode_too(clock: Clock) -> None:
    case = Quadratic(CURVATURES)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    watcher = Monitor(case.model, optimizer, loss=case.loss, batches=[case.batch], budget=1.0)
    case.model.eval()
    train(case, optimizer, 100, clock)
    assert not case.model.training and watcher.steps["sharpness"].drop_nulls().len() > 0


# What is known of a quadratic is measured, and said.


def watched(
    clock: Clock, curvatures: list[float], steps: int, noise: float = 0.0, **options: Any
) -> tuple[Monitor, Quadratic]:
    case = Quadratic(curvatures)
    optimizer = torch.optim.SGD(case.model.parameters(), **options)
    watcher = Monitor(case.model, optimizer, loss=case.loss, batches=[case.batch], budget=1.0)
    train(case, optimizer, steps, clock, noise)
    return watcher, case


def rules(watcher: Monitor) -> dict[str, str]:
    return {remark.rule: str(remark) for remark in watcher.says()}


def test_the_sentence_of_an_oscillation_of_period_six(clock: Clock) -> None:
    """lr h = .95 at momentum .9: (1 + b - lr h) / (2 sqrt b) = cos(2 pi / 6.005)."""
    watcher, _ = watched(clock, [0.95, 0.01], 500, noise=1e-3, lr=1.0, momentum=0.9)
    said = rules(watcher)
    assert "the velocity cancels: oscillation along the top eigenvector, period" in said["cancels"]
    period = float(said["cancels"].split("period ")[1].split(",")[0])
    assert period == pytest.approx(6.005, rel=0.08)
    assert ", 6 by theory (" in said["cancels"]
    assert said["headroom"].startswith("the top curvature is 0.95, and full-batch training diverges above 3.8")


@pytest.mark.parametrize(("lr", "rule"), [(1.7, "headroom"), (1.8, "at the edge"), (1.92, "beyond the edge")])
def test_below_at_and_beyond_the_edge(clock: Clock, lr: float, rule: str) -> None:
    """Heavy-ball momentum .9 on curvature 2 diverges above lr = 1.9."""
    watcher, _ = watched(clock, CURVATURES, 150, lr=lr, momentum=0.9)
    assert rule in rules(watcher)
    assert {"headroom", "at the edge", "beyond the edge", "above the limit"} & set(rules(watcher)) == {rule}
    margin = watcher.steps["margin"].drop_nulls()[-1]
    assert margin == pytest.approx(1 - 2 / (3.8 / lr), rel=1e-3)


def test_gradient_descent_beyond_the_edge_zigzags_and_grows(clock: Clock) -> None:
    watcher, _ = watched(clock, CURVATURES, 150, lr=1.03)
    said = rules(watcher)
    assert {"beyond the edge", "grows", "cancels"} <= set(said)
    assert "the gradients cancel: the updates turn back with a period of about 2 steps" in said["cancels"]


def test_a_long_valley_says_that_gradients_agree(clock: Clock) -> None:
    watcher, _ = watched(clock, [1e-4, 1e-5, 1e-6], 200, lr=0.5)
    assert "momentum or a larger lr" in rules(watcher)["agrees"]


def test_pure_noise_is_noise(clock: Clock) -> None:
    torch.manual_seed(0)
    model = nn.Linear(30, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).mean()  # type: ignore[no-any-return]

    watcher = Monitor(model, optimizer, batch_loss=loss, batches=[torch.randn(64, 30) for _ in range(2)], budget=1.0)
    for _ in range(120):
        optimizer.zero_grad()
        loss(model, torch.randn(64, 30)).backward()  # type: ignore[no-untyped-call]
        clock.now += 0.01
        optimizer.step()
    said = rules(watcher)
    assert "the curvature of the loss is 0" in said["note"]
    assert "noise" in said and not {"cancels", "agrees", "beyond the edge"} & set(said)
    assert "the noise hides the gradient" in said["noise scale"] or "noise-limited" in said["noise scale"]


def test_layers_without_a_gradient_are_named(clock: Clock) -> None:
    model = nn.ModuleDict({"used": nn.Linear(4, 1), "unused": nn.Linear(4, 1), "fixed": nn.Linear(4, 1)})
    model["fixed"].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    watcher = Monitor(model, optimizer)
    for _ in range(200):
        optimizer.zero_grad()
        model["used"](torch.randn(2, 4)).mean().backward()
        clock.now += 0.01
        optimizer.step()
    said = rules(watcher)["frozen"]
    assert said == "2 of 4 parameter tensors never moved, no gradient arrives there: 'unused.weight', 'unused.bias'"


def test_overflows_of_the_scaler_are_told(clock: Clock) -> None:
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    watcher = Monitor(model, optimizer, scaler=scaler)
    for step in range(80):
        optimizer.zero_grad()
        factor = 1e38 if step in (30, 31, 50) else 1.0
        scaler.scale(model(torch.ones(2, 4)).square().mean() * factor).backward()
        clock.now += 0.01
        scaler.step(optimizer)
        scaler.update()
    assert watcher.step == 77
    assert "overflowed 3 times" in rules(watcher)["overflow"]


def test_gradients_that_overflow_unseen_are_told(clock: Clock) -> None:
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watcher = Monitor(model, optimizer)
    for step in range(20):
        optimizer.zero_grad()
        (model(torch.ones(2, 4)).mean() * (float("inf") if step == 9 else 1.0)).backward()
        optimizer.step()
    assert "not finite in 1 of 20 steps, first at step 10" in rules(watcher)["not finite"]


def test_bfloat16_updates_that_round_to_zero_are_told(clock: Clock) -> None:
    model = nn.Linear(50, 1).bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)
    watcher = Monitor(model, optimizer)
    for _ in range(60):
        optimizer.zero_grad()
        model(torch.ones(2, 50, dtype=torch.bfloat16)).mean().backward()
        clock.now += 0.01
        optimizer.step()
    assert {"rounding", "still"} & set(rules(watcher))


# The budget.


def test_short_steps_are_thinned_and_it_says_so(clock: Clock) -> None:
    clock.look = 0.0001  # a look takes .2 ms
    case = Quadratic(CURVATURES)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1, momentum=0.9)
    watcher = Monitor(case.model, optimizer)
    for _ in range(4000):
        case.backward()
        clock.now += 0.001
        optimizer.step()
    seen = watcher.steps
    assert 64 < seen.height < 1000 and watcher.step == 4000
    assert watcher.budget.overhead <= 0.05
    assert "of the steps were watched, because a step takes 1 ms; the monitor took " in rules(watcher)["thinned"]
    jumps = seen["step"].diff().drop_nulls()
    assert set(jumps[:63].to_list()) == {1} and jumps[63] > 64  # whole bursts


def test_dear_signals_keep_to_the_budget(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Quadratic(CURVATURES)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.01, momentum=0.9)
    watcher = Monitor(case.model, optimizer, loss=case.loss, batches=[case.batch])
    taken = watcher._taken

    def dear(*given: Any) -> Any:
        clock.now += 0.03
        return taken(*given)

    monkeypatch.setattr(watcher, "_taken", dear)
    train(case, optimizer, 2000, clock)
    assert 0.03 < watcher.budget.overhead <= 0.04
    kinds = [watcher.steps[name].drop_nulls().len() for name in ("noise_trace", "sharpness", "update_curvature")]
    assert min(kinds) >= 3 and max(kinds) - min(kinds) <= 1
    assert watcher.steps.height == 2000  # no step is too short here


# Files, resumption, ends.


def test_files_and_the_two_lines(tmp_path: Path, clock: Clock) -> None:
    case = Quadratic(CURVATURES)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1, momentum=0.9)
    with ravine.Monitor(case.model, optimizer, tmp_path / "run") as watcher:
        train(case, optimizer, 70, clock)
    assert read(tmp_path / "run").height == 70 and watcher.steps.height == 70
    assert read(tmp_path / "run", "layers")["parameter"].to_list() == ["weight"]
    train(case, optimizer, 5, clock)
    assert watcher.step == 70 and watcher.summary().startswith("- ")


def test_a_training_goes_on_from_a_checkpoint(tmp_path: Path, clock: Clock) -> None:
    for first, count in ((1, 30), (21, 20)):
        case = Quadratic(CURVATURES)
        optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1 * first)
        with Monitor(case.model, optimizer, tmp_path, first_step=first):
            train(case, optimizer, count, clock)
    found = read(tmp_path)
    assert found["step"].to_list() == list(range(1, 41))
    assert found["lr"].n_unique() == 2 and found.filter(found["step"] > 20)["lr"].n_unique() == 1


def test_a_program_that_just_ends_has_stored_everything(tmp_path: Path, clock: Clock) -> None:
    case = Quadratic(CURVATURES)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    watcher = Monitor(case.model, optimizer, tmp_path)
    train(case, optimizer, 12, clock)
    assert watcher._at_exit.atexit
    watcher._at_exit()  # as the interpreter does at its end
    assert read(tmp_path)["step"].to_list() == list(range(1, 13))


def test_a_full_disk_does_not_stop_the_training(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Quadratic(CURVATURES)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    watcher = Monitor(case.model, optimizer, tmp_path)
    add = Records.add

    def full(*_: object) -> None:
        raise WorkError("the disk is full")

    monkeypatch.setattr(monitor, "STORE_ROWS", 10)
    monkeypatch.setattr(Records, "add", full)
    train(case, optimizer, 25, clock)
    assert watcher.notes == ["the disk is full"]
    with pytest.raises(WorkError):
        watcher.close()
    monkeypatch.setattr(Records, "add", add)
    watcher.close()
    assert read(tmp_path).height == 25


def test_a_measurement_that_fails_is_noted_and_the_training_goes_on(clock: Clock) -> None:
    case = Quadratic(CURVATURES)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    x, y = case.batch
    watcher = Monitor(case.model, optimizer, loss=case.loss, batches=[(x, y)], budget=1.0)
    with torch.no_grad():
        x[0] = float("nan")
    torch.manual_seed(0)
    for _ in range(120):
        optimizer.zero_grad()
        case.model.weight.sum().backward()  # type: ignore[no-untyped-call]
        clock.now += 0.01
        optimizer.step()
    assert any("the noise scale could not be measured at step" in note for note in watcher.notes)
    assert len(watcher.notes) <= 3 and watcher.step == 120
    assert "note" in rules(watcher)


def test_a_copy_of_the_optimizer_is_not_watched() -> None:
    case = Quadratic(CURVATURES)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    watcher = Monitor(case.model, optimizer)
    again = copy.deepcopy(optimizer)  # as torch has it, without the hooks
    again.step()
    assert watcher.step == 0


def test_groups_may_be_added_and_storage_may_move(clock: Clock) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)
    watcher = Monitor(model, optimizer, loss=F.mse_loss, batches=[(torch.ones(8, 3), torch.ones(8, 1))], budget=1.0)
    for step in range(260):
        if step == 70:
            optimizer.add_param_group({"params": model[1].parameters(), "lr": 0.01})
        if step == 140:
            model.double().float()
        optimizer.zero_grad()
        F.mse_loss(model(torch.randn(4, 3)), torch.randn(4, 1)).backward()  # type: ignore[no-untyped-call]
        clock.now += 0.01
        optimizer.step()
    assert watcher.steps.height == 260
    assert set(watcher.layers["parameter"]) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert watcher.layers["update_norm"].min() > 0  # type: ignore[operator]
    assert watcher.notes == []


def test_wrappers_are_seen_through(clock: Clock) -> None:
    inner = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
    wrappers: list[Any] = [nn.DataParallel(inner), torch.compile(inner, backend="eager")]
    for model in wrappers:
        watcher = Monitor(model, optimizer, loss=F.mse_loss, batches=[(torch.ones(8, 3), torch.ones(8, 1))])
        assert watcher._names == {id(inner.weight): "weight", id(inner.bias): "bias"}
        watcher.close()
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": 0.0}, "share of the training time"),
        ({"budget": "5%"}, "budget is '5%': give the share"),
        ({"first_step": 0}, "steps are counted from 1"),
        ({"loss": F.mse_loss}, "give the batches"),
        ({"batches": [(torch.ones(2, 3), torch.ones(2, 1))]}, "exactly one of loss"),
    ],
)
def test_wrong_use_gets_a_sentence(options: dict[str, Any], words: str) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match=words):
        Monitor(model, optimizer, **options)
    assert not optimizer._optimizer_step_pre_hooks


def test_an_optimizer_of_another_model_gets_a_sentence() -> None:
    optimizer = torch.optim.SGD(nn.Linear(3, 1).parameters(), lr=0.1)
    with pytest.raises(UserError, match="steps no parameter of the model"):
        Monitor(nn.Linear(3, 1), optimizer)


def test_model_and_optimizer_in_the_wrong_order_get_a_sentence() -> None:
    model = nn.Linear(3, 1)
    with pytest.raises(UserError, match="in this order, not SGD and Linear"):
        Monitor(torch.optim.SGD(model.parameters(), lr=0.1), model)  # type: ignore[arg-type]


def test_settings_that_are_edited_in_place_are_seen() -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.Adam([{"params": list(model.parameters()), "betas": [0.9, 0.999]}])
    watcher = Monitor(model, optimizer)
    for momentum in (0.9, 0.5, 0.5):
        optimizer.param_groups[0]["betas"][0] = momentum
        plain(model, optimizer, None)
    assert watcher.steps["momentum"].to_list() == [0.9, 0.5, 0.5]
