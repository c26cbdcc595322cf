"""What an AEDAT4 file says about its own sizes, checked before a decoder takes memory for them.

The layout is iniVation's: a magic, a flatbuffer `IOHeader` with its size before it, then packets, each a track, a size
and data. LZ4 unpacks to 255 times as much at most; Zstandard has no such limit, so its blocks are counted.
"""

from __future__ import annotations

import struct
from pathlib import Path

from stagebench.errors import MediaError
from stagebench.media.files import require_plausible, size_of

_MAGIC = b"#!AER-DAT4.0\r\n"
_ZSTD = (3, 4)  # of the header's `compression`
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK = 1 << 17  # bytes that a block unpacks to at most
_FAR_TOO_MUCH = 1 << 62


def check_sizes(path: Path) -> None:
    """Walk over all packets without unpacking any.

    Raises:
        MediaError: the file is missing, no AEDAT4, a size in it reaches beyond its end, or a packet unpacks to more
            than is plausible.
    """
    size = size_of(path)
    with path.open("rb") as file:
        magic, length = file.read(len(_MAGIC)), int.from_bytes(file.read(4), "little")
        if magic != _MAGIC or file.tell() + length > size:
            raise MediaError(f"{path.name}: must be a whole AEDAT4 file, got one that ends in its header, or without")
        compression, end = _read_header(path.name, file.read(length))
        while file.tell() + 8 <= size and file.tell() != end:
            length = int.from_bytes(file.read(8)[4:], "little")
            at = file.tell()
            if at + length > size:
                raise MediaError(f"{path.name}: must be a whole AEDAT4 file, got {size - at} of {length} bytes")
            if compression in _ZSTD:
                require_plausible(path, _zstd_bound(file.read(length)), size)
            file.seek(at + length)


def _read_header(name: str, header: bytes) -> tuple[int, int]:
    """Read the flatbuffer `IOHeader`: the compression, where the packets end (-1: nowhere), a description in UTF-8.

    A description in anything else would end the process: faery puts it into an error, which Python can't hold.
    """
    try:
        (table,) = struct.unpack_from("<I", header)
        vtable = table - struct.unpack_from("<i", header, table)[0]
        first, second, third = struct.unpack_from("<HHH", header, vtable + 4)
        compression = struct.unpack_from("<i", header, table + first)[0] if first else 0
        end = struct.unpack_from("<q", header, table + second)[0] if second else -1
        text = table + third + struct.unpack_from("<I", header, table + third)[0]
        header[text + 4 : text + 4 + struct.unpack_from("<I", header, text)[0]].decode()
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
