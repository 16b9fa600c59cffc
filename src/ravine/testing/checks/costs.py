"""What it costs and what it is said to be: graphs, memory, randomness, the example in the documentation."""

import doctest
import io
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ravine.testing.case import Case
from ravine.testing.checks.equations import editable
from ravine.testing.checks.layouts import ROUNDING
from ravine.testing.drive import apart, clone, give, go, line, tensors_of, vector, word
from ravine.testing.outcome import Probe, applies, check, require

STEPS = 50
"""Compiled steps: enough to see a graph for every new number."""


@check("graphs")
def graphs(case: Case) -> None:
    """A compiled step is one graph or two in 50 steps in which numbers change, and steps like the eager one."""
    applies(case.graphs is not None, "it is not meant to be compiled")
    assert case.graphs is not None
    names = [
        n for n in editable(case, case.make([vector()]).param_groups[0]) if n in ("lr", "momentum", "betas", "beta")
    ]
    with Probe(
        case,
        "p = torch.linspace(-1, 1, 9, requires_grad=True); opt = make([p]); graphs = []",
        "step = torch.compile(opt.step, backend=lambda graph, _: graphs.append(graph) or graph.forward)",
        f"for t in range({STEPS}): opt.param_groups[0].update({values(names)}); p.grad = torch.ones(9); step()",
        f"assert 1 <= len(graphs) <= {case.graphs}, len(graphs)",
    ):
        found: list[torch.fx.GraphModule] = []

        def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
            found.append(graph)
            return graph.forward

        torch._dynamo.reset()
        ps, qs = ([vector(9, dtype) for dtype in ROUNDING] for _ in range(2))
        compiled, eager = case.make(ps), case.make(qs)
        step = torch.compile(compiled.step, backend=count)
        for t in range(STEPS):
            for optimizer in (compiled, eager):
                optimizer.param_groups[0].update({name: moving(name, t, case) for name in names})
            give(ps, t)
            for p, q in zip(ps, qs, strict=True):
                q.grad = clone(p.grad)
            step()
            eager.step()
        torch._dynamo.reset()
        require(
            1 <= len(found) <= case.graphs,
            f"{len(found)} graphs in {STEPS} compiled steps while {', '.join(names)} change, not 1 to {case.graphs}",
        )
        for p, q in zip(ps, qs, strict=True):
            require(
                apart(p, q) <= max(1e-5, ROUNDING[p.dtype]),  # a compiler may count steps in float32
                f"compiled steps in {word(p.dtype)} end {apart(p, q):.1g} away from eager ones",
            )


def moving(name: str, t: int, case: Case) -> Any:
    """The value of a hyper-parameter at a step."""
    usual = case.usual[name]
    if isinstance(usual, tuple):
        return (usual[0] - 0.01 * t, *usual[1:])
    return usual / (t + 1) if name == "lr" else usual - 0.01 * t


def values(names: list[str]) -> str:
    """The same as an expression in ``t``."""
    texts = {"lr": "0.1 / (t + 1)", "betas": "(0.9 - 0.01 * t, *opt.param_groups[0]['betas'][1:])"}
    return "{" + ", ".join(f"{name!r}: {texts.get(name, '0.9 - 0.01 * t')}" for name in names) + "}"


@check("memory")
def memory(case: Case) -> None:
    """State takes the documented bytes per element, and grows by nothing in 300 steps."""
    size = 1000
    with Probe(
        case,
        "import io; p = torch.linspace(-1, 1, 1000, requires_grad=True); opt = make([p]); sizes = []",
        "for last in (2, 300):",
        "    " + line("last"),
        "    torch.save(opt.state_dict(), file := io.BytesIO()); sizes.append(file.tell())",
        "assert sizes[1] - sizes[0] < 500, sizes",
    ):
        p = vector(size)
        optimizer = case.make([p])
        go(optimizer, [p], range(2))
        before = saved(optimizer)
        go(optimizer, [p], range(2, 300))
        after = saved(optimizer)
        require(after - before < 500, f"a saved state grows from {before} to {after} bytes in 298 steps")
    if case.state_bytes is None:
        return
    with Probe(
        case,
        "p = torch.linspace(-1, 1, 1000, requires_grad=True); opt = make([p])",
        line("1"),
        "held = sum(v.nbytes for v in opt.state[p].values() if torch.is_tensor(v)) / p.numel()",
        f"assert round(held, 1) == {case.state_bytes}, held",
    ):
        held = sum(value.nbytes for value in tensors_of(optimizer, p).values()) / size
        require(
            math.isclose(held, case.state_bytes, abs_tol=0.05),
            f"its state takes {held:g} bytes per element, and {case.state_bytes:g} are documented",
        )


def saved(optimizer: torch.optim.Optimizer) -> int:
    """The size of the saved state."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    return file.tell()


@check("randomness")
def randomness(case: Case) -> None:
    """Random pieces have the stated mean and variance, and depend on their seed alone."""
    applies(case.randomness, "nothing in it is random")
    assert case.randomness is not None
    wanted, draws = case.randomness, 1500
    with Probe(case, "# see `Case.randomness`: draws of two runs with one seed, or their mean and variance, are wrong"):
        torch.manual_seed(1)
        one = wanted.sample(0, draws)
        torch.manual_seed(2)
        two, three = wanted.sample(0, draws), wanted.sample(1, draws)
        require(np.array_equal(one, two), "draws with one seed depend on the global random state")
        require(not np.array_equal(one, three), "draws do not depend on the seed")
        error = math.sqrt(wanted.variance / draws)
        require(
            abs(float(one.mean()) - wanted.mean) < 5 * error,
            f"the mean of {draws} draws is {one.mean():.3g}, and {wanted.mean:g} is stated",
        )
        require(
            abs(float(one.var()) - wanted.variance) < 0.25 * wanted.variance,
            f"the variance of {draws} draws is {one.var():.3g}, and {wanted.variance:g} is stated",
        )


@check("example")
def example(case: Case) -> None:
    """The example in the documentation of the class, or of its module, runs."""
    home = sys.modules[case.optimizer.__module__]
    finder = doctest.DocTestFinder(recurse=False)
    public = sys.modules.get(case.module, home)
    tests = [
        t for thing in (case.optimizer, public) for t in finder.find(thing, name=case.name, module=home) if t.examples
    ]
    tests = [t for t in tests if "SKIP" not in (t.docstring or "")]
    applies(tests, "its documentation has no example that can be run")
    with Probe(case, f"import doctest, {home.__name__} as home", "assert not doctest.testmod(home).failed"):
        for test in tests:
            heard = io.StringIO()
            result = doctest.DocTestRunner(verbose=False).run(test, out=heard.write)
            require(
                result.failed == 0, f"{result.failed} of {result.attempted} lines of the example of {test.name} fail"
            )
