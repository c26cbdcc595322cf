"""What JSON of a stranger may hold: a TypedDict names the keys, and a type carries its check."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from reprlib import repr as short
from types import NoneType
from typing import Annotated, Any, Required, get_args, get_origin, get_type_hints, is_typeddict

from stagebench.core.errors import StagebenchError

LONGEST_TEXT = 100_000
LARGEST, SMALLEST = 1e18, 1e-15
"""Of numbers, so that no sum, product or ratio of two is beyond what a float holds."""


@dataclass(frozen=True, slots=True)
class Must:
    """Annotates a type with what JSON's value must be.

    Attributes:
        holds: whether a value is that.
        what: it must be, in words.
    """

    holds: Callable[[Any], bool]
    what: str


def check(
    data: Any, form: type | Mapping[str, Any], where: str, error_type: type[StagebenchError], whole: bool = True
) -> None:
    """Check an object of JSON: the required keys must be there, and those that are there must be of their types.

    Args:
        data: as JSON holds it.
        form: a TypedDict, or types of required keys; nothing is said of other keys.
        where: the object is, for an error.
        error_type: of the error.
        whole: whether required keys must be there at all.

    Raises:
        error_type: naming the first key that is missing, or is something else.
    """
    if not isinstance(data, dict):
        raise error_type(f"{where} must be an object, got {short(data)}")
    required, hints = (list(form), form) if isinstance(form, Mapping) else _keys_of(form)
    if whole and (missing := [key for key in required if key not in data]):
        raise error_type(f"{where} must have {', '.join(required)}, got no {', '.join(missing)}")
    for key, hint in hints.items():
        if key in data:
            _check_value(data[key], hint, f"{where}: {key}", error_type)


def _check_value(value: Any, hint: Any, where: str, error_type: type[StagebenchError]) -> None:
    kinds = get_args(hint)
    if NoneType in kinds:
        hint, suffix = kinds[0], " or null"
        if value is None:
            return
    else:
        suffix = ""
    if is_typeddict(hint):
        check(value, hint, where, error_type)
    elif isinstance(must := get_args(hint)[-1], Must) and not must.holds(value):
        raise error_type(f"{where} must be {must.what}{suffix}, got {short(value)}")


@functools.cache
def _keys_of(form: type) -> tuple[list[str], Mapping[str, Any]]:
    """The required keys of a TypedDict, and the types of all its keys."""
    hints = get_type_hints(form, include_extras=True)
    required = [key for key, hint in hints.items() if get_origin(hint) is Required]
    return required, {key: get_args(hint)[0] if key in required else hint for key, hint in hints.items()}


def is_text(value: Any) -> bool:
    """Whether it is a text of a bounded length."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT


def is_number(value: Any, least: float = -LARGEST) -> bool:
    """Whether it is a finite number of at least so much."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= LARGEST


def is_whole(value: Any, least: float = -math.inf) -> bool:
    """Whether it is a whole number of at least so much."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_object(value: Any) -> bool:
    """Whether it is an object."""
    return isinstance(value, dict)


def is_list(value: Any, holds: Callable[[Any], bool]) -> bool:
    """Whether it is a list of such values."""
    return isinstance(value, list) and all(map(holds, value))


def is_named(value: Any, holds: Callable[[Any], bool]) -> bool:
    """Whether it is an object of such values, or one of stages with such objects."""
    return is_object(value) and all(
        all(map(holds, each.values())) if is_object(each) else holds(each) for each in value.values()
    )


def _is_count(value: Any) -> bool:
    return is_whole(value, 0)


def _is_digest(value: Any) -> bool:
    return is_text(value) or is_list(value, is_number)


Text = Annotated[str, Must(is_text, f"a text of at most {LONGEST_TEXT} characters")]
Texts = Annotated[list[str], Must(lambda v: is_list(v, is_text), "a list of texts")]
Flag = Annotated[bool, Must(lambda v: isinstance(v, bool), "true or false")]
Whole = Annotated[int, Must(is_whole, "a whole number")]
Count = Annotated[int, Must(_is_count, "a whole number of at least 0")]
Counts = Annotated[list[int], Must(lambda v: is_list(v, _is_count), "a list of whole numbers of at least 0")]
Positive = Annotated[int, Must(lambda v: is_whole(v, 1), "a whole number above 0")]
Number = Annotated[float, Must(is_number, "a finite number")]
Spread = Annotated[float, Must(lambda v: is_number(v, 0), "a finite number of at least 0")]
Spreads = Annotated[
    list[float], Must(lambda v: is_list(v, lambda n: is_number(n, 0)), "a list of finite numbers of at least 0")
]
Time = Annotated[float, Must(lambda v: is_number(v, SMALLEST), "a finite number above 0")]
Times = Annotated[
    list[float], Must(lambda v: is_list(v, lambda n: is_number(n, SMALLEST)), "a list of finite numbers above 0")
]
Object = Annotated[dict[str, Any], Must(is_object, "an object")]
Objects = Annotated[list[dict[str, Any]], Must(lambda v: is_list(v, is_object), "a list of objects")]
Work = Annotated[dict[str, Any], Must(lambda v: is_named(v, _is_count), "counters, whole numbers of at least 0")]
Content = Annotated[
    dict[str, Any], Must(lambda v: is_named(v, _is_digest), "digests: texts, or lists of finite numbers")
]
