"""Read dicts of arrays out of pickles, which can run any code when loaded; out of these, none.

Python's own unpickler builds whatever it is asked for, however large or deep. Of its version in Python, only the few
opcodes are left that numpy's pickles consist of. They are counted, nothing is imported, and what they build are
stand-ins, never hashed, compared as a whole, or printed.
"""

from __future__ import annotations

import math
import os
import pickle
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.core.shown import plain
from stagebench.media.files import whole

MAX_OPCODES = 100_000  # a dict of arrays takes about a hundred, each of the rest costs time
_SHOWN = 200  # characters of what an error quotes
_LONGEST_CODE = 200  # characters of a type's name
_MAX_DIMENSIONS = 32
# The numbers that an array may be made of. Anything else is named in an error, never built.
_NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")


def unpickle_arrays(name: str, file: BinaryIO, keys: Iterable[str]) -> dict[str, object]:
    """Read those keys of a pickled dict that it has, as `np.save(path, {...})` wrote it.

    Args:
        name: what an error calls the file.
        file: where the pickle begins, after the header of the `.npy` file; to its end.
        keys: of the dict.

    Returns:
        Arrays of numbers or bools, as they were; None for all other keys.

    Raises:
        MediaError: the pickle is damaged, is no dict, takes more steps than its arrays need, asks for anything but
            numpy arrays, or is not all of the file; or a key has anything but a whole array of numbers.
    """
    pickled = _Pickled(file)
    with whole(name, "pickled dict"):
        recording = _Machine(name, pickled).load()
    if isinstance(recording, _Array) and isinstance(recording.data, list) and len(recording.data) == 1:
        recording = recording.data[0]
    if not isinstance(recording, _Dict):
        raise MediaError(f"{name}: must hold a dict of arrays, got {_kind_of(recording)}")
    if pickled.left:
        raise MediaError(f"{name}: must hold one dict, got {pickled.left} bytes behind it")
    columns: dict[str, object] = {}
    for key, value in zip(recording[::2], recording[1::2], strict=True):
        if not isinstance(key, str):
            raise MediaError(f"{name}: must hold a dict of arrays by name, got {_kind_of(key)} for a name")
        columns[key] = value
    wanted = {key: _rebuilt(name, key, columns[key]) for key in keys if key in columns}
    return wanted | {key: None for key in columns if key not in wanted}


def _rebuilt(name: str, key: str, value: object) -> NDArray[Any]:
    if not isinstance(value, _Array):
        raise MediaError(f"{name}: {key} must be an array of one dimension, got {_kind_of(value)}")
    if value.type.code not in _NUMBERS or isinstance(value.data, list):
        raise MediaError(f"{name}: {key} must be integers, got numpy's type '{plain(value.type.code)}'")
    if len(value.shape) != 1:
        got = plain(str(value.shape), _SHOWN)
        raise MediaError(f"{name}: {key} must be an array of one dimension, got one of shape {got}")
    dtype = np.dtype(value.type.order + value.type.code)
    with whole(name, "recording"):
        data = value.data.text.encode("latin-1") if isinstance(value.data, _Encoded) else value.data
    if len(data) != value.shape[0] * dtype.itemsize:
        raise MediaError(f"{name}: {key} must hold {value.shape[0]} {dtype}, got {len(data)} bytes")
    array: NDArray[Any] = np.frombuffer(data, dtype)
    return array


def _kind_of(value: object) -> str:
    """Return what a value is, with its article."""
    name = "None" if value is None else type(value).__name__.strip("_").lower()
    return name if value is None else f"an {name}" if name[0] in "aeiou" else f"a {name}"


class _Dict(list[Any]):
    """Holds keys and values in turn. Nothing is hashed: what hashes alike costs no more than other keys."""


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """Stands for bytes that protocol 2 has as a text, in Latin-1; they are made once, of a column."""

    text: str


@dataclass(slots=True, eq=False)
class _Type:
    """Stands for a `numpy.dtype`."""

    code: str = "nothing"
    order: str = "="


@dataclass(slots=True, eq=False)
class _Array:
    """Stands for an array; its data are a list where it is one of objects."""

    shape: tuple[Any, ...] = ()
    type: _Type = field(default_factory=_Type)
    data: bytes | bytearray | _Encoded | list[Any] = b""

    def of(self, shape: object, kind: object, data: object) -> _Array:
        """Return it made of these, checked."""
        if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS:
            raise UnpicklingError(f"the shape of an array is no tuple of at most {_MAX_DIMENSIONS} lengths")
        if not all(type(length) is int and 0 <= length < 2**63 for length in shape):
            raise UnpicklingError("the shape of an array is not made of lengths")
        if not isinstance(kind, _Type) or not isinstance(data, bytes | bytearray | _Encoded | list):
            raise UnpicklingError("an array has no type or no data")
        if isinstance(data, list) and math.prod(shape) != len(data):
            raise UnpicklingError(f"an array of shape {shape} has {len(data)} objects")
        self.shape, self.type, self.data = shape, kind, data
        return self


@dataclass(frozen=True, slots=True, eq=False)
class _Global:
    """Stands for what numpy rebuilds arrays with."""

    name: str

    def __call__(self, *arguments: object) -> object:
        match self.name, arguments:
            case "dtype", (str(code), int(), int()) if len(code) < _LONGEST_CODE:
                return _Type(code)
            case "_reconstruct", (_Global("ndarray"), tuple(), bytes() | str() | _Encoded()):
                return _Array()
            case "encode", (str(text), "latin1"):
                return _Encoded(text)
            case "_frombuffer", (data, kind, shape, "C" | "F"):
                return _Array().of(shape, kind, data)
            case "scalar", (_Type(), bytes() | _Encoded()):
                return math.nan  # a single number, which a recording has no use for
        raise UnpicklingError(f"{self.name} called with other arguments than numpy's")


# numpy 2 renamed numpy.core to numpy._core.
_GLOBALS = {"numpy.ndarray", "numpy.dtype", "_codecs.encode"} | {
    f"numpy.{core}.{name}"
    for core in ("core", "_core")
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
}


class _Pickled:
    """Reads the rest of a file, and never asks it for more than there is: that would be allocated first.

    It is read, not mapped into memory: the system counts what is read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left = os.fstat(file.fileno()).st_size - file.tell()

    def read(self, size: int) -> bytes:
        """Read as many bytes, or those that are left."""
        return self._counted(self._file.read(min(size, self.left)))

    def readline(self) -> bytes:
        """Read to the end of a line."""
        return self._counted(self._file.readline())

    def _counted(self, data: bytes) -> bytes:
        self.left -= len(data)
        return data


class _Machine(pickle._Unpickler):
    """Carries out a pickle of protocol 2 to 5; it ends where the file is then."""

    read: Callable[[int], bytes]
    stack: list[Any]

    def __init__(self, name: str, pickled: _Pickled) -> None:
        super().__init__(pickled)
        self._name, self._pickled = name, pickled
        self.dispatch = _Opcodes(_OPCODES)  # type: ignore[misc]  # of each its own, because they are counted

    def find_class(self, module: str, name: str) -> _Global:
        """Return what stands for a name, where it is an allowed one; nothing is imported."""
        wanted = f"{module}.{name}"
        if wanted not in _GLOBALS:
            what = plain(wanted, _SHOWN)
            raise MediaError(f"{self._name}: a pickle may load numpy arrays only, refused '{what}'")
        return _Global(wanted.rpartition(".")[2])

    def frame(self) -> None:
        """Read past the beginning of a frame, which may not be larger than the file."""
        (size,) = struct.unpack("<Q", self.read(8))
        if size > self._pickled.left:
            raise UnpicklingError(f"FRAME {size} where {self._pickled.left} bytes are left")

    def set_item(self) -> None:
        """Append a key and a value to a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1].extend((key, value))

    def build(self) -> None:
        """Give a type its byte order, an array what it is made of."""
        match self.stack.pop(), self.stack[-1]:
            case (int(), "<" | ">" | "=" | "|" as order, *_), _Type() as kind:
                kind.order = order if order in "<>" else "="
            case (int(), shape, kind, int(), data), _Array() as array:
                array.of(shape, kind, data)
            case _, other:
                raise UnpicklingError(f"another state of {_kind_of(other)} than numpy's")


class _Opcodes(dict[int, Callable[[Any], None]]):
    """Says how each opcode is carried out, so many times."""

    steps = 0

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.steps += 1
        if self.steps > MAX_OPCODES:
            raise UnpicklingError(f"more than {MAX_OPCODES} steps")
        if code not in self:
            raise UnpicklingError(f"opcode {bytes([code])!r}, which no recording has")
        return super().__getitem__(code)


_KEPT = (
    "PROTO STOP MARK BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 "
    "BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS GLOBAL STACK_GLOBAL REDUCE"
)
_AS_OTHERS = {  # so that nothing is hashed, and nothing is made before its bytes are there
    "SETITEMS": "APPENDS",
    "ADDITEMS": "APPENDS",
    "EMPTY_SET": "EMPTY_LIST",
    "FROZENSET": "TUPLE",
    "BYTEARRAY8": "BINBYTES8",
}
_OPCODES: dict[int, Callable[[Any], None]] = {
    getattr(pickle, name)[0]: _Machine.dispatch[getattr(pickle, other)[0]]
    for name, other in ({kept: kept for kept in _KEPT.split()} | _AS_OTHERS).items()
} | {
    pickle.FRAME[0]: _Machine.frame,
    pickle.EMPTY_DICT[0]: lambda machine: machine.stack.append(_Dict()),
    pickle.SETITEM[0]: _Machine.set_item,
    pickle.BUILD[0]: _Machine.build,
}
