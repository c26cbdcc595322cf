"""Read JSON with one-line errors, and tables beside modules; write JSON and text atomically."""

import contextlib
import importlib
import json
import math
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from stagebench.core.errors import StagebenchError

msgspec: Any = None
with contextlib.suppress(ImportError):  # the extra "trend": the same values and refusals in a fifth of the time
    msgspec = importlib.import_module("msgspec")

LARGEST = 2**28  # bytes; the details of a million requests take less
MOST_DIGITS = 30  # of a whole number: enough for any count of floating-point operations, and few enough for a float
MOST_NESTED = 64
_IN_NUMBERS = bytes(b"x0 "[byte in b"0123456789" or 2 * (byte in b" \t\r\n:,[-")] for byte in range(256))
_TOO_LONG = b" " + b"0" * (MOST_DIGITS + 1)  # a number that is too long, or a text that looks so, in translation
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # escapes that make a character only in pairs


def read_json(path: Path, what: str, error_type: type[StagebenchError]) -> Any:
    """Read a JSON file; raise an error of `error_type` that names `what` it is where it is unreadable or not JSON."""
    return json_of(read_bytes(path, what, error_type), what, error_type)


def json_of(data: bytes, what: str, error_type: type[StagebenchError]) -> Any:
    """Parse the content of a file; see `read_json`."""
    try:
        return parse_json(data)
    except ValueError as error:
        raise error_type(f"{what} must be JSON, got: {' '.join(str(error).split())}") from error


def read_bytes(path: Path, what: str, error_type: type[StagebenchError]) -> bytes:
    """Read a file of JSON or JSON lines, at most one byte more than `parse_json` takes; raise as `read_json` does."""
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: not a possible path
        raise error_type(f"can't read {what}: {getattr(error, 'strerror', error)}") from error


def parse_json(data: bytes, finite: bool = True) -> Any:
    """Parse strict JSON in UTF-8; if not `finite`, also with NaN and Infinity, which some tools write.

    Raise ValueError, with a short message, for a duplicate key, a number out of range, or a text that can't be encoded.
    Raise it also for data larger or deeper than any file of ours.
    """
    if len(data) > LARGEST:
        raise ValueError(f"more than {LARGEST:,} bytes")
    if finite and (quick := _parsed_quickly(data)) is not None:
        return quick
    text, constant = data.decode("utf-8-sig"), _float if finite else float
    try:
        parsed = json.loads(text, object_pairs_hook=_pairs, parse_int=_int, parse_float=_float, parse_constant=constant)
        too_deep = _is_deeper(parsed, MOST_NESTED)
    except RecursionError:
        too_deep = True
    if too_deep:
        raise ValueError(f"more than {MOST_NESTED} levels of lists and objects")
    if _SURROGATE.search(text):
        json.dumps(parsed, ensure_ascii=False).encode()
    return parsed


def _parsed_quickly(data: bytes) -> Any:
    """Parse JSON that certainly holds nothing to refuse; return None for other data, and without the extra "trend"."""
    try:
        hidden = b"\\" in data and rb"\u003" in data
        if msgspec is None or hidden or _TOO_LONG in data.translate(_IN_NUMBERS):
            return None
        parsed = msgspec.json.decode(data)
        lost = data.count(b":") != msgspec.json.encode(parsed).count(b":")  # of a duplicate key, its colon too
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None
    return None if lost or _is_deeper(parsed, MOST_NESTED) else parsed


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key {twice[:100]!r} twice in one object")
    return made


def _int(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:100]}, which is no finite number")
    return value


def _is_deeper(parsed: Any, levels: int) -> bool:
    inside = [parsed] if isinstance(parsed, dict | list) else []
    for _ in range(levels + 1):
        each = [value.values() if type(value) is dict else value for value in inside]
        inside = [value for values in each for value in values if type(value) is dict or type(value) is list]
    return bool(inside)


def table_beside(module: str) -> dict[str, Any]:
    """Return the table in TOML that a module, named by its `__file__`, has beside it."""
    return tomllib.loads(Path(module).with_suffix(".toml").read_text(encoding="utf-8"))


def json_text(data: Any) -> str:
    """Return data as JSON in the layout of all our files: equal data give equal text."""
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically; see `write_bytes`."""
    write_text(path, json_text(data))


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically; raise StagebenchError where it can't be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise StagebenchError(f"can't write {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
