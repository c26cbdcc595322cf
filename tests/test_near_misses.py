"""Files that are nearly a recording: one line says what they are, and what is read."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from stagebench.cli import main
from stagebench.core.artifacts import Sample
from stagebench.core.errors import MediaError
from stagebench.media.events.recordings import load_event_arrays
from stagebench.pipeline.load import load

h5py = pytest.importorskip("h5py")
COLUMNS = {key: np.arange(5, dtype=np.int64) for key in "xyt"} | {"p": np.ones(5, np.int64)}
PLAIN = np.stack([*COLUMNS.values()], axis=1)
FIELDS = np.zeros(5, [("timestamp", "<i8"), ("x", "<u2"), ("y", "<u2"), ("polarity", "?")])
TEXT = b"0.000100 12 13 1\n0.000200 14 15 0\n" * 20
DAT = b"% Data file containing CD events.\n% Version 2\n% Width 640\n" + bytes([12, 8]) + bytes(80)
AEDAT3 = b"#!AER-DAT3.1\r\n#Format: RAW\r\n" + bytes(80)
RAW = b"% evt 3.0\n% end\n" + struct.pack("<4H", 0x8001, 0x6001, 0x0003, 0x2005)


def saved(write: Callable[..., object], *arrays: object, **named: object) -> bytes:
    file = io.BytesIO()
    write(file, *arrays, **named)
    return file.getvalue()


NPZ = saved(np.savez, **COLUMNS)


def zipped(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, data)
    return file.getvalue()


def hdf5(**datasets: Any) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        for name, values in datasets.items():
            opened[name.replace("__", "/")] = values
    return file.getvalue()


MISSES: dict[str, tuple[bytes, str]] = {
    "dat.raw": (DAT, "must be Prophesee's EVT2 or EVT3, got Prophesee's DAT"),
    "text.raw": (TEXT, "must be Prophesee's EVT2 or EVT3, got a text of numbers"),
    "gzip.raw": (
        gzip.compress(RAW),
        "must be Prophesee's EVT2 or EVT3, got a gzip, bzip2, xz or Zstandard file",
    ),
    "none.raw": (RAW[16:], "must name EVT2 or EVT3 in a header, got none"),
    "aedat3.aedat4": (AEDAT3, "must be AEDAT4, got AEDAT 1, 2 or 3"),
    "aedat2.aedat4": (AEDAT3.replace(b"3.1", b"2.0"), "must be AEDAT4, got AEDAT 1, 2 or 3"),
    "raw.aedat4": (RAW, "must be AEDAT4, got Prophesee's EVT2 or EVT3"),
    "raw.npy": (RAW, "must be a .npy file, got Prophesee's EVT2 or EVT3"),
    "npz.npy": (NPZ, "must be a .npy file, got a zip or .npz file"),
    "text.npy": (b"t,x,y,p\n0,1,2,1\n", "must be a .npy file, got a text of numbers"),
    "words.npy": (b"t,x,y,p\n", "must be a .npy file, got text"),
    "pickle.npy": (pickle.dumps({"x": 1}), "must be a .npy file, got a pickle"),
    "plain.npy": (
        saved(np.save, PLAIN),
        "must hold a dict or fields x, y, t and p, got '<i8' of shape (5, 4)",
    ),
    "fields.npy": (
        saved(np.save, FIELDS),
        "must have the arrays x, y, t and p, got none named t, p, but polarity, timestamp",
    ),
    "npy.npz": (saved(np.save, PLAIN), "must be a zip or .npz file, got a .npy file"),
    "plain.npz": (
        saved(np.savez, PLAIN),
        "must have the arrays x, y, t and p, got none named x, y, t, p, but arr_0",
    ),
    "names.npz": (
        saved(np.savez, event_x=COLUMNS["x"], event_t=COLUMNS["t"]),
        "must have the arrays x, y, t and p, got none named x, y, t, p, but event_t, event_x",
    ),
    "npz.h5": (NPZ, "must be HDF5, got a zip or .npz file"),
    "one.h5": (hdf5(events=PLAIN), "must have the dataset events/x, got a dataset named events"),
    "fields.h5": (hdf5(events=FIELDS), "must have the dataset events/x, got a dataset named events"),
    "type.h5": (hdf5(events=np.dtype("u2")), "must have the dataset events/x, got a datatype named events"),
    "prophesee.hdf5": (
        hdf5(CD__events=FIELDS, CD__indexes=PLAIN),
        "must have the dataset events/x, got CD/events, as Prophesee's HDF5 has it",
    ),
    "mvsec.h5": (
        hdf5(davis__left__events=PLAIN),
        "must have the dataset events/x, got davis/left/events, as MVSEC has it",
    ),
    "m3ed.h5": (
        hdf5(prophesee__left__x=PLAIN[0]),
        "must have the dataset events/x, got prophesee/left/x, as M3ED has it",
    ),
    "xs.h5": (
        hdf5(events__xs=PLAIN[0], events__ts=PLAIN[0]),
        "must have the dataset events/x, got events/xs, as event_utils has it",
    ),
    "root.h5": (
        hdf5(x=PLAIN[0], y=PLAIN[0], t=PLAIN[0], p=PLAIN[0]),
        "must have the dataset events/x, got t, as a file without the group events has it",
    ),
    "top.h5": (hdf5(events_of_p=PLAIN), "must have the dataset events/x, got none, but events_of_p"),
    "polarity.h5": (
        hdf5(events__x=PLAIN[0], events__y=PLAIN[0], events__polarity=PLAIN[0], events__timestamp=PLAIN[0]),
        "must have the dataset events/t, got none, but polarity, timestamp",
    ),
    "many.h5": (
        hdf5(**{f"{i}{'a' * 90}": PLAIN for i in range(9)}),
        f"must have the dataset events/x, got none, but {', '.join(f'{i}' + 'a' * 39 for i in range(6))}",
    ),
    "dict.npy": (
        saved(np.save, np.array({"xs": PLAIN[0], "ts": PLAIN[0], "p": PLAIN[0]}, dtype=object)),
        "must have the arrays x, y, t and p, got none named x, y, t, but ts, xs",
    ),
    "file.events": (NPZ, "must be a folder of x.npy, y.npy, t.npy and p.npy, got a zip or .npz file"),
    "empty.h5": (hdf5(), "must have the dataset events/x, got none"),
}


@pytest.mark.parametrize("name", MISSES)
def test_a_file_of_another_format_than_its_suffix_says_is_named(tmp_path: Path, name: str) -> None:
    data, message = MISSES[name]
    (tmp_path / name).write_bytes(data)

    with pytest.raises(MediaError) as refused:
        load_event_arrays(tmp_path / name)

    assert str(refused.value) == f"{name}: {message}"


OTHERS = {
    "a.dat": (DAT, "Prophesee's DAT"),
    "a.aedat": (AEDAT3, "AEDAT 1, 2 or 3"),
    "a.bag": (b"#ROSBAG V2.0\n" + bytes(80), "a ROS bag"),
    "a.db3": (b"SQLite format 3\0" + bytes(80), "an SQLite file, as bags of ROS 2 are"),
    "a.es": (b"Event Stream\2\0\0\1" + bytes(80), "an Event Stream (.es)"),
    "a.txt": (TEXT, "a text of numbers"),
    "a.csv": (b"# t, x, y, p\n" + TEXT.replace(b" ", b","), "a text of numbers"),
    "notes.txt": (b"Nothing moves.\n", "text"),
    "a.zip": (zipped("a.txt", TEXT), "a zip or .npz file"),
    "a.npz.gz": (gzip.compress(NPZ), "a gzip, bzip2, xz or Zstandard file"),
    "a.evt3": (RAW, "Prophesee's EVT2 or EVT3"),
    "a": (NPZ, "a zip or .npz file"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_recording_of_no_known_suffix_is_named_and_never_shown_as_a_video(tmp_path: Path, name: str) -> None:
    data, kind = OTHERS[name]
    (tmp_path / name).write_bytes(data)

    suffixes = ".npy, .npz, .events, .raw, .h5, .hdf5, .aedat4"
    with pytest.raises(MediaError) as refused:
        load(Sample(tmp_path / name), 1)
    assert str(refused.value) == f"{name}: must be a video, a PNG or a recording ({suffixes}), got {kind}"
    with pytest.raises(MediaError) as refused:
        load_event_arrays(tmp_path / name)
    assert str(refused.value) == f"{name}: must be a recording, {suffixes}, got {kind}"


def test_a_link_to_elsewhere_is_not_followed_to_name_a_layout(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["CD"] = h5py.ExternalLink("/dev/zero", "/")
        file["davis"] = h5py.SoftLink("/davis")

    with pytest.raises(MediaError, match=r"^a\.h5: must have the dataset events/x, got none, but CD, davis$"):
        load_event_arrays(tmp_path / "a.h5")


def test_hdf5_behind_a_block_of_a_users_own_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        for key, values in COLUMNS.items():
            file[f"events/{key}"] = values
    data = bytearray((tmp_path / "a.h5").read_bytes())
    data[:20] = b"recorded on a Monday"
    (tmp_path / "a.h5").write_bytes(data)

    assert load_event_arrays(tmp_path / "a.h5").t.tolist() == [0, 1, 2, 3, 4]


def test_one_dataset_of_v2e_is_named(cases: Path, tmp_path: Path) -> None:
    source = cases / "hdf5_one_dataset" / "v2e.h5"

    result = CliRunner().invoke(main, ["convert", str(source), str(tmp_path / "a.events")])

    line = "stagebench: v2e.h5: must have the dataset events/x, got a dataset named events\n"
    assert (result.exit_code, result.output) == (2, line)
