"""Recordings made to take all memory, all time or the interpreter: each ends in one line, within limits.

They are read one after the other in one process of limited memory, because one that crashes it must be seen.
"""

from __future__ import annotations

import ast
import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

READER = """
import os, resource, signal, sys
from pathlib import Path
from stagebench.core.errors import MediaError
from stagebench.media.events.recordings import load_event_arrays

pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, resource.RLIM_INFINITY))
for path in sorted(Path(sys.argv[1]).iterdir()):
    signal.setitimer(signal.ITIMER_PROF, 5)  # seconds of its own; SIGPROF ends it
    try:
        end = f"read {len(load_event_arrays(path).x)}"
    except MediaError as error:
        end = f"refused {error}"
    except BaseException as error:
        end = f"failed {type(error).__name__}"
    print(f"{path.name}\\t{end!r}", flush=True)
"""


def outcomes(folder: Path) -> dict[str, str]:
    """Read all files of a folder in another process; how each ended, for those that did."""
    command = [sys.executable, "-W", "error", "-c", READER, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return {name: ast.literal_eval(end) for name, end in (line.split("\t") for line in done.stdout.splitlines())}


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def data(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def integer(value: int) -> bytes:
    packed = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return (b"\x8a%c" % len(packed) if len(packed) < 256 else b"\x8b" + struct.pack("<I", len(packed))) + packed


def kind(code: bytes, state: bytes | None = None) -> bytes:
    built = b"" if state is None else state + b"b"
    return b"cnumpy\ndtype\n" + code + b"\x89\x88\x87R" + built


NEW = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R"
U2 = kind(text("u2"), b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0t")


def array(shape: bytes = b"K\x04\x85", of: bytes = U2, flag: bytes = b"\x89", held: bytes = data(bytes(8))) -> bytes:
    """Opcodes of an array of four numbers, or of another one."""
    return NEW + b"(K\x01" + shape + of + flag + held + b"tb"


def recording(x: bytes = array(), more: bytes = b"") -> bytes:
    """A pickle of a whole recording but for x, and what else lies in its dict."""
    columns = b"".join(text(key) + array() for key in "ytp")
    return b"\x80\x02}(" + more + text("x") + x + columns + b"u."


def npy(pickled: bytes) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    return header.getvalue() + pickled


def headed(header: bytes, version: int = 1, length: int | None = None) -> bytes:
    """An `.npy` file with any header."""
    size = struct.pack("<H" if version == 1 else "<I", len(header) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + bytes(64)


def described(descr: Any, shape: Any = (4,)) -> bytes:
    return headed(repr({"descr": descr, "fortran_order": False, "shape": shape}).encode())


def doubled(make: bytes, times: int = 60) -> bytes:
    """A value that holds itself twice, and so on: 2 ** times in all."""
    return make + b"q\0" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(times))


PICKLES: dict[str, bytes] = {
    "doubled tuples as a dtype": recording(array(of=kind(doubled(text("u2"))))),
    "doubled tuples as a shape": recording(array(doubled(b"K\x01"))),
    "doubled tuples as a key": recording(more=doubled(text("z")) + b"N"),
    "doubled tuples as x": recording(doubled(b"N")),
    "doubled tuples as a name": recording(doubled(text("numpy")) + text("ndarray") + b"\x93"),
    "doubled lists": recording(b"]q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))),
    "a list in itself": recording(b"]q\0h\0a"),
    "a dict in itself": b"\x80\x02}q\0" + text("x") + b"h\0s.",
    "tuples within tuples as x": recording(b")" + b"\x85" * 90_000),
    "tuples within tuples as a key": recording(more=b")" + b"\x85" * 90_000 + b"N"),
    "tuples within tuples as a shape": recording(array(b")" + b"\x85" * 90_000)),
    "lists within lists": recording(b"]" * 45_000 + b"a" * 44_999),
    "dicts within dicts": recording(b"}" + b"N}" * 30_000 + b"s" * 30_000),
    "marks alone": b"\x80\x02" + b"(" * 90_000 + b"t.",
    "endless steps": b"\x80\x04" + b"N\x94" * 2_000_000 + b".",
    "a million values in one list": recording(b"](" + b"N" * 1_000_000 + b"e"),
    "colliding keys": recording(more=b"".join(integer(i * (2**61 - 1)) + b"N" for i in range(1, 20_000))),
    "colliding keys of 64 bits": recording(more=b"".join(integer(i << 40) + b"N" for i in range(20_000))),
    "colliding members of a set": b"\x80\x04\x8f("
    + b"".join(integer(i * (2**61 - 1)) for i in range(1, 20_000))
    + b"\x90.",
    "an integer of a million digits": recording(integer(10**1_000_000)),
    "a length of a million digits": recording(array(integer(10**1_000_000) + b"\x85")),
    "one large integer many times": recording(b"](" + integer(1 << 800_000) + b"q\0" + b"h\0" * 50_000 + b"e"),
    "an integer in text": recording(b"I" + b"9" * 1_000_000 + b"\n"),
    "a long in text": recording(b"L" + b"9" * 4000 + b"L\n"),
    "a shape of a large length": recording(array(integer(2**62) + b"\x85")),
    "a shape larger than addresses": recording(array(integer(2**64) + b"\x85")),
    "a shape below zero": recording(array(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86")),
    "a shape whose product is right": recording(array(b"J\xfe\xff\xff\xffJ\xfe\xff\xff\xff\x86")),
    "a shape of a thousand dimensions": recording(array(b"(" + b"K\x01" * 1000 + b"t")),
    "a shape of bools": recording(array(b"\x88\x85")),
    "a shape of text": recording(array(text("4") + b"\x85")),
    "a shape that is a list": recording(array(b"]K\x04a")),
    "more bytes than the shape": recording(array(held=data(bytes(9)))),
    "fewer bytes than the shape": recording(array(held=data(bytes(7)))),
    "text in place of bytes": recording(array(held=text("\u20ac" * 4))),
    "a list in place of bytes": recording(array(held=b"](NNNNe")),
    "an odd flag of order": recording(array(flag=text("C"))),
    "an array of no objects": pickle.dumps(np.empty(0, object)),
    "an array of two objects": pickle.dumps(np.array([{}, {}])),
    "no type": recording(array(of=b"N")),
    "a type that is a list": recording(array(of=kind(b"]"))),
    "a type of a long name": recording(array(of=kind(text("u" * 1_000_000)))),
    "a type of control characters": recording(array(of=kind(text("\x1b[2J\n\u202eu2")))),
    "a type of objects within objects": recording(array(of=kind(text("O8")), held=b"](" + array() * 4 + b"e")),
    "a type with a hundred thousand fields": recording(
        array(of=kind(text("V4"), b"(K\x03" + text("|") + b"N(" + text("a") * 90_000 + b"t}K\x04K\x01K\x10t"))
    ),
    "a subarray type": recording(
        array(of=kind(text("V8"), b"(K\x03" + text("|") + U2 + b"K\x04\x85\x86NNK\x08K\x02K\0t"))
    ),
    "a type as a recording": b"\x80\x02" + U2 + b".",
    "an array that was never built": recording(NEW),
    "an array without arguments": recording(b"cnumpy\nndarray\n)\x81"),
    "an array of another class": recording(
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nmatrix\nK\0\x85C\x01b\x87RN."
    ),
    "a function without arguments": recording(b"cnumpy.core.multiarray\n_reconstruct\n)R"),
    "a function with too many arguments": recording(b"cnumpy\ndtype\n(" + b"N" * 10_000 + b"tR"),
    "a call of a text": recording(text("os.system") + b")R"),
    "a state of a dict": recording(b"}" + text("__class__") + b"Nsb"),
    "a state of a name": recording(b"cnumpy\nndarray\n)b"),
    "os.system": recording(b"cos\nsystem\n" + text("touch canary") + b"\x85R"),
    "os.system by its old name": recording(b"(" + text("touch canary") + b"ios\nsystem\n"),
    "an attribute of an allowed name": recording(text("numpy") + text("ndarray.tofile") + b"\x93"),
    "a name that is no text": recording(b"K\x01K\x02\x93"),
    "a name of a megabyte": recording(b"c" + b"a" * 1_000_000 + b"\nb\n"),
    "a name of control characters": recording(b"c\x1b[31m\rroot\x07\n\xe2\x80\xae\n"),
    "a name in surrogates": recording(b"\x8c\x03\xed\xa0\x80\x8c\x03\xed\xb0\x80\x93"),
    "an extension": recording(b"\x82\x01"),
    "a large extension": recording(b"\x84\xff\xff\xff\x7f"),
    "a persistent id": recording(b"Pmine\n"),
    "a persistent id on the stack": recording(text("mine") + b"Q"),
    "a buffer elsewhere": recording(array(held=b"\x97")),
    "a read-only buffer elsewhere": recording(array(held=b"\x97\x98")),
    "an empty stack": b"\x80\x02.",
    "a stack popped below its mark": b"\x80\x02N(0" + b"a" * 10 + b"t.",
    "a frame larger than the file": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    "a byte array larger than the file": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"}.",
    "bytes larger than the file": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"}.",
    "bytes larger than addresses": b"\x80\x04\x8e" + struct.pack("<Q", 2**64 - 1) + b"}.",
    "text larger than the file": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"}.",
    "a memo of two thousand million places": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a place of the memo in text": b"\x80\x02}p" + b"9" * 100_000 + b"\n.",
    "a place of the memo below zero": b"\x80\x02}p-1\n.",
    "an unknown place of the memo": b"\x80\x02h\x07.",
    "another protocol": b"\x80\xff}.",
    "no end": recording()[:-1],
    "two pickles": recording() + recording(),
    "nothing": b"",
}


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def marked(archive: bytes, at: int, value: bytes) -> bytes:
    """A zip in which a field of every entry, here and in the directory, has another value."""
    changed = bytearray(archive)
    for mark, further in ((b"PK\1\2", 2), (b"PK\3\4", 0)):
        start = changed.find(mark)
        while start >= 0:
            changed[start + at + further : start + at + further + len(value)] = value
            start = changed.find(mark, start + 4)
    return bytes(changed)


def column(array: Any = (0, 0, 1, 1)) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=True)
    return file.getvalue()


COLUMNS = tuple((f"{key}.npy", column()) for key in "xytp")
STRUCTURED = np.zeros(4, [(key, "u2") for key in "xytp"])
DICT = b"{'descr': '<u2', 'fortran_order': False, 'shape': (4,)}"

FILES: dict[str, Callable[[], bytes]] = {
    "header of ten megabytes.npy": lambda: headed(b" " * 10_000_000 + DICT, version=2),
    "header of four gigabytes.npy": lambda: headed(DICT, version=2, length=2**32 - 1),
    "header of another version.npy": lambda: headed(DICT, version=9),
    "header of parentheses.npy": lambda: headed(b"(" * 60_000),
    "header of a few parentheses.npy": lambda: headed(b"(" * 9000),
    "header of brackets.npy": lambda: headed(b"[" * 90 + b"]" * 90),
    "header of signs.npy": lambda: headed(b"-" * 9000 + b"1"),
    "header of sums.npy": lambda: headed(b"1" + b"+1" * 4000),
    "header of nots.npy": lambda: headed(b"not " * 2000 + b"1"),
    "header of dots.npy": lambda: headed(b"a" + b".a" * 4000),
    "header of an integer.npy": lambda: headed(
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (" + b"9" * 9000 + b",)}"
    ),
    "header of a list.npy": lambda: headed(b"[1, 2]"),
    "header of a set of dicts.npy": lambda: headed(b"{{}}"),
    "header of a call.npy": lambda: headed(b"__import__('os').system('touch canary')"),
    "header of zeros.npy": lambda: headed(bytes(100)),
    "header of a string that does not end.npy": lambda: headed(b"'" * 9999),
    "header of an odd escape.npy": lambda: headed(rb"{'descr': '\q', 'fortran_order': False, 'shape': (4,)}"),
    "header of an odd comparison.npy": lambda: headed(b"1 is 1"),
    "shape of a large length.npy": lambda: described([("x", "<u2")], (10**30,)),
    "shape below zero.npy": lambda: described([("x", "<u2")], (-4,)),
    "shape whose product wraps.npy": lambda: described([("x", "<u2")], (2**32, 2**32)),
    "shape of many dimensions.npy": lambda: described([("x", "<u2")], (1,) * 2000),
    "shape of bools.npy": lambda: described([(key, "<u2") for key in "xytp"], (True,)),
    "shape of text.npy": lambda: described("<u2", ("4",)),
    "type of a large subarray.npy": lambda: described([("x", "<u2", (2**31, 2**31))]),
    "type of many large subarrays.npy": lambda: described([(key, "<u2", (2**29,)) for key in "xytp"]),
    "type of subarrays.npy": lambda: described([(key, "<u2", (1, 1)) for key in "xytp"]),
    "type of many fields.npy": lambda: described([(f"f{i}", "u1") for i in range(500)]),
    "type of commas.npy": lambda: described("u2," * 3000),
    "type of a long text.npy": lambda: described("<U" + "9" * 9000),
    "type of no size.npy": lambda: described([(key, "V0") for key in "xytp"], (2**62,)),
    "type of objects.npy": lambda: described([(key, "O") for key in "xytp"]),
    "type of objects, with a title.npy": lambda: described([(("title", key), "<u2") for key in "xytp"]),
    "type of one field twice.npy": lambda: described([("x", "<u2")] * 2),
    "type within types.npy": lambda: described(ast.literal_eval("[('x', " * 40 + "'u2'" + ")]" * 40)),
    "type with escapes in its names.npy": lambda: described([("\x1b[2J\n", "<u2")]),
    "type of dates with a unit.npy": lambda: described([(key, "<M8[us]") for key in "xytp"]),
    "type with an old name.npy": lambda: described("a8"),
    "two arrays.npy": lambda: column(STRUCTURED) * 2,
    "bomb.npz": lambda: zipped(*((f"{key}.npy", column(np.zeros(30_000_000, "u1"))) for key in "xytp")),
    "says less than it has.npz": lambda: marked(zipped(*COLUMNS), 22, struct.pack("<I", 1)),
    "with two arrays in one.npz": lambda: zipped(*((name, content * 2) for name, content in COLUMNS)),
    "says gigabytes.npz": lambda: marked(zipped(*COLUMNS), 22, struct.pack("<I", 2**32 - 2)),
    "encrypted.npz": lambda: marked(zipped(*COLUMNS), 6, b"\1\0"),
    "of an unknown method.npz": lambda: marked(zipped(*COLUMNS), 8, b"\x63\0"),
    "with names of control characters.npz": lambda: zipped(("\x1b[2J\n.npy", column(np.array([{}], object)))),
    "with pickles.npz": lambda: zipped(*((name, npy(recording())) for name, _ in COLUMNS)),
    "with a long header.npz": lambda: zipped(*((name, headed(b" " * 60_000)) for name, _ in COLUMNS)),
    "with one name often.npz": lambda: zipped(*COLUMNS, *((f"a/{name}", content) for name, content in COLUMNS)),
    "with many entries.npz": lambda: zipped(*((f"{i}.npy", b"") for i in range(20_000)), method=zipfile.ZIP_STORED),
    "without entries.npz": lambda: zipped(),
    "with folders.npz": lambda: zipped(*((f"{key}.npy/", b"") for key in "xytp")),
    "of a directory that lies.npz": lambda: zipped(*COLUMNS)[:-6] + b"\xff\xff\xff\x7f\0\0",
    "of half a file.npz": lambda: zipped(*COLUMNS)[:-60],
    "of text.npz": lambda: b"PK\3\4" + b"hello" * 100,
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("hostile")
    for name, pickled in PICKLES.items():
        (folder / f"{name}.npy").write_bytes(npy(pickled))
    for name, make in FILES.items():
        (folder / name).write_bytes(make())
    return outcomes(folder)


@pytest.mark.parametrize("name", [*(f"{name}.npy" for name in PICKLES), *FILES])
def test_a_hostile_recording_ends_in_one_short_line(hostile: dict[str, str], name: str) -> None:
    end = hostile[name]
    assert end.startswith(f"refused {name}: ")
    assert (len(end) < 400, end.isprintable()) == (True, True)


def test_the_given_hostile_recordings_end_in_one_short_line(cases: Path) -> None:
    ends = outcomes(cases / "hostile_npy")

    assert sorted(ends) == sorted(path.name for path in (cases / "hostile_npy").iterdir())
    assert all(end.startswith("refused ") and end.isprintable() and len(end) < 400 for end in ends.values())
