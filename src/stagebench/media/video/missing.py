"""Detect incomplete files that FFmpeg reads without an error: truncated ones, and those with lost packets.

Each packet of an MPEG transport stream has a four-bit counter of its stream (ISO/IEC 13818-1, 2.4.3.2). FFmpeg marks
the frame before a jump of the counter as damaged, but not at a jump in the first frame. In concatenated streams all
counters jump, and nothing is lost.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

Packet: TypeAlias = "av.Packet[av.VideoStream]"

_MP4_STARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")  # IDs of Matroska's two top-level elements
_PADDING = 4096  # bytes at the end of a GIF that may hold its trailer
_SIZES = (188, 192, 204)  # bytes of a packet: alone, with a time stamp (Blu-ray), with a checksum
_SYNC = 0x47
_FEW = 8  # packets that determine their size
_TAIL = 16  # frames checked before a part's end: more than an encoder reorders


def is_cut(path: Path) -> bool:
    """Return whether an MP4, Matroska, WebM or GIF file is truncated; False for other formats."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[4:8] in _MP4_STARTS:
            return _is_cut_mp4(data)
        if data[:4] == _EBML:
            return _is_cut_matroska(data)
        # A GIF ends with the end of a block and the trailer (GIF89a, 16 and 27); zeros may follow as padding.
        return data[:6] in (b"GIF87a", b"GIF89a") and not data[-_PADDING:].rstrip(b"\0").endswith(b"\0;")


def gif_size(path: Path) -> tuple[int, int]:
    """Return the width and height of a GIF's screen (GIF89a, 18); zeros for any other file."""
    with path.open("rb") as file:
        head = file.read(10)
    sides = (int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:], "little"))
    return sides if head.startswith(b"GIF8") else (0, 0)


def _is_cut_mp4(data: mmap.mmap) -> bool:
    """Return whether a top-level box (ISO/IEC 14496-12, 4.2) exceeds the file, or the index (moov) is missing."""
    start, kinds = 0, set()
    while start + 8 <= len(data):
        length, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        if length == 1:  # the true length is in the next eight bytes
            length = int.from_bytes(data[start + 8 : start + 16], "big")
        kinds.add(kind)
        if kind in (b"moov", b"mdat", b"moof") and start + length > len(data):
            return True
        if length < 8:  # 0: up to the end of the file; else not a box
            break
        start += length
    return b"moov" not in kinds or kinds.isdisjoint((b"mdat", b"moof"))


def _is_cut_matroska(data: mmap.mmap) -> bool:
    """Return whether the segment, which contains all data, exceeds the file (RFC 8794, 4 to 6)."""
    at, header = _size_at(data, 4)
    at += header or 0
    if data[at : at + 4] != _SEGMENT:
        return at > len(data)
    at, length = _size_at(data, at + 4)
    return length is not None and at + length > len(data)


def _size_at(data: mmap.mmap, at: int) -> tuple[int, int | None]:
    """Return the end of an element's size field, and the size in bytes, None if unknown (all bits set)."""
    # The zeros before the number's first set bit give its width.
    width = 9 - (data[at : at + 1] or b"\xff")[0].bit_length()
    unknown = 2 ** (7 * width) - 1
    number = int.from_bytes(data[at : at + width], "big") & unknown
    return at + width, None if number == unknown else number


def is_whole_transport(path: Path, stream: int, packets: Sequence[Packet], *, suspected: bool) -> bool:
    """Return whether a stream's counter jumps only where a part begins: at a table and a key frame, without a gap.

    `stream` is its number in the file (PID); `packets` are its frames in decoding order. Unless FFmpeg marks one of
    them as damaged (`suspected`), only the first is checked.
    """
    size, heads = _heads(path)
    if not packets or not size:
        return not suspected
    if len(heads) < (packets[-1].pos or 0) // size:  # FFmpeg drops a packet without a sync byte, and its counter
        return False
    if not suspected and len(packets) > 1:
        heads = heads[: (packets[1].pos or 0) // size + 1]
    own, tables = _of(heads, stream), _of(heads, 0)
    keys = {i: packet.pos for i, packet in enumerate(packets) if packet.is_keyframe}
    starts = {round((at or 0) / size): i for i, at in keys.items()}  # FFmpeg is off by 16 of 204 bytes
    jumps = [(a, b) for a, b in pairwise(own) if _jumps(heads, a, b)]
    damaged = (heads[own, 1] & 128).any() or sum(packet.is_corrupt for packet in packets) > len(jumps)
    seams = (b in starts and _new_table(heads, own, tables, a, b) and _goes_on(packets, starts[b]) for a, b in jumps)
    return not damaged and all(seams)


def _heads(path: Path) -> tuple[int, NDArray[np.uint8]]:
    """Return the packets' size, 0 if unknown, and the first six bytes of each, up to one without a sync byte."""
    data = np.memmap(path, np.uint8, "r")
    for size in _SIZES:
        whole = data[: len(data) // size * size].reshape(-1, size)
        heads = whole[:, 4:10] if size == 192 else whole[:, :6]
        astray = np.flatnonzero(heads[:, 0] != _SYNC)
        synced = heads[: astray[0]] if len(astray) else heads
        if len(synced) >= min(_FEW, len(heads)) > 0:
            return size, synced
    return 0, np.empty((0, 6), np.uint8)


def _of(heads: NDArray[np.uint8], stream: int) -> list[int]:
    """Return the indices of a stream's packets with payload: only these are counted."""
    number = (heads[:, 1].astype(int) & 31) << 8 | heads[:, 2]
    return np.flatnonzero((number == stream) & (heads[:, 3] & 16 > 0)).tolist()


def _jumps(heads: NDArray[np.uint8], one: int, other: int) -> bool:
    """Return whether the counter is discontinuous between two packets, without a flag that announces it."""
    _, _, _, flags, length, more = heads[other].tolist()
    announced = flags & 32 and length and more & 128
    return (flags - int(heads[one, 3])) % 16 != 1 and not announced


def _new_table(heads: NDArray[np.uint8], own: list[int], tables: list[int], one: int, other: int) -> bool:
    """Return whether a table between two packets has a jump of its counter too, or restarts like the file."""
    between = [(a, b) for a, b in pairwise(tables) if one < b < other]
    anew = (heads[[*tables[:1], own[0]], 3] & 15).tolist()
    return any(_jumps(heads, a, b) or (heads[[b, other], 3] & 15).tolist() == anew for a, b in between)


def _goes_on(packets: Sequence[Packet], start: int) -> bool:
    """Return whether times are evenly spaced at the end of a part, up to the next frame where that is later."""
    times = [packet.pts for packet in packets[max(0, start - 2 * _TAIL) : start + 1] if packet.pts is not None]
    *before, time = times or [0]
    if len(before) < 2:
        return False
    last = max(before)
    steps = np.diff(sorted({*before, max(time, last)})[-_TAIL:])
    usual = min(packets[start].duration or np.inf, np.median(steps))
    return bool(steps.max() < 1.5 * usual)
