"""Gradients that come late, overflow, or must be left as they are; and the closure that makes them."""

import math

import torch
from torch import Tensor

from ravine.testing.case import Case, arguments
from ravine.testing.drive import clone, give, go, same, tensors_of, vector
from ravine.testing.outcome import Probe, check, require


@check("late gradient")
def late_gradient(case: Case) -> None:
    """A parameter whose first gradient comes late, or that is frozen for a while, is stepped as if alone."""
    for options in case.paths.values():
        with Probe(
            case,
            f"p = torch.linspace(-1, 1, 9, requires_grad=True); opt = make([p]{arguments(options)})",
            "p.grad = torch.ones(9); opt.step(); before = p.detach().clone(); p.grad = None; opt.step()",
            "assert torch.equal(p, before), 'moved without a gradient'",
        ):
            p, never = vector(), vector()
            optimizer = case.make([p, never], **options)
            go(optimizer, [p], range(2))
            before = p.detach().clone()
            p.grad = None
            optimizer.step()
            require(torch.equal(p, before), "a parameter moves in a step in which it has no gradient")
            require(torch.equal(never, vector()), "a parameter that never had a gradient has moved")
        with Probe(
            case,
            "p, q, r = (torch.linspace(-1, 1, 9, requires_grad=True) for _ in range(3)); r.grad = torch.zeros(9)",
            f"opt, one = make([r, p]{arguments(options)}), make([q]{arguments(options)})",
            "for g in (0, 0, 1, 1, 0, 1):",
            "    p.grad, q.grad = (torch.ones(9) if g else None for _ in range(2)); opt.step(); one.step()",
            "assert torch.allclose(p, q), (p, q)",
        ):
            early, late, alone = vector(), vector(), vector()
            optimizer, single = case.make([early, late], **options), case.make([alone], **options)
            for t in range(6):
                give([alone], t)
                early.grad = torch.zeros(9)  # so that one norm over all gradients is that of the late one
                alone.grad = alone.grad if t in (2, 3, 5) else None
                late.grad = clone(alone.grad)
                optimizer.step()
                single.step()
            require(
                same([late], [alone], 1e-5), "a parameter without a gradient at first, and again later, ends elsewhere"
            )


@check("overflow")
def overflow(case: Case) -> None:
    """A step that GradScaler skips, the first or a later one, leaves parameters and state as they were."""
    for options in case.paths.values():
        for bad in (0, 2):
            factors = [math.inf if t == bad else 1.0 for t in range(4)]
            with Probe(
                case,
                f"p = torch.ones(10_000, requires_grad=True); opt = make([p]{arguments(options)}); inf = float('inf')",
                f"q = torch.ones(10_000, requires_grad=True); one = make([q]{arguments(options)})",
                "scaler = torch.amp.GradScaler('cpu', init_scale=4.0); torch.use_deterministic_algorithms(True)",
                f"for f in {factors}: "
                "opt.zero_grad(); scaler.scale((p * f).sum()).backward(); scaler.step(opt); scaler.update()",
                "for _ in range(3): q.grad = torch.ones_like(q); one.step()",
                "assert torch.equal(p, q), f'{p[:3].tolist()}... and not {q[:3].tolist()}...'",
            ):
                p, q = (torch.ones(10_000, requires_grad=True) for _ in range(2))
                optimizer, twin = case.make([p], **options), case.make([q], **options)
                scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
                # Fresh memory is then filled with NaN, so that nobody reads it unnoticed.
                torch.use_deterministic_algorithms(True)
                try:
                    for factor in factors:
                        optimizer.zero_grad()
                        scaler.scale((p * factor).sum()).backward()  # type: ignore[no-untyped-call]
                        scaler.step(optimizer)
                        scaler.update()
                        if factor == 1:
                            q.grad = torch.ones_like(q)
                            twin.step()
                finally:
                    torch.use_deterministic_algorithms(False)
                which = "first" if bad == 0 else "third"
                require(
                    same([p], [q]),
                    f"after an overflow in the {which} step the parameters are not those of the steps taken",
                )
                one, two = tensors_of(optimizer, p), tensors_of(twin, q)
                require(
                    one.keys() == two.keys() and same(one.values(), [two[name] for name in one]),
                    f"after an overflow in the {which} step the state is not that of the steps taken",
                )


@check("gradient untouched")
def gradient_untouched(case: Case) -> None:
    """p.grad is the same tensor with the same bits after the step, maximize and decay included."""
    ways = [{}, {"maximize": True}] if case.maximizes else [{}]
    for options in ({**path, **way} for path in case.paths.values() for way in ways):
        with Probe(
            case,
            f"p = torch.linspace(-1, 1, 9, requires_grad=True); opt = make([p]{arguments(options)})",
            "p.grad = torch.ones(9)",
            "opt.step()",
            "assert p.grad is not None and torch.equal(p.grad, torch.ones(9)), p.grad",
        ):
            p = vector()
            optimizer = case.make([p], **options)
            for t in range(2):
                give([p], t)
                grad = p.grad
                assert grad is not None
                before = grad.clone()
                optimizer.step()
                how = f" with {arguments(options)[2:]}" if options else ""
                after: Tensor | None = p.grad
                require(after is not None, f"the gradient is taken away by a step{how}")
                require(after is grad and torch.equal(grad, before), f"the gradient is rewritten by a step{how}")


@check("closure")
def closure(case: Case) -> None:
    """step(closure) runs the closure with grad enabled and returns its loss; step() returns None."""
    with Probe(
        case,
        "p = torch.linspace(-1, 1, 9, requires_grad=True); opt = make([p])",
        "def closure(): opt.zero_grad(); loss = (p**2).sum(); loss.backward(); return loss",
        "loss = opt.step(closure)",
        "assert torch.is_tensor(loss) and torch.isclose(loss, torch.linspace(-1, 1, 9).square().sum()), loss",
    ):
        p = vector()
        optimizer = case.make([p])
        start = float(p.detach().square().sum())

        def evaluate() -> float:
            optimizer.zero_grad()
            loss = p.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.item()

        returned = optimizer.step(evaluate)
        require(
            returned is not None and math.isclose(float(returned), start, rel_tol=1e-5),
            f"step(closure) returns {returned}, and the closure {start:.5g}",
        )
        require(not torch.equal(p, vector()), "step(closure) moves nothing")
    with Probe(
        case,
        "p = torch.linspace(-1, 1, 9, requires_grad=True); opt = make([p]); p.grad = torch.ones(9)",
        "loss = opt.step()",
        "assert loss is None, loss",
    ):
        p = vector()
        optimizer = case.make([p])
        give([p], 0)
        loss: object = optimizer.step()
        require(loss is None, f"step() without a closure returns {loss!r}")
