"""What both optimizers keep: exact Newton steps, exact resume, fixed draws, bounded memory, clear errors."""

import copy
import inspect
import io
import itertools
import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases_hessian_free import data, dense, half_square, quadratic, restless, run, weights
from ravine.errors import UserError
from ravine.hessian_free import HessianFree, MomentumHessianFree, Step, StructuralDamping, squared_distance

KINDS: list[type[HessianFree] | type[MomentumHessianFree]] = [HessianFree, MomentumHessianFree]
EXACT: dict[str, Any] = {
    "damping": 0.0,
    "cg_steps": 20_000,
    "cg_progress": 0.0,
    "cg_tolerance": 1e-12,
    "preconditioner_power": 0.0,
}


def test_a_quadratic_of_condition_a_million_is_solved_in_one_step() -> None:
    model, x, y, minimizer = quadratic(torch.logspace(0, 6, 1000, dtype=torch.float64))
    result = HessianFree(model, half_square, **EXACT).step(x, y)
    assert (result.cg_stop, result.rate) == ("residual", 1.0)
    # the error is at most the condition times the relative residual
    assert (model.w - minimizer).norm() <= 1e6 * 1e-12 * 10 * minimizer.norm()
    assert result.new_loss is not None and result.new_loss < 1e-14 * result.loss
    assert result.ratio == pytest.approx(1.0, abs=1e-9)


def test_newton_with_weight_decay_solves_the_decayed_problem() -> None:
    model, x, y, _ = quadratic(torch.linspace(1, 10, 12, dtype=torch.float64))
    HessianFree(model, half_square, **EXACT, weight_decay=0.5).step(x, y)
    h = x.T @ x / len(x)
    wanted = torch.linalg.solve(h + 0.5 * torch.eye(12, dtype=torch.float64), x.T @ y / len(x))
    torch.testing.assert_close(model.w.detach(), wanted, rtol=1e-9, atol=1e-10)


def test_damping_is_added_to_the_curvature() -> None:
    model, x, y, _ = quadratic(torch.linspace(1, 10, 12, dtype=torch.float64))
    HessianFree(model, half_square, **{**EXACT, "damping": 3.0}).step(x, y)
    h = x.T @ x / len(x)
    wanted = torch.linalg.solve(h + 3.0 * torch.eye(12, dtype=torch.float64), x.T @ y / len(x))
    torch.testing.assert_close(model.w.detach(), wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [dense, restless])
def test_it_trains(kind: type[HessianFree] | type[MomentumHessianFree], make: Callable[[], nn.Module]) -> None:
    _, results = run(kind, make(), steps=12, cg_steps=10)
    assert results[-1].loss < 0.5 * results[0].loss
    assert [result.step for result in results] == list(range(12))
    assert all(a.next_damping == b.damping for a, b in itertools.pairwise(results))
    assert all(result.cost > 2 for result in results)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [dense, restless])
def test_a_resumed_run_is_the_unbroken_one_bit_by_bit(
    kind: type[HessianFree] | type[MomentumHessianFree], make: Callable[[], nn.Module]
) -> None:
    settings: dict[str, Any] = {"cg_steps": 12, "seed": 5, "lr": lambda step: 1.0 / (1 + 0.01 * step)}
    model = make()
    optimizer = kind(model, F.cross_entropy, **settings)
    for _ in range(3):
        optimizer.step(*data())
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    unbroken = [optimizer.step(*data()) for _ in range(3)]
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = make()
    again.load_state_dict(saved["model"])
    other = kind(again, F.cross_entropy, **{**settings, "seed": 1, "damping": 77.0})
    other.load_state_dict(saved["optimizer"])
    torch.rand(3)  # the state of torch's generator does not matter
    resumed = [other.step(*data()) for _ in range(3)]
    assert resumed == unbroken
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


CHANGES: dict[str, Any] = {
    "lr": 0.5,
    "damping": 0.1,
    "damping_factor": 3.0,
    "cg_steps": 3,
    "cg_progress": 0.05,
    "cg_tolerance": 0.1,
    "cg_decay": 0.5,
    "momentum": 0.5,
    "preconditioner_power": 0.0,
    "armijo": 0.999,
    "shrink": 0.5,
    "weight_decay": 0.1,
    "curvature": "empirical-fisher",
    "micro_batch": 7,
    "seed": 1,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_changes_the_outcome(kind: type[HessianFree] | type[MomentumHessianFree]) -> None:
    own: dict[str, Any] = {"lr": 30.0, "damping": 0.3, "cg_steps": 25} if kind is HessianFree else {"cg_steps": 8}
    base = {**own, "steps": 2}
    usual, _ = run(kind, restless(), **base)
    assert torch.equal(usual, run(kind, restless(), **base)[0])
    names = set(kind.ranges) | {"curvature", "micro_batch", "seed"}
    for name in names:
        changed, _ = run(kind, restless(), **{**base, name: CHANGES[name]})
        assert not torch.equal(usual, changed), name
    assert not torch.equal(usual, run(kind, restless(), **base, curvature="hessian")[0])


def test_micro_batches_change_rounding_only() -> None:
    settings: dict[str, Any] = {"preconditioner_power": 0.0, "cg_steps": 10}
    whole, parts = (run(HessianFree, dense(), micro_batch=size, **settings)[0] for size in (None, 7))
    torch.testing.assert_close(parts, whole, rtol=1e-7, atol=1e-9)


def test_a_smaller_batch_for_the_curvature() -> None:
    x, y = data()
    model = dense()
    optimizer = HessianFree(model, F.cross_entropy)
    first = optimizer.step(x, y, curvature=(x[:10], y[:10]))
    assert first.cost < run(HessianFree, dense(), steps=1)[1][0].cost
    assert optimizer.step(x, y, curvature=(x[10:20], y[10:20])).loss < first.loss


def test_a_step_leaves_batchnorm_as_one_training_pass_does() -> None:
    model = restless()
    optimizer = HessianFree(model, F.cross_entropy)
    before = copy.deepcopy(model)
    optimizer.step(*data())
    before.load_state_dict({**before.state_dict(), **dict(model.named_parameters())})
    before(data()[0])
    norm, wanted = model[1], before[1]
    assert isinstance(norm, nn.BatchNorm1d) and isinstance(wanted, nn.BatchNorm1d)
    assert norm.running_mean is not None and wanted.running_mean is not None
    torch.testing.assert_close(norm.running_mean, wanted.running_mean)
    assert int(norm.num_batches_tracked or 0) == 1
    frozen = restless()
    still = frozen[1].eval()
    HessianFree(frozen, F.cross_entropy).step(*data())
    assert not still.training and frozen.training
    assert isinstance(still, nn.BatchNorm1d) and still.running_mean is not None
    assert float(still.running_mean.norm()) == 0.0


def test_a_step_draws_nothing_from_the_global_generator_and_leaves_gradients() -> None:
    model = restless()
    optimizer = HessianFree(model, F.cross_entropy)
    state = torch.get_rng_state()
    optimizer.step(*data())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_structural_damping_shortens_the_change_of_the_states() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn, self.out = nn.RNN(1, 5, batch_first=True), nn.Linear(5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rnn(x)[0][:, -1])  # type: ignore[no-any-return]

    x = torch.randn(20, 6, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def moved(weight: float | None) -> float:
        model = Net().double()
        structural = None if weight is None else StructuralDamping((model.rnn,), weight, squared_distance)
        before = model.rnn(x)[0].detach()
        HessianFree(model, F.mse_loss, damping=0.1, structural=structural, preconditioner_power=0.0).step(x, x.sum(1))
        return float((model.rnn(x)[0] - before).detach().norm())

    free, light, heavy = moved(None), moved(1.0), moved(1000.0)
    assert heavy < 0.1 * free
    assert heavy < light < free


def test_a_changed_model_is_traced_again() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.scale = dense(), 1.0

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * self.inner(x)  # type: ignore[no-any-return]

    model = Scaled()
    optimizer = HessianFree(model, F.cross_entropy)
    optimizer.step(*data())
    other, state = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    model.scale = other.scale = 2.0
    fresh = HessianFree(other, F.cross_entropy)
    fresh.load_state_dict(state)
    assert optimizer.step(*data()) == fresh.step(*data())


class Broken(nn.Module):
    """Breaks off at the k-th pass."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.inner, self.left = dense(), [at]

    def forward(self, x: Tensor) -> Tensor:
        self.left[0] -= 1
        if self.left[0] == 0:
            raise KeyboardInterrupt
        return self.inner(x)  # type: ignore[no-any-return]


def test_a_step_that_is_broken_off_was_not_taken() -> None:
    counted = Broken(10**6)
    HessianFree(counted, F.cross_entropy).step(*data())
    passes = 10**6 - counted.left[0]
    model = Broken(passes - 1)
    before = weights(model)
    optimizer = HessianFree(model, F.cross_entropy)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(*data())
    assert torch.equal(before, weights(model))
    assert optimizer.param_groups[0]["step"] == 0


def test_a_hopeless_direction_is_rejected_and_damped() -> None:
    model = nn.Linear(2, 1, bias=False).double()
    x = torch.eye(2, dtype=torch.float64)
    # linear where it is measured, a wall one step away
    found = HessianFree(model, lambda z, y: (z.exp() + 1e6 * (z - y).relu().square()).mean(), damping=0.0)
    result = found.step(x, model(x).detach() - 1e-9)
    assert result.next_damping >= result.damping
    concave = HessianFree(nn.Linear(2, 1).double(), lambda z, y: -z.square().mean(), damping=1e-3)
    start = concave.step(x, x)
    assert (start.cg_stop, start.rate) == ("negative curvature", 0.0)
    assert start.next_damping == pytest.approx(1.5e-3)


def wrong(**settings: Any) -> HessianFree:
    return HessianFree(dense(), F.cross_entropy, **settings)


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: wrong().step(lambda: 0.0), "takes the batch and no closure"),
        (lambda: wrong().step(), "takes the batch and no closure"),
        (lambda: wrong(damping=-1.0), "damping is -1"),
        (lambda: wrong(cg_steps=0), "cg_steps is 0"),
        (lambda: wrong(cg_steps=2.5), "cg_steps is 2.5"),
        (lambda: wrong(lr=0.0), "lr is 0"),
        (lambda: wrong(shrink=1.0), "shrink is 1"),
        (lambda: wrong(damping_factor=0.5), "damping_factor is 0.5"),
        (lambda: wrong(cg_decay=1.1), "cg_decay is 1.1"),
        (lambda: wrong(lr=lambda step: -1.0).step(*data()), "lr is -1"),
        (lambda: wrong(micro_batch=0), "micro_batch is 0"),
        (lambda: wrong(curvature="gauss"), "no curvature 'gauss': choose from hessian"),
        (lambda: wrong().add_param_group({"params": [nn.Parameter(torch.zeros(1))]}), "has one group"),
        (lambda: HessianFree(list(dense().parameters()), F.cross_entropy), "needs the model itself, not list"),  # type: ignore[arg-type]
        (lambda: HessianFree(dense().requires_grad_(False), F.cross_entropy), "nothing to train"),
        (lambda: wrong().step(data()[0], data()[1][:3]), "one row per example"),
        (
            lambda: HessianFree(dense(), lambda z, y: F.cross_entropy(z, y, reduction="sum")).step(*data()),
            "it is a sum",
        ),
        (lambda: HessianFree(dense(), lambda z, y: z.mean()).step(*data()), "no Gauss-Newton matrix"),
        (lambda: wrong().step(data()[0] * math.inf, data()[1]), "not finite"),
    ],
)
def test_wrong_use_gets_a_sentence(act: Callable[[], object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        act()


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_has_a_range_that_holds_its_default(kind: type[HessianFree] | type[MomentumHessianFree]) -> None:
    arguments = inspect.signature(kind).parameters
    defaults = {name: one.default for name, one in arguments.items() if isinstance(one.default, int | float)}
    assert set(kind.ranges) == set(defaults) - {"seed"}
    for name, limits in kind.ranges.items():
        assert limits.low <= defaults[name] < limits.high
        with pytest.raises(UserError, match=f"{name} is -1"):
            kind(dense(), F.cross_entropy, **cast(dict[str, Any], {name: -1}))


def test_a_result_says_all() -> None:
    _, results = run(HessianFree, dense(), steps=1, cg_steps=5, cg_progress=0.0)
    result = results[0]
    assert isinstance(result, Step)
    assert (result.cg_steps, result.cg_stop) == (5, "steps")
    assert result.new_loss is not None and result.new_loss <= result.loss
    assert result.gradient_norm > 0
    # a gradient, the squared ones, 5 products and their linearization, and losses: backtracking, line search, ratio
    passes = 1 + 1 + 5 * 4 / 3 + 2 / 3
    losses = (result.cost - passes) * 3
    assert losses == pytest.approx(round(losses), abs=1e-6)
    assert round(losses) >= 2
