"""What a state dict holds beyond torch's, and how one is read: an optimizer's own, an older one, or torch's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ravine.errors import UserError
from ravine.optim.groups import OTHERS, Group, unpacked
from ravine.optim.sources import SMALL, state_dtype
from ravine.rules.base import Rule, hint
from ravine.schedules import from_dict, to_dict

if TYPE_CHECKING:
    from ravine.optim.base import RuleOptimizer

VERSION = 1
"""Of what is saved. Version 0, whose groups do not say it, had no schedules."""

PATHS = frozenset({"foreach", "fused", "capturable", "differentiable"})
"""Torch's options that say how its optimizers compute a step, and not which."""


def completed(saved: dict[str, Any]) -> dict[str, Any]:
    """What torch saves of an optimizer, with its schedules as data, and the version.

    A schedule that is a function of the user's is None. Small tensors are copied out of the piece that they share, so
    that each is saved for itself.
    """
    for group in saved["param_groups"]:
        group["schedules"] = {name: to_dict(schedule) for name, schedule in group["schedules"].items()}
        group["version"] = VERSION
    state = {
        index: {name: _apart(value) if isinstance(value, Tensor) else value for name, value in values.items()}
        for index, values in saved["state"].items()
    }
    return {**saved, "state": state}


def _apart(value: Tensor) -> Tensor:
    return value.clone() if value.numel() <= SMALL else value


def adapted(optimizer: RuleOptimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """A state dict in the words and the order of this optimizer, whoever saved it; `UserError` if it does not fit."""
    groups = _by_name(type(optimizer).__name__, optimizer.param_groups, saved["param_groups"])
    pairs = zip(optimizer.param_groups, groups, strict=False)  # torch checks their number
    fitting = {**saved, "param_groups": [_adapted(optimizer, *pair) for pair in pairs]}
    _check_shapes(optimizer, fitting)
    return fitting


def _by_name(owner: str, groups: list[Group], saved: list[Group]) -> list[Group]:
    """The saved groups with their parameters in the order of ours, if both sides know names; else as they are."""
    if not all("param_names" in group for group in (*groups, *saved)):
        return saved
    index = {name: k for group in saved for name, k in zip(group["param_names"], group["params"], strict=True)}
    wanted = {name for group in groups for name in group["param_names"]}
    for name in sorted(wanted - index.keys()):
        raise UserError(f"the saved state has no parameter {name!r}, which {owner} steps: {hint(name, index)}")
    for name in sorted(index.keys() - wanted):
        raise UserError(f"the saved state has a parameter {name!r}, which {owner} does not step: {hint(name, wanted)}")
    return [
        {**loaded, "param_names": list(group["param_names"]), "params": [index[name] for name in group["param_names"]]}
        for group, loaded in zip(groups, saved, strict=False)
    ]


def _adapted(optimizer: RuleOptimizer, group: Group, saved: Group) -> Group:
    """A saved group with the words of ours."""
    owner, rule, ours = type(optimizer).__name__, group["rule"], "rule" in saved
    torch_options = optimizer.torch_options.get(rule)
    if not ours and torch_options is None:
        raise UserError(f"the saved state is not from {owner}, and torch has no optimizer with the same rule")
    if saved.get("rule", rule) != rule:
        raise UserError(f"the saved state is that of the rule {saved['rule']!r}, and {owner} has {rule!r}")
    version = saved.get("version", 0) if ours else 0
    if version > VERSION:
        raise UserError(f"the saved state is of version {version}, and this ravine reads up to {VERSION}: update it")
    kept = {name: value for name, value in saved.items() if ours or name in OTHERS or name in optimizer.defaults}
    for name in saved.keys() - kept.keys() - PATHS:
        if torch_options is not None and bool(saved[name]) != torch_options.get(name, False):
            raise UserError(f"the saved state is from an optimizer with {name}={saved[name]}, and {owner} has no such")
    options = optimizer.defaults.keys() - {"schedules"}
    if ours:
        for name in sorted(options - kept.keys()):
            sentence = f"the saved state is from an older {owner}, without {name!r}: it stays {group[name]!r}"
            warnings.warn(sentence, stacklevel=2)
    else:
        for name in unpacked(group).keys() & optimizer.hyper(group).keys() - unpacked(kept).keys():
            raise UserError(f"the saved state is from an optimizer without {name!r}, which {owner} needs")
    schedules = _schedules(owner, group, saved["schedules"]) if version else group["schedules"]
    kept.pop("version", None)
    rounding = group["rounding"] if kept.get("rounding") is None else kept["rounding"]
    kept |= {"rule": rule, "schedules": schedules, "rounding": rounding}
    return {**{name: group[name] for name in options}, **kept}


def _schedules(owner: str, group: Group, saved: dict[str, Any]) -> dict[str, Any]:
    """The saved schedules; of those that are functions of the user's, the group must have its own."""
    for name, stored in saved.items():
        if stored is None and name not in group["schedules"]:
            raise UserError(
                f"{name} followed a function, which is not in the saved state: give it to {owner} before loading"
            )
    return {name: group["schedules"][name] if stored is None else from_dict(stored) for name, stored in saved.items()}


def restore(optimizer: RuleOptimizer, loaded: dict[str, Any]) -> None:
    """Put what `adapted` returned in the place of what torch has made of it; nothing is shared."""
    for rule, param, state in _triples(optimizer, loaded):  # torch casts state to the dtype of the parameter
        optimizer.state[param] = {
            name: state[name].detach().to(device=param.device, dtype=state_dtype(param), copy=True)
            for name in rule.slots
            if state.get(name) is not None
        }
        for name in rule.scalars.keys() & state.keys():
            optimizer.state[param][name] = torch.tensor(float(state[name]), dtype=torch.float64, device="cpu")
        if rule.counts and "step" in state:
            optimizer.state[param]["step"] = torch.tensor(float(state["step"]), device="cpu")
    for group, saved in zip(optimizer.param_groups, loaded["param_groups"], strict=True):
        group["schedules"] = saved["schedules"]
        optimizer.show_schedules(group)


def _triples(optimizer: RuleOptimizer, saved: dict[str, Any]) -> Iterator[tuple[Rule, Tensor, dict[str, Any]]]:
    """Each parameter with its rule and its saved state."""
    for group, loaded in zip(optimizer.param_groups, saved["param_groups"], strict=False):
        for index, param in zip(loaded["params"], group["params"], strict=False):
            yield optimizer.rule_of(loaded), param, saved["state"].get(index, {})


def _check_shapes(optimizer: RuleOptimizer, saved: dict[str, Any]) -> None:
    for position, (rule, param, state) in enumerate(_triples(optimizer, saved)):
        for name in rule.slots:
            value = state.get(name)
            if value is not None and value.is_complex() and not param.is_complex():
                raise UserError(
                    f"the saved {name} of parameter {position} is of complex numbers, and the parameter is not"
                )
            if value is not None and value.shape != param.shape:
                raise UserError(
                    f"the saved {name} of parameter {position} has shape {tuple(value.shape)}, and the parameter "
                    f"{tuple(param.shape)}: give the parameters in the order in which they were saved, or with names"
                )
