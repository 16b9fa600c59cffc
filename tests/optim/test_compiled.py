"""The compiled step is exactly one graph, whatever the numbers do, and steps as the eager one."""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from step import allocated
from torch import Tensor, fx

from cases_optim import Make, assert_near, assert_same, every, give_gradients, parameters, run
from ravine.optim import OF_RULE, QHM, SNGM, AdamP, Momentum, NAdam, RMSProp, RuleOptimizer, SignSGD, sources
from ravine.optim import compiled as program
from ravine.optim.compiled import GRAPHS

Compile = Callable[[RuleOptimizer, Any], Callable[[], object]]


@pytest.fixture(autouse=True)
def from_nothing() -> Iterator[None]:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on what it traces
        yield


class Counter:
    """A backend that counts graphs and runs them as they are."""

    def __init__(self) -> None:
        self.graphs: list[fx.GraphModule] = []

    def __call__(self, graph: fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        self.graphs.append(graph)
        return graph.forward


def by_torch(optimizer: RuleOptimizer, backend: Any) -> Callable[[], object]:
    return torch.compile(optimizer.step, backend=backend)


def as_it_is(graph: fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
    """The compiler that does nothing."""
    return graph.forward


def in_place(optimizer: RuleOptimizer, backend: Any) -> Callable[[], object]:
    optimizer.compile(as_it_is if backend == "eager" else backend)
    return optimizer.step


ways = pytest.mark.parametrize("compiled", [by_torch, in_place])


def edit(optimizer: RuleOptimizer, step: int) -> None:
    """Other hyper-parameters for each step."""
    group = optimizer.param_groups[0]
    group["lr"] = 0.1 / (step + 1)
    if "momentum" in group:
        group["momentum"] = 0.9 - 0.02 * step
    if "betas" in group:
        group["betas"] = tuple(0.99 - 0.01 * step * k for k in range(len(group["betas"])))


def assert_one_graph(make: Make, compiled: Compile, shapes: Any, steps: int) -> fx.GraphModule:
    count = Counter()
    ours, twins = parameters(shapes=shapes), parameters(shapes=shapes)
    optimizer, twin = make(ours, weight_decay=0.01), make(twins, weight_decay=0.01)
    step_of = compiled(optimizer, count)
    for step in range(steps):
        for params, each, do in ((ours, optimizer, step_of), (twins, twin, twin.step)):
            edit(each, step)
            give_gradients(params, step)
            do()
    assert len(count.graphs) == 1
    assert_near(ours, twins, 1e-5)
    return count.graphs[0]


@every
def test_a_compiled_step_is_exactly_one_graph(make: Make) -> None:
    graph = assert_one_graph(make, by_torch, [(3, 4), (5,), ()], 10)
    assert sum(node.op == "call_function" for node in graph.graph.nodes) > 0


@pytest.mark.parametrize("rule", ["qhm", "nadam", "sngm", "adamp"])
def test_a_step_compiled_in_place_is_exactly_one_graph(rule: str) -> None:
    assert_one_graph(OF_RULE[rule], in_place, [(3, 4), (5,), (), (3, 4)], 24)


@ways
def test_packs_and_large_tensors_are_one_graph_and_few_nodes(compiled: Compile) -> None:
    shapes = [(k % 7 + 1, 3) for k in range(60)] + [(sources.SMALL + 1,)]
    assert len(assert_one_graph(NAdam, compiled, shapes, 12).graph.nodes) < 80


@ways
def test_a_late_gradient_a_load_and_a_reset_reach_the_compiled_step(compiled: Compile) -> None:
    ours, twins = parameters(), parameters()
    optimizer, twin = QHM(ours, lr=0.1), QHM(twins, lr=0.1)
    step_of = compiled(optimizer, "eager")
    saved: dict[RuleOptimizer, Any] = {}
    for step in range(10):
        for params, each, do in ((ours, optimizer, step_of), (twins, twin, twin.step)):
            give_gradients(params, step)
            if step in (0, 1, 4):
                params[0].grad = None
            if step == 3:
                saved[each] = copy.deepcopy(each.state_dict())
            elif step == 6:
                each.load_state_dict(saved[each])
            elif step == 8:
                each.reset_state()
            do()
    assert_near(ours, twins)


@ways
@pytest.mark.parametrize("make", [QHM, SNGM])
def test_a_compiled_step_without_gradients_does_nothing(make: Make, compiled: Compile) -> None:
    params = parameters(shapes=[(3,)])
    optimizer = make(params)
    start = [p.detach().clone() for p in params]
    compiled(optimizer, "eager")()
    assert_same(params, start)


def test_compiled_and_eager_steps_take_turns() -> None:
    ours, twins = parameters(), parameters()
    optimizer, twin = NAdam(ours, lr=0.1), NAdam(twins, lr=0.1)
    step_of = by_torch(optimizer, "eager")
    for step in range(6):
        give_gradients(ours, step)
        give_gradients(twins, step)
        (step_of if step % 2 else optimizer.step)()
        twin.step()
    assert_near(ours, twins)


def test_a_copy_of_a_compiled_optimizer_steps_alike() -> None:
    params = parameters()
    optimizer = QHM(params, lr=0.1)
    optimizer.compile(as_it_is)
    give_gradients(params, 0)
    optimizer.step()
    twin, twins = copy.deepcopy((optimizer, params))
    for step in (1, 2):
        give_gradients(params, step)
        give_gradients(twins, step)
        optimizer.step()
        twin.step()
    assert_near(params, twins)


def steps_as_eager(
    ours: list[Tensor],
    twins: list[Tensor],
    give: Callable[[list[Tensor], int], None],
    steps: int,
    make: Make = RMSProp,
) -> int:
    """Whether an optimizer compiled in place steps as it does eagerly; the number of graphs that it took."""
    count = Counter()
    optimizer, twin = make(ours, lr=0.1), make(twins, lr=0.1)
    optimizer.compile(count)
    for step in range(steps):
        for params, each in ((ours, optimizer), (twins, twin)):
            give(params, step)
            each.step()
    assert_near(ours, twins)
    return len(count.graphs)


def test_sparse_gradients_are_stepped_by_rows_without_a_graph() -> None:
    def give(params: list[Tensor], step: int) -> None:
        give_gradients(params, step)
        rows = torch.tensor([[step, step + 1]])
        params[0].grad = torch.sparse_coo_tensor(rows, torch.ones(2, 3), (9, 3), check_invariants=True)

    shapes = [(9, 3), (5,)]
    assert steps_as_eager(parameters(shapes=shapes), parameters(shapes=shapes), give, 4, SignSGD) == 0


def test_what_torch_has_a_kernel_for_has_no_graph() -> None:
    assert steps_as_eager(parameters(), parameters(), give_gradients, 3, Momentum) == 0
    half, twin = parameters(dtype=torch.bfloat16), parameters(dtype=torch.bfloat16)
    assert steps_as_eager(half, twin, give_gradients, 3, Momentum) == 1


def test_a_compiler_that_fails_leaves_all_parameters_as_they_were() -> None:
    def failing(graph: fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        raise RuntimeError("there is no compiler")

    params = [*parameters(), *parameters(dtype=torch.bfloat16)]  # by torch's kernel, and by a graph
    starts = [param.detach().clone() for param in params]
    optimizer = Momentum(params)
    optimizer.compile(failing)
    give_gradients(params, 0)
    with pytest.raises(RuntimeError, match="there is no compiler"):
        optimizer.step()
    assert_same(params, starts)


def test_few_sets_of_gradients_have_graphs_and_all_are_stepped() -> None:
    def give(params: list[Tensor], step: int) -> None:
        give_gradients(params, step)
        for k, param in enumerate(params):
            if step >> k & 1:
                param.grad = None

    shapes = [(3,), (4,), (6,), (20,)]
    assert steps_as_eager(parameters(shapes=shapes), parameters(shapes=shapes), give, 15) == GRAPHS


def test_more_tensors_than_a_graph_may_have_are_stepped_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "PIECES", 1)
    shapes = [(sources.SMALL, 2)] * 2
    assert steps_as_eager(parameters(shapes=shapes), parameters(shapes=shapes), give_gradients, 3) == 0


def test_a_new_layout_of_parameters_or_gradients_has_a_graph_of_its_own() -> None:
    def give(params: list[Tensor], step: int) -> None:
        give_gradients(params, step)
        (param,) = params
        if step == 2:
            assert param.grad is not None
            param.grad = param.grad.t().contiguous().t()
        if step == 4:
            param.data = param.data.t().contiguous().t()

    shapes = [(sources.SMALL, 2)]
    assert steps_as_eager(parameters(shapes=shapes), parameters(shapes=shapes), give, 6) == 3


def test_inductor_compiles_one_step_in_place() -> None:
    ours, twins = parameters(), parameters()
    optimizer, twin = QHM(ours, lr=0.1), QHM(twins, lr=0.1)
    optimizer.compile()
    for step in range(3):
        for params, each in ((ours, optimizer), (twins, twin)):
            edit(each, step)
            give_gradients(params, step)
            each.step()
    assert_near(ours, twins)


def test_a_step_of_rows_takes_no_memory() -> None:
    shapes = [(100, 90), (30, 20), (30, 20), (7,)]
    ours, twins = parameters(shapes=shapes), parameters(shapes=shapes)
    optimizer, twin = AdamP(ours, lr=0.1, weight_decay=0.1), AdamP(twins, lr=0.1, weight_decay=0.1)
    optimizer.compile()
    for step in range(4):
        for params, each in ((ours, optimizer), (twins, twin)):
            each.param_groups[0]["delta"] = 10.0 if step % 2 else 0.1  # with and without a projection
            run(each, params, range(step, step + 1))
    assert_near(ours, twins, 1e-5)
    _, most = allocated(optimizer.step)
    assert most < 4 * 100  # single numbers, and none for each row


def test_another_torch_copies_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._inductor.lowering, "mutate_to")
    program.write_where_kept.__wrapped__()


@ways
@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_groups_that_were_alike_may_part(name: str, compiled: Compile) -> None:
    ours, twins = parameters(shapes=[(100, 90), (100, 90)]), parameters(shapes=[(100, 90), (100, 90)])
    optimizer, twin = (QHM([{"params": [param]} for param in params], weight_decay=0.1) for params in (ours, twins))
    step_of = compiled(optimizer, "eager")
    for step in range(4):
        for params, each, do in ((ours, optimizer, step_of), (twins, twin, twin.step)):
            if step == 2:
                each.param_groups[0][name] = 0.5
            give_gradients(params, step)
            do()
    assert_near(ours, twins)


@pytest.mark.parametrize("shape", [(100, 90), (3, 4)])
def test_gradients_that_were_one_may_part(shape: tuple[int, ...]) -> None:
    ours, twins = parameters(shapes=[shape] * 2), parameters(shapes=[shape] * 2)
    optimizer, twin = QHM(ours), QHM(twins)
    optimizer.compile(as_it_is)
    for step in range(4):
        for params, each in ((ours, optimizer), (twins, twin)):
            give_gradients(params, step)
            if step < 2:
                params[1].grad = params[0].grad
            each.step()
    assert_near(ours, twins)


def test_what_no_graph_is_made_for_steps_as_the_eager_one() -> None:
    shapes = [(300, 300)] * (GRAPHS + 2)
    ours, twins = parameters(shapes=shapes), parameters(shapes=shapes)
    optimizer, twin = AdamP(ours), AdamP(twins)
    optimizer.compile(as_it_is)
    for count in range(1, len(shapes) + 1):
        for params, each in ((ours, optimizer), (twins, twin)):
            each.zero_grad()
            give_gradients(params[-count:], count)
            each.step()
    assert torch.equal(ours[0], twins[0])  # bit by bit: no graph has stepped it
    assert_near(ours, twins, 1e-5)


def test_a_parameter_of_a_class_of_its_own_has_a_graph_of_its_own() -> None:
    class Own(torch.nn.Parameter): ...

    params: list[Tensor] = [torch.nn.Parameter(torch.ones(100, 90)), Own(torch.ones(100, 90))]
    twins = [param.detach().clone().requires_grad_() for param in params]
    optimizer, twin = AdamP(params), AdamP(twins)
    optimizer.compile(as_it_is)
    for step in range(4):
        for ours, each in ((params, optimizer), (twins, twin)):
            each.zero_grad()
            give_gradients(ours[step % 2 : step % 2 + 1], step)
            each.step()
    assert_near(params, twins, 1e-5)
