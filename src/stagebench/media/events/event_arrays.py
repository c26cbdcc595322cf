"""Hold the events of a recording, and check and cut out those in a span of time, wherever their columns lie."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.media.events.event_clock import in_microseconds, require_plausible

TYPES = {"x": np.uint16, "y": np.uint16, "t": np.int64, "p": np.uint8}
"""As decoders give the columns, 13 bytes an event; of files, any integers are read."""
KEYS = tuple(TYPES)
_LONGEST_NAME, _MOST_NAMES = 40, 6  # that an error shows


class EventArrays(NamedTuple):
    """A recording, or a part of it; all four arrays are (events,).

    Attributes:
        x: integers as they were recorded, the pixel's column.
        y: its row, too.
        t: microseconds, from any origin; int64 and ascending once they are checked.
        p: 1 where the pixel became brighter, 0 where it became darker; uint8 once they are checked.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    t: NDArray[Any]
    p: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time, counted from the first event of a recording: start <= time < start + duration.

    Attributes:
        start: seconds at which it begins.
        duration: seconds that it lasts; None to the end.
        unit: what the recording's times count, one of `core.settings.TIME_UNITS`; None for microseconds, if they can
            be.
    """

    start: float = 0.0
    duration: float | None = None
    unit: str | None = None

    def of_own_clock(self, name: str) -> Window:
        """Return the same in a recording that counts microseconds by definition; refuse another unit."""
        if self.unit not in (None, "us"):
            raise MediaError(f"{name}: counts microseconds by definition, got --time-unit {self.unit}")
        return replace(self, unit="us")

    def limits(self, first: int) -> tuple[int, int | None]:
        """Return its begin and end in microseconds, where the first event is at `first`; None for no end."""
        begin = first + round(self.start * 1e6)
        return begin, None if self.duration is None else begin + round(self.duration * 1e6)

    def __str__(self) -> str:
        end = "the end" if self.duration is None else f"{self.start + self.duration:g} s"
        return f"{self.start:g} s to {end}"


def cut_events(name: str, columns: Mapping[str, Any], window: Window) -> EventArrays:
    """Check what the columns are made of, then read the part in a window, found by bisecting t.

    Args:
        name: what an error calls the recording.
        columns: arrays, memory-mapped or not, or HDF5 datasets; further keys are ignored.
        window: what to read.

    Returns:
        Arrays, each in one piece of memory, `t` in microseconds; their values are not checked.

    Raises:
        MediaError: a column is missing, not of integers (bools, for p, and floating point, for t of a given unit), or
            not as long as the others; there are no events, or none in the window; times can't be what they count.
    """

    def time(value: Any) -> int:
        return int(in_microseconds(name, np.asarray([value]), window.unit)[0])

    _require_layout(name, columns, window.unit)
    t = columns["t"]
    if window.unit is None:
        require_plausible(name, t)
    begin, end = window.limits(time(t[0]))
    first = bisect_left(t, begin, key=time) if window.start else 0
    after = len(t) if end is None else bisect_left(t, end, first, key=time)
    if first >= after:
        last = (time(t[len(t) - 1]) - time(t[0])) / 1e6
        raise MediaError(f"{name}: must have events from {window}, got none; the last one is at {last:g} s")
    cut = EventArrays(*(np.ascontiguousarray(columns[key][first:after]) for key in KEYS))
    return cut._replace(t=in_microseconds(name, cut.t, window.unit))


def join_events(name: str, parts: Iterable[EventArrays], window: Window) -> EventArrays:
    """Join the parts of a recording that has to be decoded from its beginning, up to the end of a window.

    Raises:
        MediaError: no part has events, or times step back.
    """
    joined: list[EventArrays] = []
    for part in parts:
        if len(part.t):
            joined.append(part)
            _, end = window.limits(int(joined[0].t[0]))
            if end is not None and part.t[-1] >= end:
                break
    if not joined:
        raise MediaError(f"{name}: must have at least one event with a time, got none")
    events = EventArrays(*map(np.concatenate, zip(*joined, strict=True)))
    require_ascending(name, events.t)
    return events


def require_ascending(name: str, t: NDArray[Any]) -> None:
    """Refuse times that step back, by the first such place."""
    backwards = np.flatnonzero(t[1:] < t[:-1])
    if len(backwards):
        i = int(backwards[0]) + 1
        raise MediaError(f"{name}: t must ascend, got {t[i]} after {t[i - 1]} at index {i}")


def but_others(names: Iterable[str]) -> str:
    """Return what an error says of columns that have other names; nothing without any."""
    others = sorted({*map(str, names)} - {*KEYS})
    return f", but {', '.join(name[:_LONGEST_NAME] for name in others[:_MOST_NAMES])}" if others else ""


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
            unsaid = "; --time-unit says what it counts" if (key, column.dtype.kind) == ("t", "f") else ""
            raise MediaError(f"{name}: {key} must be integers, got {column.dtype}{unsaid}")
    lengths = {key: len(columns[key]) for key in KEYS}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise MediaError(f"{name}: x, y, t and p must be equally long, got {got}")
    if lengths["t"] == 0:
        raise MediaError(f"{name}: must have at least one event, got none")
