"""AEDAT4: what other libraries write is read as it is, and whatever is damaged, out of order or a bomb is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aedat4_files import PACKERS, events_of, flatbuffer, header, lz4, packet, recording, zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.events.recordings import load_event_arrays

TIMES = [1000 * (i + 1) for i in range(20)]
PACKETS = [TIMES[i : i + 5] for i in range(0, 20, 5)]
COMPRESSIONS = pytest.mark.parametrize("compression", PACKERS)
TABLES = pytest.mark.parametrize("table", [False, True])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.aedat4"


def refused(path: Path, data: bytes, loading: LoadSettings | None = None) -> str:
    path.write_bytes(data)
    with pytest.raises(MediaError) as caught:
        load_event_arrays(path, loading or LoadSettings())
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("a.aedat4: ")


def in_packets(packets: list[list[int]], compression: int = 0, table: bool = False) -> bytes:
    return recording([events_of(times) for times in packets], compression, table)


@st.composite
def honest(draw: st.DrawFn) -> list[Any]:
    """Packets of events, ascending over all of them."""
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    count = sum(lengths)

    def some(most: int) -> Any:
        return draw(npst.arrays(np.int64, count, elements=st.integers(0, most)))

    events = events_of(np.sort(some(2**50)), some(639), some(479), some(1))
    return np.split(events, np.cumsum(lengths)[:-1])


class TestReading:
    @COMPRESSIONS
    @TABLES
    def test_packets_in_the_order_of_time_are_read(self, path: Path, compression: int, table: bool) -> None:
        path.write_bytes(in_packets(PACKETS, compression, table))

        assert load_event_arrays(path).t.tolist() == TIMES

    @given(honest(), st.sampled_from(sorted(PACKERS)))
    def test_faery_reads_the_same(
        self, tmp_path_factory: pytest.TempPathFactory, packets: list[Any], compression: int
    ) -> None:
        faery = pytest.importorskip("faery")
        path = tmp_path_factory.mktemp("honest") / "a.aedat4"
        path.write_bytes(recording(packets, compression))

        with faery.aedat.Decoder(path) as decoder:
            expected = np.concatenate([packet for _, packet in decoder])
        events = load_event_arrays(path)
        for mine, other in (("t", "t"), ("x", "x"), ("y", "y"), ("p", "on")):
            assert expected[other].tolist() == getattr(events, mine).tolist()

    @given(honest(), st.sampled_from([None, ("lz4", 1), ("lz4", 9), ("zstd", 3), ("zstd", 19)]))
    def test_what_faery_writes_is_read(
        self, tmp_path_factory: pytest.TempPathFactory, packets: list[Any], compression: Any
    ) -> None:
        faery = pytest.importorskip("faery")
        path = tmp_path_factory.mktemp("honest") / "a.aedat4"
        made = np.concatenate(packets)
        events = np.zeros(len(made), faery.EVENTS_DTYPE)
        for key in ("t", "x", "y", "on"):
            events[key] = made[key]
        faery.events_stream_from_array(events, (640, 480)).to_file(path, compression=compression, file_type="aedat")
        with faery.aedat.Encoder(path, faery.aedat.Decoder(path).description(), compression) as encoder:
            for part in np.split(events, np.cumsum([len(packet) for packet in packets])[:-1]):
                encoder.write(0, part)

        read = load_event_arrays(path)
        assert made["t"].tolist() == read.t.tolist()
        assert list(zip(made["x"], made["y"], made["on"], strict=True)) == list(
            zip(read.x, read.y, read.p, strict=True)
        )

    def test_the_first_track_of_events_is_read_between_others(self, path: Path) -> None:
        tracks = ((1, "FRME"), (3, "EVTS"), (2, "IMUS"), (0, "EVTS"))
        parts = [
            packet(b"a frame", 1),
            packet(flatbuffer(events_of([7])), 0),
            packet(flatbuffer(events_of([5])), 3),
            packet(b"", 2),
            packet(flatbuffer(events_of([6])), 3),
        ]
        path.write_bytes(header(0, tracks=tracks) + b"".join(parts))

        assert load_event_arrays(path).t.tolist() == [5, 6]

    @COMPRESSIONS
    def test_packets_of_no_events_are_passed_over(self, path: Path, compression: int) -> None:
        path.write_bytes(in_packets([[], [1, 2], [], [2, 3]], compression))

        assert load_event_arrays(path).t.tolist() == [1, 2, 2, 3]

    @pytest.mark.parametrize("fields", [(6, 8, 0, 0), (4, 8, 0, 0)])
    def test_a_packet_that_leaves_out_its_vector_has_no_events(self, path: Path, fields: tuple[int, ...]) -> None:
        empty = struct.pack("<II4sHHHHiI", 24, 16, b"EVTS", *fields, 8, 0)
        path.write_bytes(recording([empty, events_of([1]), empty]))

        assert load_event_arrays(path).t.tolist() == [1]

    def test_what_comes_after_the_window_is_not_unpacked(self, path: Path) -> None:
        path.write_bytes(in_packets([[0, 10], [20, 30]], 1) + packet(b"damaged"))

        assert load_event_arrays(path, LoadSettings(duration=25e-6)).t.tolist() == [0, 10, 20]

    @COMPRESSIONS
    def test_a_recording_of_no_events_is_refused(self, path: Path, compression: int) -> None:
        assert refused(path, in_packets([[]], compression)) == "must have at least one event with a time, got none"


class TestOrder:
    @COMPRESSIONS
    @TABLES
    @pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2)])
    def test_a_packet_of_an_earlier_time_is_refused(
        self, path: Path, compression: int, table: bool, order: tuple[int, ...]
    ) -> None:
        said = refused(path, in_packets([PACKETS[i] for i in order], compression, table))

        at = 5 * next(i + 1 for i in range(3) if order[i] > order[i + 1])
        times = [time for i in order for time in PACKETS[i]]
        assert said == f"t must ascend, got {times[at]} after {times[at - 1]} at index {at}"

    @COMPRESSIONS
    @TABLES
    @pytest.mark.parametrize(
        ("time", "other", "message"),
        [
            (3000, 500, "t must ascend, got 500 after 2000 at index 2"),
            (6000, 4999, "t must ascend, got 4999 after 5000 at index 5"),
            (7000, -1, "t must ascend, got -1 after 6000 at index 6"),
            (8000, 2**63 - 1, f"t must ascend, got 9000 after {2**63 - 1} at index 8"),
            (20000, 18999, "t must ascend, got 18999 after 19000 at index 19"),
            (1000, -5, "t must be at least 0, got -5"),
        ],
    )
    def test_a_time_out_of_order_is_refused(
        self, path: Path, compression: int, table: bool, time: int, other: int, message: str
    ) -> None:
        packets = [[other if t == time else t for t in times] for times in PACKETS]

        assert refused(path, in_packets(packets, compression, table)) == message

    @COMPRESSIONS
    def test_a_step_back_in_the_packet_in_which_the_window_ends_is_refused(self, path: Path, compression: int) -> None:
        data = in_packets([[0, 10, 5, 40], [50]], compression)

        assert refused(path, data, LoadSettings(duration=20e-6)) == "t must ascend, got 5 after 10 at index 2"


class TestBombs:
    @pytest.mark.parametrize("stream", [False, True], ids=["that say it", "that do not"])
    @pytest.mark.parametrize("compression", [1, 3])
    def test_packets_of_far_too_much_are_refused(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, compression: int, stream: bool
    ) -> None:
        if stream:
            monkeypatch.setitem(PACKERS, 1, lambda data: lz4.compress(data, store_size=False))
            monkeypatch.setitem(
                PACKERS, 3, lambda data: zstandard.ZstdCompressor(write_content_size=False).compress(data)
            )
        data = recording([flatbuffer(events_of(np.zeros(2**20)))], compression)

        said = refused(path, data)
        most = 17 << 20
        start = f"must unpack to at most 100 times its {len(data)} bytes, got "
        assert (said[: len(start)], int(said[len(start) :]) <= most) == (start, True)

    def test_many_packets_that_are_too_much_together_are_refused(self, path: Path) -> None:
        data = recording([flatbuffer(events_of(np.zeros(60_000)))] * 3, 3)

        said = refused(path, data)
        assert said == f"must unpack to at most 100 times its {len(data)} bytes, got {2 * 960_000}"

    def test_a_table_that_is_a_bomb_is_refused(self, path: Path) -> None:
        end = len(in_packets(PACKETS, 3))
        table = PACKERS[3](flatbuffer(np.zeros(2**22), b"FTAB"))
        body = in_packets(PACKETS, 3)[len(header(3)) :]

        assert refused(path, header(3, end) + body + table).startswith("must unpack to at most 100 times its ")


GOOD = flatbuffer(events_of(TIMES))
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "an end in the beginning": lambda data: data[:10],
    "an end in the events": lambda data: data[:-1],
    "trailing garbage": lambda data: data + b"\0",
    "a second flatbuffer": lambda data: data * 2,
    "another identifier": lambda data: data.replace(b"EVTS", b"FRME"),
    **{
        f"{value} at {at}": lambda data, at=at, value=value: data[:at] + struct.pack("<I", value) + data[at + 4 :]
        for at in (0, 4, 20, 24, 28)  # its size, the table, its vtable, the vector, its length
        for value in (2**31 - 1, 2**31, 2**32 - 1, len(GOOD) + 1)
    },
    "fewer events than there are": lambda data: data.replace(struct.pack("<II", 4, 20), struct.pack("<II", 4, 19)),
    "no vector": lambda data: data.replace(struct.pack("<HHH", 6, 8, 4), struct.pack("<HHH", 6, 8, 0)),
    "no field": lambda data: data.replace(struct.pack("<HHH", 6, 8, 4), struct.pack("<HHH", 4, 8, 4)),
    "more events than there are": lambda data: data.replace(struct.pack("<II", 4, 20), struct.pack("<II", 4, 21)),
    "a vector that begins beyond": lambda data: data.replace(struct.pack("<II", 4, 20), struct.pack("<II", 400, 20)),
    "a field beyond": lambda data: data.replace(struct.pack("<HHH", 6, 8, 4), struct.pack("<HHH", 6, 8, 65535)),
}


class TestDamage:
    @COMPRESSIONS
    @pytest.mark.parametrize("how", DAMAGE)
    def test_a_packet_that_is_no_flatbuffer_of_its_size_is_refused(
        self, path: Path, compression: int, how: str
    ) -> None:
        at = len(header(compression)) + 8
        expected = f"must be a whole AEDAT4 file, got one with a damaged packet at byte {at}"

        assert refused(path, recording([DAMAGE[how](GOOD)], compression)) == expected

    @pytest.mark.parametrize("compression", [1, 3])
    @pytest.mark.parametrize("how", ["nothing", "an end in the beginning", "an end in the events", "trailing garbage"])
    def test_a_packet_that_is_no_frame_of_its_size_is_refused(self, path: Path, compression: int, how: str) -> None:
        data = header(compression) + packet(DAMAGE[how](PACKERS[compression](GOOD)))

        assert refused(path, data).startswith("must be a whole AEDAT4 file, got one with a damaged packet at byte ")

    @pytest.mark.parametrize("compression", [1, 3])
    def test_a_second_frame_in_a_packet_is_refused(self, path: Path, compression: int) -> None:
        data = header(compression) + packet(2 * PACKERS[compression](GOOD))

        assert refused(path, data).startswith("must be a whole AEDAT4 file, got one with a damaged packet at byte ")

    @COMPRESSIONS
    @TABLES
    @pytest.mark.parametrize("garbage", [b"\0", bytes(8), bytes(100), b"\xff" * 12, b"garbage"])
    def test_a_recording_with_something_behind_it_is_refused(
        self, path: Path, compression: int, table: bool, garbage: bytes
    ) -> None:
        data = in_packets(PACKETS, compression, table)

        assert refused(path, data + garbage).startswith("must be a whole AEDAT4 file, got ")

    @COMPRESSIONS
    def test_a_recording_that_ends_early_is_refused(self, path: Path, compression: int) -> None:
        data = in_packets(PACKETS, compression, True)
        end = len(in_packets(PACKETS, compression))
        for length in (end - 1, end, end + 1, len(data) - 1):
            assert refused(path, data[:length]).startswith("must be a whole AEDAT4 file, got ")

    @pytest.mark.parametrize("end", [0, 10, -1, 1])
    def test_a_table_that_begins_elsewhere_is_refused(self, path: Path, end: int) -> None:
        whole = in_packets(PACKETS, 0, True)
        body = whole[len(header(0)) :]
        end = end if end > 1 else len(in_packets(PACKETS)) + end if end else 0

        said = refused(path, header(0, end) + body)
        assert said.startswith("must ")

    @COMPRESSIONS
    def test_a_recording_without_the_table_that_it_announces_is_refused(self, path: Path, compression: int) -> None:
        body = in_packets(PACKETS, compression)[len(header(compression)) :]

        said = refused(path, header(compression, len(header(compression)) + len(body)) + body)
        assert said == "must be a whole AEDAT4 file, got one without the table at its end"

    def test_a_packet_of_no_track_is_refused(self, path: Path) -> None:
        data = in_packets(PACKETS)

        expected = f"must have packets of its own tracks, got one of 7 at byte {len(data)}"
        assert refused(path, data + packet(b"", 7)) == expected

    @pytest.mark.parametrize(
        ("x", "on", "start"), [(-1, 1, "x is out of range, "), (0, 2, "p is out of range, must be 0 to 1, got 2")]
    )
    def test_an_event_of_no_pixel_or_polarity_is_refused(self, path: Path, x: int, on: int, start: str) -> None:
        assert refused(path, recording([events_of(TIMES, x=x, on=on)])).startswith(start)


class TestHeaders:
    @pytest.mark.parametrize(
        ("data", "got"),
        [(header(0, tracks=()), "0 in compression 0"), (header(9), "1 in compression 9"), (header(-1), "1 in compr")],
    )
    def test_one_of_no_events_or_an_unknown_compression_is_refused(self, path: Path, data: bytes, got: str) -> None:
        said = refused(path, data)

        assert said.startswith(f"must have tracks of events in compression 0 to 4, got {got}")

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"</dv>", b"<dv/>"),
            (b'"0"', b'"a"'),
            (b'"2.0"', b'"2.\xff"'),
            (b'<dv version="2.0">', b"<!DOCTYPE dv  []> "),
            (b"IOHE", b"EVTS"),
            (struct.pack("<HH", 10, 24), struct.pack("<HH", 65535, 24)),
            (struct.pack("<I4s", 20, b"IOHE"), struct.pack("<I4s", 2**31, b"IOHE")),
        ],
    )
    def test_a_damaged_one_is_refused(self, path: Path, old: bytes, new: bytes) -> None:
        data = header(0).replace(old, new)

        assert refused(path, data) == "must be a whole AEDAT4 file, got one with a damaged header"

    def test_a_description_that_reaches_beyond_the_header_is_refused(self, path: Path) -> None:
        at = header(0).index(b"<dv") - 4

        said = refused(path, header(0)[:at] + struct.pack("<I", 2**31) + header(0)[at + 4 :])
        assert said == "must be a whole AEDAT4 file, got one with a damaged header"

    def test_a_description_nested_a_million_deep_is_read_or_refused(self, path: Path) -> None:
        depth = 10**5
        said = refused(path, header(0, tracks=((0, "<a>" * depth + "</a>" * depth),)))

        assert said == "must have tracks of events in compression 0 to 4, got 0 in compression 0"
