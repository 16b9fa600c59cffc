"""Curvature products against dense matrices in float64, on every kind of layer, by the definition and traced."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases_curvature import (
    CASES,
    CLASSES,
    Recurrent,
    as_matrix,
    build,
    dense_fisher,
    dense_gauss_newton,
    dense_hessian,
    jacobian,
    outputs_at,
    point,
    rows,
    squared,
)
from ravine.curvature import Curvature, Kind, Linearizer, Objective, StructuralDamping, squared_distance, tanh_matching
from ravine.errors import UserError

REFERENCES: dict[Kind, Callable[..., Tensor]] = {
    "gauss-newton": dense_gauss_newton,
    "hessian": dense_hessian,
    "empirical-fisher": dense_fisher,
}
SEED = 3


def objective(
    model: nn.Module, loss: Callable[..., Tensor], inputs: Tensor, targets: Tensor, **options: int
) -> Objective:
    return Objective(model, [(inputs, targets)], loss=loss, mode="kept", seed=SEED, check=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", REFERENCES)
def test_products_are_those_of_the_dense_matrix(kind: Kind, case: str) -> None:
    model, loss, inputs, targets = build(case)
    wanted = REFERENCES[kind](model, loss, inputs, targets, SEED)
    linearizer, found = Linearizer(kind), objective(model, loss, inputs, targets)
    product = linearizer.at(found)
    torch.testing.assert_close(as_matrix(product, len(wanted)), wanted, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(product.loss, found.loss())
    assert [program is not None for program in linearizer._programs.values()] == [case != "not traceable"]


@pytest.mark.parametrize("case", ["dense", "BatchNorm, eval", "RNN", "convolution", "tied layers", "dropout"])
def test_a_trace_serves_at_other_points_and_batches(case: str) -> None:
    model, loss, inputs, targets = build(case)
    linearizer = Linearizer()
    linearizer.at(objective(model, loss, inputs, targets))
    for step in range(2):
        other = inputs.roll(1, 0) * (1.5 + step)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
            for buffer in model.buffers():
                buffer.mul_(2) if buffer.is_floating_point() else buffer.add_(1)
        product = linearizer.at(objective(model, loss, other, targets))
        wanted = dense_gauss_newton(model, loss, other, targets, SEED)
        torch.testing.assert_close(as_matrix(product, len(wanted)), wanted, rtol=1e-9, atol=1e-11)
    assert len(linearizer._programs) == 1


@pytest.mark.parametrize("case", ["dense", "RNN", "not traceable"])
def test_micro_batches_add_up(case: str) -> None:
    model, loss, inputs, targets = build(case)
    whole = Linearizer().at(objective(model, loss, inputs, targets))
    parts = Linearizer().at(objective(model, loss, inputs, targets, micro_batch=4))
    v = torch.linspace(-1, 2, len(point(model)), dtype=torch.float64)
    torch.testing.assert_close(parts(v), whole(v))
    torch.testing.assert_close(parts.loss, whole.loss)


def test_modes_and_shapes_have_traces_of_their_own() -> None:
    model, loss, inputs, targets = build("BatchNorm")
    linearizer = Linearizer()
    for training, some in ((True, inputs), (True, inputs[:4]), (False, inputs)):
        linearizer.at(objective(model.train(training), loss, some, targets[: len(some)]))
    assert len(linearizer._programs) == 3
    linearizer.forget()
    assert not linearizer._programs


def test_a_frozen_parameter_is_no_variable() -> None:
    model, loss, inputs, targets = build("dense")
    next(model.parameters()).requires_grad_(False)
    linearizer = Linearizer()
    linearizer.at(objective(model, loss, inputs, targets))
    with torch.no_grad():
        next(model.parameters()).mul_(2)  # what is frozen may still be set by hand
    product = linearizer.at(objective(model, loss, inputs, targets))
    wanted = dense_gauss_newton(model, loss, inputs, targets)
    torch.testing.assert_close(as_matrix(product, len(wanted)), wanted, rtol=1e-9, atol=1e-11)


def structural(curvature: Callable[[Tensor], Tensor]) -> tuple[Recurrent, Curvature, Tensor]:
    """A recurrent net, its damped curvature, and J_h' D J_h / rows * factor by hand."""
    torch.manual_seed(0)
    model = Recurrent().double()
    x = rows(5, 4)
    damping = StructuralDamping((model.layer,), curvature=curvature)
    product = Linearizer("gauss-newton", damping).at(objective(model, F.cross_entropy, x, CLASSES), structure=0.7)
    seen: list[Tensor] = []
    hook = model.layer.register_forward_hook(lambda module, given, returned: seen.append(returned[0]))

    def states(w: Tensor) -> Tensor:
        outputs_at(model, w, x)
        return seen.pop().reshape(-1)

    h = states(point(model)).detach()
    j = jacobian(states, point(model))
    hook.remove()
    d = 0.25 / (1 - h**2) if curvature is tanh_matching else torch.ones_like(h)
    return model, product, 0.7 / len(x) * j.T @ torch.diag(d) @ j


@pytest.mark.parametrize("curvature", [tanh_matching, squared_distance])
def test_structural_damping_is_the_curvature_of_the_states(curvature: Callable[[Tensor], Tensor]) -> None:
    model, product, term = structural(curvature)
    wanted = dense_gauss_newton(model, F.cross_entropy, rows(5, 4), CLASSES) + term
    torch.testing.assert_close(as_matrix(product, len(wanted)), wanted, rtol=1e-9, atol=1e-11)


def test_structural_damping_says_what_it_lacks() -> None:
    model, loss, inputs, targets = build("dense")
    with pytest.raises(UserError, match="were not called: give modules of the model"):
        Linearizer("gauss-newton", StructuralDamping((nn.RNN(2, 2),))).at(objective(model, loss, inputs, targets))
    with pytest.raises(UserError, match="has no modules"):
        StructuralDamping(())
    with pytest.raises(UserError, match="must be above 0"):
        StructuralDamping((model,), weight=0.0)


def test_the_squared_gradients_are_the_diagonal_of_the_fisher() -> None:
    model, loss, inputs, targets = build("dense")
    exact = dense_fisher(model, loss, inputs, targets).diagonal()
    torch.testing.assert_close(objective(model, loss, inputs, targets).squared_gradients(block=1), exact)
    seeds = [Objective(model, [(inputs, targets)], loss=loss, seed=s, check=False) for s in range(400)]
    draws = torch.stack([one.squared_gradients() for one in seeds])
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - exact).abs() <= 4.5 * error + 1e-15).all()


def test_a_loss_without_curvature_is_refused() -> None:
    model, _, inputs, targets = build("dense")
    found = objective(model, lambda z, y: z.sum(1).mean(), inputs, targets)
    with pytest.raises(UserError, match="no Gauss-Newton matrix: let it return what"):
        Linearizer().at(found)


def test_rows_must_come_first_for_the_fisher() -> None:
    model, _, inputs, targets = build("dense")
    turned = nn.Sequential(model, nn.Flatten(0))
    found = objective(turned, lambda z, y: z.square().mean(), inputs, targets)
    with pytest.raises(UserError, match="need a row per example"):
        Linearizer("empirical-fisher").at(found)
    with pytest.raises(UserError, match="need a row per example"):
        found.squared_gradients(block=2)


def test_the_model_must_depend_on_its_parameters() -> None:
    class Detached(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    with pytest.raises(UserError, match="must not detach"):
        Linearizer().at(objective(Detached(4, 4).double(), squared, rows(4), rows(4)))
