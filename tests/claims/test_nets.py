"""Training on the digits as rows: against the drop-in optimizer one run at a time, and what sweeps choose."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ravine.claims import nets
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import NET, Field, Sweep, Trained, column, every_seed, rows_of_digits, sweep, train
from ravine.claims.rows import minibatches
from ravine.fleet.choose import Choice
from ravine.problems import Problem
from ravine.problems.digits import digits
from ravine.schedules import Cosine, ExponentialScale
from ravine.study.engine import LocalEngine
from ravine.study.store import Store


def alone(seed: int, steps: int, batch_size: int | None, lr: Sequence[float], momentum: float) -> tuple[float, float]:
    """Loss and test error of one run with torch's own optimizer, whose lr is that of each step."""
    (x, y), test = rows_of_digits()
    row = torch.nn.Parameter(NET.start([seed]))
    optimizer = torch.optim.SGD([row], lr=1.0, momentum=momentum)
    drawn = minibatches(len(x), batch_size or 1, steps, [seed])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr[step]
        rows = slice(None) if batch_size is None else drawn[step, 0]
        optimizer.zero_grad()
        cross_entropy(NET.outputs(row, x[rows])[0], y[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        wrong = NET.outputs(row, test[0])[0].argmax(1) != test[1]
        return float(cross_entropy(NET.outputs(row, x)[0], y)), float(wrong.double().mean())


@pytest.mark.parametrize("batch_size", [8, None])
def test_a_row_is_a_run_with_the_drop_in_optimizer(batch_size: int | None) -> None:
    steps, rates = 6, (0.05, 0.2)

    def falling(step: int) -> Tensor:
        return column(rates) * (1 - step / steps)

    found = train("momentum", [3, 4], steps, batch_size, {"lr": falling, "momentum": 0.9})
    for setting, rate in enumerate(rates):
        for place, seed in enumerate((3, 4)):
            loss, error = alone(seed, steps, batch_size, [rate * (1 - k / steps) for k in range(steps)], 0.9)
            assert float(found.loss[setting, place]) == pytest.approx(loss, rel=1e-4)
            assert float(found.error[setting, place]) == pytest.approx(error, abs=2 / 360)


def test_a_run_that_diverges_scores_worst() -> None:
    found = train("sgd", [0], 8, None, {"lr": column([1e30, 0.1])})
    assert found.loss[0].tolist() == [pytest.approx(math.log(10))]
    assert found.error[0].tolist() == [1.0]
    assert found.loss[1].isfinite().all()


def test_a_sweep_chooses_on_the_pilot_and_judges_on_the_others() -> None:
    pilot = Trained(torch.tensor([[3.0], [1.0], [2.0]]), torch.tensor([[0.1], [0.3], [0.2]]))
    judged = Trained(
        torch.tensor([[3.0, 4.0], [9.0, 8.0], [0.0, 0.0]]), torch.tensor([[0.5, 0.6], [0.0, 0.0], [0.1, 0.1]])
    )
    both = Sweep((1.0, 2.0, 3.0), pilot, judged)
    assert both.loss == [9.0, 8.0]
    assert both.error == pytest.approx([0.5, 0.6])
    assert both.errors_at(3.0) == pytest.approx([0.1, 0.1])
    assert both.shown[1] == 1.0


def test_a_sweep_trains_what_a_training_does() -> None:
    field, shape = Field("digits", 16, 5, 2, 1), Cosine(1.0, 0.0, 5)
    found = sweep(cast(Laboratory, None), field, "ema-momentum", (0.1, 0.5), shape, momentum=0.5)
    assert found.judged.loss.shape == (2, 2)
    again = train(
        "ema-momentum",
        every_seed(1, 2),
        5,
        16,
        {"lr": lambda step: column([0.1, 0.5]) * shape(step), "momentum": 0.5},
    )
    torch.testing.assert_close(found.judged.loss, again.loss[:, 1:])
    assert set(every_seed(3, 9)[:3]).isdisjoint(every_seed(3, 9)[3:])


def test_random_scales_are_those_of_the_seed() -> None:
    """One step from m = 0 along the first gradient: s times that of momentum in EMA form."""
    first: dict[str, float | Tensor | Callable[[int], float | Tensor]] = {"lr": column([1e-5]), "momentum": 0.9}
    moved = []
    for rule in ("random-scaling", "ema-momentum"):
        seen: list[Tensor] = []

        def losses(outputs: Tensor, targets: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(outputs.detach())
            return outputs.sum((1, 2))

        train(rule, [7], 2, None, first, losses)
        moved.append(seen[1] - seen[0])
    ratio = (moved[0] / moved[1]).median()
    assert float(ratio) == pytest.approx(ExponentialScale(7)(0), rel=0.01)


class Deaf:
    """A listener."""

    def phase(self, text: str) -> None: ...

    def progress(self, done_steps: int, total_steps: int, runs_done: int, runs: int) -> None: ...


@pytest.mark.slow
def test_other_problems_train_in_fleets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(name: str, batch_size: int | None, steps: int) -> Problem:
        return replace(digits(), name=name, batch_size=batch_size or 1437, steps=steps)

    monkeypatch.setattr(nets, "load", short)
    monkeypatch.setattr(LocalEngine, "choose", lambda *_: Choice("stacked", 4, "no time to measure"))
    store = Store(tmp_path / "claim")
    store.directory.mkdir()
    with store.locked():
        laboratory = Laboratory("quick", store, 1, "cpu", Deaf())
        field = Field("clothes", 32, 60, 2, 1)
        found = sweep(laboratory, field, "ema-momentum", (0.0, 0.5), Cosine(1.0, 0.0, 60), momentum=0.9)
    assert found.judged.error.shape == (2, 2)
    assert bool((found.judged.error[1] < 0.5).all()) and bool((found.judged.error[0] > 0.7).all())
    assert bool((found.judged.loss[1] < found.judged.loss[0]).all())
    assert found.best_for_error == found.best_for_loss == 1
