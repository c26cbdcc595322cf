"""Dicts of arrays out of pickles, which can run any code when loaded; out of these, none.

Only the four names by which numpy pickles an array are let through, and not even they reach numpy: a `numpy.dtype`
with a made-up state would turn the process's own uint16 into a type of pointers. Stand-ins take down what an array is
made of, and plain integers are rebuilt from that.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stagebench.errors import MediaError

_LONG = 1 << 16  # bytes
_MAX_OPCODES = 1_000_000  # a dict of arrays takes about a hundred, each of the rest costs time
# The numbers that an array may be made of. Anything else is named in an error, never built.
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


def unpickle_arrays(name: str, file: BinaryIO, keys: Iterable[str]) -> dict[str, object]:
    """Read those keys of a pickled dict that it has, as `np.save(path, {...})` wrote it, and no others.

    Args:
        name: what an error calls the file.
        file: where the pickle begins, after the header of the `.npy` file; to its end.
        keys: of the dict.

    Returns:
        Arrays of integers or bools, read-only, as they were; whatever else lies under a key as it is.

    Raises:
        MediaError: the pickle is damaged, is no dict, takes more steps or memory than its arrays need, or asks for
            anything but numpy arrays; or an array is damaged, or made of anything but integers and bools.
    """
    try:
        start = file.tell()
        _check_opcodes(file)
        file.seek(start)
        loaded = _NumpyUnpickler(file, name).load()
    except _UNPICKLING_ERRORS as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise MediaError(f"{name}: must be a whole pickled dict, got a damaged one ({why})") from error
    recording = loaded.data[0] if isinstance(loaded, _Array) and isinstance(loaded.data, list) else loaded
    if not isinstance(recording, dict):
        raise MediaError(f"{name}: must hold a dict of arrays, got a {type(recording).__name__}")
    return {key: _rebuilt(name, key, recording[key]) for key in keys if key in recording}


def _rebuilt(name: str, key: str, value: object) -> object:
    if not isinstance(value, _Array):
        return value
    if value.code not in _PLAIN or not isinstance(value.data, bytes):
        raise MediaError(f"{name}: {key} must be integers, got numpy's type {value.code!r}")
    dtype, count = np.dtype(value.order + value.code), math.prod(value.shape)
    if len(value.data) != count * dtype.itemsize:
        raise MediaError(f"{name}: {key} must hold {count} {dtype}, got {len(value.data)} bytes")
    array: NDArray[Any] = np.frombuffer(value.data, dtype).reshape(value.shape)
    return array


def _check_opcodes(file: BinaryIO) -> None:
    """Refuse a pickle that ends early, or would take more steps, or more memory, than it has reason to."""
    skimmed = _Skimmed(file)
    steps = pickletools.genops(skimmed)  # type: ignore[arg-type] # of a file it needs these three methods alone
    for i, (opcode, argument, _) in enumerate(steps):
        if opcode.name in ("PUT", "LONG_BINPUT", "FRAME") and int(argument or 0) > skimmed.size:
            raise pickle.UnpicklingError(f"{opcode.name} {argument} in {skimmed.size} bytes")
        if i > _MAX_OPCODES:
            raise pickle.UnpicklingError(f"more than {_MAX_OPCODES} steps")


class _Skimmed:
    """A file of which long parts are passed over: zeros stand in for them, which take no time and no memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, at = file, file.tell()
        self.size = file.seek(0, io.SEEK_END) - at
        file.seek(at)
        self.tell, self.readline = file.tell, file.readline

    def read(self, count: int) -> bytes:
        """The next bytes, or as many zeros; fewer at the end."""
        if count < _LONG:
            return self._file.read(count)
        at = self._file.tell()
        end = min(at + count, self._file.seek(0, io.SEEK_END))
        self._file.seek(end)
        return bytes(end - at)


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
