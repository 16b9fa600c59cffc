"""Names and values: what is misspelt or out of range raises, and what schedulers write is used."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, OneCycleLR

from ravine.testing.case import Case
from ravine.testing.checks.checkpoints import falling
from ravine.testing.checks.equations import editable
from ravine.testing.drive import REFUSED, clone, give, go, raises, same, vector
from ravine.testing.outcome import Probe, check, require

MOMENTA = ("momentum", "betas", "beta", "beta1")
"""The names under which libraries keep a momentum."""


def misspelt(name: str) -> str:
    """The name with its last letter changed."""
    return name[:-1] + ("n" if name.endswith("m") else "x")


def misspellings(case: Case) -> list[tuple[str, Any]]:
    """Every hyper-parameter, misspelt, with a value; the learning rate last, because the others read better."""
    names = sorted(case.hyper, key=lambda name: name == "lr")
    return [(misspelt(name), case.usual[name]) for name in names]


@check("unknown keyword")
def unknown_keyword(case: Case) -> None:
    """A misspelt argument of the constructor raises."""
    for wrong, value in misspellings(case):
        with Probe(
            case,
            "p = torch.ones(3, requires_grad=True)",
            f"try: make([p], {wrong}={value!r})",
            f"{REFUSED}: pass",
            f"else: assert False, '{wrong} was accepted'",
        ):
            refused = raises(partial(case.make, [vector()], **{wrong: value}))
            require(refused, f"a misspelt argument is accepted in silence: {wrong}={value!r}")


@check("unknown group key")
def unknown_group_key(case: Case) -> None:
    """A misspelt name in a parameter group raises, at once or at the first step."""
    for wrong, value in misspellings(case):

        def steps(wrong: str = wrong, value: object = value) -> None:
            p = vector()
            go(case.make([{"params": [p], wrong: value}]), [p], range(1))

        with Probe(
            case,
            "p = torch.ones(3, requires_grad=True); p.grad = torch.ones(3)",
            f"try: make([{{'params': [p], {wrong!r}: {value!r}}}]).step()",
            f"{REFUSED}: pass",
            f"else: assert False, '{wrong} was accepted'",
        ):
            require(raises(steps), f"a misspelt name is accepted in silence: {{'params': ..., {wrong!r}: {value!r}}}")


def illegal(case: Case) -> dict[str, Any]:
    """A value that no reading allows: of the usual names, and those of the case."""
    found: dict[str, Any] = {}
    for name, value in case.usual.items():
        if name == "lr":
            found[name] = -1.0
        elif name in MOMENTA:
            found[name] = (1.5, *value[1:]) if isinstance(value, tuple) else 1.5
    return {**found, **case.illegal}


@check("range")
def in_range(case: Case) -> None:
    """A negative learning rate and a momentum of 1.5 raise in the constructor."""
    for name, value in illegal(case).items():
        with Probe(
            case,
            "p = torch.ones(3, requires_grad=True)",
            f"try: make([p], {name}={value!r})",
            f"{REFUSED}: pass",
            f"else: assert False, '{name}={value!r} was accepted'",
        ):
            refused = raises(partial(case.make, [vector()], **{name: value}))
            require(refused, f"{name}={value!r} is accepted")


@check("range of edits")
def edited_range(case: Case) -> None:
    """The same values raise when they are written into a group, at the next step."""
    for name, value in illegal(case).items():
        with Probe(
            case,
            "p = torch.ones(3, requires_grad=True); p.grad = torch.ones(3); opt = make([p])",
            f"opt.param_groups[0][{name!r}] = {value!r}",
            "try: opt.step()",
            f"{REFUSED}: pass",
            f"else: assert False, 'stepped with {name}={value!r}'",
        ):
            p = vector()
            optimizer = case.make([p])
            group = optimizer.param_groups[0]
            if name not in group:
                continue
            group[name] = value
            give([p], 0)
            require(raises(optimizer.step), f"{name}={value!r} written into a group is stepped with")


@check("schedulers")
def schedulers(case: Case) -> None:
    """OneCycleLR, CyclicLR and LambdaLR drive it: learning rate and momentum, by the usual group keys."""
    momentum = any(name in case.hyper for name in MOMENTA)
    makers: dict[str, Callable[[Optimizer], LRScheduler]] = {
        f"OneCycleLR(opt, 0.1, total_steps=30, cycle_momentum={momentum})": lambda o: OneCycleLR(
            o, 0.1, total_steps=30, cycle_momentum=momentum
        ),
        f"CyclicLR(opt, 0.01, 0.1, step_size_up=5, cycle_momentum={momentum})": lambda o: CyclicLR(
            o, 0.01, 0.1, step_size_up=5, cycle_momentum=momentum
        ),
        "LambdaLR(opt, lambda step: 1 / (step + 1))": lambda o: LambdaLR(o, falling),
    }
    for source, scheduler_of in makers.items():
        word = source.split("(")[0]
        with Probe(
            case,
            "p = torch.ones(9, requires_grad=True); opt = make([p])",
            f"scheduler = torch.optim.lr_scheduler.{source}",
            "for t in range(20): p.grad = torch.ones(9); opt.step(); scheduler.step()",
            when=f"under {word}",
        ):
            p = vector()
            optimizer = case.make([p])
            scheduler = scheduler_of(optimizer)
            for t in range(20):
                give([p], t)
                optimizer.step()
                scheduler.step()
        with Probe(
            case,
            "p, q = (torch.ones(9, requires_grad=True) for _ in range(2)); opt, still = make([p]), make([q])",
            f"scheduler = torch.optim.lr_scheduler.{source}",
            "for t in range(20):",
            "    p.grad, q.grad, still.param_groups[0]['lr'] = torch.ones(9), torch.ones(9), opt.param_groups[0]['lr']",
            "    opt.step(); still.step(); scheduler.step()",
            f"assert torch.allclose(p, q) is {word == 'LambdaLR' or not momentum}, 'the momentum did not follow'",
        ):
            p, q, r = vector(), vector(), vector()
            optimizer, hand, still = case.make([p]), case.make([q]), case.make([r])
            scheduler = scheduler_of(optimizer)
            seen: list[dict[str, Any]] = []
            for t in range(20):
                group = optimizer.param_groups[0]
                seen.append({name: group[name] for name in case.hyper if name in group})
                hand.param_groups[0].update(seen[-1])
                still.param_groups[0]["lr"] = seen[-1]["lr"]
                give([p], t)
                q.grad, r.grad = clone(p.grad), clone(p.grad)
                for one in (optimizer, hand, still):
                    one.step()
                scheduler.step()
            require(same([p], [q], 1e-5), f"what {word} writes into the group is not what the step uses")
            require(len({now["lr"] for now in seen}) > 5, f"{word} does not move the learning rate of the group")
            if momentum and word != "LambdaLR":
                require(not same([p], [r], 1e-5), f"{word} with cycle_momentum does not move the momentum of the steps")


@check("added group")
def added_group(case: Case) -> None:
    """A group added midway is stepped as if it had an optimizer of its own."""
    names = editable(case, case.make([vector()]).param_groups[0])
    other = {name: case.hyper[name][1] for name in names}
    with Probe(
        case,
        "p, q, r = (torch.linspace(-1, 1, 9, requires_grad=True) for _ in range(3)); opt = make([p])",
        "p.grad = torch.ones(9); opt.step(); p.grad = torch.zeros(9)",
        f"opt.add_param_group({{'params': [q], **{other}}}); one = make([r], **{other})",
        "for t in range(3): q.grad = torch.randn(9); r.grad = q.grad.clone(); opt.step(); one.step()",
        "assert torch.allclose(q, r), (q, r)",
    ):
        p, q, r = vector(), vector(), vector()
        optimizer, single = case.make([p]), case.make([r], **other)
        go(optimizer, [p], range(1))
        p.grad = torch.zeros(9)  # so that one norm over all gradients is that of the new group
        optimizer.add_param_group({"params": [q], **other})
        for t in range(3):
            give([q], t)
            r.grad = clone(q.grad)
            optimizer.step()
            single.step()
        require(same([q], [r], 1e-5), "a group added midway is not stepped as if alone")


@check("hooks")
def hooks(case: Case) -> None:
    """Hooks before and after the step, and on state_dict, run once each."""
    with Probe(
        case,
        "p = torch.ones(3, requires_grad=True); p.grad = torch.ones(3); opt = make([p]); calls = []",
        "opt.register_step_pre_hook(lambda *_: calls.append('before'))",
        "opt.register_step_post_hook(lambda *_: calls.append('after'))",
        "opt.register_state_dict_post_hook(lambda *_: calls.append('saved')); opt.step(); opt.state_dict()",
        "assert calls == ['before', 'after', 'saved'], calls",
    ):
        p = vector()
        optimizer = case.make([p])
        calls: list[str] = []
        optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
        optimizer.register_step_post_hook(lambda *_: calls.append("after"))
        optimizer.register_state_dict_post_hook(lambda *_: calls.append("saved"))
        go(optimizer, [p], range(1))
        optimizer.state_dict()
        require(calls == ["before", "after", "saved"], f"step and state_dict call the hooks as {calls}")
