"""An event recording drawn as images: slices of equally many events, each on white, red on, blue off.

The arithmetic is that of the EventGPT authors' `common/common.py` (`get_event_images_list` and
`generate_event_image`), bit for bit, without a loop over events.

Recordings are pickles, which can run any code when loaded. Only the four names by which numpy pickles an array are
let through, and not even they reach numpy: a `numpy.dtype` with a made-up state would turn the process's own uint16
into a type of pointers. Stand-ins take down what an array is made of, and plain numbers are rebuilt from that.
"""

from __future__ import annotations

import ast
import io
import pickle
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stagebench.errors import MediaError
from stagebench.media.files import size_of
from stagebench.types import Image, Media

Integers = NDArray[np.integer[Any]]

KEYS = ("x", "y", "t", "p")
MAX_COORDINATE = 8191  # no sensor is larger, and one wrong coordinate would draw an image of gigabytes
WHITE, BLUE, RED = (255, 255, 255), (0, 0, 255), (255, 0, 0)
_MAX_HEADER = 10_000  # bytes; numpy writes about 100
_PALETTE = np.array([WHITE, BLUE, RED], dtype=np.uint8)

# The numbers that a recording may be made of. Anything else in it is named in an error, never built.
_PLAIN = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
# All that unpickling raises on damaged input, the refusal of a name excepted.
_UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Events:
    """A recording, in the order of time; all four arrays are (events,).

    Attributes:
        x, y: integers as they were recorded, the pixel's column and row, 0 to `MAX_COORDINATE`.
        t: int64 microseconds, ascending, from any origin.
        p: uint8, 1 where the pixel became brighter, 0 where it became darker.
    """

    x: Integers
    y: Integers
    t: NDArray[np.int64]
    p: NDArray[np.uint8]


def read_events(path: Path, count: int) -> Media:
    """Read a recording and draw it as `count` images of equally many events.

    Args:
        path: a `.npy` file as `load_event_arrays` takes it.
        count: how many images.

    Returns:
        `count` uint8 arrays (height, width, 3), each as large as its own events reach; `span` is the time
        from the first event to the last.

    Raises:
        MediaError: see `load_event_arrays`; or fewer than `count` events.
    """
    size = size_of(path)
    events = load_event_arrays(path)
    if len(events.t) < count:
        raise MediaError(f"{path.name}: must have at least {count} events, one an image, got {len(events.t)}")
    slices = slices_of_equal_count(len(events.t), count)
    images = tuple(draw_events(events.x[part], events.y[part], events.p[part]) for part in slices)
    span = (int(events.t[-1]) - int(events.t[0])) / 1e6  # int64 would overflow
    return Media(images, "events", frames_decoded=0, bytes_read=size, span=span)


def slices_of_equal_count(total: int, count: int) -> list[slice]:
    """Cut `total` events into `count` slices of `total // count` events, the remainder going to the last.

    Raises:
        MediaError: `count` is less than 1, or more than `total`: a slice would be empty.
    """
    if not 1 <= count <= total:
        raise MediaError(f"the number of slices must be 1 to {total}, one an event, got {count}")
    each = total // count
    return [slice(i * each, (i + 1) * each if i < count - 1 else total) for i in range(count)]


def draw_events(x: Integers, y: Integers, p: Integers) -> Image:
    """Draw events on white, as large as they reach: blue where p is 0, red elsewhere; the last event wins.

    Args:
        x: non-negative integers (events,), the column.
        y: non-negative integers (events,), the row.
        p: integers (events,), the polarity.

    Returns:
        uint8 (y.max() + 1, x.max() + 1, 3), RGB.

    Raises:
        MediaError: there are no events.
    """
    if len(x) == 0:
        raise MediaError("an event image must show at least one event, got none")
    height, width = int(y.max()) + 1, int(x.max()) + 1
    pixel = y.astype(np.intp) * width + x  # uint16 would overflow
    # numpy leaves open which of several writes to one index stays; a maximum doesn't depend on their order.
    latest = np.zeros(height * width, dtype=np.int64)
    np.maximum.at(latest, pixel, 2 * np.arange(1, len(x) + 1) + (p != 0))
    colour = np.where(latest > 0, 1 + (latest & 1), 0)
    return _PALETTE.take(colour, axis=0).reshape(height, width, 3)


def load_event_arrays(path: Path) -> Events:
    """Read and check a recording: a dict of the arrays x, y, t and p that `np.save` wrote.

    Args:
        path: a `.npy` file; further keys are ignored.

    Returns:
        The recording; `t` may count from 0 or be absolute.

    Raises:
        MediaError: the file is missing, not of that layout, or asks to load anything but numpy arrays; an
            array is missing, empty, not integers, or not as long as the others; coordinates are out of range,
            polarities not 0 or 1, or times not ascending.
    """
    recording = _load_dict(path)
    missing = [key for key in KEYS if key not in recording]
    if missing:
        raise MediaError(f"{path.name}: must have the arrays x, y, t and p, got none named {', '.join(missing)}")
    x, y, t, p = (_integers(path, key, recording[key]) for key in KEYS)
    lengths = {key: len(array) for key, array in zip(KEYS, (x, y, t, p), strict=True)}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise MediaError(f"{path.name}: x, y, t and p must be equally long, got {got}")
    if len(x) == 0:
        raise MediaError(f"{path.name}: must have at least one event, got none")
    _check_range(path, "x", x, MAX_COORDINATE)
    _check_range(path, "y", y, MAX_COORDINATE)
    _check_range(path, "p", p, 1)
    _check_range(path, "t", t, np.iinfo(np.int64).max, low=np.iinfo(np.int64).min)
    backwards = np.flatnonzero(t[1:] < t[:-1])
    if len(backwards):
        i = int(backwards[0]) + 1
        raise MediaError(f"{path.name}: t must ascend, got {t[i]} after {t[i - 1]} at index {i}")
    return Events(x, y, t.astype(np.int64), p.astype(np.uint8))


def _integers(path: Path, key: str, value: object) -> Integers:
    if not isinstance(value, _Array) or len(value.shape) != 1:
        got = f"one of shape {value.shape}" if isinstance(value, _Array) else f"a {type(value).__name__}"
        raise MediaError(f"{path.name}: {key} must be an array of one dimension, got {got}")
    allowed = "iu" if key != "p" else "iub"
    if value.code not in _PLAIN or value.code[0] not in allowed or not isinstance(value.data, bytes):
        raise MediaError(f"{path.name}: {key} must be integers, got numpy's type {value.code!r}")
    dtype = np.dtype(value.order + value.code)
    if len(value.data) != value.shape[0] * dtype.itemsize:
        raise MediaError(f"{path.name}: {key} must hold {value.shape[0]} {dtype}, got {len(value.data)} bytes")
    array = np.frombuffer(value.data, dtype)
    return array.astype(np.uint8) if value.code[0] == "b" else array


def _check_range(path: Path, key: str, values: Integers, high: int, *, low: int = 0) -> None:
    for value in (int(values.min()), int(values.max())):
        if not low <= value <= high:
            raise MediaError(f"{path.name}: {key} is out of range, must be {low} to {high}, got {value}")


def _load_dict(path: Path) -> dict[str, object]:
    """Read a 0-dimensional object array that holds a dict, as `np.save(path, {...})` writes it."""
    size_of(path)
    with path.open("rb") as file:
        kind, shape = _read_header(path, file)
        if kind != "|O" or shape != ():
            raise MediaError(f"{path.name}: must hold a dict of x, y, t and p, got {kind!r} of shape {shape}")
        try:
            pickled = file.read()
            _check_sizes(pickled)
            loaded = _NumpyUnpickler(io.BytesIO(pickled), path.name).load()
        except _UNPICKLING_ERRORS as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise MediaError(f"{path.name}: must be a whole pickled dict, got a damaged one ({why})") from error
    recording = loaded.data[0] if isinstance(loaded, _Array) and isinstance(loaded.data, list) else loaded
    if not isinstance(recording, dict):
        raise MediaError(f"{path.name}: must hold a dict of x, y, t and p, got a {type(recording).__name__}")
    return recording


def _read_header(path: Path, file: BinaryIO) -> tuple[str, tuple[int, ...]]:
    """Read a `.npy` header: the type of its elements, and its shape. The layout is that of `np.lib.format`."""
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8:
        raise MediaError(f"{path.name}: must be a .npy file, got one that does not begin as such")
    length = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    text = file.read(min(length, _MAX_HEADER)).decode("latin1").strip()
    try:
        header = ast.literal_eval(text)
        return str(header["descr"]), tuple(header["shape"])
    except (ValueError, SyntaxError, TypeError, LookupError, MemoryError, RecursionError) as error:
        raise MediaError(f"{path.name}: must be a .npy file, got one with a damaged header") from error


def _check_sizes(pickled: bytes) -> None:
    """Refuse a pickle that ends early, or whose memo would take more memory than the pickle itself."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > len(pickled):
            raise pickle.UnpicklingError(f"memo index {argument} in {len(pickled)} bytes")


class _Type:
    """Stands in for `numpy.dtype` while unpickling."""

    def __init__(self, code: object, *_: object) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<" if state[1] == "<" else "="


class _Array:
    """Stands in for an array, and for the function that begins to rebuild one."""

    def __init__(self, *_: object) -> None:
        self.shape: tuple[int, ...] = ()
        self.code, self.order = "nothing", "="
        self.data: Any = b""

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _, shape, kind, _, data = state
        if not (isinstance(shape, tuple) and all(isinstance(length, int) for length in shape)):
            raise TypeError("the shape of an array is not made of integers")
        if not (isinstance(kind, _Type) and (data if isinstance(data, list) else isinstance(data, bytes))):
            raise TypeError("an array has no type or no data")
        self.shape, self.code, self.order, self.data = shape, kind.code, kind.order, data


class _Scalar:
    """Stands in for a single number of numpy's, which a recording has no use for."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        raise TypeError("a number has no state")


# numpy 2 renamed numpy.core to numpy._core. All are classes of ours with a __setstate__: a pickle can't change one.
_STAND_INS = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
}


class _NumpyUnpickler(pickle.Unpickler):  # what makes the one use of pickle harmless is find_class
    """An unpickler of plain values and of numpy's arrays, these as stand-ins; it imports nothing."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__(file)
        self._name = name

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Resolve an allowed name to its stand-in; refuse every other before it is imported."""
        stand_in = _STAND_INS.get((module_name, global_name))
        if stand_in is None:
            name = f"{module_name}.{global_name}"
            raise MediaError(f"{self._name}: a pickle may load numpy arrays only, refused {name!r}")
        return stand_in
