"""Small parameters are stepped as one, sparse gradients by their rows, and neither shows."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cases_optim import (
    SHAPES,
    Make,
    assert_near,
    assert_same,
    every,
    give_gradients,
    parameters,
    rule_of,
    run,
)
from ravine import rules
from ravine.optim import (
    OF_RULE,
    QHM,
    SGD,
    SGDP,
    AdaGrad,
    Adam,
    AdamP,
    Momentum,
    Nesterov,
    RMSProp,
    RuleOptimizer,
    SignSGD,
    batches,
    sources,
)
from ravine.optim.kernels import ADD, MANY
from ravine.rules.base import Tensors


def turned(param: Tensor) -> Tensor:
    return param.detach().t().contiguous().t().requires_grad_()


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_packed_is_unpacked(make: Make, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [*SHAPES, (40, 30), *SHAPES, (40, 30)]
    packed, alone = parameters(dtype=dtype, shapes=shapes), parameters(dtype=dtype, shapes=shapes)
    packed[0], alone[0] = turned(packed[0]), turned(alone[0])  # not contiguous
    monkeypatch.setattr(batches, "PIECE", 20)  # several packs
    options = {"lr": 0.1, "weight_decay": 0.1, "maximize": True}
    first = make(packed, **options)
    run(first, packed, range(4))
    monkeypatch.setattr(sources, "SMALL", 0)
    second = make(alone, **options)
    run(second, alone, range(4))
    for a, b in zip(packed, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6 if dtype is not torch.bfloat16 else 0.01, atol=1e-6)
        assert first.state[a].keys() == second.state[b].keys()
        assert all(first.state[a][name].shape == value.shape for name, value in second.state[b].items())


def test_the_small_and_only_the_small_are_packed() -> None:
    params = parameters(shapes=[(9,), (sources.SMALL + 1,), (sources.SMALL,), (7, 3)])
    optimizer = QHM(params)
    run(optimizer, params, range(1))
    (part,) = optimizer._arranged[0].parts
    pack, whole = part.sources
    assert isinstance(pack, sources.Pack)
    assert isinstance(whole, sources.Whole)
    assert [p.numel() for p in pack.params] == [9, sources.SMALL, 21]
    assert whole.place == 1
    assert [sources.runs(params, 30)] != []
    assert list(sources.runs(params[:1] + params[3:], 30)) == [slice(0, 2)]
    assert list(sources.runs(params, 30)) == [slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4)]
    assert list(sources.runs([], 30)) == []


MOVED = {name: make for name, make in OF_RULE.items() if type(rule_of(make(parameters()))) in ADD}
"""Optimizers that step what is added to small parameters, and not the parameters."""


def kinds(optimizer: RuleOptimizer) -> set[type]:
    (part,) = optimizer._arranged[0].parts
    return {type(source) for source in part.undecayed}


@pytest.mark.parametrize("make", MOVED.values(), ids=MOVED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_added_is_stepped_where_nothing_looks_at_the_parameters(
    make: Make, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "PIECE", 40_000)
    shapes = [(30, 40), (5,), (), (0,)] * 50
    moved, copied = parameters(dtype=dtype, shapes=shapes), parameters(dtype=dtype, shapes=shapes)
    first, second = make(moved, lr=0.1), make(copied, lr=0.1)
    run(first, moved, range(4))
    monkeypatch.setattr(batches, "MANY", len(shapes) + 1)
    run(second, copied, range(4))
    assert len(first._arranged[0].parts[0].sources) > 1
    assert (kinds(first), kinds(second)) == ({sources.Moves}, {sources.Pack})
    assert_near(moved, copied, 16 * torch.finfo(dtype).eps)
    before = [param._version for param in moved]
    run(first, moved, range(1))
    assert [param._version for param in moved] == [version + 1 for version in before]


@pytest.mark.parametrize("way", ["graph", "traced"])
def test_a_graph_steps_what_is_added(way: str) -> None:
    eager, graph = parameters(shapes=[(3, 4)] * MANY), parameters(shapes=[(3, 4)] * MANY)
    first, second = QHM(eager, lr=0.1), QHM(graph, lr=0.1)
    if way == "graph":
        second.compile(lambda made, _: made)
        step: Callable[[], object] = second.step
    else:
        step = torch.compile(second.step, backend="eager")
    for k, decay in enumerate((0.0, 0.1, 0.0)):
        first.param_groups[0]["weight_decay"] = second.param_groups[0]["weight_decay"] = decay
        run(first, eager, range(k, k + 1))
        give_gradients(graph, k)
        step()
        assert kinds(second) == {sources.Moves}
        assert_near(eager, graph)


class Above(SignSGD):
    """A rule of its own, which looks at the parameter."""

    class Rule(rules.SignSGD):
        def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
            super().apply(param, grad, state, c)
            param.clamp_(min=0.0)

    rule = Rule()


def test_parameters_are_looked_at_where_they_must_be() -> None:
    params = parameters(shapes=[(3,)] * MANY)
    optimizer = QHM(params, lr=0.1, weight_decay=0.0)
    run(optimizer, params, range(1))
    before = [param.detach().clone() for param in params]
    optimizer.param_groups[0].update(weight_decay=0.5, nu=0.0)
    run(optimizer, params, range(1))
    for param, start in zip(params, before, strict=True):
        assert param.grad is not None
        torch.testing.assert_close(param.detach(), start - 0.1 * (param.grad + 0.5 * start))
    refused: list[tuple[Make, list[Tensor]]] = [
        (QHM, parameters(dtype=torch.bfloat16, shapes=[(3,)] * MANY)),
        (QHM, [turned(param) for param in parameters(shapes=[(3, 4)] * MANY)]),
        (Above, params),
    ]
    for make, others in refused:
        another = make(others)
        run(another, others, range(1))
        assert kinds(another) == {sources.Pack}
    assert min(float(param.detach().min()) for param in params) == 0.0


@torch.no_grad()
@pytest.mark.parametrize("make", [SGDP, AdamP])
def test_a_rule_that_looks_at_shapes_takes_stacks_of_one_shape(make: Make) -> None:
    shapes = [(3, 4), (4,), (3, 4), (2, 6), (4,), (3, 4)]
    params = parameters(shapes=shapes)
    optimizer = make(params, weight_decay=0.1)
    run(optimizer, params, range(1))
    (matrices, *matrices_state), (row, *_), (alone, *_) = [
        part.sources[0].gather([param.grad for param in params if param.grad is not None])
        for part in optimizer._arranged[0].parts
    ]
    assert matrices.shape == (3, 3, 4)
    assert {tensor.shape for tensor in matrices_state} == {matrices.shape}
    assert row.shape == (2, 4)
    assert alone is params[3]


@every
def test_state_may_be_edited_and_replaced_between_steps(make: Make) -> None:
    ours, twins = parameters(), parameters()
    optimizer, twin = make(ours, lr=0.1), make(twins, lr=0.1)
    run(optimizer, ours, range(2))
    run(twin, twins, range(2))
    for param, other in zip(ours, twins, strict=True):
        for name in optimizer.rule.slots:
            optimizer.state[param][name].mul_(0.5)  # in place, with grad on
            twin.state[other][name] = twin.state[other][name] * 0.5  # another tensor
        if "step" in optimizer.state[param]:
            optimizer.state[param]["step"].fill_(9)
            twin.state[other]["step"] = torch.tensor(9.0)
    run(optimizer, ours, range(2, 4))
    run(twin, twins, range(2, 4))
    assert_same(ours, twins)


@every
def test_parameters_may_get_other_storage_between_steps(make: Make) -> None:
    ours, twins = parameters(), parameters()
    optimizer, twin = make(ours, lr=0.1), make(twins, lr=0.1)
    run(optimizer, ours, range(2))
    run(twin, twins, range(2))
    for param in ours:
        param.data = param.data.clone() + 1
    for param in twins:
        param.data += 1
    run(optimizer, ours, range(2, 4))
    run(twin, twins, range(2, 4))
    assert_same(ours, twins)


def odd(grad: Tensor, kind: str) -> Tensor:
    """A gradient equal to the given one that lies otherwise in memory."""
    if kind == "negative view":
        return torch.complex(torch.zeros_like(grad), -grad).conj().imag
    return torch.stack([grad, grad], -1)[..., 0]


@pytest.mark.parametrize("kind", ["negative view", "strided"])
@pytest.mark.parametrize("make", [QHM, SGDP])
def test_gradients_of_a_pack_may_lie_as_they_like(make: Make, kind: str) -> None:
    shapes = [(3, 4), (5,), (), (3, 4), (), (7, 4), (0,), (9,)]
    params, twins = parameters(shapes=shapes), parameters(shapes=shapes)
    optimizer, twin = make(params), make(twins)
    run(twin, twins, range(2))
    for step in range(2):
        give_gradients(params, step)
        for param in params:
            assert param.grad is not None
            param.grad = odd(param.grad, kind)
        optimizer.step()
    assert_same(params, twins)


def test_half_precisions_are_packed_with_each_other_and_with_float32() -> None:
    dtypes = [torch.bfloat16, torch.float32, torch.float16, torch.float32]
    params, twins = parameters(shapes=[(3, 4)] * 4), parameters(shapes=[(3, 4)] * 4)
    for param, twin, dtype in zip(params, twins, dtypes, strict=True):
        param.data, twin.data = param.to(dtype), twin.to(dtype)
    optimizer = QHM(params)
    run(optimizer, params, range(3))
    assert len(optimizer._arranged[0].parts) == 1
    for twin in twins:
        alone = QHM([twin])
        for step in range(3):
            give_gradients(twins, step)
            alone.step()
    assert_same(params, twins)


@pytest.mark.parametrize("make", [QHM, Adam])
def test_a_step_of_many_parameters_does_not_set_off_the_garbage_collector(make: Make) -> None:
    params = parameters(shapes=[(2, 3)] * 1000)
    optimizer = make(params)
    run(optimizer, params, range(2))
    gc.collect()
    before = [each["collections"] for each in gc.get_stats()]
    optimizer.step()
    assert [each["collections"] for each in gc.get_stats()] == before


def test_gradients_are_not_kept_after_a_step() -> None:
    params = parameters()
    optimizer = Momentum(params)
    run(optimizer, params, range(2))
    alive = [weakref.ref(param.grad) for param in params if param.grad is not None]
    optimizer.zero_grad()
    assert not any(ref() is not None for ref in alive)


def test_a_saved_tensor_holds_no_more_than_itself() -> None:
    params = parameters()
    optimizer = Momentum(params)
    run(optimizer, params, range(2))
    for state in optimizer.state_dict()["state"].values():
        buffer = state["momentum_buffer"]
        assert buffer.untyped_storage().nbytes() == buffer.numel() * 4


SPARSE = [SGD, SignSGD, AdaGrad, Momentum, Nesterov, RMSProp, Adam]


def sparse(shape: tuple[int, ...], step: int, *, coalesced: bool) -> Tensor:
    """Two rows of three, one of them twice; whole numbers, so that sums are exact in any order."""
    generator = torch.Generator().manual_seed(step)
    rows = torch.randint(shape[0], (2,), generator=generator)
    indices = torch.cat([rows, rows[:1]])[None]
    values = torch.randint(-3, 4, (3, *shape[1:]), generator=generator).float()
    grad = torch.sparse_coo_tensor(indices, values, shape, check_invariants=True)
    return grad.coalesce() if coalesced else grad


@pytest.mark.parametrize("make", SPARSE)
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("coalesced", [True, False])
def test_sparse_gradients_give_the_steps_of_dense_ones(make: Make, decay: float, coalesced: bool) -> None:
    ours, twins = parameters(shapes=[(6, 3), (7,)]), parameters(shapes=[(6, 3), (7,)])
    optimizer, twin = make(ours, lr=0.1, weight_decay=decay), make(twins, lr=0.1, weight_decay=decay)
    for step in range(6):
        for param, other in zip(ours, twins, strict=True):
            grad = sparse(tuple(param.shape), step, coalesced=coalesced)
            kept = (grad._indices().clone(), grad._values().clone(), grad.is_coalesced())
            param.grad, other.grad = (grad if step != 3 else grad.to_dense()), grad.to_dense()
            if step != 3:
                assert param.grad is grad
        optimizer.step()
        twin.step()
        assert torch.equal(grad._indices(), kept[0])
        assert torch.equal(grad._values(), kept[1])
        assert grad.is_coalesced() == kept[2]
        assert_same(ours, twins)
    for param, other in zip(ours, twins, strict=True):
        for name in optimizer.rule.slots:
            assert torch.equal(optimizer.state[param][name], twin.state[other][name])


@pytest.mark.parametrize("make", [SGD, SignSGD, AdaGrad])
def test_rules_that_rest_touch_only_the_rows_present(make: Make) -> None:
    (param,) = parameters(shapes=[(5, 2)])
    optimizer = make([param], lr=0.1)
    param.data[0] = -0.0  # a dense step makes it 0.0
    param.grad = torch.sparse_coo_tensor(torch.tensor([[3, 1]]), torch.ones(2, 2), (5, 2), check_invariants=True)
    before = param.detach().clone()
    optimizer.step()
    assert [bool(row) for row in (param != before).any(1)] == [False, True, False, True, False]
    assert bool(torch.signbit(param[0]).all())


@every
def test_a_rule_that_rests_is_one(make: Make) -> None:
    # What `rests` promises is true, and no rule that could promise it forgets to.
    (param,) = parameters(shapes=[(4,)])
    optimizer = make([param], lr=0.1)
    run(optimizer, [param], range(2))
    before = [param.detach().clone(), *(optimizer.state[param][name].clone() for name in optimizer.rule.slots)]
    param.grad = torch.zeros(4)
    optimizer.step()
    after = [param.detach(), *(optimizer.state[param][name] for name in optimizer.rule.slots)]
    still = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    rule = optimizer.rule_of(optimizer.param_groups[0])
    assert still == rule.rests


@pytest.mark.parametrize("make", SPARSE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sparse_gradients_without_entries_or_uphill_or_in_half_precision(make: Make, dtype: torch.dtype) -> None:
    ours, twins = parameters(dtype=dtype, shapes=[(6, 3)]), parameters(dtype=dtype, shapes=[(6, 3)])
    optimizer, twin = make(ours, lr=0.5, maximize=True), make(twins, lr=0.5, maximize=True)
    empty = torch.zeros(6, 3).to_sparse(1)
    rows = sparse((6, 3), 1, coalesced=False)
    for grad in (empty, rows, empty):
        ours[0].grad, twins[0].grad = grad.to(dtype), grad.to_dense().to(dtype)
        optimizer.step()
        twin.step()
        assert_same(ours, twins)
