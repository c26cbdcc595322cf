"""A machine for the pickles of numpy's arrays: it builds stand-ins, imports nothing, and counts its steps.

Python's own unpickler builds whatever it is asked for, however large or deep. Here the few opcodes that numpy's pickles
consist of are carried out, on stand-ins that are never hashed, compared as a whole, or printed. Bytes are left in the
file until a column is made of them.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeVar

from stagebench.core.errors import MediaError
from stagebench.core.shown import plain

T = TypeVar("T")

MAX_OPCODES = 100_000  # a dict of arrays takes about a hundred, each of the rest costs time
SHOWN = 200  # characters of what an error quotes
_MAX_LINE = 200  # bytes of a name
_MAX_DIMENSIONS = 32
_LONG = 1000  # bytes: what is longer stays in the file


def kind_of(value: object) -> str:
    """What a value is, with its article."""
    name = "None" if value is None else type(value).__name__.strip("_").lower()
    return name if value is None else f"an {name}" if name[0] in "aeiou" else f"a {name}"


@dataclass(frozen=True, slots=True)
class _Stored:
    """Bytes, or a long text, left where they are; or bytes that protocol 2 has as a text, which is in Latin-1."""

    start: int
    size: int
    text: bool = False
    given: bytes | None = None

    def read(self, file: BinaryIO, size: int) -> bytes | None:
        """Read so many bytes; None where there are more or fewer."""
        if self.given is None and not size <= self.size <= (2 * size if self.text else size):
            return None
        file.seek(self.start)
        data = self.given if self.given is not None else file.read(self.size)
        try:
            data = data.decode().encode("latin-1") if self.text else data
        except UnicodeError:
            return None
        return data if len(data) == size else None


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that a pickle asked for, and was allowed to."""

    name: str


class Dict(list[Any]):
    """Keys and values in turn. Nothing is hashed: what hashes alike costs no more than other keys."""


@dataclass(slots=True, eq=False)
class _Type:
    """Stands in for a `numpy.dtype`."""

    code: str
    order: str = "="


@dataclass(slots=True, eq=False)
class Array:
    """Stands in for an array; its data are a list where it is one of objects."""

    shape: tuple[Any, ...] = ()
    type: _Type = field(default_factory=lambda: _Type("nothing"))
    data: _Stored | list[Any] = field(default_factory=lambda: _Stored(0, 0))


class _Scalar:
    """Stands in for a single number of numpy's, which a recording has no use for."""


def _damaged(why: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(why)


def _array(shape: object, kind: object, data: object) -> Array:
    """Check what an array is said to be."""
    if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS:
        raise _damaged(f"the shape of an array is no tuple of at most {_MAX_DIMENSIONS} lengths")
    if not all(type(length) is int and 0 <= length < 2**63 for length in shape):
        raise _damaged("the shape of an array is not made of lengths")
    if not isinstance(kind, _Type) or not isinstance(data, _Stored | list):
        raise _damaged("an array has no type or no data")
    if isinstance(data, list) and math.prod(shape) != len(data):
        raise _damaged(f"an array of shape {shape} has {len(data)} objects")
    return Array(shape, kind, data)


def _call(function: _Global, arguments: tuple[object, ...]) -> object:
    """Stand in for the functions with which numpy rebuilds arrays."""
    match function.name.rpartition(".")[2], arguments:
        case "dtype", (str(code), int(), int()) if len(code) < _MAX_LINE:
            return _Type(code)
        case "_reconstruct", (_Global("numpy.ndarray"), tuple(), _Stored() | str()):
            return Array()
        case "encode", (_Stored(text=True) as text, "latin1"):
            return text
        case "encode", (str(text), "latin1"):
            data = text.encode("latin-1")
            return _Stored(0, len(data), given=data)
        case "_frombuffer", (data, kind, shape, "C" | "F"):
            return _array(shape, kind, data)
        case "scalar", (_Type(), _Stored()):
            return _Scalar()
    raise _damaged(f"{function.name} called with other arguments than numpy's")


# numpy 2 renamed numpy.core to numpy._core.
_NAMES = {"numpy.ndarray", "numpy.dtype", "_codecs.encode"} | {
    f"numpy.{core}.{name}"
    for core in ("core", "_core")
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
}


class Machine:
    """Carries out a pickle of protocol 2 to 5."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name, self.file = name, _Bounded(file)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """Return what the pickle is made of."""
        opcodes = pickletools.genops(self.file)  # type: ignore[arg-type] # of a file it needs these three methods alone
        for step, (opcode, argument, _) in enumerate(opcodes):
            if step >= MAX_OPCODES:
                raise _damaged(f"more than {MAX_OPCODES} steps")
            if isinstance(argument, int) and not -(2**63) <= argument < 2**64:
                raise _damaged("an integer of more than 64 bits")
            self._step(opcode.name, argument)
        return self._pop(object)

    def _step(self, opcode: str, argument: Any) -> None:
        match opcode:
            case "NONE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                self._stack.append(argument)
            case "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_SET" | "EMPTY_DICT":
                self._stack.append(_NEW[opcode]())
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                size = self.file.last
                self._stack.append(argument if size < _LONG else _Stored(self.file.tell() - size, size, text=True))
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                self._stack.append(_Stored(self.file.tell() - self.file.last, self.file.last))
            case "TUPLE" | "FROZENSET" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._stack.append(tuple(self._take(opcode)))
            case "APPEND" | "APPENDS" | "ADDITEMS" | "SETITEM" | "SETITEMS":
                self._extend(self._take(opcode))
            case _:
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
            case "FRAME" if argument > self.file.left:
                raise _damaged(f"FRAME {argument} where {self.file.left} bytes are left")
            case "FRAME" | "PROTO" | "STOP":
                pass
            case _:
                raise _damaged(f"opcode {opcode}, which no recording has")

    def _pop(self, kind: type[T], place: int = 1) -> T:
        """Take from the stack what must be of a kind: the topmost, or the one under it."""
        if not isinstance(value := self._stack.pop(-place), kind):
            raise _damaged(f"{kind_of(value)} in the place of {kind.__name__.strip('_').lower()!r}")
        return value

    def _take(self, opcode: str) -> list[Any]:
        """Take from the stack what an opcode works on: so many, or down to the last mark."""
        count = _TAKES.get(opcode)
        at = self._marks.pop() if count is None else len(self._stack) - count
        items = self._stack[at:]
        del self._stack[at:]
        if len(items) < (count or 0):
            raise _damaged("too few items on the stack")
        return items

    def _extend(self, items: list[Any]) -> None:
        """Append to a list, or to a dict keys and values in turn."""
        target = self._stack[-1]
        if not isinstance(target, list) or (isinstance(target, Dict) and len(items) % 2):
            raise _damaged(f"{len(items)} items for {kind_of(target)}")
        target.extend(items)

    def _name_global(self, names: str) -> None:
        """Push a name where it is an allowed one; nothing is imported."""
        wanted = names.replace(" ", ".", 1)
        if wanted not in _NAMES:
            what = plain(wanted, SHOWN)
            raise MediaError(f"{self._name}: a pickle may load numpy arrays only, refused '{what}'")
        self._stack.append(_Global(wanted))


def _set_state(state: tuple[object, ...], target: object) -> None:
    """Give a type its byte order, an array what it is made of."""
    match target, state:
        case _Type(), (int(), "<" | ">" | "=" | "|" as order, *_):
            target.order = order if order in "<>" else "="
        case Array(), (int(), shape, kind, int(), data):
            made = _array(shape, kind, data)
            target.shape, target.type, target.data = made.shape, made.type, made.data
        case _:
            raise _damaged(f"another state of {kind_of(target)} than numpy's")


_NEW: dict[str, Callable[[], object]] = {
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": Dict,
}
_TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}


class _Bounded:
    """A file to its end, lines of which are short; long parts are passed over, zeros stand in for them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, at = file, file.tell()
        self.left = file.seek(0, io.SEEK_END) - at
        self.last = 0  # the size of what was read
        file.seek(at)
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        """The next bytes, or as many zeros."""
        if count > self.left:
            raise _damaged(f"{count} bytes where {self.left} are left")
        self.left, self.last = self.left - count, count
        if count < _LONG:
            return self._file.read(count)
        self._file.seek(count, io.SEEK_CUR)
        return bytes(count)

    def readline(self) -> bytes:
        """The next line, or the beginning of a long one, which then has no end."""
        line = self._file.readline(_MAX_LINE)
        self.left -= len(line)
        return line
