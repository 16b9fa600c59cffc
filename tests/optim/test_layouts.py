"""Whatever changes between steps is seen, by torch's guards as by the attributes of tensors."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from cases_optim import Make, assert_same, give_gradients, parameters
from ravine.optim import QHM, SGD, Lion, batches, layouts
from ravine.optim.layouts import GuardedLayouts, PlainLayouts, layouts_of

Kind = type[GuardedLayouts | PlainLayouts]

both = pytest.mark.parametrize("kind", [GuardedLayouts, PlainLayouts])


def pairs() -> tuple[list[Tensor], list[Tensor]]:
    params = parameters(shapes=[(4, 3), (5,), ()])
    return params, [torch.ones_like(param) for param in params]


OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "dtype": lambda tensor: tensor.double(),
    "order in memory": lambda tensor: torch.stack([tensor, tensor], -1)[..., 0],
}
OF_PARAMS: dict[str, Callable[[Tensor], Tensor]] = {
    **OTHERS,
    "shape": lambda tensor: tensor.view(3, 4),
    "number": lambda tensor: tensor[1:],
    "device": lambda tensor: tensor.to("meta"),
}
OF_GRADS: dict[str, Callable[[Tensor], Tensor]] = {
    **OTHERS,
    "layout": lambda tensor: tensor.to_sparse(),
    "memory": lambda tensor: torch._efficientzerotensor(tensor.shape),
    "sign": lambda tensor: torch.complex(tensor, tensor).conj().imag,
}


@both
def test_what_is_alike_holds(kind: Kind) -> None:
    params, grads = pairs()
    known = kind(params, grads)
    assert known.hold(params, grads)
    for param in params:
        param.data = param.data.clone() + 1
    assert known.hold(params, [grad + 1 for grad in grads])
    grads[0] = params[0].detach()
    assert kind(params, grads).hold(params, grads)


@both
@pytest.mark.parametrize("change", OF_PARAMS)
def test_a_change_of_a_parameter_is_seen(kind: Kind, change: str) -> None:
    params, grads = pairs()
    known = kind(params, grads)
    params[0] = OF_PARAMS[change](params[0].detach()).requires_grad_()
    assert not known.hold(params, grads)


@both
@pytest.mark.parametrize("change", OF_GRADS)
def test_a_change_of_a_gradient_is_seen(kind: Kind, change: str) -> None:
    params, grads = pairs()
    known = kind(params, grads)
    grads[0] = OF_GRADS[change](grads[0])
    assert not known.hold(params, grads)
    assert kind(params, grads).hold(params, grads)


@both
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_a_sparse_gradient_may_have_other_rows(kind: Kind) -> None:
    params, grads = pairs()
    grads[0] = torch.eye(4, 3).to_sparse()
    known = kind(params, grads)
    grads[0] = torch.ones(4, 3).to_sparse()
    assert known.hold(params, grads)
    grads[0] = grads[0].to_sparse_csr()
    assert not known.hold(params, grads)


@pytest.fixture(params=["guards", "attributes"])
def _looked_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "attributes":
        monkeypatch.setattr(batches, "layouts_of", PlainLayouts)
    yield


@pytest.mark.usefixtures("_looked_at")
@pytest.mark.parametrize("change", [name for name in OF_GRADS if name != "dtype"])  # torch would not have it
@pytest.mark.parametrize("make", [Lion, QHM, SGD])
def test_a_step_sees_it(make: Make, change: str) -> None:
    ours, twins = parameters(shapes=[(4, 3), (5,)]), parameters(shapes=[(4, 3), (5,)])
    optimizer = make(ours)
    for step in range(4):
        give_gradients(ours, step)
        give_gradients(twins, step)
        for params in (ours, twins):
            if step == 2:
                grad = params[0].grad
                assert grad is not None
                params[0].grad = OF_GRADS[change](grad)
        alone = make(twins)
        alone.load_state_dict(optimizer.state_dict())
        optimizer.step()
        alone.step()
        assert_same(ours, twins)


def test_gradients_that_are_one_object_are_arranged_at_every_step() -> None:
    params, twins = parameters(shapes=[(4, 3)] * 3), parameters(shapes=[(4, 3)] * 3)
    optimizer, twin = QHM(params), QHM(twins)
    for step in range(3):
        give_gradients(twins, step)
        grad = twins[0].grad
        assert grad is not None
        for ours, theirs in zip(params, twins, strict=True):
            ours.grad, theirs.grad = grad, grad.clone()
        optimizer.step()
        twin.step()
    assert_same(params, twins)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_guards_are_asked_for_what_they_know() -> None:
    params, grads = pairs()
    params[0] = torch.eye(4).to_sparse_csr().requires_grad_()
    assert isinstance(layouts_of(params, grads), PlainLayouts)


def test_another_torch_may_have_no_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    params, grads = pairs()
    assert isinstance(layouts_of(params, grads), GuardedLayouts)
    monkeypatch.delattr(torch._C._dynamo.guards, "TensorGuards")
    assert isinstance(layouts_of(params, grads), PlainLayouts)
    monkeypatch.setattr(torch._C._dynamo.guards, "TensorGuards", lambda *tensors: None, raising=False)
    assert isinstance(layouts.layouts_of(params, grads), PlainLayouts)
