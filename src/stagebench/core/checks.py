"""Check untrusted JSON against types. The simplest types carry a check and the words for an error."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from reprlib import repr as short
from types import NoneType, UnionType
from typing import Annotated, Any, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

from stagebench.core.json_files import msgspec

LONGEST_TEXT = 100_000
LARGEST, LEAST = 1e18, 1e-15  # numbers: no sum, product or ratio of two exceeds what a float holds


@dataclass(frozen=True, slots=True)
class Must:
    """Annotates a type: the check `holds` of a JSON value, and `what` the value must be. A `_meta` says the same."""

    holds: Callable[[Any], bool]
    what: str


def fits(value: Any, form: Any) -> bool:
    """Return True only where `check` would pass, by the extra "trend"; where it returns False, ask `check`."""
    try:
        return msgspec is not None and bool(msgspec.convert(value, form))
    except msgspec.ValidationError:
        return False


def check(value: Any, form: Any, where: str, error_type: type[Exception]) -> None:
    """Check a JSON value and everything in it; raise an error of `error_type` that names the first wrong value.

    A form is a TypedDict, a mapping of required keys to types, or made of the types below, list, dict and `|`.
    Keys that the form does not name are not checked.
    """
    kinds = get_args(form) if get_origin(form) in (Union, UnionType) else (form,)
    fitting = next((kind for kind in kinds if _kind_of(kind).holds(value)), None)
    if fitting is None:
        wanted = " or ".join(_kind_of(kind).what for kind in kinds)
        raise error_type(f"{where} must be {wanted}, got {short(value)}")
    if get_origin(fitting) in (list, dict):
        inner = get_args(fitting)[-1]
        holds = _kind_of(inner).holds if get_origin(inner) is Annotated else None  # most lists hold numbers
        for place, each in enumerate(value) if isinstance(value, list) else value.items():
            if holds is None or not holds(each):
                check(each, inner, f"{where}: {place}", error_type)
    elif isinstance(fitting, Mapping) or is_typeddict(fitting):
        required, hints = _keys_of(fitting) if is_typeddict(fitting) else (list(fitting), fitting)
        if missing := [key for key in required if key not in value]:
            raise error_type(f"{where} must have {', '.join(required)}, got no {', '.join(missing)}")
        for key in [key for key in hints if key in value]:
            check(value[key], hints[key], f"{where}: {key}", error_type)


def _kind_of(form: Any) -> Must:
    """Return the check of the value itself, without what it contains."""
    if isinstance(must := (get_args(form) or (None,))[-1], Must):
        return must
    return _NULL if form is NoneType else _LIST if get_origin(form) is list else _OBJECT if form is not Any else _ANY


@functools.cache
def _keys_of(form: type) -> tuple[list[str], Mapping[str, Any]]:
    """Return the required keys of a TypedDict, and the types of all its keys."""
    hints = get_type_hints(form, include_extras=True)
    required = [key for key, hint in hints.items() if get_origin(hint) is Required]
    return required, {key: get_args(hint)[0] if key in required else hint for key, hint in hints.items()}


def is_number(value: Any, least: float = -LARGEST) -> bool:
    """Return whether the value is a finite number of at least `least`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= LARGEST


def is_whole(value: Any, least: float = -math.inf) -> bool:
    """Return whether the value is a whole number of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _meta(**bounds: float) -> Any:
    """Return the bounds for `fits`; None without the extra "trend"."""
    return msgspec.Meta(**bounds) if msgspec else None


_ANY = Must(lambda _: True, "anything")
_NULL = Must(lambda v: v is None, "null")
_LIST = Must(lambda v: isinstance(v, list), "a list")
_OBJECT = Must(lambda v: isinstance(v, dict), "an object")
Text = Annotated[
    str,
    _meta(max_length=LONGEST_TEXT),
    Must(lambda v: isinstance(v, str) and len(v) <= LONGEST_TEXT, f"a text of at most {LONGEST_TEXT} characters"),
]
Flag = Annotated[bool, Must(lambda v: isinstance(v, bool), "true or false")]
Whole = Annotated[int, Must(is_whole, "a whole number")]
Count = Annotated[int, _meta(ge=0), Must(lambda v: is_whole(v, 0), "a whole number of at least 0")]
Positive = Annotated[int, _meta(ge=1), Must(lambda v: is_whole(v, 1), "a whole number above 0")]
Number = Annotated[float, _meta(gt=-LARGEST, lt=LARGEST), Must(is_number, "a finite number")]
Spread = Annotated[float, _meta(ge=0, lt=LARGEST), Must(lambda v: is_number(v, 0), "a finite number of at least 0")]
Time = Annotated[float, _meta(ge=LEAST, lt=LARGEST), Must(lambda v: is_number(v, LEAST), "a finite number above 0")]
Object = dict[str, Any]
