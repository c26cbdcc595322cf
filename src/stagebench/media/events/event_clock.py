"""Bring times of events to microseconds, whatever a recording counts, and refuse what no camera can have counted."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stagebench.core.errors import MediaError

_FACTORS = {"s": 10**6, "ms": 1000, "us": 1, "ns": 1}
_NANOSECONDS = 1000  # in a microsecond
LARGEST = 1 << 62  # no clock shows as many microseconds, and a sum of two fits into int64
_COARSE = 1000.0  # microseconds that floating point must tell apart, at least
# What hardly any camera does: more events a second, or so few for so long; a clock that is set to after the year 2200.
_FASTEST, _SLOWEST = 10**9, 10**4
_LONG, _LATEST = 45 * 10**6, 230 * 365 * 86400 * 10**6
_FEW = 100  # events, that any rate may be of
# Microseconds given in nanoseconds are thousands. A simulation's may be, too, but has far more events then, or fewer.
_RATE_OF_THOUSANDS, _LONG_OF_THOUSANDS = range(1001, 10**5), 10**7
_SAMPLE = 1000  # events


def in_microseconds(name: str, t: NDArray[Any], unit: str | None) -> NDArray[Any]:
    """Return times in microseconds, rounded; integers that are so already as they are.

    Args:
        name: what an error calls the recording.
        t: integers, or floating point.
        unit: what they count, one of `core.settings.TIME_UNITS`; None for microseconds.

    Raises:
        MediaError: a time is not finite, or too large; or floating point is too coarse to tell milliseconds apart.
    """
    factor = _FACTORS[unit or "us"]
    if t.dtype.kind == "f":
        with np.errstate(over="ignore"):
            scaled = t.astype(np.float64) * factor / (_NANOSECONDS if unit == "ns" else 1)
        if not (np.abs(scaled) < LARGEST).all():
            wrong = t[~(np.abs(scaled) < LARGEST)][0]
            raise MediaError(f"{name}: t is out of range, must be finite and of some century, got {wrong}")
        step = float(np.spacing(np.abs(t).max())) * factor
        if step > _COARSE * (_NANOSECONDS if unit == "ns" else 1):
            raise MediaError(f"{name}: t must tell milliseconds apart, got {t.dtype} in steps of {step / factor:g}")
        return np.rint(scaled).astype(np.int64)
    if unit == "ns":
        return (t if t.dtype.itemsize == np.int64().itemsize else t.astype(np.int64)) // _NANOSECONDS
    if factor == 1:
        return t
    for extreme in (int(t.min()), int(t.max())):
        if abs(extreme) * factor > LARGEST:
            raise MediaError(f"{name}: t is out of range, must be below {LARGEST} microseconds, got {extreme} {unit}")
    return t.astype(np.int64) * factor


def require_plausible(name: str, t: Any) -> None:
    """Refuse times that are hardly microseconds: no camera has such a rate, or such a date. Few events are not judged.

    Args:
        name: what an error calls the recording.
        t: all of its times, integers; few of them are looked at.

    Raises:
        MediaError: they are those of hardly any camera.
    """
    count, first, last = len(t), int(t[0]), int(t[len(t) - 1])
    span = last - first
    rate = (count - 1) * 10**6 // max(span, 1)
    too_slow = span > _LONG and rate < _SLOWEST
    if count > _SAMPLE and span > _LONG_OF_THOUSANDS and rate in _RATE_OF_THOUSANDS:
        places = (0, count // 2, count - _SAMPLE)
        too_slow |= not any(((t[i : i + _SAMPLE] - t[0]) % _NANOSECONDS).any() for i in places)
    if count > _FEW and (rate > _FASTEST or too_slow or last > _LATEST):
        got = f"{count} events in {span / 1e6:g} s, from {first / 1e6:g} s on, as hardly any camera has them"
        raise MediaError(f"{name}: t must be microseconds, got {got}; --time-unit s, ms or ns reads others, us these")
