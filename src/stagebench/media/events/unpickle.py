"""Read dicts of arrays out of pickles, which can run any code when loaded; out of these, none.

Python's own unpickler builds whatever it is asked for, however large or deep. Here the few opcodes that numpy's pickles
consist of are carried out and counted, on stand-ins that are never hashed, compared as a whole, or printed; nothing is
imported.
"""

from __future__ import annotations

import math
import mmap
import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.core.shown import plain
from stagebench.media.files import whole

T = TypeVar("T")

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
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pickled:
        pickled.seek(file.tell())
        with whole(name, "pickled dict"):
            recording = _Machine(name).run(pickled)
        behind = len(pickled) - pickled.tell()
    if isinstance(recording, _Array) and isinstance(recording.data, list) and len(recording.data) == 1:
        recording = recording.data[0]
    if not isinstance(recording, _Dict):
        raise MediaError(f"{name}: must hold a dict of arrays, got {_kind_of(recording)}")
    if behind:
        raise MediaError(f"{name}: must hold one dict, got {behind} bytes behind it")
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


@dataclass(frozen=True, slots=True)
class _Global:
    """Stands for a name that a pickle asked for, and was allowed to."""

    name: str


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Stands for bytes that protocol 2 has as a text, in Latin-1; they are made once, of a column."""

    text: str


class _Dict(list[Any]):
    """Holds keys and values in turn. Nothing is hashed: what hashes alike costs no more than other keys."""


@dataclass(slots=True, eq=False)
class _Type:
    """Stands for a `numpy.dtype`."""

    code: str = "nothing"
    order: str = "="


@dataclass(slots=True, eq=False)
class _Array:
    """Stands for an array; its data are a list where it is one of objects."""

    shape: tuple[Any, ...]
    type: _Type
    data: bytes | bytearray | _Encoded | list[Any]


def _array(shape: object, kind: object, data: object) -> _Array:
    """Check what an array is said to be."""
    if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS:
        raise UnpicklingError(f"the shape of an array is no tuple of at most {_MAX_DIMENSIONS} lengths")
    if not all(type(length) is int and 0 <= length < 2**63 for length in shape):
        raise UnpicklingError("the shape of an array is not made of lengths")
    if not isinstance(kind, _Type) or not isinstance(data, bytes | bytearray | _Encoded | list):
        raise UnpicklingError("an array has no type or no data")
    if isinstance(data, list) and math.prod(shape) != len(data):
        raise UnpicklingError(f"an array of shape {shape} has {len(data)} objects")
    return _Array(shape, kind, data)


def _call(function: _Global, arguments: tuple[object, ...]) -> object:
    """Stand in for the functions with which numpy rebuilds arrays."""
    match function.name.rpartition(".")[2], arguments:
        case "dtype", (str(code), int(), int()) if len(code) < _LONGEST_CODE:
            return _Type(code)
        case "_reconstruct", (_Global("numpy.ndarray"), tuple(), bytes() | str() | _Encoded()):
            return _Array((), _Type(), b"")
        case "encode", (str(text), "latin1"):
            return _Encoded(text)
        case "_frombuffer", (data, kind, shape, "C" | "F"):
            return _array(shape, kind, data)
        case "scalar", (_Type(), bytes() | _Encoded()):
            return math.nan  # a single number, which a recording has no use for
    raise UnpicklingError(f"{function.name} called with other arguments than numpy's")


def _set_state(state: tuple[object, ...], target: object) -> None:
    """Give a type its byte order, an array what it is made of."""
    match target, state:
        case _Type(), (int(), "<" | ">" | "=" | "|" as order, *_):
            target.order = order if order in "<>" else "="
        case _Array(), (int(), shape, kind, int(), data):
            made = _array(shape, kind, data)
            target.shape, target.type, target.data = made.shape, made.type, made.data
        case _:
            raise UnpicklingError(f"another state of {_kind_of(target)} than numpy's")


# numpy 2 renamed numpy.core to numpy._core.
_NAMES = {"numpy.ndarray", "numpy.dtype", "_codecs.encode"} | {
    f"numpy.{core}.{name}"
    for core in ("core", "_core")
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
}
_VALUES = (
    *("NONE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_NEW: dict[str, Callable[[], object]] = {"EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_DICT": _Dict}
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}


class _Machine:
    """Carries out a pickle of protocol 2 to 5."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self, pickled: mmap.mmap) -> object:
        """Return what a pickle is made of; it ends where the file is then."""
        opcodes = pickletools.genops(pickled)  # type: ignore[arg-type] # of a file it needs three methods alone
        for step, (opcode, argument, _) in enumerate(opcodes):
            if step >= MAX_OPCODES:
                raise UnpicklingError(f"more than {MAX_OPCODES} steps")
            if isinstance(argument, int) and not -(2**63) <= argument < 2**64:
                raise UnpicklingError("an integer of more than 64 bits")
            if opcode.name == "FRAME" and int(argument or 0) > (left := len(pickled) - pickled.tell()):
                raise UnpicklingError(f"FRAME {argument} where {left} bytes are left")
            self._step(opcode.name, argument)
        return self._pop(object)

    def _step(self, opcode: str, argument: Any) -> None:
        if opcode in _VALUES:
            self._stack.append(argument)
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _NEW:
            self._stack.append(_NEW[opcode]())
        elif opcode in ("TUPLE", "FROZENSET", "TUPLE1", "TUPLE2", "TUPLE3"):
            self._stack.append(tuple(self._take(opcode)))
        elif opcode in ("APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"):
            self._extend(self._take(opcode))
        elif opcode not in ("FRAME", "PROTO", "STOP"):
            self._act(opcode, argument)

    def _act(self, opcode: str, argument: Any) -> None:
        """Do what an opcode is for that does not just push or collect values."""
        match opcode:
            case "MARK":
                self._marks.append(len(self._stack))
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                self._stack.append(self._memo[argument])
            case "GLOBAL" | "STACK_GLOBAL":
                self._name_global(argument or f"{self._pop(str, 2)} {self._pop(str)}")
            case "REDUCE":
                arguments, function = self._pop(tuple), self._pop(_Global)
                self._stack.append(_call(function, arguments))
            case "BUILD":
                _set_state(self._pop(tuple), self._stack[-1])
            case _:
                raise UnpicklingError(f"opcode {opcode}, which no recording has")

    def _pop(self, kind: type[T], place: int = 1) -> T:
        """Take from the stack what must be of a kind: the topmost, or the one under it."""
        if not isinstance(value := self._stack.pop(-place), kind):
            raise UnpicklingError(f"{_kind_of(value)} in the place of {kind.__name__.strip('_').lower()!r}")
        return value

    def _take(self, opcode: str) -> list[Any]:
        """Take from the stack what an opcode works on: so many, or down to the last mark."""
        count = _TAKES.get(opcode)
        at = self._marks.pop() if count is None else len(self._stack) - count
        items = self._stack[at:]
        del self._stack[at:]
        if len(items) < (count or 0):
            raise UnpicklingError("too few items on the stack")
        return items

    def _extend(self, items: list[Any]) -> None:
        """Append to a list, or to a dict keys and values in turn."""
        target = self._stack[-1]
        if not isinstance(target, list) or (isinstance(target, _Dict) and len(items) % 2):
            raise UnpicklingError(f"{len(items)} items for {_kind_of(target)}")
        target.extend(items)

    def _name_global(self, names: str) -> None:
        """Push a name where it is an allowed one; nothing is imported."""
        wanted = names.replace(" ", ".", 1)
        if wanted not in _NAMES:
            what = plain(wanted, _SHOWN)
            raise MediaError(f"{self._name}: a pickle may load numpy arrays only, refused '{what}'")
        self._stack.append(_Global(wanted))
