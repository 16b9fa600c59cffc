"""Checks of parameter groups: names and numbers. They run again at each step, because groups are edited in between."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from numbers import Real

from torch import Tensor

from ravine.errors import UserError
from ravine.rules.base import Hyper, hint

OTHERS = frozenset(
    {
        *("params", "param_names", "name"),
        *("initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum"),  # torch's schedulers
    }
)
"""Keys of a group that are no options of the optimizer."""


def check_names(owner: str, group: Mapping[str, object], options: Collection[str]) -> None:
    """Raise `UserError` if a new group has a key that is no option."""
    for name in group.keys() - OTHERS - set(options):
        raise UserError(f"{owner} has no option {name!r} for a group: {hint(name, options)}")


def check_edits(owner: str, group: Mapping[str, object], options: Collection[str]) -> None:
    """Raise `UserError` if a group was given a key like a misspelt option; any other may be a scheduler's."""
    for name in group.keys() - OTHERS - set(options):
        if get_close_matches(name, options, n=1, cutoff=0.75):
            raise UserError(f"{owner} has no option {name!r}, which was added to a group: {hint(name, options)}")


def number(name: str, value: object, hyper: Hyper) -> float:
    """The value of a hyper-parameter as a float; `UserError` unless it is one number in the range."""
    scalar = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, Real)
    if not scalar or isinstance(value, bool):
        raise UserError(f"{name} is {value!r}: give a number, or a function of the step that returns one")
    result = float(value)  # type: ignore[arg-type]  # a number or a tensor of one element
    hyper.check(name, result)
    return result
