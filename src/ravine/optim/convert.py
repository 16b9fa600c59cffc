"""Momentum from one form to another in the middle of training, on the same trajectory.

`ravine.schedules.forms` states the three forms and how their hyper-parameters correspond. What is left is the running
state. Let lr and mu be those of the *next* step, in heavy-ball form, and v its velocity. The next steps depend on the
past only through lr mu v (heavy-ball), lr / (1 - mu) mu m (EMA), - mu u (Sutskever's). They agree if

    ``m = (1 - mu) v`` and ``u = - lr v``,

and then every later step does, by the laws for the hyper-parameters. For Nesterov's momentum the same holds: all
forms store the look-ahead point, where the next gradient is taken, so that no parameter moves. The point theta of
Sutskever et al. 2013 is ``w + lr mu v`` in heavy-ball form and ``w - mu u`` in Sutskever's.

What changes the learning rate later decides how long the trajectories agree:

- a schedule of ours: for ever, because the schedules are converted too (`convert_settings`);
- a number that you or a scheduler of torch edits: between heavy-ball and EMA form for ever, if each edit is by the
  same factor (the keys that schedulers of torch leave in a group are converted, so that a new scheduler goes on with
  ``last_epoch``); to or from Sutskever's form until the next edit. Convert after the edit, or back and again.
"""

from typing import Any

import torch
from torch import Tensor

from ravine.errors import UserError
from ravine.optim.groups import Group
from ravine.optim.momentum import Momentum, Nesterov
from ravine.optim.sources import state_dtype
from ravine.schedules.base import Setting, at
from ravine.schedules.forms import Form, convert_settings

BUFFER = "momentum_buffer"
"""The name of the velocity in all forms, and in torch."""

RATES = ("initial_lr", "max_lr", "min_lr", "swa_lr")
"""Learning rates that schedulers of torch keep in a group."""

OWN = ("params", "param_names", "rule", "schedules", "step", "rounding", "form")
TORCHS = ("dampening", "nesterov", "foreach", "differentiable", "fused")
"""Keys of a group that are not handed on as they are: of our optimizers, and of torch's."""


def convert(optimizer: torch.optim.Optimizer, form: Form) -> Momentum | Nesterov:
    """A new optimizer in the given form that goes on with the trajectory of ``optimizer``, to rounding.

    ``optimizer`` is a `Momentum`, a `Nesterov` or a ``torch.optim.SGD`` without dampening, with the learning rate of
    its *next* step set (so after ``scheduler.step()``). The new one steps the same parameters; its state is a copy.
    Take no more steps with the old one, and give a scheduler of torch the new one. Steps that schedules go by count
    on; torch's have taken none. `UserError` if there is no exact conversion; then nothing has changed.

    >>> weight = torch.zeros(2, requires_grad=True)
    >>> new = convert(torch.optim.SGD([weight], lr=0.1, momentum=0.9), form="ema")
    >>> round(new.param_groups[0]["lr"], 12)
    1.0
    """
    kind = _kind(optimizer)
    groups = [_converted(group, kind, form) for group in optimizer.param_groups]
    factors = [_factor(optimizer, group, new) for group, new in zip(optimizer.param_groups, groups, strict=True)]
    target = kind(groups, form=form)
    for old, new, factor in zip(optimizer.param_groups, target.param_groups, factors, strict=True):
        new |= {"step": old.get("step", 0), "rounding": old.get("rounding")}
        target.show_schedules(new)
        for param in new["params"]:
            if (buffer := _buffer(optimizer, param)) is not None:
                target.state[param] = {BUFFER: buffer.to(state_dtype(param)) * factor}
    return target


def _kind(optimizer: torch.optim.Optimizer) -> type[Momentum] | type[Nesterov]:
    """The class of the new optimizer; `UserError` if the old one has no form."""
    if isinstance(optimizer, Momentum | Nesterov):
        return type(optimizer)
    if not isinstance(optimizer, torch.optim.SGD):
        raise UserError(
            f"{type(optimizer).__name__} has no forms of momentum: convert Momentum, Nesterov or torch.optim.SGD"
        )
    if any(group["dampening"] for group in optimizer.param_groups):
        raise UserError(
            "torch.optim.SGD with dampening does not dampen its first step, and no form of momentum does so: "
            "set dampening to 0"
        )
    kinds = {bool(group["nesterov"]) for group in optimizer.param_groups}
    if len(kinds) > 1:
        raise UserError(
            "some groups have Nesterov's momentum and some have not: give each kind an optimizer of its own"
        )
    return Nesterov if kinds.pop() else Momentum


def _settings(group: Group) -> tuple[Setting, Setting]:
    """Learning rate and momentum of a group: their schedules, or numbers."""
    lr, momentum = ({**group, **group.get("schedules", {})}[name] for name in ("lr", "momentum"))
    return lr if callable(lr) else float(lr), momentum if callable(momentum) else float(momentum)


def _form(group: Group) -> Form:
    form: Form = group.get("form", "heavy-ball")
    return form


def _converted(group: Group, kind: type[Momentum] | type[Nesterov], form: Form) -> Group:
    """A group as the new optimizer takes it."""
    lr, momentum = _settings(group)
    words: dict[str, Any] = {"source": _form(group), "target": form, "nesterov": kind is Nesterov}
    new = {name: value for name, value in group.items() if name not in OWN and name not in TORCHS}
    new |= group.get("schedules", {})
    new["lr"], new["momentum"] = convert_settings(lr, momentum, start=group.get("step", 0), **words)
    for name in new.keys() & set(RATES):
        if callable(momentum):
            del new[name]
        else:
            new[name], _ = convert_settings(float(new[name]), momentum, **words)
    names, params = group.get("param_names"), group["params"]
    return {**new, "params": list(zip(names, params, strict=True)) if names else list(params), "form": form}


def _factor(optimizer: torch.optim.Optimizer, old: Group, new: Group) -> float:
    """What the buffers of a group are multiplied by: heavy-ball velocity per buffer, before and after."""
    source, target, step = _form(old), _form(new), old.get("step", 0)
    if source == target or all(_buffer(optimizer, param) is None for param in old["params"]):
        return 1.0
    per_buffer = []
    for form, group in ((source, old), (target, new)):
        lr, momentum = (at(setting, step) for setting in _settings(group))
        if form == "sutskever" and lr == 0:
            raise UserError(
                "the learning rate of the next step is 0, and it divides a velocity in Sutskever's form: "
                "convert before or after that step"
            )
        per_buffer.append({"heavy-ball": 1.0, "ema": 1 / (1 - momentum), "sutskever": -1 / (lr or 1.0)}[form])
    return per_buffer[0] / per_buffer[1]


def _buffer(optimizer: torch.optim.Optimizer, param: Tensor) -> Tensor | None:
    """The buffer of a parameter, None before its first step."""
    buffer: Tensor | None = optimizer.state.get(param, {}).get(BUFFER)
    return buffer
