"""The diffusion model against closed forms, and the claim at a size of seconds."""

import math
from pathlib import Path

import pytest
import torch

from ravine.claims import diffusion, reproduce
from ravine.claims.diffusion import Scale
from ravine.claims.rows import DenseNets


def test_noising_keeps_the_variance_and_ends_in_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 20_000, 64, generator=generator)
    mixed = diffusion.noised(x, torch.full((20_000,), 0.3), noise)
    assert float(mixed.var()) == pytest.approx(1.0, abs=0.01)
    torch.testing.assert_close(diffusion.noised(x, torch.zeros(20_000), noise), x)
    torch.testing.assert_close(diffusion.noised(x, torch.ones(20_000), noise), noise, atol=1e-5, rtol=0)


def test_energy_distance_of_shifted_gaussians() -> None:
    """In one dimension 2 E|X - Y| - 2 E|X - X'| for N(0, 1) and N(d, 1), by the mean of a folded Gaussian."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 3_000, 1, generator=generator)
    d = 1.5
    folded = 2 / math.sqrt(math.pi) * math.exp(-(d**2) / 4) + d * math.erf(d / 2)
    assert diffusion.energy_distance(x, y + d) == pytest.approx(2 * folded - 4 / math.sqrt(math.pi), abs=0.08)
    assert abs(diffusion.energy_distance(x, y)) < 0.01


def test_the_sampler_finds_the_picture_that_a_perfect_net_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told the noise of one picture exactly, every path ends at it."""
    picture = torch.linspace(-1, 1, 64)

    def told(net: DenseNets, rows: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        x, angle = seen[..., :64], torch.atan2(seen[..., 64 + 2], seen[..., 64 + 8 + 2])  # sine and cosine of pi t / 2
        return (x - angle.cos().unsqueeze(-1) * picture) / angle.sin().unsqueeze(-1)

    monkeypatch.setattr(DenseNets, "outputs", told)
    found = diffusion.sample(DenseNets((80, 8, 64)), torch.zeros(2, 1), 3)
    torch.testing.assert_close(found, picture.expand(2, 3, -1), atol=0.02, rtol=0)


def test_a_seed_fixes_every_draw_and_training_lowers_the_loss() -> None:
    scale = Scale(16, 60, 16, 2, 1, 8)
    arm = diffusion.ARMS["Adam, beta1 .9"]
    both = diffusion.train(arm, "falling", (0.0, 0.02), range(5, 7), scale, 2)
    alone = diffusion.train(arm, "falling", (0.02,), range(6, 7), scale)
    assert both.at == [30, 60]
    torch.testing.assert_close(both.losses[-1, 3:], alone.losses[-1], rtol=1e-4, atol=0)
    assert (both.losses[-1, 2:] < 0.97 * both.losses[-1, :2]).all()


def test_the_claim_at_a_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusion, "SCALES", {"quick": Scale(8, 20, 4, 3, 1, 8)})
    (result,) = reproduce(["diffusion"], out=tmp_path)
    assert len(result["findings"]) == 8
    assert [row[0] for row in result["tables"][0]["rows"]] == [*diffusion.ARMS, *diffusion.ARMS, "training digits"]
