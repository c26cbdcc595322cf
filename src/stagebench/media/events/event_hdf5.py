"""Recordings of DSEC in HDF5: `events/{x,y,t,p}`, blosc-compressed, `ms_to_idx`, `t_offset`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stagebench.core.errors import MediaError
from stagebench.media.events.event_arrays import KEYS, Columns, Window, but_others, cut_columns
from stagebench.media.events.event_clock import in_microseconds
from stagebench.media.files import require_plausible, size_of

_HARD_LINK = 0  # of HDF5's types of links, the one to something in the same file
_LARGE = 1 << 62  # no clock shows as many microseconds, and a sum of two fits into int64
_OTHER_LAYOUTS = {
    "CD/events": "Prophesee's HDF5",
    "davis/left/events": "MVSEC",
    "prophesee/left/x": "M3ED",
    "events/xs": "event_utils",
    "events/ts": "event_utils",
    "t": "a file without the group events",
}
# All that h5py raises on a damaged file.
_HDF5_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
)


def read_hdf5(path: Path, window: Window) -> Columns:
    """Read the events in a window; where the file has `ms_to_idx`, it says where to look.

    Times are those of the camera's clock: `t_offset`, where there is one, is added.

    Raises:
        MediaError: the file is missing, damaged, of another layout, or unpacks to more than is plausible; its
            `ms_to_idx` doesn't fit its times; there are no events in the window; or h5py is not installed.
    """
    with open_hdf5(path) as file:
        events = {key: dataset(path, file, f"events/{key}") for key in KEYS}
        low, high = _bounds(path, file, events["t"], window)
        columns = cut_columns(path.name, events, window, low, high)
        offset = dataset(path, file, "t_offset")[()] if _has(file, "t_offset") else 0
    if isinstance(offset, np.integer):
        offset = int(in_microseconds(path.name, np.asarray([offset]), window.unit)[0])
    if np.shape(offset) != () or not isinstance(offset, int | np.integer) or abs(int(offset)) > _LARGE:
        raise MediaError(f"{path.name}: t_offset must be a number of microseconds, got {offset!r}")
    for time in (columns["t"].min(), columns["t"].max()):
        if abs(int(time)) > _LARGE:
            raise MediaError(f"{path.name}: t is out of range, must be {-_LARGE} to {_LARGE}, got {time}")
    return columns | {"t": columns["t"].astype(np.int64) + int(offset)}


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """An open HDF5 file; what goes wrong while it is read is one line."""
    size_of(path)
    try:
        import h5py
        import hdf5plugin  # noqa: F401 # its import makes blosc known to h5py
    except ImportError as error:
        raise MediaError(f"{path.name}: HDF5 needs h5py and hdf5plugin: pip install 'stagebench[events]'") from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except _HDF5_ERRORS as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise MediaError(f"{path.name}: must be a whole HDF5 file, got: {why}") from error


def dataset(path: Path, file: Any, name: str) -> Any:
    """The dataset of a name, its data in this very file and not implausibly large."""
    found, rest = _follow(file, name)
    if rest and not hasattr(found.id, "links"):
        kind = type(found).__name__.lower()
        raise MediaError(f"{path.name}: must have the dataset {name}, got a {kind} named {found.name.strip('/')}")
    if rest and not _has(found, rest[0]):
        raise MediaError(f"{path.name}: must have the dataset {name}, got {_instead(file)}")
    if rest:
        raise MediaError(f"{path.name}: {name} must lie in the file, got a link to elsewhere")
    if not hasattr(found, "chunks"):
        raise MediaError(f"{path.name}: {name} must be a dataset, got a {type(found).__name__}")
    if found.external or found.is_virtual:
        raise MediaError(f"{path.name}: {name} must lie in the file, got data elsewhere")
    chunk = math.prod(found.chunks or (1,))
    require_plausible(path, max(found.size or 0, chunk) * found.dtype.itemsize, path.stat().st_size)
    return found


def _follow(file: Any, name: str) -> tuple[Any, list[str]]:
    """What a name leads to within the file, and what is left of the name where it leads no further."""
    found, rest = file, name.split("/")
    while rest and hasattr(found.id, "links") and _has(found, rest[0]):
        if found.id.links.get_info(rest[0].encode()).type != _HARD_LINK:
            break
        found = found[rest.pop(0)]
    return found, rest


def _instead(file: Any) -> str:
    """What another layout has; or what else lies in the group `events`, or where that is missing, in the file."""
    for name, whose in _OTHER_LAYOUTS.items():
        if not _follow(file, name)[1]:
            return f"{name}, as {whose} has it"
    events, _ = _follow(file, "events")
    return f"none{but_others(events)}"


def _has(group: Any, name: str) -> bool:
    """Is there a link of that name? What it leads to is not opened: that may be a pipe, which would wait."""
    return bool(group.id.links.exists(name.encode()))


def _bounds(path: Path, file: Any, t: Any, window: Window) -> tuple[int, int | None]:
    """Numbers of events between which the window begins and ends, by `ms_to_idx`."""
    if window.whole or window.unit not in (None, "us") or not _has(file, "ms_to_idx") or len(t) == 0:
        return 0, None
    index = dataset(path, file, "ms_to_idx")
    if len(index.shape) != 1 or index.dtype.kind not in "iu" or index.size == 0:
        raise MediaError(f"{path.name}: ms_to_idx must be integers of one dimension, got {index.dtype} {index.shape}")
    begin, end = window.limits(int(t[0]))
    low = int(index[min(begin // 1000, len(index) - 1)])
    after = len(index) if end is None else -(-end // 1000)
    high = int(index[after]) if after < len(index) else len(t)
    fits = 0 <= low <= high <= len(t) and (low == 0 or t[low - 1] < begin)
    if not fits or (end is not None and high < len(t) and t[high] < end):
        raise MediaError(f"{path.name}: ms_to_idx must say where each millisecond of t begins, got another")
    return low, high
