"""Recordings in iniVation's AEDAT4, decoded by faery, after what a file says about its own sizes was checked.

The layout is a magic, a flatbuffer `IOHeader` with its size before it, then packets, each a track, a size and data.
LZ4 unpacks to 255 times as much at most; Zstandard has no such limit, so its blocks are counted. Where times step back,
faery repeats the latest one instead, so they are looked at in what is not compressed, and in the table that a recorder
writes at the end.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stagebench.errors import MediaError
from stagebench.media.columns import Columns, Window, cut_columns, require_ascending
from stagebench.media.files import require_plausible, size_of

_MAGIC = b"#!AER-DAT4.0\r\n"
_NONE, _ZSTD = 0, (3, 4)  # of the header's `compression`
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK = 1 << 17  # bytes that a block unpacks to at most
_FAR_TOO_MUCH = 1 << 62


def read_aedat4(path: Path, window: Window) -> Columns:
    """Decode the first track of events from its beginning to the end of the window, the only way there is.

    Raises:
        MediaError: the file is missing, damaged, unpacks to more than is plausible, has times that step back, or no
            events in the window; or faery is not installed.
    """
    size, window = size_of(path), window.of_own_clock(path.name)
    try:
        import faery
    except ImportError as error:
        raise MediaError(f"{path.name}: {path.suffix} needs faery: pip install 'stagebench[events]'") from error
    _check_packets(path)
    packets: list[NDArray[Any]] = []
    held, end = 0, None
    try:
        with _silent(), faery.aedat.Decoder(path) as decoder:
            for packet in _event_packets(path.name, decoder):
                held += packet.nbytes
                require_plausible(path, held, size)
                packets.append(packet)
                end = window.limits(int(packets[0]["t"][0]))[1]
                if end is not None and packet["t"][-1] >= end:
                    break
    except MediaError:
        raise
    except BaseException as error:  # faery raises plain Exception, and a panic in its Rust is not even that
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        why = " ".join(str(error).split()) or type(error).__name__
        raise MediaError(f"{path.name}: must be a whole AEDAT4 file, got: {why}") from error
    if not packets:
        raise MediaError(f"{path.name}: must have at least one event, got none")
    events = np.concatenate(packets)
    return cut_columns(path.name, {"x": events["x"], "y": events["y"], "t": events["t"], "p": events["on"]}, window)


@contextmanager
def _silent() -> Iterator[None]:
    """Send what is written to the process's standard error nowhere: a panic of faery's prints itself there."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _event_packets(name: str, decoder: Any) -> Iterator[NDArray[Any]]:
    """Packets of the first track of events, held against what the table at the end of the file says of their times."""
    track = next((track.id for track in decoder.tracks() if track.data_type == "events"), None)
    table = [said for said in decoder.file_data_definitions() if said.track_id == track]
    packets = (packet for of, packet in decoder if of.id == track and len(packet))
    for packet, said in zip_longest(packets, table):
        if packet is None:
            break
        first, last = packet["t"][0], packet["t"][-1]
        if said and said.elements_count == len(packet) and (first > said.start_t or last > said.end_t):
            meant = f"{said.start_t} to {said.end_t}"
            raise MediaError(f"{name}: t must ascend, got {meant} by the table of packets where {last} was reached")
        yield packet


def _check_packets(path: Path) -> None:
    """Walk over all packets without unpacking any.

    Raises:
        MediaError: the file is missing, no AEDAT4, a size in it reaches beyond its end, a packet unpacks to more than
            is plausible, or times step back in packets that are not packed.
    """
    size = size_of(path)
    with path.open("rb") as file:
        magic, length = file.read(len(_MAGIC)), int.from_bytes(file.read(4), "little")
        if magic != _MAGIC or file.tell() + length > size:
            raise MediaError(f"{path.name}: must be a whole AEDAT4 file, got one that ends in its header, or without")
        compression, end = _read_header(path.name, file.read(length))
        times: dict[bytes, list[NDArray[np.int64]]] = {}
        while file.tell() + 8 <= size and file.tell() != end:
            track, length = file.read(4), int.from_bytes(file.read(4), "little")
            at = file.tell()
            if at + length > size:
                raise MediaError(f"{path.name}: must be a whole AEDAT4 file, got {size - at} of {length} bytes")
            if compression in _ZSTD:
                require_plausible(path, _zstd_bound(file.read(length)), size)
            elif compression == _NONE:
                times.setdefault(track, []).append(_times(path.name, file.read(length)))
            file.seek(at + length)
    if end >= size:
        raise MediaError(f"{path.name}: must be a whole AEDAT4 file, got one without the table at its end")
    for parts in times.values():
        t = np.concatenate(parts)
        require_ascending(path.name, t)
        if len(t) and t[0] < 0:
            raise MediaError(f"{path.name}: t must be at least 0, got {t[0]}")


def _times(name: str, packet: bytes) -> NDArray[np.int64]:
    """The times in a flatbuffer of events, each 16 bytes with its time first; none in one of anything else."""
    if packet[8:12] != b"EVTS":
        return np.zeros(0, np.int64)
    try:
        root = 4 + struct.unpack_from("<I", packet, 4)[0]
        field = struct.unpack_from("<H", packet, root - struct.unpack_from("<i", packet, root)[0] + 4)[0]
        vector = root + field + struct.unpack_from("<I", packet, root + field)[0]
        (count,) = struct.unpack_from("<I", packet, vector)
        return np.ndarray(count, "<i8", packet, vector + 4, (16,))
    except (struct.error, TypeError, ValueError) as error:
        raise MediaError(f"{name}: must be a whole AEDAT4 file, got a damaged packet") from error


def _read_header(name: str, header: bytes) -> tuple[int, int]:
    """Read the flatbuffer `IOHeader`: the compression, where the packets end (-1: nowhere), a description in UTF-8.

    A description in anything else would end the process: faery puts it into an error, which Python can't hold. One that
    reaches beyond the header is a panic of its.
    """
    try:
        (table,) = struct.unpack_from("<I", header)
        vtable = table - struct.unpack_from("<i", header, table)[0]
        first, second, third = struct.unpack_from("<HHH", header, vtable + 4)
        compression = struct.unpack_from("<i", header, table + first)[0] if first else 0
        end = struct.unpack_from("<q", header, table + second)[0] if second else -1
        text = table + third + struct.unpack_from("<I", header, table + third)[0]
        (length,) = struct.unpack_from("<I", header, text)
        struct.unpack_from(f"<{length}s", header, text + 4)[0].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise MediaError(f"{name}: must be a whole AEDAT4 file, got one with a damaged header") from error
    return compression, end


def _zstd_bound(packed: bytes) -> int:
    """How many bytes a Zstandard frame (RFC 8878) unpacks to at most; far too many if that is not all there is."""
    if len(packed) < 9 or packed[:4] != _ZSTD_MAGIC:
        return _FAR_TOO_MUCH
    flags = packed[4]
    single = flags >> 5 & 1
    at = 6 - single + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
    blocks, last = 0, 0
    while not last and at + 3 <= len(packed):
        head = int.from_bytes(packed[at : at + 3], "little")
        last, kind = head & 1, head >> 1 & 3
        at += 3 + (1 if kind == 1 else head >> 3)  # kind 1: one byte, again and again
        blocks += 1
    whole = last and at + (flags & 4) == len(packed)  # the flag of a checksum is as large as the checksum
    return blocks * _ZSTD_BLOCK if whole else _FAR_TOO_MUCH
