"""Search-direction noise against its definition, the bounds, the schedules, and every claim at a size of seconds."""

from pathlib import Path

import pytest
import torch

from ravine.claims import reproduce
from ravine.claims.rows import minibatches
from ravine.claims.sato import noise, schedules, smoothing
from ravine.claims.sato.schedules import Stages
from ravine.claims.sato.shared import Arm, Scale, train


def test_the_noise_of_sgd_is_that_of_its_batch() -> None:
    trained = train([Arm("SGD", 0.05), Arm("SHB", 0.005, 0.9)], 8, 40, [3000, 3001])
    torch.testing.assert_close(trained.noise[0], trained.batch_noise[0], rtol=1e-3, atol=0)
    assert bool((trained.noise[1] > trained.noise[0]).all())
    assert trained.noise.shape == trained.error.shape == (2, 2)


def test_ema_form_is_heavy_ball_form_with_another_unit() -> None:
    """The same trajectory: equal errors and losses, and a direction that is (1 - momentum) times as long."""
    arms = [Arm("NSHB", 0.05, 0.9, ema=True), Arm("SHB", 0.005, 0.9)]
    trained = train(arms, 16, 40, [3000])
    torch.testing.assert_close(trained.loss[0], trained.loss[1])
    assert float(trained.noise[0]) < float(trained.noise[1])


def test_bounds() -> None:
    """By hand: h = .9 (.81 - .9 + 1) / .01 = 81.9."""
    given, bound = torch.tensor([2.0], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)
    assert float(noise.bounds(Arm("SGD", 1.0), given, bound)) == pytest.approx(2)
    assert float(noise.bounds(Arm("SHB", 1.0, 0.9), given, bound)) == pytest.approx(2 + 81.9 * 5)
    assert float(noise.bounds(Arm("NSHB", 1.0, 0.9, ema=True), given, bound)) == pytest.approx(2 + 4 * 0.81 * 5)


def test_courses() -> None:
    """They start alike; the one beside the falling momentum has its effective learning rate."""
    made = schedules.courses(Stages(4, 5, 2), 10.0, 0.5)
    batches = minibatches(100, 16, 1, [0])
    assert made["momentum"].train(batches, [0]) == made["constant"].train(batches, [0])
    momentum, beside = made["momentum"].momentum, made[schedules.MATCHED].lr
    assert callable(momentum) and callable(beside)
    assert beside(0) == pytest.approx(1.0)
    assert beside(19) == pytest.approx(0.1 / (1 - momentum(19)))
    assert momentum(19) < momentum(0) == 0.9


@pytest.mark.parametrize("name", ["sato-noise", "sato-smoothing", "sato-schedules"])
def test_claims_run_through(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (noise, smoothing):
        monkeypatch.setattr(module, "SCALES", {"quick": Scale(20, 2)})
    monkeypatch.setattr(schedules, "STAGES", {"quick": Stages(3, 10, 2)})
    (result,) = reproduce([name], out=tmp_path)
    assert all(finding["interval"] is not None for finding in result["findings"])
    assert result["figures"] and result["tables"]
