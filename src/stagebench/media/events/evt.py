"""Decode Prophesee's EVT2 and EVT3 (`.raw`), with the times of OpenEB, Prophesee's own decoder.

A clock of 34 or 24 bits comes in two parts. The high part has its own words, TIME_HIGH. Where TIME_HIGH falls by at
least half of its range, it wrapped, even if words were lost there. Any other fall is a step back.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.events.event_arrays import LARGEST, TYPES, EventArrays, cut_events, join_events, own_clock

_LONGEST_HEADER = 1 << 16  # bytes; cameras write less than a thousand
_BLOCK = 1 << 15  # words per block: its intermediate arrays stay in the processor's cache
_NEVER = -LARGEST  # microseconds

Which = NDArray[np.intp]


def read_evt(path: Path, loading: LoadSettings) -> EventArrays:
    """Decode a recording to the end of the window, without events before the first TIME_HIGH and the first row."""
    loading = own_clock(path.name, loading)
    with path.open("rb") as file:
        header, length = _read_header(path.name, file.read(_LONGEST_HEADER))
        decoder = _decoder_of(path.name, header)
        word = decoder.word.itemsize
        if rest := (path.stat().st_size - length) % word:
            raise MediaError(f"{path.name}: must hold whole words of {word} bytes, got {rest} bytes more")
        file.seek(length)
        blocks = iter(lambda: file.read(_BLOCK * word), b"")
        parts = (decoder.decode(np.frombuffer(block, decoder.word)) for block in blocks)
        events = join_events(path.name, parts, loading)
    _require_on_sensor(path.name, header, events)
    events = events._replace(t=events.t + _number(path.name, header.get("t0", "0")))
    return cut_events(path.name, events._asdict(), loading)


def _read_header(name: str, data: bytes) -> tuple[dict[str, str], int]:
    """Read lines such as `% geometry 640x480`, to `% end` or another line; return them and their length in bytes."""
    found = re.match(rb"(?s)%.*?\n% end *\r?\n", data) or re.match(rb"(% [ -~]*\r?\n)+", data)
    if found is None:
        raise MediaError(f"{name}: must name EVT2 or EVT3 in a header, got none")
    lines = [line[1:].strip().partition(" ") for line in found[0].decode(errors="replace").splitlines()]
    return {key.lower(): value.strip() for key, _, value in lines}, found.end()


def _decoder_of(name: str, header: dict[str, str]) -> _Evt2 | _Evt3:
    """Return the decoder that `% evt 3.0` or `% format EVT3;height=480;width=640` names."""
    if (order := header.get("endianness", "little")) != "little":
        raise MediaError(f"{name}: must be little-endian, got {order[:40]!r}")
    said = [header["evt"].removesuffix(".0")] if "evt" in header else []
    if "format" in header:
        said.append(header["format"].partition(";")[0].upper().removeprefix("EVT").replace("21", "2.1"))
    versions = [f"EVT{version}" for version in dict.fromkeys(said)]
    if versions not in (["EVT2"], ["EVT3"]):
        raise MediaError(f"{name}: must be EVT2 or EVT3, got {' and '.join(versions) or 'a header that names none'}")
    return _Evt2() if versions == ["EVT2"] else _Evt3()


def _require_on_sensor(name: str, header: dict[str, str], events: EventArrays) -> None:
    options = dict(option.partition("=")[::2] for option in header.get("format", "").split(";"))
    width, _, height = header.get("geometry", "x").partition("x")
    for key, values, sizes in (
        ("x", events.x, {width, options.get("width", ""), header.get("width", "")}),
        ("y", events.y, {height, options.get("height", ""), header.get("height", "")}),
    ):
        said = {_number(name, size) for size in sizes if size}
        if len(said) > 1:
            raise MediaError(f"{name}: must have one sensor size, got {' and '.join(map(str, sorted(said)))}")
        largest = int(values.max())
        if said and largest >= min(said):
            raise MediaError(f"{name}: {key} must be below the {min(said)} of its header, got {largest}")


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or int(text[:20]) > LARGEST:
        raise MediaError(f"{name}: must have whole numbers in its header, got {text[:40]!r}")
    return int(text)


class _Held:
    """A value that holds from one word to the next that sets it, across blocks."""

    def __init__(self, value: int) -> None:
        self.value = value

    def at(self, which: Which, here: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the value that holds at each of the words `which`, where the words `here` set these values."""
        held = np.concatenate([[self.value], values.astype(np.int64)])
        self.value = int(held[-1])
        at_which: NDArray[np.int64] = held[np.cumsum(here)[which]]
        return at_which


class _Clock(_Held):
    """The microseconds that TIME_HIGH sets; far below 0 before the first one."""

    def __init__(self, high_bits: int, low_bits: int) -> None:
        super().__init__(_NEVER)
        self._range, self._low_bits = 1 << high_bits, low_bits

    def at(self, which: Which, here: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the microseconds at each word of `which`, where the words `here` are TIME_HIGH with these values."""
        highs = values.astype(np.int64)
        before = int(highs[0]) if self.value == _NEVER and len(highs) else self.value >> self._low_bits
        falls = -np.diff(highs, prepend=before % self._range)
        # A rise by nearly the whole range is a step back across a wrap.
        wraps = (falls >= self._range // 2).astype(np.int64) - (falls < self._range // 16 - self._range)
        ticks = (before // self._range + np.cumsum(wraps)) * self._range + highs
        return super().at(which, here, ticks << self._low_bits)

    def changes(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which of the next values of TIME_HIGH differ from the one before."""
        before = -1 if self.value == _NEVER else (self.value >> self._low_bits) % self._range
        changed: NDArray[np.bool_] = np.diff(values.astype(np.int64), prepend=before) != 0
        return changed


class _Evt2:
    """Words of 32 bits, each an event or a TIME_HIGH; other words are skipped."""

    word = np.dtype("<u4")

    def __init__(self) -> None:
        self._clock = _Clock(high_bits=28, low_bits=6)

    def decode(self, words: NDArray[Any]) -> EventArrays:
        """Return the events of the next block."""
        kind = words >> 28
        which = np.flatnonzero(kind <= 1)
        is_high = kind == 8
        found = words[which]
        t = self._clock.at(which, is_high, words[is_high] & (1 << 28) - 1) + (found >> 22 & 0x3F)
        known = t > _NEVER // 2
        return _typed(known, found >> 11 & 0x7FF, found & 0x7FF, t, found >> 28)


class _Evt3:
    """Words of 16 bits, each with one changed part of the next event."""

    word = np.dtype("<u2")
    _ROW, _ROW_OF_OTHERS, _SINGLE, _FIRST_X, _VECTOR_12, _VECTOR_8, _TIME_LOW, _TIME_HIGH = 0, 1, 2, 3, 4, 5, 6, 8
    # Columns that each kind of word covers: a vector lies right of the one before.
    _COLUMNS = np.zeros(16, np.int64)
    _COLUMNS[[_SINGLE, _VECTOR_12, _VECTOR_8]] = 0, 12, 8

    def __init__(self) -> None:
        self._clock = _Clock(high_bits=12, low_bits=12)
        self._low, self._first_x = _Held(0), _Held(0)
        self._row, self._polarity = _Held(-1), _Held(-1)  # unknown

    def decode(self, words: NDArray[Any]) -> EventArrays:
        """Return the events of the next block."""
        kind, value = words >> 12, words & 0xFFF
        which = np.flatnonzero((kind == self._SINGLE) | (kind == self._VECTOR_12) | (kind == self._VECTOR_8))
        is_high, says_low = kind == self._TIME_HIGH, kind == self._TIME_LOW
        lows = value * says_low
        says_low[is_high] = self._clock.changes(value[is_high])  # the low part begins at 0 again
        t = self._clock.at(which, is_high, value[is_high]) + self._low.at(which, says_low, lows[says_low])
        is_row = kind <= self._ROW_OF_OTHERS
        y = self._row.at(which, is_row, np.where(kind == self._ROW, value.astype(np.int64), -1)[is_row])
        columns = self._COLUMNS[kind]
        passed = np.cumsum(columns)
        is_x = kind == self._FIRST_X
        x = self._first_x.at(which, is_x, ((value & 0x7FF) - passed)[is_x]) + (passed - columns)[which]
        self._first_x.value += int(passed[-1])
        p = self._polarity.at(which, is_x, value[is_x] >> 11)

        value, columns = value[which], columns[which]
        single = columns == 0
        x, p = np.where(single, value & 0x7FF, x), np.where(single, value >> 11, p)
        event, bit = _set_bits(np.where(single, 1, value & (1 << columns) - 1))
        known = ((t > _NEVER // 2) & (y >= 0) & (p >= 0))[event]
        return _typed(known, x[event] + bit, y[event], t[event], p[event])


def _typed(known: NDArray[np.bool_], *columns: NDArray[Any]) -> EventArrays:
    columns_of_types = zip(columns, TYPES.values(), strict=True)
    return EventArrays(*(values[known].astype(dtype, copy=False) for values, dtype in columns_of_types))


def _set_bits(masks: NDArray[np.int64]) -> tuple[Which, Which]:
    """Return the index of the mask and of the bit, for each bit that is set, in order."""
    if (masks == 1).all():
        return np.arange(len(masks)), np.zeros(len(masks), np.intp)
    bits = np.unpackbits(masks.astype("<u2").view(np.uint8), bitorder="little")
    found = np.flatnonzero(bits.view(np.bool_))
    return found >> 4, found & 15
