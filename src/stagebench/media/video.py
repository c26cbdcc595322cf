"""Frames of a clip: exact, evenly spaced, in display order, coloured and turned as the clip is tagged.

The header is not believed: packets are counted in one pass over the file, and the decoder's count has to
agree. Not done, because players differ or a model wouldn't care: HDR tone mapping, deinterlacing, non-square
pixels. PyAV keeps FFmpeg's messages from stderr by default; what matters of them is an exception or a flag
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.reformatter import ColorRange

from stagebench.errors import MediaError
from stagebench.media.files import size_of
from stagebench.media.sampling import evenly_spaced
from stagebench.types import Image, Media

# swscale's numbers; PyAV before 18 has no name for all of them.
_BT709, _FCC, _BT601, _SMPTE240M, _BT2020 = 1, 4, 5, 7, 9
# A stream's tag (H.273, matrix coefficients) -> swscale's matrix. 2 is "untagged": BT.601, swscale's default.
_MATRICES = {
    1: _BT709,
    2: _BT601,
    4: _FCC,
    5: _BT601,
    6: _BT601,
    7: _SMPTE240M,
    9: _BT2020,
    10: _BT2020,
}
_MP4_STARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


@dataclass(frozen=True, slots=True)
class _Decoded:
    """The wanted frames of one pass over a clip."""

    images: tuple[Image, ...]
    total: int  # frames that the decoder produced in all
    span: float | None  # seconds from the first wanted frame to the last


def read_video(path: Path, count: int) -> Media:
    """Decode a clip once, from its first frame to its last, and keep `count` evenly spaced frames.

    Args:
        path: any file that FFmpeg reads, animated GIFs included; its first video stream is taken.
        count: how many frames to keep, chosen by `evenly_spaced`.

    Returns:
        `count` uint8 arrays (height, width, 3), RGB; `frames_decoded` counts all frames that the decoder
        made.

    Raises:
        MediaError: the file is missing, empty, not a video, without a video stream, truncated or damaged,
            tagged with a colour matrix or an orientation that isn't supported, or has fewer than `count`
            frames.
    """
    size = size_of(path)
    try:
        packets = _count_packets(path)
        decoded = _decode(path, evenly_spaced(packets, count) if packets >= count else [])
        produced = decoded.total
        if decoded.total < count:
            raise MediaError(f"{path.name}: must have at least {count} frames, got {decoded.total}")
        if decoded.total != packets:  # a packet may hold two frames or none: choose again, by the decoder's count
            decoded = _decode(path, evenly_spaced(decoded.total, count))
            produced += decoded.total
    except av.error.FFmpegError as error:
        reason = "a truncated file" if _is_cut_mp4(path, size) else "a damaged one or something else"
        raise MediaError(f"{path.name}: must be a whole video, got {reason} ({error.strerror})") from error
    return Media(decoded.images, "frames", produced, size, decoded.span)


def _count_packets(path: Path) -> int:
    """Count the packets that a decoder will turn into frames; refuse a file that ends inside one."""
    with av.open(path, metadata_errors="ignore") as container:
        if not container.streams.video:
            raise MediaError(f"{path.name}: must be a video, got a file with no video stream")
        count = 0
        for packet in container.demux(container.streams.video[0]):
            if packet.is_corrupt:
                raise MediaError(f"{path.name}: must be whole, got a truncated or damaged packet {count}")
            if packet.size > 0 and not packet.is_discard:  # the last one is an empty "flush"
                count += 1
    # FFmpeg reads an MP4 that was cut between two frames without complaint.
    if _is_cut_mp4(path, path.stat().st_size):
        raise MediaError(f"{path.name}: must be whole, got a truncated file with {count} frames left")
    return count


def _decode(path: Path, wanted: list[int]) -> _Decoded:
    """Decode every frame in display order; convert the wanted ones (ascending) as they go by."""
    images: list[Image] = []
    times: list[float | None] = []
    total = 0
    with av.open(path, metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise MediaError(f"{path.name}: must be whole, got a damaged frame {total}")
            if len(images) < len(wanted) and total == wanted[len(images)]:
                images.append(_upright(path, frame, _to_rgb(path, frame)))
                times.append(frame.time)
            total += 1
    known = [time for time in times if time is not None]
    span = known[-1] - known[0] if known and len(known) == len(times) else None
    return _Decoded(tuple(images), total, span)


def _to_rgb(path: Path, frame: av.VideoFrame) -> Image:
    """Convert by the frame's own tags; full range only where tagged so, or by a "yuvj" format.

    PyAV before 17 ignores both tags by default, and sets swscale's matrix only where source and destination
    differ. The destination's matrix is never used, RGB has none, so it is chosen to differ.
    """
    if frame.format.is_rgb or frame.format.has_palette:
        return cast(Image, frame.to_ndarray(format="rgb24"))
    matrix = _MATRICES.get(int(frame.colorspace))
    if matrix is None:
        raise MediaError(
            f"{path.name}: its colour matrix must be BT.601, 709, 2020, FCC or 240M, "
            f"got number {int(frame.colorspace)} of H.273"
        )
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=matrix,
        dst_colorspace=_BT601 if matrix == _BT709 else _BT709,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    return cast(Image, rgb.to_ndarray())


def _upright(path: Path, frame: av.VideoFrame, image: Image) -> Image:
    """Turn and mirror an image as the display matrix says.

    The matrix maps a pixel (x, y) to (a x + c y, b x + d y), y downwards (ISO/IEC 14496-12, 6.2.2).
    `frame.rotation` is not enough: it calls a mirrored clip one that is turned by 180 degrees.
    """
    side_data = cast("bytes | None", frame.side_data.get("DISPLAYMATRIX"))
    if side_data is None:
        return image
    a, b, _, c, d = np.frombuffer(side_data, np.int32)[:5].tolist()
    if b == c == 0 and a and d:
        turned = image[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]
    elif a == d == 0 and b and c:
        turned = image.transpose(1, 0, 2)[:: 1 if b > 0 else -1, :: 1 if c > 0 else -1]
    else:
        matrix = [round(value / 65536, 3) for value in (a, b, c, d)]
        raise MediaError(f"{path.name}: its rotation must be a multiple of 90 degrees, got the matrix {matrix}")
    return np.ascontiguousarray(turned)


def _is_cut_mp4(path: Path, size: int) -> bool:
    """Whether a file begins as an MP4 and has a top-level box beyond its end, or no index (moov).

    Boxes: ISO/IEC 14496-12, 4.2. Other containers are not judged.
    """
    if size < 8:
        return False
    start, has_index = 0, False
    with path.open("rb") as file:
        while start + 8 <= size:
            file.seek(start)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if start == 0 and kind not in _MP4_STARTS:
                return False
            if length == 1:  # the true length is in the next eight bytes
                length = int.from_bytes(head[8:], "big")
            has_index |= kind == b"moov"
            if kind in (b"moov", b"mdat", b"moof") and start + length > size:
                return True
            if length < 8:  # 0: up to the end of the file; else not a box
                break
            start += length
    return not has_index
