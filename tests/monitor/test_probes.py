import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from cases_monitor import Quadratic
from ravine.errors import UserError
from ravine.monitor.probes import Probes
from ravine.monitor.settings import largest, preconditioner, settings

CURVATURES = [7.0, 3.0, 1.0, 0.5, 0.1]


def probes(case: Quadratic) -> Probes:
    return Probes(case.model, [case.batch], loss=case.loss, batch_loss=None)


def rows(count: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator)


def test_the_top_curvature_margin_and_period_of_a_quadratic() -> None:
    case = Quadratic(CURVATURES)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1, momentum=0.9)
    values, direction = probes(case).top(settings(optimizer, largest(optimizer)), None)
    assert values["sharpness"] == pytest.approx(7.0, rel=1e-4)
    assert values["margin"] == pytest.approx(1 - 7 / 38, rel=1e-4)
    assert values["top_period"] == pytest.approx(2 * np.pi / np.arccos((1.9 - 0.7) / (2 * 0.9**0.5)), rel=1e-4)
    torch.testing.assert_close(direction.abs(), torch.eye(5, dtype=torch.float64)[0], atol=5e-3, rtol=0)


def test_adam_is_compared_on_its_preconditioned_curvature() -> None:
    case = Quadratic(CURVATURES)
    optimizer = torch.optim.Adam(case.model.parameters(), lr=0.01)
    for _ in range(3):
        case.backward()
        optimizer.step()
    found = settings(optimizer, largest(optimizer))
    measured = probes(case)
    scale = preconditioner(optimizer, list(measured.objective.parameters), found)
    values, direction = measured.top(found, scale)
    assert scale is not None
    true = torch.tensor(CURVATURES, dtype=torch.float64) / scale
    assert values["sharpness"] == pytest.approx(float(true.max()), rel=1e-2)
    assert values["sharpness_preconditioned"] is True
    assert values["margin"] == pytest.approx(1 - float(true.max()) / (2 * 1.9 / (0.01 * 0.1)), rel=1e-2)
    assert direction.abs().argmax() == true.argmax()


def test_curvature_along_the_update() -> None:
    case = Quadratic(CURVATURES)
    measured = probes(case)
    before = measured.snapshot()
    with torch.no_grad():
        case.model.weight += torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    assert measured.update(before)["update_curvature"] == pytest.approx(4.0)
    assert torch.equal(before[0], torch.ones(1, 5, dtype=torch.float64))


def test_the_noise_scale_goes_from_batch_to_batch() -> None:
    model = nn.Linear(4, 3)
    batches = [rows(16, 0), rows(16, 1)]
    measured = Probes(model, batches, loss=F.cross_entropy, batch_loss=None)
    first, second, third = measured.noise(), measured.noise(), measured.noise()
    assert first["noise_trace"] == third["noise_trace"] != second["noise_trace"]
    assert first["noise_batch"] == first["noise_rows"] == 16


def test_with_batch_norm_whole_batches_are_compared() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    measured = Probes(model, [rows(16, 0), rows(16, 1)], loss=F.cross_entropy, batch_loss=None)
    assert measured.noise()["noise_rows"] == 32
    with pytest.raises(UserError, match="give two or more"):
        Probes(model, [rows(16)], loss=F.cross_entropy, batch_loss=None)
    with pytest.raises(UserError, match="batches= of one size"):
        Probes(model, [rows(16), rows(8)], loss=F.cross_entropy, batch_loss=None)


def test_wrong_use_gets_a_sentence() -> None:
    model = nn.Linear(4, 3)
    with pytest.raises(UserError, match="is an iterator"):
        Probes(model, iter([rows()]), loss=F.cross_entropy, batch_loss=None)
    with pytest.raises(UserError, match="a batch of one row has no variance"):
        Probes(model, [rows(1)], loss=F.cross_entropy, batch_loss=None)
    with pytest.raises(UserError, match="take the mean"):
        Probes(model, [rows()], loss=nn.CrossEntropyLoss(reduction="sum"), batch_loss=None)
    with pytest.raises(UserError, match=r"in eval mode.*call model.train\(\) first$"):
        Probes(nn.Linear(4, 3).eval(), [rows()], loss=F.cross_entropy, batch_loss=None)
    with pytest.raises(UserError, match="exactly one of loss"):
        Probes(model, [rows()], loss=None, batch_loss=None)
    with pytest.raises(UserError, match="cannot be differentiated twice"):
        Probes(model, [rows()], loss=lambda z, y: torch.cdist(z, z + y[:, None], p=1.0).mean(), batch_loss=None)


def test_a_loader_is_read_without_an_effect_on_what_it_gives() -> None:
    x, y = rows(40)
    own = torch.Generator().manual_seed(5)
    sampler = RandomSampler(TensorDataset(x, y), generator=torch.Generator().manual_seed(6))
    for options in ({"shuffle": True}, {"shuffle": True, "generator": own}, {"sampler": sampler}):
        loader = DataLoader(TensorDataset(x, y), batch_size=8, **options)
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        states = [own.get_state(), sampler.generator.get_state(), torch.get_rng_state()]
        measured = Probes(nn.Linear(4, 3), loader, loss=F.cross_entropy, batch_loss=None)
        del measured
        torch.manual_seed(1)
        after = [own.get_state(), sampler.generator.get_state(), torch.get_rng_state()]
        assert all(torch.equal(a, b) for a, b in zip(states, after, strict=True))
    measured = Probes(nn.Linear(4, 3), loader, loss=F.cross_entropy, batch_loss=None)
    assert len(measured.objective.parts) == 4 and measured.batch == 8


def test_workers_that_persist_are_refused() -> None:
    loader = DataLoader(TensorDataset(*rows(40)), batch_size=8, num_workers=1, persistent_workers=True)
    with pytest.raises(UserError, match="persistent workers"):
        Probes(nn.Linear(4, 3), loader, loss=F.cross_entropy, batch_loss=None)
