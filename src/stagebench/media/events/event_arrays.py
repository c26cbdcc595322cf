"""Check the events of a recording, and cut out those in a span of time, in microseconds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings

TYPES = {"x": np.uint16, "y": np.uint16, "t": np.int64, "p": np.uint8}  # as decoders give them, 13 bytes per event
KEYS = tuple(TYPES)
LARGEST = 1 << 62  # microseconds, more than any clock shows; a sum of two fits into int64
_UNITS = {"s": (10**6, 1), "ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}  # numerator and denominator, in microseconds
_COARSE = 1000  # microseconds: floating-point times must have at least this resolution
# Limits of a camera: the most events per second, the fewest over a long time, and a date before the year 2200.
_FASTEST, _SLOWEST = 10**9, 10**4
_LONG, _LATEST = 45 * 10**6, 230 * 365 * 86400 * 10**6
_FEW = 100  # events, of which the rate is not judged
# Microseconds stored as nanoseconds are multiples of 1000. A simulation's may be too, with far more events, or fewer.
_RATE_OF_THOUSANDS, _LONG_OF_THOUSANDS = range(1001, 10**5), 10**7
_SAMPLE = 1000  # events
_LONGEST_NAME, _MOST_NAMES = 40, 6  # shown in an error


class EventArrays(NamedTuple):
    """A recording, or a part of it; all four arrays are (events,)."""

    x: NDArray[Any]  # the pixel's column, integers as recorded
    y: NDArray[Any]  # the pixel's row, integers as recorded
    t: NDArray[Any]  # microseconds, from any origin; int64 and ascending once they are checked
    p: NDArray[Any]  # 1 where the pixel became brighter, 0 where darker; uint8 once they are checked


def own_clock(name: str, loading: LoadSettings) -> LoadSettings:
    """Return the settings for a format that counts microseconds by definition; refuse another unit."""
    if loading.time_unit not in (None, "us"):
        raise MediaError(f"{name}: counts microseconds by definition, got --time-unit {loading.time_unit}")
    return replace(loading, time_unit="us")


def cut_events(name: str, columns: Mapping[str, Any], loading: LoadSettings) -> EventArrays:
    """Return the events of the window of `loading`, found by bisecting t, as contiguous arrays.

    Columns are arrays, also memory-mapped ones, or HDF5 datasets; their values are not checked. Each must hold
    integers; p may also be bool, and t of a given unit floating point. Raise MediaError where a column is missing, of
    another type or length, where the window holds no events, or where times are not plausible in their unit.
    """

    def time(value: Any) -> int:
        return int(in_microseconds(name, np.asarray([value]), loading.time_unit)[0])

    _require_layout(name, columns, loading.time_unit)
    t = columns["t"]
    if loading.time_unit is None:
        _require_of_camera(name, t)
    begin, end = _limits(loading, time(t[0]))
    first = bisect_left(t, begin, key=time) if loading.start else 0
    after = len(t) if end is None else bisect_left(t, end, first, key=time)
    if first >= after:
        got = f"none; the last one is at {(time(t[len(t) - 1]) - time(t[0])) / 1e6:g} s"
        raise MediaError(f"{name}: must have events in {loading.describe_window()}, got {got}")
    cut = EventArrays(*(np.ascontiguousarray(columns[key][first:after]) for key in KEYS))
    return cut._replace(t=in_microseconds(name, cut.t, loading.time_unit))


def join_events(name: str, parts: Iterable[EventArrays], loading: LoadSettings) -> EventArrays:
    """Join the decoded parts of a recording up to the window's end; refuse times that step back."""
    joined: list[EventArrays] = []
    for part in parts:
        if len(part.t):
            joined.append(part)
            _, end = _limits(loading, int(joined[0].t[0]))
            if end is not None and part.t[-1] >= end:
                break
    if not joined:
        raise MediaError(f"{name}: must have at least one event with a time, got none")
    events = EventArrays(*map(np.concatenate, zip(*joined, strict=True)))
    require_ascending(name, events.t)
    return events


def _limits(loading: LoadSettings, first: int) -> tuple[int, int | None]:
    """Return the window's begin and end in microseconds for a first event at `first`; None for no end."""
    begin = first + round(loading.start * 1e6)
    return begin, None if loading.duration is None else begin + round(loading.duration * 1e6)


def require_ascending(name: str, t: NDArray[Any]) -> None:
    """Raise MediaError at the first time that is before the previous one."""
    backwards = np.flatnonzero(t[1:] < t[:-1])
    if len(backwards):
        i = int(backwards[0]) + 1
        raise MediaError(f"{name}: t must ascend, got {t[i]} after {t[i - 1]} at index {i}")


def but_others(names: Iterable[str]) -> str:
    """Return the other names of columns for an error; an empty text where there are none."""
    others = sorted({*map(str, names)} - {*KEYS})
    return f", but {', '.join(name[:_LONGEST_NAME] for name in others[:_MOST_NAMES])}" if others else ""


def in_microseconds(name: str, t: NDArray[Any], unit: str | None) -> NDArray[Any]:
    """Return times of any unit in whole microseconds; raise MediaError for one out of range, or coarser than a ms."""
    factor, divisor = _UNITS[unit or "us"]
    if t.dtype.kind == "f":
        with np.errstate(over="ignore"):
            scaled = t.astype(np.float64) * factor / divisor
        fit = np.abs(scaled) < LARGEST
        if not fit.all():
            raise MediaError(f"{name}: t is out of range, must be finite and of some century, got {t[~fit][0]}")
        step = float(np.spacing(np.abs(t).max()))
        if step * factor > _COARSE * divisor:
            raise MediaError(f"{name}: t must tell milliseconds apart, got {t.dtype} in steps of {step:g}")
        return np.rint(scaled).astype(np.int64)
    if unit == "ns":
        return (t if t.dtype.itemsize == np.int64().itemsize else t.astype(np.int64)) // divisor
    if factor == 1:
        return t
    extreme = max(int(t.min()), int(t.max()), key=abs)
    if abs(extreme) * factor > LARGEST:
        raise MediaError(f"{name}: t is out of range, must be below {LARGEST} microseconds, got {extreme} {unit}")
    return t.astype(np.int64) * factor


def _require_of_camera(name: str, t: Any) -> None:
    """Refuse times that can't be microseconds, by their rate or date. Few events are not judged."""
    count, first, last = len(t), int(t[0]), int(t[len(t) - 1])
    span = last - first
    rate = (count - 1) * 10**6 // max(span, 1)
    too_slow = span > _LONG and rate < _SLOWEST
    if count > _SAMPLE and span > _LONG_OF_THOUSANDS and rate in _RATE_OF_THOUSANDS:
        places = (0, count // 2, count - _SAMPLE)
        too_slow |= not any(((t[i : i + _SAMPLE] - t[0]) % 1000).any() for i in places)
    if count > _FEW and (rate > _FASTEST or too_slow or last > _LATEST):
        got = f"{count} events in {span / 1e6:g} s from {first / 1e6:g} s, which no camera records"
        raise MediaError(f"{name}: t must be microseconds, got {got}; --time-unit sets another unit, or us for these")


def _require_layout(name: str, columns: Mapping[str, Any], unit: str | None) -> None:
    if missing := [key for key in KEYS if key not in columns]:
        got = f"none named {', '.join(missing)}{but_others(columns)}"
        raise MediaError(f"{name}: must have the arrays x, y, t and p, got {got}")
    kinds = {"x": "iu", "y": "iu", "t": "iuf" if unit else "iu", "p": "iub"}
    for key in KEYS:
        column = columns[key]
        if column.shape is None or len(column.shape) != 1:
            raise MediaError(f"{name}: {key} must be an array of one dimension, got one of shape {column.shape}")
        if column.dtype.kind not in kinds[key]:
            unsaid = "; --time-unit sets its unit" if (key, column.dtype.kind) == ("t", "f") else ""
            raise MediaError(f"{name}: {key} must be integers, got {column.dtype}{unsaid}")
    lengths = {key: len(columns[key]) for key in KEYS}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise MediaError(f"{name}: x, y, t and p must be equally long, got {got}")
    if lengths["t"] == 0:
        raise MediaError(f"{name}: must have at least one event, got none")
