"""A compiled step is one graph, whatever learning rate and momentum do. Run as traced, no compiler needed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from cases_fleet import PROBLEMS, columns, dense, problem, settings, task, work
from ravine import rules
from ravine.fleet.choose import compiler, parity
from ravine.fleet.stacked import Program, Stacked
from ravine.fleet.train import train

Graphs = list[fx.GraphModule]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Every graph that is given to the compiler, then run as it is."""
    made: Graphs = []

    def keep(graph: fx.GraphModule, _: Any) -> Callable[..., Any]:
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(torch._inductor, "compile", keep)
    return made


def fleet(program: Program, rule: str, runs: int, compiled: bool = True, first: int = 0) -> Stacked:
    seeds, hyper = list(range(first, first + runs)), columns(settings(rule, runs + first)[first:])
    return Stacked(program, rules.get(rule), seeds, hyper, compiled)


@pytest.mark.parametrize("rule", ["sgd", "nesterov", "adam"])
def test_one_graph_while_everything_changes(rule: str, graphs: Graphs) -> None:
    program = Program(task(problem(dense, schedule=lambda step: 1 / (1 + step), weight_decay=0.1, clip=1.0)))
    for first in (0, 5):  # other seeds, learning rates and momenta, the same number of runs
        compiled = fleet(program, rule, 3, first=first)
        plain = fleet(program, rule, 3, compiled=False, first=first)
        for step in range(5):
            torch.testing.assert_close(compiled.step(step), plain.step(step))
        for value, wanted in zip(compiled.parameters().values(), plain.parameters().values(), strict=True):
            torch.testing.assert_close(value, wanted)
    assert len(graphs) == 1


def test_the_graph_holds_the_products_and_the_rule(graphs: Graphs) -> None:
    fleet(Program(task(problem(dense))), "momentum", 3).step(0)
    (graph,) = graphs
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert sum("bmm" in name for name in names) >= 4
    assert sum("addcmul" in name for name in names) == 2 * len(list(dense().parameters()))


def test_many_sizes_and_rules_do_not_run_into_a_limit(graphs: Graphs) -> None:
    program = Program(task(problem(dense)))
    for runs in range(1, 6):
        for rule in ("sgd", "momentum"):
            fleet(program, rule, runs).step(0)
    assert len(graphs) == 10


def test_buffers_are_updated(graphs: Graphs) -> None:
    made = task(PROBLEMS["batch-norm-1d"]())
    assert parity(made, Program(made), compiled=True) is None
    assert len(graphs) == 2  # of the step, and of the evaluation on the validation rows


def test_no_place_is_freed_because_that_would_compile_again(graphs: Graphs) -> None:
    made = task(problem(dense))
    records = train(made, Program(made), work("compiled", 10, (0.01, 1e12, float("inf"))))
    assert records[0].diverged_at is None
    assert records[2].diverged_at is not None
    assert len(graphs) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
# The default needs no compiler on the user's machine; the tests above run its graphs without one.
@pytest.mark.skipif(not compiler(), reason="needs a C++ compiler")
def test_compiled_for_real() -> None:
    made = task(problem(dense, dtype=torch.float64))
    program = Program(made)
    assert parity(made, program, compiled=True) is None
