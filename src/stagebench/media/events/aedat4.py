"""Read iniVation's AEDAT4: magic, a flatbuffer `IOHeader`, packets (track, size, flatbuffer), and a table of them."""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.events.event_arrays import KEYS, EventArrays, cut_events, join_events, own_clock
from stagebench.media.files import require_plausible, whole

_MAGIC = b"#!AER-DAT4.0\r\n"
_NONE, _LZ4, _ZSTD = (0,), (1, 2), (3, 4)  # of the header's `compression`; two levels each
_SLICE = 1 << 10  # packed bytes per call; Zstandard unpacks them to at most 32 MiB
_EVENT = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1"), ("", "V3")])
_FILE = "AEDAT4 file"


def read_aedat4(path: Path, loading: LoadSettings) -> EventArrays:
    """Decode the first track of events from its beginning, as the format requires, to the end of the window."""
    loading = own_clock(path.name, loading)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        events = join_events(path.name, _packets(path, data), loading)
    if events.t[0] < 0:
        raise MediaError(f"{path.name}: t must be at least 0, got {events.t[0]}")
    return cut_events(path.name, events._asdict(), loading)


def _packets(path: Path, data: mmap.mmap) -> Iterator[EventArrays]:
    """Yield the events packet by packet, after checking the headers of all packets."""
    compression, at, end, kinds = _read_header(path, data)
    places: dict[int, list[slice]] = {track: [] for track in kinds}
    stop = len(data) if end < 0 else min(end, len(data))
    while at < stop:
        track, length = struct.unpack("<iI", data[at : at + 8].ljust(8, b"\xff"))
        if at + 8 + length > stop:
            raise MediaError(f"{path.name}: must be a whole {_FILE}, got {stop - at} of {8 + length} bytes")
        if track not in places:
            raise MediaError(f"{path.name}: must have packets of its own tracks, got one of {track} at byte {at}")
        at += 8 + length
        places[track].append(slice(at - length, at))
    if end >= 0:
        with whole(path.name, _FILE, "one without the table at its end"):
            _fields(_unpack(path, data[stop:], compression, len(data)), b"FTAB")
    held = 0
    for place in places[next(track for track, kind in kinds.items() if kind == "EVTS")]:
        with whole(path.name, _FILE, f"one with a damaged packet at byte {place.start}"):
            events = _events(_unpack(path, data[place], compression, len(data)))
        held += len(events.t) * _EVENT.itemsize
        require_plausible(path, held, len(data))
        yield events


def _read_header(path: Path, data: mmap.mmap) -> tuple[int, int, int, dict[int, str]]:
    """Return the compression, begin and end of the packets, and the tracks' types; an end below 0 is the file's."""
    magic, length = struct.unpack("<14sI", data[:18].ljust(18))
    begin = 18 + length
    if magic != _MAGIC or begin > len(data):
        raise MediaError(f"{path.name}: must be a whole {_FILE}, got one that ends in its header, or without")
    with whole(path.name, _FILE, "one with a damaged header"):
        header = data[len(magic) : begin]
        packing, table, text = _fields(header, b"IOHE")
        compression = struct.unpack_from("<i", header, packing)[0] if packing else 0
        end = struct.unpack_from("<q", header, table)[0] if table else -1
        start, length = _vector(header, text)
        (described,) = struct.unpack_from(f"{length}s", header, start)
        if b"<!" in described:  # begins definitions that may expand without bound; recorders write elements alone
            raise ValueError("not plain XML")
        tracks = ElementTree.fromstring(described.decode()).findall("node[@name='outInfo']/node")  # noqa: S314 # above
        kinds = {int(track.get("name", "")): track.findtext("attr[@key='typeIdentifier']", "") for track in tracks}
    of_events = [*kinds.values()].count("EVTS")
    if compression not in _NONE + _LZ4 + _ZSTD or not of_events:
        got = f"{of_events} in compression {compression}"
        raise MediaError(f"{path.name}: must have tracks of events in compression 0 to 4, got {got}")
    return compression, begin, end, kinds


def _unpack(path: Path, packed: bytes, compression: int, size: int) -> bytes:
    """Unpack a whole frame; refuse more than is plausible for a file of `size` bytes."""
    if compression in _NONE:
        return packed
    try:
        import lz4.frame
        import zstandard
    except ImportError as error:
        raise MediaError(f"{path.name}: AEDAT4 needs lz4 and zstandard: pip install 'stagebench[events]'") from error
    decoder = zstandard.ZstdDecompressor().decompressobj() if compression in _ZSTD else lz4.frame.LZ4FrameDecompressor()
    unpacked = bytearray()
    for at in range(0, len(packed), _SLICE):
        unpacked += decoder.decompress(packed[at : at + _SLICE])
        require_plausible(path, len(unpacked), size)
    if not decoder.eof or decoder.unused_data:
        raise ValueError("more or less than a frame")
    return bytes(unpacked)


def _events(packet: bytes) -> EventArrays:
    """Read the vector of events; refuse one that does not fill the packet, because it has lost some."""
    field = _fields(packet, b"EVTS")[0]
    start, count = _vector(packet, field) if field else (min(len(packet), 32), 0)  # without a vector, at most 32 bytes
    if start + count * _EVENT.itemsize != len(packet):
        raise ValueError("more or fewer events than there is room for")
    events = np.frombuffer(packet, _EVENT, count, start)
    return EventArrays(*(events[key] for key in KEYS))


def _fields(buffer: bytes, kind: bytes) -> list[int]:
    """Return the offsets of the first three fields of a size-prefixed flatbuffer, 0 for a missing one."""
    size, root, found = struct.unpack_from("<II4s", buffer)
    table = 4 + root
    said = table - struct.unpack_from("<i", buffer, table)[0]
    length, reach = struct.unpack_from("<HH", buffer, said)
    offsets = struct.unpack_from(f"<{(length - 4) // 2}H", buffer, said + 4)
    fit = said >= 0 and length % 2 == 0 and max(offsets, default=0) < reach <= len(buffer) - table
    if found != kind or size + 4 != len(buffer) or not fit:
        raise ValueError(f"not {kind!r} alone")
    return [table + offset if offset else 0 for offset in (*offsets, 0, 0, 0)][:3]


def _vector(buffer: bytes, field: int) -> tuple[int, int]:
    """Return the offset of a vector's items, and their number."""
    at = field + struct.unpack_from("<I", buffer, field)[0]
    return at + 4, struct.unpack_from("<I", buffer, at)[0]
