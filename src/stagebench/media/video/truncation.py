"""Tell files that end before they say they do: FFmpeg reads some of them up to there without complaint."""

import mmap
from pathlib import Path

_MP4_STARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")  # IDs of Matroska's two top-level elements
_PADDING = 4096  # bytes at the end of a GIF among which the last one is looked for


def is_cut(path: Path) -> bool:
    """Return whether an MP4, a Matroska or WebM file, or a GIF is shorter than it says; others are not judged.

    A GIF ends with the end of a block and the trailer (GIF89a, 16 and 27); zeros that fill it up may follow.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[4:8] in _MP4_STARTS:
            return _is_cut_mp4(data)
        if data[:4] == _EBML:
            return _is_cut_matroska(data)
        return data[:6] in (b"GIF87a", b"GIF89a") and not data[-_PADDING:].rstrip(b"\0").endswith(b"\0;")


def gif_size(path: Path) -> tuple[int, int]:
    """Return the width and height of a GIF's screen (GIF89a, 18); zeros of any other file."""
    with path.open("rb") as file:
        head = file.read(10)
    sides = (int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:], "little"))
    return sides if head.startswith(b"GIF8") else (0, 0)


def _is_cut_mp4(data: mmap.mmap) -> bool:
    """Return whether a top-level box (ISO/IEC 14496-12, 4.2) goes on beyond the end, or there is no index (moov)."""
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
    """Return whether the segment, in which all else lies, goes on beyond the end (RFC 8794, 4 to 6).

    A segment of unknown size, as of a live stream, is not judged.
    """
    at, header = _size_at(data, 4)
    at += header or 0
    if data[at : at + 4] != _SEGMENT:
        return at > len(data)
    at, length = _size_at(data, at + 4)
    return length is not None and at + length > len(data)


def _size_at(data: mmap.mmap, at: int) -> tuple[int, int | None]:
    """Read the size of an element in bytes: where it ends, and what it is; None where it is unknown, all bits set.

    The zeros before the number's first bit tell how many bytes it takes.
    """
    width = 9 - (data[at : at + 1] or b"\xff")[0].bit_length()
    unknown = 2 ** (7 * width) - 1
    number = int.from_bytes(data[at : at + width], "big") & unknown
    return at + width, None if number == unknown else number
