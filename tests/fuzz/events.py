"""Damaged recordings in every format, pickles that try to run code, bombs of every kind, and damaged PNGs.

Run as `python tests/fuzz/events.py --inputs 6000 --workers 2`; how, is said in `harness.py`.
"""

from __future__ import annotations

import builtins
import functools
import io
import os
import pickle
import random
import shutil
import struct
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faery
import h5py
import harness
import hdf5plugin
import numpy as np
from PIL import Image

from stagebench.core.artifacts import Sample
from stagebench.core.settings import LoadSettings
from stagebench.pipeline.load import load

COUNT = 2000
WINDOWS = (
    LoadSettings(),
    LoadSettings(start=0.011, duration=0.02),
    LoadSettings(slices="time", image_size=(640, 480)),
)


def make(index: int, folder: Path) -> Path:
    """Write input number `index`."""
    draw = random.Random(index)
    kinds = [damaged] * 10 + [evil_pickle] * 3 + [odd_npy, odd_npz, odd_folder, odd_hdf5, odd_hdf5, odd_aedat4, odd_png]
    return draw.choice(kinds)(draw, folder / str(index))


def read(path: Path) -> object:
    """Read it as the load stage does, all of it or a window."""
    if path.suffix == ".png":
        return load(Sample(path), 1)
    return load(Sample(path, loading=WINDOWS[int(path.stem) % len(WINDOWS)]), 3)


def recording() -> dict[str, Any]:
    generator = np.random.default_rng(1)
    return {
        "x": generator.integers(0, 640, COUNT).astype(np.uint16),
        "y": generator.integers(0, 480, COUNT).astype(np.uint16),
        "t": np.sort(generator.integers(0, 50_000, COUNT)),
        "p": generator.integers(0, 2, COUNT).astype(np.uint8),
    }


def structured() -> Any:
    made = recording()
    events = np.zeros(COUNT, [("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])
    for key, values in made.items():
        events[key] = values
    return events


def as_object(content: object) -> Any:
    array = np.empty((), dtype=object)
    array[()] = content
    return array


def saved(write: Callable[..., object], *arrays: object, **named: object) -> bytes:
    file = io.BytesIO()
    write(file, *arrays, **named)
    return file.getvalue()


def hdf5(fill: Callable[[Any], object]) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        fill(opened)
    return file.getvalue()


def dsec(file: Any) -> None:
    made = recording()
    for key, values in made.items():
        packed = hdf5plugin.Blosc(cname="zstd") if key != "p" else {"compression": "gzip"}
        file.create_dataset(f"events/{key}", data=values, chunks=(500,), **packed)
    file["ms_to_idx"] = np.searchsorted(made["t"], np.arange(50) * 1000).astype(np.uint64)
    file["t_offset"] = np.int64(49_599_304_691)


def camera(suffix: str, **options: Any) -> bytes:
    made = recording()
    events = np.zeros(COUNT, faery.EVENTS_DTYPE)
    for key, field in (("t", "t"), ("x", "x"), ("y", "y"), ("p", "on")):
        events[field] = made[key]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        faery.events_stream_from_array(events, (640, 480)).to_file(path, **options)
        return path.read_bytes()


def picture() -> bytes:
    noise = np.random.default_rng(1).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    return saved(lambda file: Image.fromarray(noise).save(file, "PNG"))


SEEDS: tuple[tuple[str, Callable[[], bytes]], ...] = (
    (".npy", lambda: saved(np.save, as_object(recording()), allow_pickle=True)),
    (".npy", lambda: saved(np.save, structured())),
    (".npz", lambda: saved(np.savez, **recording())),
    (".npz", lambda: saved(np.savez_compressed, structured())),
    (".h5", lambda: hdf5(dsec)),
    (".raw", lambda: camera(".raw", version="evt2")),
    (".raw", lambda: camera(".raw", version="evt3")),
    (".aedat4", lambda: camera(".aedat4")),
    (".aedat4", lambda: camera(".aedat4", compression=("zstd", 3))),
    (".aedat4", lambda: camera(".aedat4", compression=None)),
    (".png", picture),
)


@functools.cache
def seed(number: int) -> bytes:
    return SEEDS[number][1]()


def damaged(draw: random.Random, path: Path) -> Path:
    """Any format, with one to four kinds of damage."""
    number = draw.randrange(len(SEEDS))
    path = path.with_suffix(SEEDS[number][0])
    data = seed(number)
    for _ in range(draw.choice((1, 1, 2, 4))):
        data = harm(draw, data) or b"\0"
    path.write_bytes(data)
    return path


def harm(draw: random.Random, data: bytes) -> bytes:
    """Cut, flip, overwrite, lie about a size, repeat or remove."""
    changed = bytearray(data)
    at = draw.randrange(draw.choice((len(data), min(len(data), 400))))
    kind = draw.choice(("cut", "flip", "flip", "overwrite", "lie", "lie", "repeat", "remove"))
    if kind == "cut":
        del changed[at:]
    elif kind == "flip":
        for _ in range(draw.choice((1, 1, 8, 64))):
            changed[min(at + draw.randrange(200), len(data) - 1)] ^= 1 << draw.randrange(8)
    elif kind == "overwrite":
        changed[at : at + draw.choice((1, 8, 100))] = draw.randbytes(draw.choice((1, 8, 100)))
    elif kind == "lie":
        number = draw.choice((0, 1, 2**15, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1))
        packed = struct.pack("<Q", number)[: draw.choice((2, 4, 8))]
        changed[at : at + len(packed)] = packed if draw.random() < 0.7 else packed[::-1]
    elif kind == "repeat":
        changed[at:at] = changed[at : at + draw.randrange(1, 400)]
    else:
        del changed[at : at + draw.randrange(1, 400)]
    return bytes(changed)


class Call:
    """Unpickles to a call."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call


def evil_pickle(draw: random.Random, path: Path) -> Path:
    """A recording that would write the canary, in one of many ways and places, at times damaged too."""
    path = path.with_suffix(".npy")
    canary = str(path.parent / harness.CANARY)
    call = draw.choice(
        (
            Call(os.system, f"touch {canary}"),
            Call(os.mkdir, canary),
            Call(os.open, canary, os.O_CREAT | os.O_WRONLY),
            Call(os.symlink, "/etc/hostname", canary),
            Call(subprocess.call, ["touch", canary]),
            Call(subprocess.Popen, ["touch", canary]),
            Call(builtins.exec, f"open({canary!r}, 'w')"),
            Call(builtins.eval, f"open({canary!r}, 'w')"),
            Call(builtins.open, canary, "w"),
            Call(builtins.getattr, np.zeros(3), "tofile"),
            Call(np.save, canary, np.zeros(3)),
            Call(np.load, canary, "w+"),
            Call(np.memmap, canary, "u1", "w+", 0, (8,)),
            Call(Path.touch, Path(canary)),
            Call(shutil.copy, "/etc/hostname", canary),
        )
    )
    if draw.random() < 0.3:
        pickled = by_hand(draw, canary)
    else:
        places = (call, {**recording(), draw.choice("xytp"): call}, {call.call[1] and "x": [call]}, [call], {"z": call})
        pickled = pickle.dumps(draw.choice(places), protocol=draw.randrange(6))
    if draw.random() < 0.3:
        pickled = harm(draw, pickled)
    header = saved(np.lib.format.write_array_header_1_0, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(header + pickled)
    return path


def by_hand(draw: random.Random, canary: str) -> bytes:
    """Opcodes that Python's own pickler doesn't write, or stand-ins called in a way that was not meant."""
    touch = f"touch {canary}"
    return draw.choice(
        (
            f"cos\nsystem\n(S'{touch}'\ntR.".encode(),
            f"(S'{touch}'\nios\nsystem\n.".encode(),
            f"(cos\nsystem\nS'{touch}'\no.".encode(),
            b"\x80\x02cos\nsystem\nX" + struct.pack("<I", len(touch)) + touch.encode() + b"\x85\x81.",
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(touch)]) + touch.encode() + b"\x85R.",
            b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93\x8c" + bytes([len(canary)]) + canary.encode() + b"\x85R.",
            b"cnumpy\nndarray\n(tR}S'__setstate__'\ncos\nsystem\nsb.",
            b"cnumpy\ndtype\n(S'O'\ntR(I3\nS'<'\nNNNI-1\nI-1\nI255\ntb.",
            b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O'\ntRS'" + touch.encode() + b"'\ntR.",
            b"\x82\x01.",
            b"\x80\x02}r" + struct.pack("<I", draw.randrange(2**31)) + b".",
            b"\x80\x04\x95" + struct.pack("<Q", draw.randrange(2**40)) + b"}.",
            b"\x80\x05\x8e" + struct.pack("<Q", draw.randrange(2**62)) + b"abc.",
            b"\x80\x04\x8d" + struct.pack("<Q", draw.randrange(2**62)) + b"abc.",
            b"(" * draw.randrange(100_000) + b"t.",
            b"]" * 1000 + b"\x85" * draw.randrange(200_000) + b".",
            b"\x80\x02" + b"]q\0" + b"(h\0h\0h\0h\0le" * 50_000 + b".",
            b"\x80\x02" + b"N0" * 600_000 + b"N.",
            b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"1" * 100 + b".",
            b"I" + b"9" * 100_000 + b"\n.",
        )
    )


def odd_npy(draw: random.Random, path: Path) -> Path:
    """A whole `.npy` of the wrong kind, or one whose header says anything."""
    path = path.with_suffix(".npy")
    shape: Any = draw.choice(
        ((), (3,), (COUNT,), (2**40,), (2**62, 2**62), (-1,), (0,), (COUNT, 2), (1,) * 70, (10**30,))
    )
    field = draw.choice(
        ("<u2", "<f8", "<c16", "|O", "|S9", "<U3", "|V0", "<M8[us]", "<u8", "|b1", "?", "(2,)<u2", "|S0")
    )
    descr: Any = draw.choice((field, [(key, field) for key in "xytp"], [("x", field)], [("x", [("x", field)])], "|O"))
    header = {"descr": descr, "fortran_order": draw.random() < 0.5, "shape": shape}
    text = (repr(header) if draw.random() < 0.9 else "(" * draw.randrange(9000)).encode()
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n" + draw.randbytes(COUNT * 8)
    path.write_bytes(data)
    return path


def odd_npz(draw: random.Random, path: Path) -> Path:
    """A bomb, an entry of the wrong kind, or a directory that lies about sizes."""
    path = path.with_suffix(".npz")
    file = io.BytesIO()
    method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(file, "w", method) as archive:
        for key in draw.choice(("xytp", "xytp", "xyt", "x", "")):
            array = draw.choice((recording()[key], np.zeros(30_000_000, np.uint8), np.zeros((3, 3)), structured()))
            archive.writestr(f"{key}.npy", saved(np.save, array))
    data = bytearray(file.getvalue())
    for mark, at in ((b"PK\1\2", 20), (b"PK\3\4", 18)):
        if draw.random() < 0.4 and mark in data:
            start = data.index(mark) + at + draw.choice((0, 4))
            data[start : start + 4] = struct.pack("<I", draw.choice((0, 1, COUNT, 2**31, 2**32 - 1)))
    path.write_bytes(data)
    return path


def odd_folder(draw: random.Random, path: Path) -> Path:
    """A folder of columns, one of them missing, damaged, of another kind, or not a file."""
    path = path.with_suffix(".events")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for key, values in recording().items():
        np.save(path / f"{key}.npy", values)
    victim = path / f"{draw.choice('xytp')}.npy"
    kind = draw.choice(("missing", "folder", "harm", "harm", "harm", "type", "empty"))
    if kind == "harm":
        victim.write_bytes(harm(draw, victim.read_bytes()))
    elif kind == "type":
        np.save(victim, draw.choice((np.zeros(COUNT), np.zeros((COUNT, 2), int), structured(), as_object({}))))
    else:
        victim.unlink()
        if kind == "folder":
            victim.mkdir()
        elif kind == "empty":
            victim.touch()
    return path


def odd_hdf5(draw: random.Random, path: Path) -> Path:
    """HDF5 with missing keys, other types, enormous shapes and chunks, links elsewhere, or an index that lies."""
    path = path.with_suffix(".h5")

    def fill(file: Any) -> None:
        dsec(file)
        key = draw.choice(("events/x", "events/y", "events/t", "events/p", "ms_to_idx", "t_offset"))
        del file[key]
        options: tuple[Callable[[], object], ...] = (
            lambda: None,
            lambda: file.create_group(key),
            lambda: file.create_dataset(
                key, (2 ** draw.randrange(30, 60),), "u2", chunks=(2 ** draw.randrange(10, 30),)
            ),
            lambda: file.create_dataset(key, (COUNT,), "u2", chunks=(2 ** draw.randrange(10, 30),), maxshape=(None,)),
            lambda: file.create_dataset(key, data=draw.choice((1.5, "text", b"bytes", np.zeros(COUNT), 2**63 - 1))),
            lambda: file.create_dataset(key, data=np.zeros((COUNT, 2), np.int64)),
            lambda: file.create_dataset(key, data=[draw.randrange(-(2**40), 2**40) for _ in range(60)]),
            lambda: file.create_dataset(key, (COUNT,), h5py.string_dtype()),
            lambda: file.create_dataset(key, (COUNT,), h5py.vlen_dtype(np.int32)),
            lambda: file.create_dataset(key, data=h5py.Empty("u2")),
            lambda: file.create_dataset(key, data=np.zeros(COUNT, [("a", "u2"), ("b", "f4")])),
            lambda: file.create_dataset(key, (COUNT,), "u2", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]),
            lambda: file.__setitem__(key, h5py.ExternalLink("/dev/zero", "/x")),
            lambda: file.__setitem__(key, h5py.SoftLink(f"/{key}")),
            lambda: file.__setitem__(key, np.dtype("u2")),
            lambda: file.create_virtual_dataset(key, h5py.VirtualLayout((COUNT,), "u2")),
        )
        draw.choice(options)()

    data = hdf5(fill)
    path.write_bytes(harm(draw, data) if draw.random() < 0.3 else data)
    return path


def odd_aedat4(draw: random.Random, path: Path) -> Path:
    """Whole headers before packets that lie about their sizes, or unpack to gigabytes of zeros."""
    path = path.with_suffix(".aedat4")
    data = seed(draw.choice([i for i, (suffix, _) in enumerate(SEEDS) if suffix == ".aedat4"]))
    header = data[: 18 + int.from_bytes(data[14:18], "little")]
    block = (1 << 17 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"  # of Zstandard: one byte, 131072 times
    last = bytes([block[0] | 1]) + block[1:]
    frame = b"\x28\xb5\x2f\xfd\x00\x38" + block * draw.choice((0, 7, 20_000)) + last
    skipped = b"\x50\x2a\x4d\x18\x00\x00\x00\x00"
    packet = draw.choice((frame, frame * 2, skipped + frame, frame[:-2], b"", b"EVTS" * 9, frame[:5]))
    length = draw.choice((len(packet), len(packet), len(packet) + 1, 2**31 - 1, 2**32 - 1, 0))
    path.write_bytes(header + struct.pack("<II", draw.choice((0, 0, 7)), length) + packet + data[len(header) :])
    return path


def odd_png(draw: random.Random, path: Path) -> Path:
    """A PNG that says it is enormous, or unpacks to far more than it says."""
    path = path.with_suffix(".png")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width, height = (draw.choice((0, 1, 64, 5000, 20_000, 2**31 - 1, 2**32 - 1)) for _ in range(2))
    depth, colour = draw.choice((1, 2, 4, 8, 16, 77)), draw.choice((0, 2, 3, 4, 6, 9))
    pixels = zlib.compress(bytes(draw.choice((0, 100, 30_000_000))))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, draw.randrange(2)))
    extra = chunk(draw.choice((b"zTXt", b"iCCP", b"iTXt")), b"a\0\0" + zlib.compress(bytes(30_000_000)))
    body = head + (extra if draw.random() < 0.3 else b"") + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


if __name__ == "__main__":
    harness.main(make, read)
