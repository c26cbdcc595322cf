"""Read recordings of DSEC in HDF5, `events/{x,y,t,p}`, blosc-compressed, and `t_offset`; and its rectify maps.

Its index `ms_to_idx` is not needed: times are bisected, which takes about as long, and can't be led astray.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.media.events.event_arrays import KEYS, EventArrays, Window, but_others, cut_events
from stagebench.media.events.event_clock import LARGEST, in_microseconds
from stagebench.media.files import require_plausible, size_of, whole

_HARD_LINK = 0  # of HDF5's types of links, the one to something in the same file
_OTHER_LAYOUTS = {
    "CD/events": "Prophesee's HDF5",
    "davis/left/events": "MVSEC",
    "prophesee/left/x": "M3ED",
    "events/xs": "event_utils",
    "events/ts": "event_utils",
    "t": "a file without the group events",
}


def read_hdf5(path: Path, window: Window) -> EventArrays:
    """Read the events in a window, their times those of the camera's clock: `t_offset`, where there is one, is added.

    Raises:
        MediaError: the file is damaged, of another layout, or unpacks to more than is plausible; there are no events
            in the window; or h5py is not installed.
    """
    with _open(path) as file:
        events = cut_events(path.name, {key: _dataset(path, file, f"events/{key}") for key in KEYS}, window)
        offset = _dataset(path, file, "t_offset")[()] if _has(file, "t_offset") else np.int64(0)
    t = events.t
    if not isinstance(offset, np.integer) or abs(int(offset)) > LARGEST:
        raise MediaError(f"{path.name}: t_offset must be a number of microseconds, got {offset!r}")
    if max(abs(int(t.min())), abs(int(t.max()))) > LARGEST:
        raise MediaError(f"{path.name}: t is out of range, must be {-LARGEST} to {LARGEST}, got {t.min()} to {t.max()}")
    shift = int(in_microseconds(path.name, np.asarray([offset]), window.unit)[0])
    return events._replace(t=t.astype(np.int64) + shift)


def read_rectify_map(path: Path) -> NDArray[np.float32]:
    """Read where each pixel of the sensor lies in the rectified image: float32 (height, width, 2), x and y.

    Raises:
        MediaError: the file is missing, damaged, or has no such `rectify_map`; or h5py is not installed.
    """
    with _open(path) as file:
        found = _dataset(path, file, "rectify_map")
        if len(found.shape) != 3 or found.shape[2] != 2 or found.dtype.kind != "f":
            raise MediaError(f"{path.name}: rectify_map must be floats (height, width, 2), got {found.shape}")
        return np.asarray(found[()], dtype=np.float32)


def rectified(name: str, events: EventArrays, rectify_map: NDArray[np.float32]) -> EventArrays:
    """Move every event to the nearest pixel of the rectified image, and drop those that leave it.

    Args:
        name: what an error calls the recording.
        events: checked.
        rectify_map: as `read_rectify_map` returns it; the rectified image is as large as the sensor.

    Raises:
        MediaError: an event lies outside of the map, or none stays in the image.
    """
    height, width = rectify_map.shape[:2]
    x, y = events.x, events.y
    if int(x.max()) >= width or int(y.max()) >= height:
        raise MediaError(f"{name}: must lie within a rectify map of {width} x {height}, got ({x.max()}, {y.max()})")
    moved = np.rint(rectify_map[y, x])
    stay = ((moved >= 0) & (moved < (width, height))).all(axis=1)  # a NaN is neither
    if not stay.any():
        raise MediaError(f"{name}: must have events within the rectified image, got none")
    new_x, new_y = moved[stay].astype(np.uint16).T
    return EventArrays(new_x, new_y, events.t[stay], events.p[stay])


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open an HDF5 file; what goes wrong while it is read is one line."""
    size_of(path)
    try:
        import h5py
        import hdf5plugin  # noqa: F401 # its import makes blosc known to h5py
    except ImportError as error:
        raise MediaError(f"{path.name}: HDF5 needs h5py and hdf5plugin: pip install 'stagebench[events]'") from error
    with whole(path.name, "HDF5 file"), h5py.File(path, "r") as file:
        yield file


def _dataset(path: Path, file: Any, name: str) -> Any:
    """Return the dataset of a name, its data in this very file and not implausibly large."""
    found, rest = _follow(file, name)
    got = None
    if rest and not hasattr(found.id, "links"):
        got = f"a {type(found).__name__.lower()} named {found.name.strip('/')}"
    elif rest:
        got = "a link to elsewhere" if _has(found, rest[0]) else _instead(file)
    elif not hasattr(found, "chunks"):
        got = f"a {type(found).__name__.lower()}"
    elif found.external or found.is_virtual:
        got = "data elsewhere"
    if got:
        raise MediaError(f"{path.name}: must have the dataset {name}, got {got}")
    chunk = math.prod(found.chunks or (1,))
    require_plausible(path, max(found.size or 0, chunk) * found.dtype.itemsize, path.stat().st_size)
    return found


def _follow(file: Any, name: str) -> tuple[Any, list[str]]:
    """Return what a name leads to within the file, and what is left of the name where it leads no further."""
    found, rest = file, name.split("/")
    while rest and hasattr(found.id, "links") and _has(found, rest[0]):
        if found.id.links.get_info(rest[0].encode()).type != _HARD_LINK:
            break
        found = found[rest.pop(0)]
    return found, rest


def _instead(file: Any) -> str:
    """Return what another layout has; else what lies in the group `events`, or where that is missing, in the file."""
    for name, whose in _OTHER_LAYOUTS.items():
        if not _follow(file, name)[1]:
            return f"{name}, as {whose} has it"
    return f"none{but_others(_follow(file, 'events')[0])}"


def _has(group: Any, name: str) -> bool:
    """Return whether there is a link of that name. It is not followed: it may lead to a pipe, which would wait."""
    return bool(group.id.links.exists(name.encode()))
