"""Read recordings in iniVation's AEDAT4.

The layout is a magic, a flatbuffer `IOHeader`, then packets, each a track, a size and a flatbuffer, packed or not, and
a flatbuffer that lists them, if the header says where.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.media.events.event_arrays import KEYS, EventArrays, Window, cut_events, join_events
from stagebench.media.files import require_plausible, whole

_MAGIC = b"#!AER-DAT4.0\r\n"
_NONE, _LZ4, _ZSTD = (0,), (1, 2), (3, 4)  # of the header's `compression`; twice of each, with two levels of effort
_SLICE = 1 << 10  # bytes unpacked at a time, of Zstandard to 32 MiB at most
_EMPTY = 32  # bytes of a flatbuffer without a vector, at most
_EVENT = np.dtype(
    {"names": ["t", "x", "y", "p"], "formats": ["<i8", "<i2", "<i2", "u1"], "offsets": [0, 8, 10, 12], "itemsize": 16}
)
_FILE = "AEDAT4 file"


def read_aedat4(path: Path, window: Window) -> EventArrays:
    """Decode the first track of events from its beginning to the end of the window, the only way there is.

    Raises:
        MediaError: the file is damaged, unpacks to more than is plausible, has times that step back, or no events in
            the window; or it is packed, and what unpacks it is not installed.
    """
    window = window.of_own_clock(path.name)
    with path.open("rb") as file:
        events = join_events(path.name, _packets(path, file), window)
    if events.t[0] < 0:
        raise MediaError(f"{path.name}: t must be at least 0, got {events.t[0]}")
    return cut_events(path.name, events._asdict(), window)


def _packets(path: Path, file: BinaryIO) -> Iterator[EventArrays]:
    size, held = path.stat().st_size, 0
    compression, places = _find_packets(path, file, size)
    for at, length in places:
        file.seek(at)
        with whole(path.name, _FILE, f"one with a damaged packet at byte {at}"):
            packet = _events(_unpack(path, file.read(length), compression, size))
        held += packet.nbytes
        require_plausible(path, held, size)
        yield EventArrays(*(packet[key] for key in KEYS))


def _find_packets(path: Path, file: BinaryIO, size: int) -> tuple[int, list[tuple[int, int]]]:
    """Walk over all packets without unpacking any: the compression, where those of events begin, how long they are."""
    magic, length = file.read(len(_MAGIC)), int.from_bytes(file.read(4), "little")
    if magic != _MAGIC or file.tell() + length > size:
        raise MediaError(f"{path.name}: must be a whole {_FILE}, got one that ends in its header, or without")
    file.seek(len(_MAGIC))
    with whole(path.name, _FILE, "one with a damaged header"):
        compression, end, tracks = _read_header(file.read(4 + length))
    of_events = [track for track, kind in tracks.items() if kind == "EVTS"]
    if compression not in _NONE + _LZ4 + _ZSTD or not of_events:
        got = f"{len(of_events)} in compression {compression}"
        raise MediaError(f"{path.name}: must have tracks of events in compression 0 to 4, got {got}")
    places: list[tuple[int, int]] = []
    while (at := file.tell()) < min(size, size if end < 0 else end):
        track, length = struct.unpack("<iI", file.read(8).ljust(8, b"\xff"))
        if at + 8 + length > size:
            raise MediaError(f"{path.name}: must be a whole {_FILE}, got {size - at} of {8 + length} bytes")
        if track not in tracks:
            raise MediaError(f"{path.name}: must have packets of its own tracks, got one of {track} at byte {at}")
        if track == of_events[0]:
            places.append((at + 8, length))
        file.seek(length, os.SEEK_CUR)
    if end >= 0:
        with whole(path.name, _FILE, "one without the table at its end"):
            if at != end:
                raise ValueError(at)
            _fields(_unpack(path, file.read(), compression, size), b"FTAB")
    return compression, places


def _read_header(header: bytes) -> tuple[int, int, dict[int, str]]:
    """Read the compression, where the table behind the packets begins (below 0: no table), the tracks' types."""
    compression, end, text = _fields(header, b"IOHE")
    text += _number("<I", header, text)
    (described,) = struct.unpack_from(f"<{_number('<I', header, text)}s", header, text + 4)
    if b"<!" in described:  # where XML defines what unpacks to more; recorders write elements alone
        raise ValueError("not plain XML")
    tracks = ElementTree.fromstring(described.decode()).findall("node[@name='outInfo']/node")  # noqa: S314 # see above
    kinds = {int(track.get("name", "")): track.findtext("attr[@key='typeIdentifier']", "") for track in tracks}
    compression = _number("<i", header, compression) if compression else 0
    return compression, _number("<q", header, end) if end else -1, kinds


def _unpack(path: Path, packed: bytes, compression: int, size: int) -> bytes:
    """Unpack a whole frame; one that says, or turns out, to be more than is plausible is not unpacked any further."""
    if compression in _NONE:
        return packed
    try:
        import lz4.frame
        import zstandard
    except ImportError as error:
        message = f"{path.name}: packed AEDAT4 needs lz4 and zstandard: pip install 'stagebench[events]'"
        raise MediaError(message) from error
    parts: list[bytes] = []
    held = 0
    try:
        if compression in _LZ4:
            decoder, said = lz4.frame.LZ4FrameDecompressor(), lz4.frame.get_frame_info(packed)["content_size"]
        else:
            decoder, said = zstandard.ZstdDecompressor().decompressobj(), zstandard.frame_content_size(packed)
        require_plausible(path, said, size)
        for at in range(0, len(packed), _SLICE):
            parts.append(decoder.decompress(packed[at : at + _SLICE]))
            held += len(parts[-1])
            require_plausible(path, held, size)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    if not decoder.eof or decoder.unused_data:
        raise ValueError("more or less than a frame")
    return b"".join(parts)


def _events(packet: bytes) -> NDArray[Any]:
    """Read the vector of events, which ends where the packet does: one that ends before has lost some."""
    at, count = _fields(packet, b"EVTS")[0], 0
    if at:
        at += _number("<I", packet, at)
        count = _number("<I", packet, at)
    elif len(packet) <= _EMPTY:
        at = len(packet) - 4
    if at + 4 + count * _EVENT.itemsize != len(packet):
        raise ValueError("more or fewer events than there is room for")
    return np.frombuffer(packet, _EVENT, count, at + 4)


def _fields(buffer: bytes, kind: bytes) -> list[int]:
    """Return where the first three fields of a flatbuffer begin, 0 for one that is left out; its size comes first."""
    if buffer[8:12] != kind or _number("<I", buffer, 0) + 4 != len(buffer):
        raise ValueError(f"not {kind!r} alone")
    table = 4 + _number("<I", buffer, 4)
    said = table - _number("<i", buffer, table)
    length, reach = _number("<H", buffer, said), _number("<H", buffer, said + 2)
    offsets = [_number("<H", buffer, place) for place in range(said + 4, said + length, 2)]
    if length < 4 or length % 2 or table + reach > len(buffer) or not all(at < reach for at in offsets):
        raise ValueError("no table")
    return [table + offset if offset else 0 for offset in (*offsets, 0, 0, 0)][:3]


def _number(layout: str, buffer: bytes, at: int) -> int:
    if at < 0:  # which Python counts from the end
        raise ValueError(f"an offset of {at}")
    return int(struct.unpack_from(layout, buffer, at)[0])
