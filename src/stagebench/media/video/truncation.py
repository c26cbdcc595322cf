"""Files that end before they say they do: FFmpeg reads some of them up to there without complaint."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

_MP4_STARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")  # IDs of Matroska's two top-level elements
_PADDING = 4096  # bytes at the end of a GIF among which the last one is looked for


def is_cut(path: Path, size: int) -> bool:
    """Whether an MP4, a Matroska or WebM file, or a GIF is shorter than it says; other containers are not judged."""
    return any(judge(path, size) for judge in (_is_cut_mp4, _is_cut_matroska, _is_cut_gif))


def _is_cut_mp4(path: Path, size: int) -> bool:
    """Whether a file begins as an MP4 and has a top-level box beyond its end, no index (moov), or nothing else.

    Boxes: ISO/IEC 14496-12, 4.2.
    """
    if size < 8:
        return False
    start, kinds = 0, set()
    with path.open("rb") as file:
        while start + 8 <= size:
            file.seek(start)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if start == 0 and kind not in _MP4_STARTS:
                return False
            if length == 1:  # the true length is in the next eight bytes
                length = int.from_bytes(head[8:], "big")
            kinds.add(kind)
            if kind in (b"moov", b"mdat", b"moof") and start + length > size:
                return True
            if length < 8:  # 0: up to the end of the file; else not a box
                break
            start += length
    return b"moov" not in kinds or kinds.isdisjoint((b"mdat", b"moof"))


def _is_cut_matroska(path: Path, size: int) -> bool:
    """Whether a file begins as Matroska and its segment, in which all else lies, goes on beyond its end.

    Elements: RFC 8794, 4 to 6. A segment of unknown size, as of a live stream, is not judged.
    """
    with path.open("rb") as file:
        if file.read(4) != _EBML:
            return False
        header = _read_size(file) or 0
        if file.tell() + header > size:
            return True
        file.seek(header, os.SEEK_CUR)
        if file.read(4) != _SEGMENT:
            return False
        length = _read_size(file)
        return length is not None and file.tell() + length > size


def _read_size(file: BinaryIO) -> int | None:
    """The size of an element in bytes; None where it is unknown, a number of which all bits are set.

    The zeros before the number's first bit tell how many bytes it takes.
    """
    first = file.read(1) or b"\xff"
    width = 9 - first[0].bit_length()
    unknown = 2 ** (7 * width) - 1
    number = int.from_bytes(first + file.read(width - 1), "big") & unknown
    return None if number == unknown else number


def gif_size(path: Path) -> tuple[int, int]:
    """The width and height of a GIF's screen (GIF89a, 18); zeros of what is none."""
    with path.open("rb") as file:
        kind, width, height = file.read(4), *struct.unpack("<2xHH", file.read(6).ljust(6, b"\0"))
    return (width, height) if kind == b"GIF8" else (0, 0)


def _is_cut_gif(path: Path, size: int) -> bool:
    """Whether a file begins as a GIF and does not end with the end of a block and the trailer (GIF89a, 16 and 27).

    Zeros that fill it up may follow.
    """
    with path.open("rb") as file:
        if file.read(6) not in (b"GIF87a", b"GIF89a"):
            return False
        file.seek(max(0, size - _PADDING))
        return not file.read().rstrip(b"\0").endswith(b"\0;")
