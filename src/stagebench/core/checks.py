"""What JSON of a stranger may hold: checks of single values, each with the words that an error needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from reprlib import repr as short
from typing import Any

from stagebench.core.errors import StagebenchError

LONGEST_TEXT = 100_000
LARGEST, SMALLEST = 1e18, 1e-15
"""Of numbers, so that no sum, product or ratio of two is beyond what a float holds."""

Check = tuple[Callable[[Any], bool], str]
"""Whether a value is what it must be, and that in words."""


def check(data: Mapping[str, Any], checks: Mapping[str, Check], where: str, error_type: type[StagebenchError]) -> None:
    """Check the keys that are there.

    Args:
        data: an object of JSON.
        checks: by key.
        where: the object is, for an error.
        error_type: of the error.

    Raises:
        error_type: naming the first key that is something else.
    """
    for key, (holds, what) in checks.items():
        if key in data and not holds(data[key]):
            raise error_type(f"{where}: {key} must be {what}, got {short(data[key])}")


def is_text(value: Any) -> bool:
    """Whether it is a text of a bounded length."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def is_count(value: Any) -> bool:
    """Whether it is a whole number of at least 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_object(value: Any) -> bool:
    """Whether it is an object."""
    return isinstance(value, dict)


def each(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Make a check of a list out of one of its values."""
    return lambda value: isinstance(value, list) and all(map(holds, value))


def named(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Objects of such values, or of stages with such objects."""

    def inside(value: Any) -> bool:
        inner = [v for each in value.values() for v in (each.values() if is_object(each) else [each])]
        return all(map(holds, inner))

    return lambda value: is_object(value) and inside(value)


def or_none(check: Check) -> Check:
    """Let null pass too."""
    holds, what = check
    return (lambda value: value is None or holds(value)), f"{what} or null"


TEXT: Check = (is_text, f"a text of at most {LONGEST_TEXT} characters")
TEXTS: Check = (each(is_text), "a list of texts")
COUNT: Check = (is_count, "a whole number of at least 0")
COUNTS: Check = (each(is_count), "a list of whole numbers of at least 0")
POSITIVE: Check = (lambda value: is_count(value) and value > 0, "a whole number above 0")
STATUS: Check = (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number")
FLAG: Check = (lambda value: isinstance(value, bool), "true or false")
NUMBER: Check = (is_number, "a finite number")
SPREAD: Check = (lambda value: is_number(value) and value >= 0, "a finite number of at least 0")
TIME: Check = (lambda value: is_number(value) and value >= SMALLEST, "a finite number above 0")
TIMES: Check = (each(TIME[0]), "a list of finite numbers above 0")
SPREADS: Check = (each(SPREAD[0]), "a list of finite numbers of at least 0")
OBJECT: Check = (is_object, "an object")
OBJECTS: Check = (each(is_object), "a list of objects")
WORK: Check = (named(is_count), "counters, whole numbers of at least 0")
CONTENT: Check = (named(lambda v: is_text(v) or each(is_number)(v)), "digests: texts, or lists of finite numbers")
SET_UP: Check = (
    lambda value: is_object(value) and all(SPREAD[0](value.get(key)) for key in ("seconds", "bytes", "captures")),
    "seconds, bytes and captures, numbers of at least 0",
)
