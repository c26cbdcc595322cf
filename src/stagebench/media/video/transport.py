"""Tell packets that an MPEG transport stream lost from whole parts that were joined.

Each packet has a counter of four bits of its stream (ISO/IEC 13818-1, 2.4.3.2). FFmpeg calls the frame before a jump of
it damaged, and none where it is in the first. Where whole streams were written one behind the other all counters jump,
and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

_SIZES = (188, 192, 204)  # of a packet: alone, after a time stamp (Blu-ray), before a checksum
_SYNC = 0x47
_FEW = 8  # packets that tell which size they have
_TAIL = 16  # frames before a part's end that are looked at: more than an encoder puts out of order


def is_whole(path: Path, stream: int, packets: Sequence[av.Packet[av.VideoStream]], *, suspected: bool) -> bool:
    """Return whether a stream's counter jumps only where a part begins: at a table and a key frame, no time left out.

    Args:
        path: the file.
        stream: its number in the file (PID).
        packets: its frames, in the order of decoding, from the first.
        suspected: whether FFmpeg calls one of these damaged; else only the first is looked at.
    """
    if not packets or _loses_step(path, packets[-1].pos):
        return not packets and not suspected
    found = _heads(path, None if suspected or len(packets) < 2 else (packets[1].pos or 0) + _SIZES[-1])
    if found is None:
        return not suspected
    size, heads = found
    own, tables = _of(heads, stream), _of(heads, 0)
    keys = {i: packet.pos for i, packet in enumerate(packets) if packet.is_keyframe}
    starts = {round((at or 0) / size): i for i, at in keys.items()}  # FFmpeg is off by 16 of 204 bytes
    jumps = [(a, b) for a, b in pairwise(own) if _jumps(heads, a, b)]
    damaged = (heads[own, 1] & 128).any() or sum(packet.is_corrupt for packet in packets) > len(jumps)
    return not damaged and all(
        b in starts and _new_table(heads, own, tables, a, b) and _goes_on(packets, starts[b]) for a, b in jumps
    )


def _loses_step(path: Path, end: int | None) -> bool:
    """Return whether a packet before the byte `end` lost its sync byte: FFmpeg drops it, and forgets all counters."""
    data = np.memmap(path, np.uint8, "r")[:end]
    for size in _SIZES:
        in_step = data[4 * (size == 192) :: size] == _SYNC
        if in_step[:_FEW].all() and not in_step.all():
            return True
    return False


def _heads(path: Path, end: int | None) -> tuple[int, NDArray[np.uint8]] | None:
    """Return the size of a packet, and the first six bytes of each, from its sync byte on; None for an unknown size.

    Only packets before the byte `end` are read.
    """
    data = np.memmap(path, np.uint8, "r")[:end]
    for size in _SIZES:
        whole = data[: len(data) // size * size].reshape(-1, size)
        heads = np.array(whole[:, 4:10] if size == 192 else whole[:, :6])
        if len(heads) and (heads[:, 0] == _SYNC).all():
            return size, heads
    return None


def _of(heads: NDArray[np.uint8], stream: int) -> list[int]:
    """Return the packets of a stream that carry something: only these are counted."""
    number = (heads[:, 1].astype(int) & 31) << 8 | heads[:, 2]
    return np.flatnonzero((number == stream) & (heads[:, 3] & 16 > 0)).tolist()


def _jumps(heads: NDArray[np.uint8], one: int, other: int) -> bool:
    """Return whether the counter does not go on from one packet to the other, and no flag of it says that it may."""
    _, _, _, flags, length, more = heads[other].tolist()
    announced = flags & 32 and length and more & 128
    return (flags - int(heads[one, 3])) % 16 != 1 and not announced


def _new_table(heads: NDArray[np.uint8], own: list[int], tables: list[int], one: int, other: int) -> bool:
    """Return whether a table lies between two packets, its counter jumping too or, as theirs, that of the beginning."""
    between = [(a, b) for a, b in pairwise(tables) if one < b < other]
    anew = (heads[[*tables[:1], own[0]], 3] & 15).tolist()
    return any(_jumps(heads, a, b) or (heads[[b, other], 3] & 15).tolist() == anew for a, b in between)


def _goes_on(packets: Sequence[av.Packet[av.VideoStream]], start: int) -> bool:
    """Return whether no frame is missing at the end of a part: times are evenly spaced there, up to what is shown next.

    What begins there at an earlier time is another clip, and tells nothing of the one before.
    """
    times = [packet.pts for packet in packets[max(0, start - 2 * _TAIL) : start + 1] if packet.pts is not None]
    *before, time = times or [0]
    if len(before) < 2:
        return False
    last = max(before)
    steps = np.diff(sorted({*before, max(time, last)})[-_TAIL:])
    usual = min(packets[start].duration or np.inf, np.median(steps))
    return bool(steps.max() < 1.5 * usual)
