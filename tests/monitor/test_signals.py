import itertools
import math

import pytest
import torch
from torch import Tensor

from ravine.monitor.signals import Signals, columns
from ravine.monitor.sketch import BLOCK, Sketch

SHAPES = [(300, 70), (7,), (64, 3, 5, 5), (2000, 11), (1,)]


def tensors(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def walk(signals: Signals, parameters: list[Tensor], steps: int, memory: float = 0.9) -> list[Tensor]:
    """Heavy-ball steps with fresh gradients; what each look gives."""
    velocity = [torch.zeros_like(p) for p in parameters]
    looks = []
    for step in range(steps):
        for p, v, g in zip(parameters, velocity, tensors(100 + step, parameters[0].dtype), strict=True):
            p.grad = g
            v.mul_(0.9).add_(g)
        signals.before()
        for p, v in zip(parameters, velocity, strict=True):
            p -= 0.01 * v
        looks.append(signals.after(memory))
    return looks


def test_every_signal_of_a_small_model_is_exact() -> None:
    parameters = tensors(0)
    trail, gradients = [flat(parameters)], []
    signals = Signals(parameters, coordinates=10**6)
    looks = []
    for step in range(4):
        looks += walk_one(signals, parameters, step)
        trail.append(flat(parameters))
        gradients.append(flat([p.grad for p in parameters if p.grad is not None]))
    found = columns(torch.stack(looks))
    updates = [b - a for a, b in itertools.pairwise(trail)]
    average = torch.zeros_like(trail[0])
    for k, (g, u) in enumerate(zip(gradients, updates, strict=True)):
        average = 0.9 * average + 0.1 * g
        assert found["gradient_norm"][k] == pytest.approx(float(g.norm()))
        assert found["update_norm"][k] == pytest.approx(float(u.norm()))
        assert found["weight_norm"][k] == pytest.approx(float(trail[k + 1].norm()))
        assert found["average_norm"][k] == pytest.approx(float(average.norm()))
        assert found["unmoved"][k] == 0
        if k:
            last = updates[k - 1]
            assert found["update_cosine"][k] == pytest.approx(float(u @ last / u.norm() / last.norm()))
            cosine = -float(g @ last / g.norm() / last.norm())
            assert found["velocity_gradient_cosine"][k] == pytest.approx(cosine)
    assert found["update_cosine"][0] is None and found["velocity_gradient_cosine"][0] is None


def walk_one(signals: Signals, parameters: list[Tensor], step: int) -> list[Tensor]:
    for p, g in zip(parameters, tensors(100 + step), strict=True):
        p.grad = g
    signals.before()
    for p in parameters:
        assert p.grad is not None
        p -= 0.01 * p.grad + 0.001
    return [signals.after(0.9)]


def test_the_sample_is_unbiased_to_its_stated_error() -> None:
    """Norms within 4 of 1 / sqrt(2 n), cosines within 4 of 1 / sqrt(n), n being the coordinates read."""
    sampled, whole = Signals(tensors(0), coordinates=4096), Signals(tensors(0), coordinates=10**6)
    n = sampled.sketch.size
    assert n < 0.25 * whole.sketch.size == 0.25 * whole.sketch.total
    some = columns(torch.stack(walk(sampled, sampled.parameters, 5)))
    every = columns(torch.stack(walk(whole, whole.parameters, 5)))
    for name in ("gradient_norm", "update_norm", "weight_norm", "average_norm"):
        # Weighted coordinates count for less than n; a quarter more is enough here.
        assert some[name] == pytest.approx(every[name], rel=4 * 1.25 / math.sqrt(2 * n))
    for name in ("update_cosine", "velocity_gradient_cosine"):
        assert some[name][1:] == pytest.approx(every[name][1:], abs=4 * 1.25 / math.sqrt(n))


def test_sampled_coordinates_are_spread_and_weighted() -> None:
    places = [torch.arange(300.0 * 70).view(300, 70), torch.ones(7)]
    sketch = Sketch(places, coordinates=1280)
    row = sketch.row()
    sketch.read(places, row)
    columns_seen = set(row[: sketch.lengths[0]].remainder(70).tolist())
    assert len(columns_seen) == 70 and row[: sketch.lengths[0]].max() > 0.9 * 300 * 70
    ones = sketch.row() + 1
    sketch.scale(ones)
    assert float(ones @ ones) == pytest.approx(sketch.total, rel=1e-5)
    assert sketch.lengths[0] % BLOCK == 0 and sketch.order == [0, 1]


def test_sketch_reads_what_is_there_now() -> None:
    for parameters in (tensors(0), [t.transpose(0, -1) for t in tensors(0)]):
        sketch = Sketch(parameters, coordinates=4096)
        first, second = sketch.row(), sketch.row()
        sketch.read(parameters, first)
        for p in parameters:
            p += 1
        sketch.read(parameters, second)
        torch.testing.assert_close(second, first + 1)


def test_a_new_storage_is_noticed() -> None:
    parameters = tensors(0)
    sketch = Sketch(parameters)
    assert sketch.fits(parameters)
    parameters[1].data = torch.zeros(7, dtype=torch.float64)
    assert not sketch.fits(parameters)
    assert not sketch.fits(parameters[:-1])


def test_layers_are_the_norms_of_each_tensor() -> None:
    parameters = tensors(0)
    signals = Signals(parameters, coordinates=10**6)
    walk(signals, parameters, 2)
    found = signals.layers()
    for k, p in enumerate(parameters):
        assert p.grad is not None
        assert float(found[0, k]) == pytest.approx(float(p.grad.norm()))
        assert float(found[2, k]) == pytest.approx(float(p.norm()))


def test_missing_sparse_and_half_gradients() -> None:
    table = torch.zeros(10, 3, dtype=torch.float16)
    other, none = torch.zeros(4, dtype=torch.bfloat16), torch.zeros(5)
    signals = Signals([table, other, none])
    table.grad = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), torch.ones(2, 3), (10, 3), check_invariants=True
    ).half()
    other.grad = torch.full((4,), 300.0, dtype=torch.bfloat16)
    signals.before()
    found = columns(signals.after(0.9)[None])
    assert found["gradient_norm"][0] == pytest.approx(math.sqrt(3 * 4 + 4 * 300.0**2))
    assert found["unmoved"] == [1.0]


def test_a_gradient_that_is_not_finite_is_no_number_and_spoils_nothing_later() -> None:
    w = torch.zeros(3)
    signals = Signals([w])
    looks = []
    for value in (1.0, float("inf"), 1.0, 1.0):
        w.grad = torch.full((3,), value)
        signals.before()
        w -= 0.1
        looks.append(signals.after(0.5))
    found = columns(torch.stack(looks))
    assert [value is None for value in found["gradient_norm"]] == [False, True, False, False]
    assert None not in found["average_norm"]
    assert found["velocity_gradient_cosine"][3] == pytest.approx(1.0)


def test_after_a_rest_the_last_step_is_forgotten() -> None:
    parameters = tensors(0)
    signals = Signals(parameters)
    walk(signals, parameters, 3)
    signals.rest()
    looks = walk(signals, parameters, 2)
    found = columns(torch.stack(looks))
    assert found["update_cosine"][0] is None and found["update_cosine"][1] is not None
    assert found["average_norm"][0] == pytest.approx(0.1 * (found["gradient_norm"][0] or 0.0))
    assert signals.averaged == 2


def test_movement_along_a_direction() -> None:
    w = torch.zeros(4, dtype=torch.float64)
    signals = Signals([w])
    signals.aim(signals.row_of([torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)]))
    w.grad = torch.ones(4, dtype=torch.float64)
    signals.before()
    w -= torch.tensor([9.0, 0.25, 9.0, 9.0], dtype=torch.float64)
    assert columns(signals.after(0.9)[None])["top_movement"] == [-0.25]


@pytest.mark.parametrize("kind", ["agree", "flip", "noise"])
def test_the_gain_of_the_average_is_that_of_theory(kind: str) -> None:
    w = torch.zeros(2000, dtype=torch.float64)
    signals = Signals([w])
    torch.manual_seed(0)
    looks = []
    for step in range(300):
        w.grad = {
            "agree": torch.ones(2000),
            "flip": torch.ones(2000) * (-1) ** step,
            "noise": torch.randn(2000),
        }[kind].double()
        signals.before()
        looks.append(signals.after(0.9))
    found = columns(torch.stack(looks[200:]))
    gain = math.sqrt(sum(m**2 for m in found["average_norm"] if m) / sum(g**2 for g in found["gradient_norm"] if g))
    expected = {"agree": 1.0, "flip": 0.1 / 1.9, "noise": math.sqrt(0.1 / 1.9)}[kind]
    assert gain == pytest.approx(expected, rel=0.03)
