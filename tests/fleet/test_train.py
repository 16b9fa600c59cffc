import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cases_fleet import PROBLEMS, dense, doing, problem, rows, settings, task, work
from ravine import rules
from ravine.errors import WorkError
from ravine.fleet import train as training
from ravine.fleet.choose import choose
from ravine.fleet.stacked import Program, Stacked
from ravine.fleet.task import Task
from ravine.fleet.train import Record, Work, checkpoint_files, evaluation_steps, train
from ravine.problems import Problem

GOOD = (0.01, 0.02, 0.03)
WILD = 1e12


def outcome(of: Problem | Task, what: Work, **words: Any) -> list[Record]:
    made = of if isinstance(of, Task) else task(of)
    return train(made, program_of(made), what, **words)


program_of = functools.lru_cache(maxsize=4)(Program)  # tracing is what takes the time


def regression(**changes: Any) -> Problem:
    """A loss that a wild step makes as large as it likes, unlike a cross-entropy with a tanh before it."""
    x, _ = rows(50, 4)
    fields: dict[str, Any] = {"loss": torch.nn.functional.mse_loss, "metrics": {}}
    return problem(lambda: torch.nn.Linear(4, 1), (x, x[:, :1]), **fields | changes)


@pytest.mark.parametrize(
    ("runs", "wanted"), [(1, 1), (2, 2), (3, 4), (8, 8), (9, 16), (25, 32), (33, 48), (64, 64), (65, 96)]
)
def test_stacks_have_few_sizes(runs: int, wanted: int) -> None:
    assert training.places(runs) == wanted


def test_a_run_that_stops_early_is_evaluated_as_a_whole_one_until_there() -> None:
    whole = Work("sgd", (), 250, False, "single", budget=1000)
    assert whole.evaluations == set(range(10, 251, 10))
    assert Work("sgd", (), 33, False, "single", budget=1000).evaluations == {10, 20, 30, 33}
    assert Work("sgd", (), 33, False, "single").evaluations == set(range(1, 34))


@pytest.mark.parametrize(
    ("steps", "wanted"), [(1, [1]), (2, [1, 2]), (30, list(range(1, 31))), (1000, list(range(10, 1001, 10)))]
)
def test_evaluations_are_a_hundred_even_steps(steps: int, wanted: list[int]) -> None:
    assert evaluation_steps(steps) == wanted


def test_evaluations_meet_a_quarter_and_half() -> None:
    for steps in range(1, 400):
        assert {steps // 4, steps // 2, steps} - {0} <= set(evaluation_steps(steps))
        assert evaluation_steps(steps) == sorted(set(evaluation_steps(steps)))


@pytest.mark.parametrize("executor", ["stacked", "single"])
def test_a_record_holds_what_was_measured(executor: str) -> None:
    made = task(problem(dense))
    what = work(executor, steps=120, test=True)
    records = outcome(made, what)
    for record in records:
        assert record.diverged_at is None
        assert record.step == evaluation_steps(120)
        assert len(record.train_loss) == len(record.validation) == len(record.test) == len(record.step)
        assert all(len(values) == 2 for values in record.validation)
        assert record.initial_loss > record.train_loss[-1]
    fleet = Stacked(Program(made), rules.get("momentum"), [0], {"lr": [0.01], "momentum": [0.9]})
    assert records[0].initial_loss == pytest.approx(fleet.evaluate("train")[0, 0].item(), rel=1e-5)
    losses = [fleet.step(step).item() for step in range(4)]
    assert evaluation_steps(120)[:3] == [1, 2, 4]
    assert records[0].train_loss[:3] == pytest.approx([losses[0], losses[1], (losses[2] + losses[3]) / 2], rel=1e-5)
    assert records[0].validation[2][0] == pytest.approx(fleet.evaluate("validation")[0, 0].item(), rel=1e-5)
    assert records[0].test[2][0] == pytest.approx(fleet.evaluate("test")[0, 0].item(), rel=1e-5)
    for step in range(4, 120):
        fleet.step(step)
    final = records[0].final_train_loss
    assert final == pytest.approx(fleet.evaluate("train")[0, 0].item(), rel=1e-3)


def test_the_test_rows_are_touched_only_if_asked() -> None:
    assert all(record.test == [] for record in outcome(problem(dense), work("stacked")))


# Divergence.


@pytest.mark.parametrize("executor", ["stacked", "single"])
def test_a_run_that_diverges_ends_alone(executor: str) -> None:
    made = task(regression())
    program = program_of(made)
    rates = (*GOOD[:1], WILD, *GOOD[1:])
    records = train(made, program, work(executor, 20, rates))
    lost = records.pop(1)
    assert lost.diverged_at is not None
    assert lost.step[-1] == lost.diverged_at < 20
    assert len(lost.step) == len(lost.train_loss) == len(lost.validation)
    assert lost.final_train_loss is None
    seeds = work(executor, 20, rates).trials
    kept = tuple(trial for trial in seeds if trial.hyper["lr"] != WILD)
    without = train(made, program, dataclasses.replace(work(executor, 20, rates), trials=kept))
    assert all(record.diverged_at is None for record in records)
    if executor == "single":
        assert records == without
    for one, other in zip(records, without, strict=True):
        assert one.step == other.step
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)
        assert one.final_train_loss == pytest.approx(other.final_train_loss, rel=1e-5)


def test_neighbours_of_a_diverged_run_do_not_change_by_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place of the diverged run is not freed: it is one of eight."""
    monkeypatch.setattr(Stacked, "keep", lambda self, alive: pytest.fail("no place was to be freed"))
    made = task(regression())
    rates = (WILD, *[0.01 * k for k in range(1, 8)])
    mild = (0.001, *rates[1:])
    wild, calm = (outcome(made, work("stacked", 40, of)) for of in (rates, mild))
    assert wild[0].diverged_at is not None
    assert wild[1:] == calm[1:]


def test_places_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    step = Stacked.step

    def counting(self: Stacked, number: int) -> Tensor:
        sizes.append(len(self.seeds))
        return step(self, number)

    monkeypatch.setattr(Stacked, "step", counting)
    rates = (0.01, WILD, 0.02, WILD)
    records = outcome(regression(), work("stacked", 40, rates))
    assert sizes[0] == 4
    assert sizes[-1] == 2
    alone = outcome(regression(), work("single", 40, rates))
    for one, other in zip(records, alone, strict=True):
        assert one.diverged_at == other.diverged_at
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4, nan_ok=True)


def test_a_freed_stack_goes_on_with_its_state_and_its_own_hyper_parameters() -> None:
    made = task(dataclasses.replace(PROBLEMS["batch-norm-1d"](), dtype=torch.float64))
    program, hyper = Program(made), settings("adam", 4)

    def fleet(of: list[int]) -> Stacked:
        columns = {name: [hyper[run][name] for run in of] for name in hyper[0]}
        return Stacked(program, rules.get("adam"), of, columns)

    whole, part = fleet([0, 1, 2, 3]), fleet([1, 3])
    for step in range(20):
        if step == 7:
            whole.keep(torch.tensor([False, True, False, True]))
        whole.step(step)
        part.step(step)
    for value, wanted in zip(whole.parameters().values(), part.parameters().values(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("executor", ["stacked", "single"])
def test_a_fleet_in_which_all_diverge_ends(executor: str) -> None:
    steps: list[int] = []
    records = outcome(regression(), work(executor, 10_000, (WILD, WILD, WILD)), progress=steps.append)
    assert all(record.diverged_at is not None for record in records)
    assert sum(steps) < 5_000


@pytest.mark.parametrize("executor", ["stacked", "single"])
def test_a_loss_that_is_not_a_number_is_divergence_at_once(executor: str) -> None:
    made = doing(
        lambda module, h: h * (module.second.weight.detach().abs().max() - 0.6).sign().neg().relu().log().add(1)
    )
    records = outcome(made, work(executor, 30, (0.001, 5.0)))
    assert records[0].diverged_at is None
    assert records[1].diverged_at == records[1].step[-1]
    assert not math.isfinite(records[1].train_loss[-1] + records[1].validation[-1][0])


def record(train_losses: list[float], validation: float = 1.0, initial: float = 1.0) -> Record:
    count = len(train_losses)
    return Record(initial, None, None, list(range(1, count + 1)), train_losses, [[validation]] * count)


@pytest.mark.parametrize(
    ("losses", "diverges"),
    [
        ([3.1, 3.1], False),
        ([3.1, 3.1, 3.1], True),
        ([3.1, 2.9, 3.1, 3.1], False),
        ([9.0, 3.1, 3.1, 3.0], False),
        ([1.0, math.nan], True),
        ([math.inf], True),
        ([0.0], False),
    ],
)
def test_three_times_the_initial_loss_at_three_evaluations_is_divergence(losses: list[float], diverges: bool) -> None:
    assert record(losses).diverges() == diverges


def test_overfitting_is_no_divergence_but_a_validation_loss_without_value_is() -> None:
    assert not record([0.1] * 5, validation=100.0).diverges()
    assert record([0.1], validation=math.nan).diverges()
    assert not record([5.0] * 5, initial=-1.0).diverges()


# Checkpoints.


class Stopped(Exception):
    pass


def stop_after(count: int) -> Callable[[int], None]:
    calls = iter(range(count))

    def progress(steps: int) -> None:
        if next(calls, None) is None:
            raise Stopped

    return progress


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)


CASES: dict[str, tuple[Callable[[], Problem], Work]] = {
    "stacked": (lambda: problem(dense), work("stacked", 12)),
    "stacked, one diverged": (regression, work("stacked", 12, (0.01, WILD, 0.02), test=True)),
    "stacked, one diverged and in place": (regression, work("stacked", 12, (0.01, WILD, 0.02, 0.03, 0.04, 0.05))),
    "single": (lambda: problem(dense), work("single", 12)),
    "single, one diverged": (regression, work("single", 12, (0.01, WILD, 0.02))),
    "single, tied": (PROBLEMS["tied"], work("single", 10)),
    "single, batch norm": (PROBLEMS["batch-norm-1d"], work("single", 10)),
    "stacked, batch norm": (PROBLEMS["batch-norm-1d"], work("stacked", 10)),
    "stacked, dropout, schedule": (
        lambda: dataclasses.replace(PROBLEMS["dropout"](), schedule=lambda step: 1 / (1 + step)),
        work("stacked", 10),
    ),
}


def adam(what: Work) -> Work:
    trials = tuple(dataclasses.replace(one, hyper=settings("adam", 3)[k % 3]) for k, one in enumerate(what.trials))
    return dataclasses.replace(what, rule="adam", trials=trials)


@pytest.mark.parametrize("name", [*CASES, "stacked, adam", "single, adam"])
def test_a_broken_off_work_ends_as_an_unbroken_one(name: str, tmp_path: Path, always: None) -> None:
    make, what = CASES[name.removesuffix(", adam")]
    what = adam(what) if name.endswith("adam") else what
    made = task(make())
    unbroken = outcome(made, what)
    for stop in (3, 20):
        assert_goes_on(made, what, unbroken, stop, tmp_path / f"01-coarse-sgd-30-{stop:03d}")


def assert_goes_on(made: Task, what: Work, unbroken: list[Record], stop: int, path: Path) -> None:
    ended = False
    try:
        outcome(made, what, checkpoint=path, progress=stop_after(stop))
        ended = True
    except Stopped:
        assert path.exists()
    done: list[int] = []
    steps_before = json_steps(path)
    again = outcome(made, what, checkpoint=path, progress=done.append)
    assert repr(again) == repr(unbroken)  # NaN is not equal to itself
    if not ended:
        assert steps_before > 0
        assert len(done) < len(unbroken) * len(evaluation_steps(what.steps)) + 2


def json_steps(path: Path) -> int:
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
    return int(about["step"]) + len(about["done"])


def test_all_steps_are_counted_whether_broken_off_or_not(tmp_path: Path, always: None) -> None:
    for executor in ("stacked", "single"):
        made, what, path = task(problem(dense)), work(executor, 30), tmp_path / executor
        steps: list[int] = []
        outcome(made, what, progress=steps.append)
        assert sum(steps) == 3 * 30
        with pytest.raises(Stopped):
            outcome(made, what, checkpoint=path, progress=stop_after(20))
        again: list[int] = []
        outcome(made, what, checkpoint=path, progress=again.append)
        assert sum(again) == 3 * 30
        assert again[0] + (again[1] if len(again) > 1 else 0) >= 5


def test_what_a_state_dict_leaves_out_is_saved_too(tmp_path: Path, always: None) -> None:
    class Counting(torch.nn.Module):
        level: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.net = dense()
            self.register_buffer("level", torch.ones(()), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.level.mul_(0.9)
            return self.net(x) * self.level  # type: ignore[no-any-return]

    for executor in ("single", "stacked"):
        made, what = task(problem(Counting)), work(executor, 20)
        with pytest.raises(Stopped):
            outcome(made, what, checkpoint=tmp_path / executor, progress=stop_after(15))
        assert outcome(made, what, checkpoint=tmp_path / executor) == outcome(made, what)


def test_a_checkpoint_of_other_work_is_ignored(tmp_path: Path, always: None) -> None:
    made, path = task(problem(dense)), tmp_path / "chunk"
    outcome(made, work("stacked", 12), checkpoint=path)
    other = work("stacked", 12, (0.01, 0.02, 0.04))
    assert outcome(made, other, checkpoint=path) == outcome(made, other)


def test_a_damaged_checkpoint_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, what = task(problem(dense)), work("stacked", 10)
    unbroken = outcome(made, what)
    for damage in ("empty", "cut", "noise", "json", "no metadata", "directory"):
        assert outcome(made, what, checkpoint=damaged(tmp_path / damage, damage, made, what, monkeypatch)) == unbroken


def damaged(path: Path, damage: str, made: Task, what: Work, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    outcome(made, what, checkpoint=path)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", math.inf)
    whole = path.read_bytes()
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage == "no metadata":
        save_file({"flat": torch.zeros(1)}, path)
    elif damage == "json":
        save_file({"flat": torch.zeros(1)}, path, {"about": "{"})
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "noise": b"\x01\xff" * 500}[damage])
    return path


def test_a_checkpoint_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path, always: None) -> None:
    with pytest.raises(WorkError, match=r"the checkpoint .* cannot be written .*resume"):
        outcome(problem(dense), work("stacked", 10), checkpoint=tmp_path / "missing" / "chunk")


@pytest.mark.parametrize("executor", ["stacked", "single"])
def test_all_files_of_a_checkpoint_are_known(executor: str, tmp_path: Path, always: None) -> None:
    path = tmp_path / "01-coarse-sgd-30-000"
    neighbour = tmp_path / "01-coarse-sgd-30-0001"
    neighbour.touch()
    outcome(problem(dense), work(executor, 30), checkpoint=path)
    (tmp_path / "01-coarse-sgd-30-000.writing").touch()
    assert set(checkpoint_files(path)) == set(tmp_path.iterdir()) - {neighbour}
    assert checkpoint_files(tmp_path / "other") == []


def test_a_problem_that_is_chosen_trains_as_chosen() -> None:
    made = task(problem(dense))
    choice = choose(made, Program(made), 1e18, forced="single")
    assert all(record.final_train_loss is not None for record in outcome(made, work(choice.executor)))
