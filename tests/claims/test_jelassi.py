"""Small-margin data: the model against its definition, and every claim at a size of seconds."""

from pathlib import Path

import pytest
import torch

from ravine.claims import CLAIMS, reproduce
from ravine.claims.jelassi import contrast, gaussian, margin, patches
from ravine.claims.jelassi.contrast import Images
from ravine.claims.jelassi.gaussian import Gaussian
from ravine.claims.jelassi.patches import MarginArm, Margins


def test_the_output_is_the_sum_of_cubes_over_neurons_and_patches() -> None:
    scale = Margins(6, 4, 3, 1, 2)
    data = patches.draw([0, 1], scale, 4, 0.5)
    rows = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    along, across = patches.parts_of_output(rows.float(), data)
    for seed in range(2):
        for arm in range(3):
            for example in range(4):
                feature = torch.zeros(6)
                feature[0] = data.signal[seed, example]
                noise = torch.nn.functional.pad(data.noise[seed, example], (1, 0))
                products = rows[seed, arm].float() @ torch.cat([feature[None], noise]).T
                found = (along + across)[seed, arm, example]
                torch.testing.assert_close(found, products.pow(3).sum())


def test_margins_are_drawn_as_told() -> None:
    data = patches.draw([5], Margins(10, 1, 4, 1, 1), 2_000, 0.1)
    assert data.noise.shape == (1, 2_000, 3, 9)
    assert float(data.noise.std()) == pytest.approx(patches.NOISE, rel=0.02)
    assert float(data.small.float().mean()) == pytest.approx(0.1, abs=0.02)
    assert torch.equal(data.signal / data.label, torch.where(data.small, patches.BETA, patches.ALPHA))


def test_momentum_carries_the_feature_as_far_as_its_coasting_length() -> None:
    """sqrt(2 eta / (1 - g)) within a third, and gradient descent stops at about 1 / ALPHA."""
    arms = [MarginArm("GD", 0.0), MarginArm("GD+M", 0.98)]
    learnt = patches.train_margins(arms, Margins(40, 100, 3, 600, 2, tests=500), [3000, 3001])
    assert float(learnt.feature[1].mean()) == pytest.approx((2 * patches.ETA / 0.02) ** 0.5, rel=1 / 3)
    assert float(learnt.feature[0].mean()) < 1.5
    assert float(learnt.large.min()) > 0.99


def test_what_is_not_seen_weighs_nothing() -> None:
    data = patches.draw([1], Margins(5, 1, 2, 1, 1), 50, 0.3)
    weights = patches._weights(data, "small")
    assert float(weights.sum()) == pytest.approx(1)
    assert not weights[~data.small].any()


@pytest.mark.parametrize("name", ["jelassi-margin", "jelassi-contrast", "jelassi-gaussian"])
def test_claims_run_through(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(margin, "MARGINS", {"quick": Margins(20, 40, 3, 100, 2, (0.9, 0.98), 200)})
    monkeypatch.setattr(contrast, "IMAGES", {"quick": Images(50, 50, 20, 2, 1)})
    monkeypatch.setattr(gaussian, "GAUSSIANS", {"quick": Gaussian(20, 2, 50, 200)})
    (result,) = reproduce([name], out=tmp_path)
    assert result["findings"] and result["figures"] and result["tables"]
    assert all(finding["interval"] is not None for finding in result["findings"])
    assert {"quick", "evening"} <= set(CLAIMS[name].plans)
