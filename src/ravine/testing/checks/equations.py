"""What the numbers are: the equation, the hyper-parameters in it, and torch where torch has the rule."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ravine.testing.case import Array, Case, State, arguments
from ravine.testing.drive import apart, both, give, go, tensors_of, vector, word
from ravine.testing.outcome import Probe, applies, check, require

ULPS = 16
"""How far from torch, in units in the last place of the largest number: what the order of operations explains."""


def editable(case: Case, group: dict[str, Any]) -> list[str]:
    """The hyper-parameters that are numbers, or tuples of them, and can be edited in a group."""
    return [n for n, (value, _) in case.hyper.items() if n in group and isinstance(value, float | tuple)]


def expected(case: Case, start: Iterable[Tensor], slopes: Iterable[list[Array]], hypers: list[dict[str, Any]]) -> Array:
    """Where the equation goes from ``start`` under the gradients, as one flat array."""
    assert case.equation is not None
    state: State = {}
    points = [param.detach().double().numpy().copy() for param in start]
    for step, (grads, h) in enumerate(zip(slopes, hypers, strict=True), 1):
        points = case.equation(points, grads, state, {**h, "step": step})
    return np.concatenate([point.ravel() for point in points])


def compared(wanted: Array, case: Case) -> str:
    """The line of a reproduction that compares ``p`` with where the equation leads."""
    digits = 7 if case.tolerance > 1e-6 else 17
    literal = f"p.new_tensor([{', '.join(f'{value:.{digits}g}' for value in wanted)}])"
    return f"assert torch.allclose(p.flatten(), {literal}, rtol={case.tolerance}, atol={case.tolerance}), p.flatten()"


@check("equation")
def equation(case: Case) -> None:
    """Equals a float64 transcription of the paper, step by step, while hyper-parameters change."""
    applies(case.equation, "no equation was given")
    usual = {**case.options, **case.usual}
    start = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    slopes = [[np.full(3, g)] for g in (1.0, 2.0, -1.0)]
    wanted = expected(case, [start], slopes, [usual] * 3)
    with Probe(
        case,
        "p = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True); opt = make([p])",
        "for g in (1.0, 2.0, -1.0): p.grad = torch.full_like(p, g); opt.step()",
        compared(wanted, case),
    ):
        p = start.clone().requires_grad_()
        optimizer = case.make([p])
        for grads in slopes:
            p.grad = torch.from_numpy(grads[0])
            optimizer.step()
        require(close(p, wanted, case), f"three steps end at {show(p)}, by the equation at {show(wanted)}")
    edited_equation(case)


def edited_equation(case: Case) -> None:
    """Twenty steps of two parameters, with all numbers of the group edited at steps 7 and 13."""
    group = case.make([vector()]).param_groups[0]
    names = [name for name in editable(case, group) if name != "eps"]  # which nobody schedules
    other, usual = ({name: case.hyper[name][which] for name in names} for which in (1, 0))
    hypers = [{**case.options, **case.usual, **(other if 7 <= t < 13 else {})} for t in range(20)]
    start = [torch.tensor([[-1.0, 0.5], [1.0, 2.0]]).double(), torch.linspace(1, 2, 3).double()]

    def grads(t: int, shape: tuple[int, ...]) -> Array:
        values: Array = np.cos(3.0 * t + np.arange(np.prod(shape))).reshape(shape)
        return values

    with Probe(
        case,
        "p = torch.tensor([[-1.0, 0.5], [1.0, 2.0]], dtype=torch.float64, requires_grad=True); opt = make([p])",
        "for t in range(13):",
        f"    if t == 7: opt.param_groups[0].update({other})",
        "    p.grad = torch.cos(3.0 * t + p.new_tensor([[0, 1], [2, 3]])); opt.step()",
        compared(expected(case, start[:1], ([grads(t, (2, 2))] for t in range(13)), hypers[:13]), case),
        when=f"with {', '.join(names)} edited at step 7",
    ):
        params = [x.clone().requires_grad_() for x in start]
        optimizer = case.make(params)
        for t in range(20):
            optimizer.param_groups[0].update({7: other, 13: usual}.get(t, {}))
            for param in params:
                param.grad = torch.from_numpy(grads(t, tuple(param.shape)))
            optimizer.step()
        ends = torch.cat([param.detach().flatten() for param in params])
        wanted = expected(case, start, ([grads(t, tuple(x.shape)) for x in start] for t in range(20)), hypers)
        require(
            close(ends, wanted, case),
            f"with {', '.join(names)} edited at steps 7 and 13, step 20 is {apart(ends, torch.from_numpy(wanted)):.1g} "
            f"away from the equation",
        )


def close(ends: Tensor, wanted: Array, case: Case) -> bool:
    """Whether the parameters are where the equation leads."""
    return apart(ends, torch.from_numpy(wanted)) <= case.tolerance


def show(values: Tensor | Array) -> str:
    """Few numbers, to be read."""
    return "[" + ", ".join(f"{float(value):.5g}" for value in values) + "]"


@check("sensitivity")
def sensitivity(case: Case) -> None:
    """Every hyper-parameter changes the trajectory: none is accepted and ignored."""

    def ends(**new: Any) -> Tensor:
        p = vector().detach().view(3, 3).requires_grad_()  # some rules take matrices in a way of their own
        go(case.make([p], **new), [p], range(20))
        return p.detach()

    usual = ends()
    for name, (value, other) in case.hyper.items():
        with Probe(
            case,
            "p, q = (torch.linspace(-1, 1, 9).view(3, 3).requires_grad_() for _ in range(2))",
            *both("make([p])", f"make([q], {name}={other!r})", "20"),
            f"assert not torch.allclose(p, q, rtol=1e-5, atol=1e-7), '{name} changes nothing'",
        ):
            require(
                not torch.allclose(usual, ends(**{name: other}), rtol=1e-5, atol=1e-7),
                f"{name}={other!r} gives the same 20 steps as {name}={value!r}",
            )


@check("maximize")
def maximize(case: Case) -> None:
    """maximize=True is a step with the gradient negated, before the weight decay is added."""
    applies(case.maximizes, "it has no maximize")
    for options in case.paths.values():
        with Probe(
            case,
            "p, q = (torch.linspace(-1, 1, 9, requires_grad=True) for _ in range(2))",
            f"up, down = make([p], maximize=True{arguments(options)}), make([q]{arguments(options)})",
            "for t in range(5): p.grad, q.grad = torch.ones(9), -torch.ones(9); up.step(); down.step()",
            "assert torch.allclose(p, q), (p - q).abs().max()",
        ):
            p, q = vector(), vector()
            up, down = case.make([p], maximize=True, **options), case.make([q], **options)
            for t in range(5):
                give([p], t)
                q.grad = None if p.grad is None else -p.grad
                up.step()
                down.step()
            require(torch.allclose(p, q), f"maximize=True ends {apart(p, q):.1g} away from negated gradients")


@check("parity with torch")
def parity(case: Case) -> None:
    """Equals torch.optim where torch has the rule, parameters and state, to 16 units in the last place."""
    applies(case.twin, "torch has no optimizer with this rule")
    assert case.twin is not None
    twin, names = case.twin, case.hyper.keys() & case.twin.hyper.keys()
    given = {name: case.usual[name] for name in sorted(names)}
    for dtype in (torch.float64, torch.float32):
        limit = max(ULPS * torch.finfo(dtype).eps, twin.tolerance)
        with Probe(
            case,
            *twin.script().replace("make =", "twin =").splitlines(),
            f"p, q = (torch.linspace(-1, 1, 65, dtype={dtype}, requires_grad=True) for _ in range(2))",
            *both("make([p])", f"twin([q]{arguments(given)})", "20"),
            f"assert (p - q).abs().max() <= {limit:.2g} * q.abs().max().clamp(min=1), (p - q).abs().max()",
        ):
            p, q = vector(65, dtype), vector(65, dtype)
            optimizer, other = case.make([p]), twin.make([q], **given)
            go(optimizer, [p], range(20))
            go(other, [q], range(20))
            require(apart(p, q) <= limit, f"20 steps in {word(dtype)} end {apart(p, q):.1g} away from {twin.name}")
            mine, theirs = tensors_of(optimizer, p), tensors_of(other, q)
            for name in mine.keys() & theirs.keys():
                require(apart(mine[name], theirs[name]) <= limit, f"{name} is not that of {twin.name} after 20 steps")


@check("decoupled decay")
def decoupled(case: Case) -> None:
    """Decoupled decay multiplies: at zero gradient every entry shrinks by one factor."""
    applies(case.decay == "decoupled", f"its weight decay is {case.decay}")
    factor = 1 - case.usual["lr"] * case.usual["weight_decay"]
    for options in case.paths.values():
        with Probe(
            case,
            "p = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True); p.grad = torch.zeros(3)",
            f"make([p]{arguments(options)}).step()",
            f"assert torch.allclose(p, {factor} * torch.tensor([-1.0, 0.0, 2.0])), p",
        ):
            start = torch.tensor([-1.0, 0.0, 2.0])
            p = start.clone().requires_grad_()
            p.grad = torch.zeros(3)
            case.make([p], **options).step()
            require(
                torch.allclose(p, factor * start),
                f"at zero gradient [-1, 0, 2] becomes {show(p)}, and {factor:g} of it is {show(factor * start)}",
            )
