"""Checks of parameter groups: names and numbers. They run again at each step, because groups are edited in between."""

import functools
import inspect
import operator
from collections.abc import Callable, Collection, Mapping
from difflib import SequenceMatcher, get_close_matches
from numbers import Real
from typing import Any, TypeAlias

from torch import Tensor

from ravine.errors import UserError
from ravine.rules.base import Hyper, hint

Group: TypeAlias = dict[str, Any]

OTHERS = frozenset(
    {
        *("params", "param_names", "name", "rule"),
        *("initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum"),  # torch's schedulers
    }
)
"""Keys of a group that are no options of the optimizer."""


WORDS = frozenset(
    {
        *("learning_rate", "mu", "beta1", "beta2", "epsilon", "wd"),
        *("dampening", "nesterov", "amsgrad", "centered"),
    }
)
"""Other names of options, and options of other optimizers: who writes one into a group expects something of it."""

SWITCHES = ("maximize", "nesterov", "bias_correction")
"""Options that are on or off."""


class UnknownOption(UserError, TypeError):
    """An option that an optimizer does not have, in its constructor or in a group; a TypeError, as in Python."""


def checks_words(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that answers an unknown keyword with the nearest known one."""
    known = [name for name in inspect.signature(init).parameters if name != "self"]

    @functools.wraps(init)
    def checked(self: object, *args: Any, **words: Any) -> None:
        for name in words.keys() - set(known):
            raise UnknownOption(f"{type(self).__name__} has no option {name!r}: {hint(name, known)}")
        init(self, *args, **words)

    return checked


def check_names(owner: str, group: Mapping[str, object], options: Collection[str]) -> None:
    """Raise `UnknownOption` if a new group has a key that is no option."""
    for name in group.keys() - OTHERS - set(options):
        raise UnknownOption(f"{owner} has no option {name!r} for a group: {hint(name, options)}")


def check_edits(owner: str, group: Mapping[str, object], options: Collection[str]) -> None:
    """Raise `UnknownOption` if a group was given a key like a misspelt option; any other may be a user's own."""
    for name in group.keys() - OTHERS - set(options):
        if name in WORDS or any(misspelt(name, option) for option in options):
            raise UnknownOption(f"{owner} has no option {name!r}, which was added to a group: {hint(name, options)}")


@functools.lru_cache(maxsize=1024)
def misspelt(name: str, option: str) -> bool:
    """Whether a name is an option but for a few letters, and not a user's own that holds it, such as ``lr_scale``."""
    if name.startswith(f"{option}_") or name.endswith(f"_{option}"):
        return False
    near = bool(get_close_matches(name.lower(), [option], cutoff=0.8))
    other_order = sorted(name.lower().replace("_", "")) == sorted(option.replace("_", ""))
    return near or other_order or (len(option) > 2 and name[0] == option[0] and _letters(name, option) == 1)


def _letters(left: str, right: str) -> int:
    """How many letters have to be changed, added or left out."""
    parts = SequenceMatcher(None, left, right).get_opcodes()
    return sum(max(end - start, last - first) for kind, start, end, first, last in parts if kind != "equal")


def check_switches(group: Mapping[str, object]) -> None:
    """Raise `UserError` if an option that is on or off is neither."""
    for name in SWITCHES:
        if not isinstance(value := group.get(name, False), bool):
            raise UserError(f"{name} is {value!r}: give True or False")


def number(name: str, value: object, hyper: Hyper) -> float:
    """The value of a hyper-parameter as a float; `UserError` unless it is one number in the range."""
    scalar = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, Real)
    if not scalar or isinstance(value, bool):
        raise UserError(f"{name} is {value!r}: give a number, or a function of the step that returns one")
    result = float(value)  # type: ignore[arg-type]  # a number or a tensor of one element
    hyper.check(name, result)
    return result


def immutable(value: object) -> bool:
    """Whether a value of a group stays what it is: a tensor or a list may be written to."""
    return all(map(immutable, value)) if isinstance(value, tuple) else isinstance(value, Real | str | None)


class Reading:
    """The numbers of a group as they were read: they hold while the group holds the same objects, and no other."""

    def __init__(self, group: Group, numbers: dict[str, float]) -> None:
        self.numbers, self.names = numbers, tuple(group)
        self.held = operator.itemgetter(*(name for name in group if name != "step"))
        self.values = self.held(group)
        self.lasting = all(immutable(value) for name, value in group.items() if name not in {*OTHERS, "schedules"})

    def holds(self, group: Group) -> bool:
        """Whether reading the group again would give the same."""
        return (
            self.lasting
            and not group["schedules"]
            and tuple(group) == self.names
            and all(map(operator.is_, self.held(group), self.values))
        )


def unpacked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by the rule's names: ``betas`` holds beta1, beta2, ..., as in torch."""
    if "betas" not in options:
        return dict(options)
    betas = options["betas"]
    if not isinstance(betas, tuple | list):
        raise UserError(f"betas is {betas!r}: give (beta1, beta2)")
    rest = {name: value for name, value in options.items() if name != "betas"}
    return {**rest, **{f"beta{k}": beta for k, beta in enumerate(betas, start=1)}}


def packed(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `unpacked`."""
    betas = tuple(hyper[name] for name in sorted(hyper) if name.startswith("beta"))
    rest = {name: value for name, value in hyper.items() if not name.startswith("beta")}
    return {**rest, "betas": betas} if betas else rest
