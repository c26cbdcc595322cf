"""Draw an event recording as images: read it by its suffix, check it, cut it into slices of equal count or time.

Slices of equal count, and how events are drawn, are those of the EventGPT authors' `common/common.py`
(`get_event_images_list`, `generate_event_image`), bit for bit, without a loop over events.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stagebench.core import meter
from stagebench.core.artifacts import Image, Media
from stagebench.core.errors import MediaError
from stagebench.core.settings import MAX_SIDE, LoadSettings
from stagebench.media.events.aedat4 import read_aedat4
from stagebench.media.events.event_arrays import EventArrays, require_ascending
from stagebench.media.events.evt import read_evt
from stagebench.media.events.hdf5 import read_hdf5
from stagebench.media.events.npy import FOLDER, column_files, read_folder, read_npy, read_npz
from stagebench.media.files import kind_of, name_of, require_kind, size_of

READERS: dict[str, Callable[[Path, LoadSettings], EventArrays]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    FOLDER: read_folder,
    ".raw": read_evt,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".aedat4": read_aedat4,
}
"""Readers by suffix. Each reads the window of an existing file into columns of equal length."""

MAX_COORDINATE = MAX_SIDE - 1
_ALL = LoadSettings()
# White, blue and red, the codes 0, 1 and 2, as pixels of 3 bytes: one look-up per pixel instead of three. No code is
# out of range, and mode="clip" takes half the time of checking for such.
_PIXELS = np.array([(255, 255, 255), (0, 0, 255), (255, 0, 0)], dtype=np.uint8).view("V3").ravel()
_BLOCK = 1 << 16  # events per block: its intermediate arrays stay in the processor's cache

Integers = NDArray[np.integer[Any]]


def read_events(path: Path, count: int, loading: LoadSettings = _ALL) -> Media:
    """Read a recording, or a window of it, and draw it as `count` images; by default all of it, cut by equal count.

    They have the size that `loading` sets, or each the extent of its own events. A slice of time without events is
    white, with the extent of all events. `span` is the time from the first event to the last. Raise MediaError as
    `load_event_arrays`, for fewer events than slices of equal count, and for events outside the size.
    """
    events = load_event_arrays(path, loading)
    by_time = loading.slices == "time"
    try:
        parts = slices_of_equal_time(events.t, count) if by_time else slices_of_equal_count(len(events.t), count)
        images = tuple(_draw(events, part, loading.image_size) for part in parts)
    except MediaError as error:
        raise MediaError(f"{path.name}: {error}") from error
    first, last = int(events.t[0]), int(events.t[-1])  # int64 would overflow
    span = (last - first) / 1e6
    begin = [i * span / count if by_time else (int(events.t[part.start]) - first) / 1e6 for i, part in enumerate(parts)]
    return Media(images, "events", 0, size_of_recording(path), span, tuple(begin))


def _draw(events: EventArrays, part: slice, size: tuple[int, int] | None) -> Image:
    if part.start == part.stop:
        size = size or size_of_events(events.x, events.y)
    return draw_events(events.x[part], events.y[part], events.p[part], size)


def slices_of_equal_count(total: int, count: int) -> list[slice]:
    """Cut events into slices of `total // count`, with the remainder in the last; refuse empty slices."""
    if not 1 <= count <= total:
        raise MediaError(f"must have 1 to {total} slices of at least one event, got {count}")
    each = total // count
    return [slice(i * each, (i + 1) * each if i < count - 1 else total) for i in range(count)]


def slices_of_equal_time(t: NDArray[np.int64], count: int) -> list[slice]:
    """Cut the microseconds from the first event to the last into `count` equal parts, which may be empty."""
    if count < 1:
        raise MediaError(f"must have at least 1 slice, got {count}")
    first, last = int(t[0]), int(t[-1])
    begins = [first + i * (last + 1 - first) // count for i in range(count)]
    bounds = [*np.searchsorted(t, np.array(begins, np.int64)).tolist(), len(t)]
    return [slice(bounds[i], bounds[i + 1]) for i in range(count)]


def load_event_arrays(path: Path, loading: LoadSettings = _ALL) -> EventArrays:
    """Read and check a recording, or a window of it; events outside are not read where the format allows that.

    Raise MediaError where the suffix is unknown, the file is missing, damaged or of another layout, or the window is
    empty. Raise it also where coordinates are not 0 to `MAX_COORDINATE`, polarities not 0 or 1, or times step back.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        got = (kind_of(path) if path.is_file() else None) or repr(path.suffix)
        raise MediaError(f"{name_of(path)}: must be a recording, {', '.join(READERS)}, got {got}")
    require_kind(path)
    x, y, t, p = reader(path, loading)
    meter.add("bytes_read", size_of_recording(path))
    meter.add("events_read", len(t))
    p = p.view(np.uint8) if p.dtype == bool else p  # on disk, the byte of a bool may hold any value
    for key, values, high in (("x", x, MAX_COORDINATE), ("y", y, MAX_COORDINATE), ("p", p, 1)):
        # Unsigned values are not below 0, which saves one pass.
        for value in (int(values.max()), int(values.min()) if values.dtype.kind == "i" else 0):
            if not 0 <= value <= high:
                raise MediaError(f"{path.name}: {key} is out of range, must be 0 to {high}, got {value}")
    require_ascending(path.name, t)
    if int(t[-1]) > np.iinfo(np.int64).max:
        raise MediaError(f"{path.name}: t is out of range, must be at most {np.iinfo(np.int64).max}, got {t[-1]}")
    return EventArrays(x, y, t.astype(np.int64, copy=False), p.astype(np.uint8, copy=False))


def size_of_recording(path: Path) -> int:
    """Return the size in bytes of all files of a recording."""
    return sum(map(size_of, column_files(path) if path.suffix.lower() == FOLDER else [path]))


def draw_events(x: Integers, y: Integers, p: NDArray[Any], size: tuple[int, int] | None = None) -> Image:
    """Draw events at columns x and rows y, at least 0: blue where p is 0, else red; a pixel shows its last event.

    The image is uint8 (height, width, 3), of `size` (width, height) or the extent of the events. Raise MediaError
    without events and size, or where an event lies outside the size.
    """
    if len(x) == 0 and size is None:
        raise MediaError("an event image must show at least one event or have a size, got neither")
    reach = size_of_events(x, y) if len(x) else (0, 0)
    width, height = size or reach
    if reach[0] > width or reach[1] > height:
        needed = f"{reach[0]} x {reach[1]}"
        raise MediaError(f"events must lie within an image of {width} x {height}, got some that need {needed}")
    meter.add("events_drawn", len(x))
    meter.add("images_made")
    codes = np.zeros(height * width, dtype=np.uint8)
    for start in range(0, len(x), _BLOCK):
        part = slice(start, start + _BLOCK)
        pixel = y[part].astype(np.intp)  # uint16 would overflow
        pixel *= width
        np.add(pixel, x[part], out=pixel, casting="unsafe")  # uint64 would become a float
        # With repeated indices the last assignment stays, as numpy's guide says. Its reference promises no order in
        # general, so the tests compare this case, one flat index in order, with a loop over events.
        codes[pixel] = np.uint8(1) + (p[part] != 0)
    return _PIXELS.take(codes, mode="clip").view(np.uint8).reshape(height, width, 3)


def size_of_events(x: Integers, y: Integers) -> tuple[int, int]:
    """Return (width, height) of the smallest image that shows all of at least one event."""
    return int(x.max()) + 1, int(y.max()) + 1
