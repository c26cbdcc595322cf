"""AEDAT4 whose times step back, which faery would clamp, and what faery says by itself."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import faery
import numpy as np
import pytest

from stagebench.errors import MediaError
from stagebench.media.events import load_event_arrays

COMPRESSIONS = pytest.mark.parametrize("compression", [None, ("lz4", 1), ("zstd", 3)])
TIMES = [1000 * (i + 1) for i in range(20)]


def write(path: Path, compression: Any) -> list[bytes]:
    """Write four packets of five events; return the header, the packets, and the table at the end."""
    events = np.zeros(20, faery.EVENTS_DTYPE)
    events["t"], events["x"] = TIMES, range(20)
    faery.events_stream_from_array(events, (640, 480)).to_file(path, compression=compression, file_type="aedat")
    with faery.aedat.Encoder(path, faery.aedat.Decoder(path).description(), compression) as encoder:
        for i in range(0, 20, 5):
            encoder.write(0, events[i : i + 5])
    data = path.read_bytes()
    bounds = [0, 18 + int.from_bytes(data[14:18], "little")]
    for _ in range(4):
        bounds.append(bounds[-1] + 8 + int.from_bytes(data[bounds[-1] + 4 : bounds[-1] + 8], "little"))
    return [data[begin:end] for begin, end in zip(bounds, [*bounds[1:], len(data)], strict=True)]


@COMPRESSIONS
def test_packets_in_the_order_of_time_are_read(tmp_path: Path, compression: Any) -> None:
    write(tmp_path / "a.aedat4", compression)

    assert load_event_arrays(tmp_path / "a.aedat4").t.tolist() == TIMES


@COMPRESSIONS
@pytest.mark.parametrize("order", [(2, 1, 3, 4), (1, 3, 2, 4), (1, 2, 4, 3)])
def test_a_packet_of_an_earlier_time_is_refused(tmp_path: Path, compression: Any, order: tuple[int, ...]) -> None:
    parts = write(tmp_path / "a.aedat4", compression)
    (tmp_path / "a.aedat4").write_bytes(b"".join(parts[i] for i in (0, *order, 5)))

    with pytest.raises(MediaError, match=r"^a\.aedat4: t must ascend, got \d+ (to \d+ by the table .*|after \d+) "):
        load_event_arrays(tmp_path / "a.aedat4")


@pytest.mark.parametrize(
    ("time", "other", "message"),
    [
        (3000, 500, "t must ascend, got 500 after 2000 at index 2"),
        (6000, 4999, "t must ascend, got 4999 after 5000 at index 5"),
        (7000, -1, "t must ascend, got -1 after 6000 at index 6"),
        (8000, 2**63 - 1, f"t must ascend, got 9000 after {2**63 - 1} at index 8"),
        (1000, -5, "t must be at least 0, got -5"),
        (1000, 1500, "t must ascend, got 1000 to 5000 by the table of packets where 5000 was reached"),
    ],
)
def test_a_time_out_of_order_within_a_packet_is_refused(tmp_path: Path, time: int, other: int, message: str) -> None:
    parts = write(tmp_path / "a.aedat4", None)
    packets = b"".join(parts[1:5]).replace(struct.pack("<q", time), struct.pack("<q", other))
    (tmp_path / "a.aedat4").write_bytes(parts[0] + packets + parts[5])

    with pytest.raises(MediaError) as refused:
        load_event_arrays(tmp_path / "a.aedat4")
    assert str(refused.value) == f"a.aedat4: {message}"


@COMPRESSIONS
def test_a_recording_without_the_table_that_it_announces_is_refused(tmp_path: Path, compression: Any) -> None:
    parts = write(tmp_path / "a.aedat4", compression)
    (tmp_path / "a.aedat4").write_bytes(b"".join(parts[:5]))

    with pytest.raises(MediaError, match=r"^a\.aedat4: must be a whole AEDAT4 file, got one without the table at its"):
        load_event_arrays(tmp_path / "a.aedat4")


def test_a_description_that_reaches_beyond_the_header_is_refused(tmp_path: Path) -> None:
    parts = write(tmp_path / "a.aedat4", None)
    at = parts[0].index(b"<dv") - 4
    header = parts[0][:at] + struct.pack("<I", 2**31) + parts[0][at + 4 :]
    (tmp_path / "a.aedat4").write_bytes(header + b"".join(parts[1:]))

    with pytest.raises(MediaError, match=r"^a\.aedat4: must be a whole AEDAT4 file, got one with a damaged header$"):
        load_event_arrays(tmp_path / "a.aedat4")


def test_a_panic_of_faery_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class PanicException(BaseException):  # as it is called
        pass

    def panic(_: Path) -> None:
        os.write(2, b"thread panicked at flatbuffers/vector.rs\n")
        raise PanicException("index out of bounds")

    write(tmp_path / "a.aedat4", None)
    monkeypatch.setattr(faery.aedat, "Decoder", panic)

    with pytest.raises(MediaError, match=r"^a\.aedat4: must be a whole AEDAT4 file, got: index out of bounds$"):
        load_event_arrays(tmp_path / "a.aedat4")
    assert capfd.readouterr() == ("", "")
