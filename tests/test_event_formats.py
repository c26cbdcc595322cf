"""Every format of a recording gives the same events, in whole and in a window, or is refused."""

from __future__ import annotations

import os
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aedat4_files import events_of, header, packet
from aedat4_files import recording as aedat4
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from stagebench.cli import main
from stagebench.core.artifacts import Sample
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.events import npy as npy_reader
from stagebench.media.events.recordings import load_event_arrays
from stagebench.pipeline.load import load

h5py, hdf5plugin = pytest.importorskip("h5py"), pytest.importorskip("hdf5plugin")
Recording = dict[str, NDArray[Any]]
COUNT = 3000
OFFSET = 49_599_304_691  # microseconds, of the DSEC file's clock


def recording() -> Recording:
    """Three events and a half a row of the sensor, some at one time, over 61 ms."""
    generator = np.random.default_rng(7)
    return {
        "x": generator.integers(0, 640, COUNT).astype(np.uint16),
        "y": generator.integers(0, 480, COUNT).astype(np.uint16),
        "t": np.sort(generator.integers(5000, 66_000, COUNT)),
        "p": generator.integers(0, 2, COUNT).astype(np.uint8),
    }


def structured() -> NDArray[Any]:
    made = recording()
    events = np.zeros(COUNT, [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "?")])
    for key, values in made.items():
        events[key] = values
    return events


def write_dict(path: Path) -> None:
    np.save(path, np.array(recording(), dtype=object), allow_pickle=True)


def write_columns(path: Path) -> None:
    path.mkdir()
    for key, values in recording().items():
        np.save(path / f"{key}.npy", values)


def write_dsec(path: Path, **changed: Any) -> None:
    """A file as DSEC has them; of a changed dataset, None leaves it out."""
    made = recording()
    events = {f"events/{key}": made[key].astype(np.uint32 if key == "t" else made[key].dtype) for key in made}
    index = np.searchsorted(made["t"], np.arange(67) * 1000).astype(np.uint64)
    with h5py.File(path, "w") as file:
        for name, values in (events | {"ms_to_idx": index, "t_offset": np.int64(OFFSET)} | changed).items():
            packed = {"chunks": (min(len(values), 500),), **hdf5plugin.Blosc(cname="zstd")} if np.ndim(values) else {}
            if values is not None:
                file.create_dataset(name, data=values, **packed)


def write_evt2(path: Path) -> None:
    """Prophesee's EVT 2.0: 32-bit words; the type in 4 bits, then the high time, or low time, x and y."""
    words, high = [], -1
    for x, y, t, p in zip(*(recording()[key].tolist() for key in "xytp"), strict=True):
        if t >> 6 != high:
            high = t >> 6
            words.append(8 << 28 | high)
        words.append(p << 28 | (t & 63) << 22 | x << 11 | y)
    path.write_bytes(b"% evt 2.0\n% geometry 640x480\n% end\n" + struct.pack(f"<{len(words)}I", *words))


def write_evt3(path: Path) -> None:
    """Prophesee's EVT 3.0: 16-bit words; what changed of the high time, the low time and y, then polarity and x."""
    words: list[int] = []
    state = {8: -1, 6: -1, 0: -1}
    for x, y, t, p in zip(*(recording()[key].tolist() for key in "xytp"), strict=True):
        for kind, value in ((8, t >> 12), (6, t & 4095), (0, y)):
            if state[kind] != value:
                state[kind] = value
                words.append(kind << 12 | value)
        words.append(2 << 12 | p << 11 | x)
    path.write_bytes(b"% evt 3.0\n% geometry 640x480\n% end\n" + struct.pack(f"<{len(words)}H", *words))


def write_aedat4(path: Path, compression: int = 1) -> None:
    x, y, t, p = recording().values()
    path.write_bytes(aedat4([events_of(t, x, y, p)], compression, table=True))


WRITERS: dict[str, Callable[[Path], object]] = {
    "dict.npy": write_dict,
    "structured.npy": lambda path: np.save(path, structured()),
    "arrays.npz": lambda path: np.savez(path, **recording()),
    "compressed.npz": lambda path: np.savez_compressed(path, **recording()),
    "structured.npz": lambda path: np.savez(path, structured()),
    "columns.events": write_columns,
    "dsec.h5": write_dsec,
    "plain.hdf5": lambda path: write_dsec(path, ms_to_idx=None, t_offset=None),
    "evt2.raw": write_evt2,
    "evt3.raw": write_evt3,
    "lz4.aedat4": write_aedat4,
    "zstd.AEDAT4": lambda path: write_aedat4(path, 3),
}


@pytest.fixture(params=WRITERS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same recording in one format after the other."""
    WRITERS[request.param](tmp_path / request.param)
    return tmp_path / request.param


def as_lists(path: Path, **window: float | None) -> dict[str, list[int]]:
    """What is read, with times as in `recording`."""
    events = load_event_arrays(path, LoadSettings(**window))
    offset = OFFSET if path.name == "dsec.h5" else 0
    return {"x": events.x.tolist(), "y": events.y.tolist(), "t": (events.t - offset).tolist(), "p": events.p.tolist()}


def test_every_format_gives_the_same_events(path: Path) -> None:
    expected = {key: values.tolist() for key, values in recording().items()}
    assert expected == as_lists(path)


@pytest.mark.parametrize(("start", "duration"), [(0.0101, 0.0299), (0, 0.001), (0.0405, None), (0.01, 9.0)])
def test_every_format_gives_the_same_events_of_a_window(path: Path, start: float, duration: float | None) -> None:
    made = recording()
    since = (made["t"] - made["t"][0]) / 1e6
    inside = (since >= start) & (since < start + (duration or np.inf))

    expected = {key: values[inside].tolist() for key, values in made.items()}
    assert expected == as_lists(path, start=start, duration=duration)


def test_every_format_is_loaded_by_its_suffix(path: Path) -> None:
    loading = LoadSettings(image_size=(640, 480), slices="time")

    media = load(Sample(path, loading=loading), 5)

    assert (media.kind, [image.shape for image in media.images]) == ("events", [(480, 640, 3)] * 5)


def test_every_format_is_converted_to_columns(path: Path, tmp_path: Path) -> None:
    expected = as_lists(path)

    result = convert(path, tmp_path / "new.events")

    offset = OFFSET if path.name == "dsec.h5" else 0
    converted = as_lists(tmp_path / "new.events")
    assert (result.exit_code, expected | {"t": [time + offset for time in expected["t"]]}) == (0, converted)


def test_the_window_of_a_folder_is_all_that_is_looked_at(tmp_path: Path) -> None:
    write_columns(tmp_path / "a.events")
    broken = recording()["x"].astype(np.int64)
    broken[1500:] = -1
    np.save(tmp_path / "a.events" / "x.npy", broken)

    assert len(load_event_arrays(tmp_path / "a.events", LoadSettings(start=0, duration=0.02)).x) < 1500


def test_the_window_of_an_hdf5_file_is_all_that_is_unpacked(tmp_path: Path) -> None:
    write_dsec(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        last = file["events/x"].id.get_chunk_info(file["events/x"].id.get_num_chunks() - 1)
    data = bytearray((tmp_path / "a.h5").read_bytes())
    data[last.byte_offset : last.byte_offset + last.size] = bytes(last.size)
    (tmp_path / "a.h5").write_bytes(data)

    with pytest.raises(MediaError, match=r"^a\.h5: must be a whole HDF5 file, got: "):
        load_event_arrays(tmp_path / "a.h5")
    assert len(load_event_arrays(tmp_path / "a.h5", LoadSettings(start=0, duration=0.001)).x) == np.sum(
        recording()["t"] < recording()["t"][0] + 1000
    )


class TestRefusals:
    @pytest.mark.parametrize("key", "xytp")
    def test_a_folder_without_a_column_is_refused(self, tmp_path: Path, key: str) -> None:
        write_columns(tmp_path / "a.events")
        (tmp_path / "a.events" / f"{key}.npy").unlink()

        with pytest.raises(MediaError, match=rf"^a\.events: must be a folder of x\.npy, .* got no {key}\.npy$"):
            load_event_arrays(tmp_path / "a.events")

    def test_an_empty_folder_is_refused_by_its_name(self, tmp_path: Path) -> None:
        (tmp_path / "a.events").mkdir()

        with pytest.raises(MediaError, match=r"^a\.events: must be .*, got no x\.npy, y\.npy, t\.npy, p\.npy$"):
            load_event_arrays(tmp_path / "a.events")

    def test_a_folder_that_is_none_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MediaError, match=r"^a\.events: must be a folder of x\.npy, .* got none$"):
            load_event_arrays(tmp_path / "a.events")

    def test_a_column_that_is_shorter_than_it_says_is_refused(self, tmp_path: Path) -> None:
        write_columns(tmp_path / "a.events")
        file = tmp_path / "a.events" / "y.npy"
        file.write_bytes(file.read_bytes()[:-1])

        with pytest.raises(MediaError, match=r"^y\.npy: .*, got fewer bytes than uint16 of shape \(3000,\)$"):
            load_event_arrays(tmp_path / "a.events")

    def test_a_zip_bomb_is_refused_by_what_it_says(self, tmp_path: Path) -> None:
        np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(30_000_000, np.uint8))

        with pytest.raises(MediaError, match=r"^bomb\.npz: must unpack to at most 100 times its \d+ bytes, got 300001"):
            load_event_arrays(tmp_path / "bomb.npz")

    def test_a_zip_whose_entry_says_it_is_larger_than_the_file_is_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", **recording())
        data = bytearray((tmp_path / "a.npz").read_bytes())
        at = data.index(b"PK\1\2") + 20
        data[at : at + 4] = (2**32 - 2).to_bytes(4, "little")
        (tmp_path / "a.npz").write_bytes(data)

        with pytest.raises(
            MediaError, match=r"^a\.npz: must be a whole \.npz file, got: entries larger than the \d+ bytes"
        ):
            load_event_arrays(tmp_path / "a.npz")

    def test_a_zip_with_pickles_is_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", **(recording() | {"x": np.array([{}], dtype=object)}))

        with pytest.raises(MediaError, match=r"^a\.npz: x\.npy: must hold numbers, got object$"):
            load_event_arrays(tmp_path / "a.npz")

    def test_a_zip_of_another_method_is_refused(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
            archive.writestr("x.npy", b"")

        with pytest.raises(MediaError, match=r"^a\.npz: must be stored or deflated, got method 14 of zip$"):
            load_event_arrays(tmp_path / "a.npz")

    @pytest.mark.parametrize("name", ["events/x", "events/y", "events/t", "events/p"])
    def test_hdf5_without_a_column_is_refused(self, tmp_path: Path, name: str) -> None:
        write_dsec(tmp_path / "a.h5", **{name: None})

        with pytest.raises(MediaError, match=rf"^a\.h5: must have the dataset {name}, got none$"):
            load_event_arrays(tmp_path / "a.h5")

    def test_hdf5_with_an_index_of_another_recording_is_read_without_it(self, tmp_path: Path) -> None:
        write_dsec(tmp_path / "a.h5", ms_to_idx=np.arange(67) * 3)
        write_dsec(tmp_path / "b.h5")

        window = LoadSettings(start=0.02, duration=0.01)
        found, expected = (load_event_arrays(tmp_path / name, window) for name in ("a.h5", "b.h5"))
        assert found.t.tolist() == expected.t.tolist()

    def test_hdf5_that_is_enormous_on_paper_is_refused(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for key in "xytp":
                file.create_dataset(f"events/{key}", (10**12,), np.uint16, chunks=(1000,))

        with pytest.raises(MediaError, match=r"^a\.h5: must unpack to at most 100 times its \d+ bytes, got 200000000"):
            load_event_arrays(tmp_path / "a.h5")

    def test_hdf5_that_leads_to_another_file_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "other.h5")  # to open it would wait for a writer
        write_dsec(tmp_path / "a.h5", **{"events/x": None})
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file["events/x"] = h5py.ExternalLink("other.h5", "events/x")

        with pytest.raises(MediaError, match=r"^a\.h5: must have the dataset events/x, got a link to elsewhere$"):
            load_event_arrays(tmp_path / "a.h5")

    def test_hdf5_whose_data_lie_in_another_file_is_refused(self, tmp_path: Path) -> None:
        write_dsec(tmp_path / "a.h5", **{"events/x": None})
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file.create_dataset("events/x", (COUNT,), np.uint16, external=[("other", 0, h5py.h5f.UNLIMITED)])

        with pytest.raises(MediaError, match=r"^a\.h5: must have the dataset events/x, got data elsewhere$"):
            load_event_arrays(tmp_path / "a.h5")

    @pytest.mark.parametrize("offset", [1.5, 2**63 - 1, np.zeros(3, int)])
    def test_hdf5_with_an_offset_that_is_none_is_refused(self, tmp_path: Path, offset: Any) -> None:
        write_dsec(tmp_path / "a.h5", t_offset=offset)

        with pytest.raises(MediaError, match=r"^a\.h5: t_offset must be a number of microseconds, got"):
            load_event_arrays(tmp_path / "a.h5")

    @pytest.mark.parametrize("name", ["evt2.raw", "evt3.raw", "lz4.aedat4"])
    def test_a_stream_of_nothing_is_refused(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"% evt 3.0\n% geometry 640x480\n% end\n")

        with pytest.raises(MediaError, match=rf"^{name}: must "):
            load_event_arrays(tmp_path / name)

    @pytest.mark.parametrize("compression", [0, 1, 3])
    def test_an_aedat4_whose_packet_is_cut_off_is_refused(self, tmp_path: Path, compression: int) -> None:
        write_aedat4(tmp_path / "a.aedat4", compression)
        data = (tmp_path / "a.aedat4").read_bytes()
        (tmp_path / "a.aedat4").write_bytes(data[:2000])

        with pytest.raises(MediaError, match=r"^a\.aedat4: must be a whole AEDAT4 file, got \d+ of \d+ bytes$"):
            load_event_arrays(tmp_path / "a.aedat4")

    def test_an_aedat4_with_a_description_that_is_no_text_is_refused(self, tmp_path: Path) -> None:
        write_aedat4(tmp_path / "a.aedat4")
        data = (tmp_path / "a.aedat4").read_bytes()
        (tmp_path / "a.aedat4").write_bytes(data.replace(b"sizeX", b"size\xff"))

        with pytest.raises(
            MediaError, match=r"^a\.aedat4: must be a whole AEDAT4 file, got one with a damaged header$"
        ):
            load_event_arrays(tmp_path / "a.aedat4")

    @pytest.mark.parametrize("size", [10, 50])
    def test_an_aedat4_that_ends_in_its_header_is_refused(self, tmp_path: Path, size: int) -> None:
        write_aedat4(tmp_path / "a.aedat4")
        (tmp_path / "a.aedat4").write_bytes((tmp_path / "a.aedat4").read_bytes()[:size])

        with pytest.raises(
            MediaError, match=r"^a\.aedat4: must be a whole AEDAT4 file, got one that ends in its header"
        ):
            load_event_arrays(tmp_path / "a.aedat4")

    def test_an_aedat4_that_is_a_bomb_is_refused(self, tmp_path: Path) -> None:
        block = (1 << 1 | 1 << 17 << 3).to_bytes(3, "little") + b"\0"  # 128 KiB of zeros
        last = (1 | 1 << 1 | 1 << 17 << 3).to_bytes(3, "little") + b"\0"
        bomb = b"\x28\xb5\x2f\xfd\x00\x38" + 80_000 * block + last
        (tmp_path / "a.aedat4").write_bytes(header(3) + packet(bomb))

        with pytest.raises(MediaError, match=r"^a\.aedat4: must unpack to at most 100 times its \d+ bytes, got \d+$"):
            load_event_arrays(tmp_path / "a.aedat4")

    @pytest.mark.parametrize("name", ["dsec.h5", "lz4.aedat4"])
    def test_without_its_library_a_format_says_how_to_get_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        WRITERS[name](tmp_path / name)
        for library in ("h5py", "lz4"):
            monkeypatch.setitem(sys.modules, library, None)

        with pytest.raises(MediaError, match=r"needs .*: pip install 'stagebench\[events\]'$"):
            load_event_arrays(tmp_path / name)


def convert(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["convert", *map(str, arguments)])


class TestConverting:
    def test_it_says_what_it_wrote(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", **{key: values.astype(">i8") for key, values in recording().items()})

        result = convert(tmp_path / "a.npz", tmp_path / "a.events")

        assert result.output == f"{tmp_path / 'a.events'}: 3000 events, 39512 bytes\n"

    @pytest.mark.parametrize(("name", "message"), [("a.npy", "must be named NAME.events"), ("b.events", "must be new")])
    def test_it_writes_nowhere_else(self, tmp_path: Path, name: str, message: str) -> None:
        write_dict(tmp_path / "in.npy")
        (tmp_path / "b.events").mkdir()

        result = convert(tmp_path / "in.npy", tmp_path / name)

        assert (result.exit_code, sorted(file.name for file in tmp_path.iterdir())) == (2, ["b.events", "in.npy"])
        assert message in result.output

    def test_a_recording_that_is_refused_leaves_nothing_behind(self, tmp_path: Path) -> None:
        (tmp_path / "bad.npy").write_text("x,y,t,p\n")

        result = convert(tmp_path / "bad.npy", tmp_path / "a.events")

        assert (result.exit_code, [file.name for file in tmp_path.iterdir()]) == (2, ["bad.npy"])

    def test_a_full_disk_leaves_nothing_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_dict(tmp_path / "a.npy")

        def fail(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(npy_reader.np, "save", fail)
        result = convert(tmp_path / "a.npy", tmp_path / "a.events")

        assert result.output == "stagebench: a.events: can't be written: No space left on device\n"
        assert [file.name for file in tmp_path.iterdir()] == ["a.npy"]
