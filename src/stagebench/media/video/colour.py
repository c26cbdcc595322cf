"""Convert a decoded frame to uint8 RGB by its colour tags, and rotate it upright."""

import re
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

from stagebench.core import meter
from stagebench.core.artifacts import Image
from stagebench.core.errors import MediaError
from stagebench.media.files import require_pixels

_BT709, _BT601, _UNTAGGED = 1, 5, 2  # swscale's numbers
# A stream's tag (H.273, matrix coefficients) -> swscale's matrix. Without a tag it is BT.601, swscale's default.
_MATRICES = {1: _BT709, _UNTAGGED: _BT601, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: 9, 10: 9}
_GRAY = re.compile(r"(gray|ya)(8|9|1\d)?(le|be)?")  # with or without alpha, without floating-point formats


def to_image(path: Path, frame: av.VideoFrame, reformatter: VideoReformatter, count: int = 1) -> Image:
    """Return one of `count` kept frames as uint8 (height, width, 3), RGB, upright.

    Pass one reformatter for all frames of a clip, because it keeps swscale's set-up. A frame's own reformatter takes
    several times longer, and its threads live until it is collected. Refuse a frame that is too large, or that has an
    unsupported colour matrix or orientation.
    """
    require_pixels(path, frame.width, frame.height, count)  # a frame may differ in size from its clip
    meter.add("images_made")
    return _upright(path, frame, _to_rgb(path, frame, reformatter))


def _to_rgb(path: Path, frame: av.VideoFrame, reformatter: VideoReformatter) -> Image:
    """Convert by the frame's own tags; the range is full only by its tag or a "yuvj" format."""
    gray = _GRAY.fullmatch(frame.format.name) is not None
    if gray and frame.color_range == ColorRange.MPEG:
        # Black is at 16 (of 8 bits), as in video, but swscale reads gray as full range. Gray without a tag is full
        # range: FFmpeg tags gray of video codecs (HEVC, AV1) by their standards, but not that of images and archives.
        frame = _with_neutral_chroma(frame, reformatter)
    elif gray or frame.format.is_rgb or frame.format.has_palette:
        return cast(Image, reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())
    matrix = _MATRICES.get(int(frame.colorspace))
    if matrix is None:
        limits, got = "BT.601, 709, 2020, FCC or 240M", f"number {int(frame.colorspace)} of H.273"
        raise MediaError(f"{path.name}: its colour matrix must be {limits}, got {got}")
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    rgb = reformatter.reformat(
        frame,
        format="rgb24",
        src_colorspace=matrix,
        # PyAV sets the source's matrix only where this one differs. RGB has no matrix, so this one is not used.
        dst_colorspace=_BT601 if matrix == _BT709 else _BT709,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        threads=1,
    )
    return cast(Image, rgb.to_ndarray())


def _with_neutral_chroma(frame: av.VideoFrame, reformatter: VideoReformatter) -> av.VideoFrame:
    """Return a gray frame of limited range as 4:4:4 with the same levels, so that swscale respects its range."""
    bits = frame.format.components[0].bits
    planar, full = "yuv444p" if bits == 8 else f"yuv444p{bits}le", ColorRange.JPEG
    frame.colorspace = _UNTAGGED  # neutral in any matrix; swscale refuses some of them
    coloured = reformatter.reformat(frame, format=planar, src_color_range=full, dst_color_range=full, threads=1)
    coloured.color_range = ColorRange.MPEG
    return coloured


def _upright(path: Path, frame: av.VideoFrame, image: Image) -> Image:
    """Rotate and mirror an image by the display matrix, because `frame.rotation` reports mirroring as rotation.

    The matrix maps a pixel (x, y) to (a x + c y, b x + d y), with y downwards (ISO/IEC 14496-12, 6.2.2).
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
        got = [round(value / 65536, 3) for value in (a, b, c, d)]
        raise MediaError(f"{path.name}: its rotation must be a multiple of 90 degrees, got the matrix {got}")
    return np.ascontiguousarray(turned)
