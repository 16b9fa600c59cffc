"""What a schedule is, and how one is stored."""

import math
from collections.abc import Callable
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, TypeAlias, TypeVar

from ravine.errors import UserError
from ravine.rules.base import hint

Schedule: TypeAlias = Callable[[int], float]

Setting: TypeAlias = float | Schedule
"""What a hyper-parameter can be: a number, or a function of the step."""

Class = TypeVar("Class", bound=type)

KNOWN: dict[str, Any] = {}
"""The classes that can be stored, by name."""


def register(cls: Class) -> Class:
    """Let a frozen dataclass ``step -> float`` be stored in checkpoints, under the name of the class.

    All of the library are; it works as well on a class of your own, which must be imported before it is loaded.
    """
    if KNOWN.setdefault(cls.__name__, cls) is not cls:
        raise UserError(f"there is a schedule {cls.__name__} already: give the class another name")
    return cls


def at(setting: Setting, step: int) -> float:
    """The value at a step, of a number or of a schedule."""
    return setting(step) if callable(setting) else setting


def require(holds: bool, sentence: str) -> None:
    """Raise `UserError` with the sentence unless it holds."""
    if not holds:
        raise UserError(sentence)


def require_number(
    name: str, setting: Setting, low: float = -math.inf, high: float = math.inf, *, low_open: bool = False
) -> None:
    """Raise `UserError` unless it is a schedule, or a finite number in [low, high), in (low, high) if ``low_open``."""
    if callable(setting):
        return
    finite = isinstance(setting, Real) and not isinstance(setting, bool) and math.isfinite(setting)
    require(finite, f"{name} is {setting!r}, and must be a number")
    inside = (low < setting if low_open else low <= setting) and setting < high
    require(inside, f"{name} is {setting:g}, and must lie in {'(' if low_open else '['}{low:g}, {high:g})")


def require_count(name: str, count: int, least: int = 1) -> None:
    """Raise `UserError` unless ``count`` is a whole number, ``least`` or more."""
    whole = isinstance(count, Integral) and not isinstance(count, bool) and count >= least
    require(whole, f"{name} is {count!r}, and must be a whole number from {least}")


def to_dict(schedule: Schedule) -> dict[str, Any] | None:
    """A schedule as a plain dict, ``{"schedule": class, field: value, ...}`` with nested schedules as dicts too.

    It holds numbers, strings, None, lists and dicts only, so it goes into JSON and into ``torch.save``. A function of
    your own is code and no data: None, also if it is a part of a schedule of the library, and a checkpoint then holds
    only the step that it goes by.
    """
    if KNOWN.get(type(schedule).__name__) is not type(schedule):
        return None
    plain: dict[str, Any] = {"schedule": type(schedule).__name__}
    for field in fields(schedule):  # type: ignore[arg-type]  # what is registered is a dataclass
        if field.init:
            value = getattr(schedule, field.name)
            several = isinstance(value, tuple)
            items = [_plain(item) for item in (value if several else (value,))]
            if any(callable(item) for item in items):
                return None
            plain[field.name] = items if several else items[0]
    return plain


def _plain(value: Any) -> Any:
    """A field's value as plain data, or itself if it is a function that cannot be stored."""
    if callable(value):
        return to_dict(value) or value
    if isinstance(value, Real) and not isinstance(value, bool):
        return int(value) if isinstance(value, Integral) else float(value)
    return value


def from_dict(plain: dict[str, Any]) -> Schedule:
    """The schedule that `to_dict` has stored; `UserError` if the name or the fields are unknown, or a value wrong."""
    name = plain.get("schedule")
    if name not in KNOWN:
        raise UserError(f"there is no schedule {name!r}: {hint(str(name), KNOWN)}")
    given = {key: _restored(value) for key, value in plain.items() if key != "schedule"}
    wanted = {field.name for field in fields(KNOWN[name]) if field.init}
    if odd := sorted(given.keys() ^ wanted):
        raise UserError(f"a stored {name} has the fields {', '.join(sorted(wanted))}, and this differs in {odd[0]!r}")
    schedule: Schedule = KNOWN[name](**given)
    return schedule


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return from_dict(value)
    return tuple(map(_restored, value)) if isinstance(value, list) else value
