"""Recordings of DSEC in HDF5: `events/{x,y,t,p}`, blosc-compressed, `ms_to_idx`, `t_offset`; and its rectify maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stagebench.errors import MediaError
from stagebench.media.columns import KEYS, Columns, Window, cut_columns
from stagebench.media.files import require_plausible, size_of

_HARD_LINK = 0  # of HDF5's types of links, the one to something in the same file
_LARGE = 1 << 62  # no clock shows as many microseconds, and a sum of two fits into int64
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
    with _opened(path) as file:
        events = {key: _dataset(path, file, f"events/{key}") for key in KEYS}
        low, high = _bounds(path, file, events["t"], window)
        columns = cut_columns(path.name, events, window, low, high)
        offset = _dataset(path, file, "t_offset")[()] if _has(file, "t_offset") else 0
    if np.shape(offset) != () or not isinstance(offset, int | np.integer) or abs(int(offset)) > _LARGE:
        raise MediaError(f"{path.name}: t_offset must be a number of microseconds, got {offset!r}")
    if int(columns["t"].max()) > _LARGE:
        raise MediaError(f"{path.name}: t is out of range, must be at most {_LARGE}, got {columns['t'].max()}")
    return columns | {"t": columns["t"].astype(np.int64) + int(offset)}


def read_rectify_map(path: Path) -> NDArray[np.float32]:
    """Read where each pixel of the sensor lies in the rectified image: float32 (height, width, 2), x and y.

    Raises:
        MediaError: the file is missing, damaged, or has no such `rectify_map`; or h5py is not installed.
    """
    with _opened(path) as file:
        found = _dataset(path, file, "rectify_map")
        if len(found.shape) != 3 or found.shape[2] != 2 or found.dtype.kind != "f":
            raise MediaError(f"{path.name}: rectify_map must be floats (height, width, 2), got {found.shape}")
        return np.asarray(found[()], dtype=np.float32)


def rectified(name: str, columns: Columns, rectify_map: NDArray[np.float32]) -> Columns:
    """Move every event to the nearest pixel of the rectified image, and drop those that leave it.

    Args:
        name: what an error calls the recording.
        columns: checked events.
        rectify_map: as `read_rectify_map` returns it; the rectified image is as large as the sensor.

    Raises:
        MediaError: an event lies outside of the map, or none stays in the image.
    """
    height, width = rectify_map.shape[:2]
    x, y = columns["x"], columns["y"]
    if int(x.max()) >= width or int(y.max()) >= height:
        raise MediaError(f"{name}: must lie within a rectify map of {width} x {height}, got ({x.max()}, {y.max()})")
    moved = np.rint(rectify_map[y, x])
    stay = ((moved >= 0) & (moved < (width, height))).all(axis=1)  # a NaN is neither
    if not stay.any():
        raise MediaError(f"{name}: must have events within the rectified image, got none")
    kept = {key: columns[key][stay] for key in KEYS}
    new_x, new_y = moved[stay].astype(np.uint16).T
    return kept | {"x": new_x, "y": new_y}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
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


def _dataset(path: Path, file: Any, name: str) -> Any:
    """The dataset of a name, its data in this very file and not implausibly large."""
    found = file
    for part in name.split("/"):
        if not _has(found, part):
            raise MediaError(f"{path.name}: must have the dataset {name}, got none")
        if found.id.links.get_info(part.encode()).type != _HARD_LINK:
            raise MediaError(f"{path.name}: {name} must lie in the file, got a link to elsewhere")
        found = found[part]
    if not hasattr(found, "chunks"):
        raise MediaError(f"{path.name}: {name} must be a dataset, got a {type(found).__name__}")
    if found.external or found.is_virtual:
        raise MediaError(f"{path.name}: {name} must lie in the file, got data elsewhere")
    chunk = int(np.prod(found.chunks or (1,), dtype=object))
    require_plausible(path, max(found.size or 0, chunk) * found.dtype.itemsize, path.stat().st_size)
    return found


def _has(group: Any, name: str) -> bool:
    """Is there a link of that name? What it leads to is not opened: that may be a pipe, which would wait."""
    return bool(group.id.links.exists(name.encode()))


def _bounds(path: Path, file: Any, t: Any, window: Window) -> tuple[int, int | None]:
    """Numbers of events between which the window begins and ends, by `ms_to_idx`."""
    if window == Window() or not _has(file, "ms_to_idx") or len(t) == 0:
        return 0, None
    index = _dataset(path, file, "ms_to_idx")
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
