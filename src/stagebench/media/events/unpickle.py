"""Read dicts of arrays from pickles without running the code that a pickle may hold.

Python's own unpickler builds everything that a pickle requests, however large or deep. This one executes only the few
opcodes of numpy's pickles, and counts them. It imports nothing, and builds placeholders that are never hashed, compared
as a whole, or printed.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.core.shown import plain
from stagebench.media.files import whole

MAX_OPCODES = 100_000  # a dict of arrays takes about a hundred
_SHOWN = 200  # characters that an error quotes
# The types of an array's numbers. Any other type is named in an error, never built.
_NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")


def unpickle_arrays(name: str, file: BinaryIO, keys: Iterable[str]) -> dict[str, object]:
    """Read the arrays named `keys` from a pickled dict that fills the rest of the file; its other keys give None.

    Raise MediaError where the pickle is damaged, is not a dict by name, takes more than `MAX_OPCODES`, or holds other
    objects than numpy's arrays. Raise it also where one of the keys is not a whole array of numbers.
    """
    with whole(name, "pickled dict"):
        recording = _Machine(name).carry_out(file)
        if isinstance(recording, _Array) and isinstance(recording.data, list) and len(recording.data) == 1:
            recording = recording.data[0]
        if not isinstance(recording, _Dict):
            raise MediaError(f"{name}: must hold a dict of arrays, got {_kind_of(recording)}")
        if file.read(1):
            raise MediaError(f"{name}: must hold one dict, got more data after it")
        if others := [key for key in recording[::2] if not isinstance(key, str)]:
            raise MediaError(f"{name}: must hold a dict of arrays by name, got {_kind_of(others[0])} for a name")
        columns = dict(zip(recording[::2], recording[1::2], strict=True))
        return {key: _rebuilt(name, key, value) if key in keys else None for key, value in columns.items()}


def _rebuilt(name: str, key: str, value: object) -> NDArray[Any]:
    if not isinstance(value, _Array):
        raise MediaError(f"{name}: {key} must be an array of one dimension, got {_kind_of(value)}")
    if value.type.code not in _NUMBERS or isinstance(value.data, list):
        raise MediaError(f"{name}: {key} must be integers, got numpy's type '{plain(value.type.code, _SHOWN)}'")
    if len(value.shape) != 1:
        got = plain(str(value.shape), _SHOWN)
        raise MediaError(f"{name}: {key} must be an array of one dimension, got one of shape {got}")
    dtype = np.dtype(value.type.order + value.type.code)
    if len(value.data) != value.shape[0] * dtype.itemsize:
        raise MediaError(f"{name}: {key} must hold {value.shape[0]} {dtype}, got {len(value.data)} bytes")
    return np.frombuffer(value.data, dtype)


def _kind_of(value: object) -> str:
    """Return the kind of a value, with its article."""
    name = type(value).__name__.strip("_").lower()
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


class _Dict(list[Any]):
    """Keys and values in turn. Nothing is hashed, so keys with equal hashes cost no extra time."""


@dataclass(slots=True, eq=False)
class _Type:
    """Placeholder of a `numpy.dtype`."""

    code: str = "nothing"
    order: str = "="


@dataclass(slots=True, eq=False)
class _Array:
    """Placeholder of an array; its data are a list if it holds objects."""

    shape: tuple[int, ...] = ()
    type: _Type = field(default_factory=_Type)
    data: bytes | list[Any] = b""


@dataclass(frozen=True, slots=True, eq=False)
class _Global:
    """Placeholder of a function that numpy's pickles call."""

    name: str


_GLOBALS = {"numpy.ndarray", "numpy.dtype"}
for _core in ("numpy.core", "numpy._core"):  # numpy 2 renamed it
    _GLOBALS |= {f"{_core}.multiarray._reconstruct", f"{_core}.multiarray.scalar"}


def _call(function: object, arguments: tuple[object, ...]) -> object:
    """Return the placeholder of what numpy's function would return."""
    match function, arguments:
        case _Global("dtype"), (str(code), int(), int()):
            return _Type(code)
        case _Global("_reconstruct"), (_Global("ndarray"), tuple(), bytes()):
            return _Array()
        case _Global("scalar"), (_Type(), bytes()):
            return math.nan  # a single number, which no recording needs
    raise UnpicklingError("a call other than numpy's, or with other arguments")


def _build(built: object, state: object) -> object:
    """Set the byte order of a type, or the shape, type and data of an array, and return it."""
    match built, state:
        case _Type() as kind, (int(), "<" | ">" | "=" | "|" as order, *_):
            kind.order = order if order in "<>" else "="
        case _Array() as array, (int(), tuple(shape), _Type() as kind, int(), (bytes() | list()) as data):
            if not all(type(length) is int and 0 <= length < 2**63 for length in shape):
                raise UnpicklingError("an array of an invalid shape")
            array.shape, array.type, array.data = shape, kind, data
        case _:
            raise UnpicklingError(f"a state of {_kind_of(built)} that numpy does not write")
    return built


class _Machine:
    """Executes a pickle of protocol 3 or 4, as numpy writes them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.stack: list[Any] = []
        self.push = self.stack.append
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def carry_out(self, file: BinaryIO) -> object:
        """Execute opcodes up to the end of the pickle, and return the result."""
        for _ in range(MAX_OPCODES):
            code = file.read(1)
            opcode = _KEPT.get(code)
            if opcode is None:
                raise UnpicklingError(f"opcode {code!r}, which no recording has")
            if opcode.name == "STOP":
                return self.stack.pop()
            _STEPS[opcode.name](self, opcode.arg.reader(file) if opcode.arg else None)
        raise UnpicklingError(f"more than {MAX_OPCODES} steps")

    def take(self, count: int | None = None) -> list[Any]:
        """Pop `count` values off the stack, or all since the last mark."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if not 0 <= start <= len(self.stack):
            raise UnpicklingError("fewer values than an opcode takes")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def extend(self, values: list[Any]) -> None:
        """Add values to a list, or keys and values to a dict."""
        self.stack[-1].extend(values)

    def find(self, name: str) -> None:
        """Push the placeholder of an allowed global name."""
        if name not in _GLOBALS:
            raise MediaError(f"{self._name}: a pickle may load numpy arrays only, refused '{plain(name, _SHOWN)}'")
        self.push(_Global(name.rpartition(".")[2]))


_VALUES = (
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "NONE"  # without an argument, so None
)
# Sets are lists too, so that nothing is hashed.
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda *_: None),
    **dict.fromkeys(_VALUES.split(), lambda machine, value: machine.push(value)),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push(_Dict()),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda machine, _: machine.push([])),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    **dict.fromkeys(("TUPLE", "FROZENSET"), lambda machine, _: machine.push(tuple(machine.take()))),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.take(3))),
    "APPEND": lambda machine, _: machine.extend(machine.take(1)),
    "SETITEM": lambda machine, _: machine.extend(machine.take(2)),
    **dict.fromkeys(("APPENDS", "SETITEMS", "ADDITEMS"), lambda machine, _: machine.extend(machine.take())),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "MEMOIZE": lambda machine, _: machine.memo.update({len(machine.memo): machine.stack[-1]}),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, at: machine.memo.update({at: machine.stack[-1]})),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, at: machine.push(machine.memo[at])),
    "GLOBAL": lambda machine, name: machine.find(name.replace(" ", ".")),
    "STACK_GLOBAL": lambda machine, _: machine.find(".".join(machine.take(2))),
    "REDUCE": lambda machine, _: machine.push(_call(*machine.take(2))),
    "BUILD": lambda machine, _: machine.push(_build(*machine.take(2))),
}
_KEPT = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes if opcode.name in _STEPS}
