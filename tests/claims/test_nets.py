"""Training on the digits as rows: against the drop-in optimizer one run at a time, and what sweeps choose."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ravine.claims import nets
from ravine.claims.nets import NET, Sweep, Trained, column, every_seed, rows_of_digits, sweep, train
from ravine.claims.rows import minibatches


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
    assert found.loss[0].isinf().all()
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
    found = sweep("ema-momentum", (0.1, 0.5), 1, 2, 5, 16, shape=lambda step: math.exp(-step), momentum=0.5)
    assert found.judged.loss.shape == (2, 2)
    again = train(
        "ema-momentum",
        every_seed(1, 2),
        5,
        16,
        {"lr": lambda step: column([0.1, 0.5]) * math.exp(-step), "momentum": 0.5},
    )
    torch.testing.assert_close(found.judged.loss, again.loss[:, 1:])
    assert set(every_seed(3, 9)[:3]).isdisjoint(every_seed(3, 9)[3:])


def test_a_cell_is_a_mean_with_its_interval() -> None:
    assert nets.shown([1.0, 2.0, 3.0]) == "2 ± 2.5"
