"""Saving, loading and copying: the copy goes on like the original, and shares nothing with it."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ravine.testing.case import Case
from ravine.testing.drive import (
    REFUSED,
    apart,
    both,
    give,
    go,
    leaves,
    line,
    raises,
    same,
    snapshot,
    tensors_of,
    through_bytes,
    vector,
    word,
)
from ravine.testing.outcome import Probe, applies, check, require


def falling(step: int) -> float:
    """The factor of a schedule."""
    return 1 / (step + 1)


@check("resume")
def resume(case: Case) -> None:
    """Saved, loaded into a fresh optimizer with a fresh scheduler and continued: as if never interrupted."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        with Probe(
            case,
            f"import copy; p = torch.linspace(-1, 1, 9, dtype={dtype}, requires_grad=True); old = opt = make([p])",
            line("4"),
            "q = copy.deepcopy(p); new = make([q]); new.load_state_dict(copy.deepcopy(old.state_dict()))",
            *both("old", "new", "4, 8"),
            "assert torch.allclose(p, q), (p - q).abs().max()",
        ):
            p = vector(dtype=dtype)
            optimizer = case.make([p])
            scheduler = LambdaLR(optimizer, falling)
            advance(optimizer, scheduler, p, range(4))
            q = p.detach().clone().requires_grad_()
            fresh = case.make([q], lr=case.hyper["lr"][1])
            follower = LambdaLR(fresh, falling)
            fresh.load_state_dict(through_bytes(optimizer.state_dict()))
            follower.load_state_dict(through_bytes(scheduler.state_dict()))
            advance(optimizer, scheduler, p, range(4, 8))
            advance(fresh, follower, q, range(4, 8))
            away = apart(p, q)
            require(
                away <= case.tolerance, f"in {word(dtype)} the resumed run ends {away:.1g} from the uninterrupted one"
            )


def advance(optimizer: Optimizer, scheduler: LambdaLR, param: Tensor, steps: range) -> None:
    """Steps of an optimizer and its scheduler."""
    for t in steps:
        go(optimizer, [param], [t])
        scheduler.step()


@check("no aliasing")
def aliasing(case: Case) -> None:
    """After load_state_dict two optimizers share no memory."""
    with Probe(
        case,
        "p, q = (torch.linspace(-1, 1, 9, requires_grad=True) for _ in range(2)); opt, new = make([p]), make([q])",
        "p.grad = torch.ones(9); opt.step(); new.load_state_dict(opt.state_dict())",
        "at = lambda o: {v.data_ptr() for v in torch.utils._pytree.tree_leaves(o.state) if torch.is_tensor(v)}",
        "assert not at(opt) & at(new), 'the two share state'",
    ):
        p, q = vector(), vector()
        optimizer, other = case.make([p]), case.make([q])
        go(optimizer, [p], range(3))
        applies(tensors_of(optimizer, p), "it has no tensors in its state")
        other.load_state_dict(optimizer.state_dict())
        shared = [
            name
            for name, value in tensors_of(other, q).items()
            if name in (own := tensors_of(optimizer, p)) and own[name].data_ptr() == value.data_ptr()
        ]
        require(not shared, f"after a load both optimizers write into the same tensors: {', '.join(shared)}")


@check("permuted load")
def permuted(case: Case) -> None:
    """A state saved for parameters in another order is refused, or mapped by name."""
    with Probe(
        case,
        "p, q, r, s = (torch.ones(shape, requires_grad=True) for shape in 2 * [(2, 3), (4,)])",
        "opt = make([p, q]); p.grad = torch.ones(2, 3); q.grad = torch.ones(4); opt.step(); new = make([s, r])",
        "try: new.load_state_dict(opt.state_dict())",
        f"{REFUSED}: new.state.clear()",
        "shapes = [list(v.shape) for v in torch.utils._pytree.tree_leaves(new.state[s]) if torch.is_tensor(v)]",
        "assert [2, 3] not in shapes, f'{shapes} is the state of a parameter of shape [4]'",
    ):
        params, others = ([torch.ones(2, 3, requires_grad=True), torch.ones(4, requires_grad=True)] for _ in range(2))
        optimizer = case.make(params)
        go(optimizer, params, range(1))
        applies(tensors_of(optimizer, params[0]), "it has no tensors in its state")
        other = case.make(others[::-1])
        if raises(lambda: other.load_state_dict(optimizer.state_dict())):
            return
        for param in others:
            for name, value in leaves(other.state.get(param, {})):
                require(
                    value.numel() in (1, param.numel()),
                    f"the state of parameters in another order is accepted, and one of shape {tuple(param.shape)} has "
                    f"state of shape {tuple(value.shape)}: {name}",
                )


@check("named load")
def named(case: Case) -> None:
    """A state saved for named parameters in another order is refused, or mapped by name, shapes being equal."""
    with Probe(
        case,
        "p, q, r, s = (torch.ones(3, requires_grad=True) for _ in range(4)); opt = make([('a', p), ('b', q)])",
        "p.grad, q.grad = torch.ones(3), torch.zeros(3); opt.step(); new = make([('b', s), ('a', r)])",
        "try: new.load_state_dict(opt.state_dict())",
        f"{REFUSED}: new.state.clear()",
        "kept, held = (torch.utils._pytree.tree_leaves(x) for x in (opt.state[q], new.state.get(s, {})))",
        "assert all(v.equal(w) for v, w in zip(kept, held) if torch.is_tensor(v)), f'{held} is the state of b'",
    ):
        (p, q), (r, s) = ([vector(3), vector(3)] for _ in range(2))
        applies(not raises(lambda: case.make([("a", r), ("b", s)])), "it does not take named parameters")
        optimizer, other = case.make([("a", p), ("b", q)]), case.make([("b", s), ("a", r)])
        p.grad, q.grad = torch.ones(3), torch.zeros(3)
        optimizer.step()
        wanted = tensors_of(optimizer, q)
        applies(wanted, "it has no tensors in its state")
        if raises(lambda: other.load_state_dict(optimizer.state_dict())):
            return
        held = tensors_of(other, s)
        require(
            all(torch.equal(value, held[name]) for name, value in wanted.items()),
            "parameters are named, and one gets the state of another",
        )


@check("state keeps its dtype")
def dtype_of_state(case: Case) -> None:
    """float32 state loaded for bfloat16 parameters keeps its numbers; no load changes a dtype."""
    with Probe(
        case,
        "p = torch.linspace(-1, 1, 9, requires_grad=True); opt = make([p])",
        line("3"),
        "q = p.detach().bfloat16().requires_grad_(); new = make([q]); new.load_state_dict(opt.state_dict())",
        "kept, held = (torch.utils._pytree.tree_leaves(s) for s in (opt.state[p], new.state[q]))",
        "for v, w in zip(kept, held): assert not torch.is_tensor(v) or (v.dtype == w.dtype and v.equal(w)), w.dtype",
    ):
        p = vector()
        optimizer = case.make([p])
        go(optimizer, [p], range(3))
        applies(tensors_of(optimizer, p), "it has no tensors in its state")
        q = p.detach().bfloat16().requires_grad_()
        half = case.make([q])
        half.load_state_dict(through_bytes(optimizer.state_dict()))
        for name, value in tensors_of(optimizer, p).items():
            held = dict(leaves(half.state[q]))[name]
            require(
                value.dtype == held.dtype and torch.equal(value, held),
                f"{word(value.dtype)} state loaded for a bfloat16 parameter becomes {word(held.dtype)}: {name}",
            )
        give([q], 3)
        half.step()
        before = {name: value.dtype for name, value in tensors_of(half, q).items()}
        again = case.make([q])
        again.load_state_dict(through_bytes(half.state_dict()))
        after = {name: value.dtype for name, value in tensors_of(again, q).items()}
        require(before == after, f"a load changes the dtypes of the state from {before} to {after}")


WAYS: dict[str, Callable[[Any], Any]] = {
    "copy.deepcopy({})": copy.deepcopy,
    "pickle.loads(pickle.dumps({}))": lambda pair: pickle.loads(pickle.dumps(pair)),
}


@check("copies")
def copies(case: Case) -> None:
    """deepcopy and pickle of optimizer and parameters go on like the original."""
    for way, copied in WAYS.items():
        with Probe(
            case,
            "import copy, pickle; p = torch.ones(9, requires_grad=True); p.grad = torch.ones(9); opt = make([p])",
            f"opt.step(); new, q = {way.format('(opt, p)')}",
            "for t in range(3): p.grad, q.grad = torch.ones(9), torch.ones(9); opt.step(); new.step()",
            "assert torch.equal(p, q), (p, q)",
        ):
            p = vector()
            optimizer = case.make([p])
            go(optimizer, [p], range(3))
            start = snapshot([p])
            twin, q = copied((optimizer, p))
            go(optimizer, [p], range(3, 6))
            require(same([q], start), f"{way.split('(')[0]} of an optimizer shares parameters with the original")
            go(twin, [q], range(3, 6))
            require(same([p], [q]), f"a copy by {way.split('(')[0]} does not go on like the original")
