"""Gray of either range and any depth becomes the RGB of the same levels beside neutral chroma (ITU-T H.273, 8.3)."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from stagebench.media.video.colour import to_image
from stagebench.media.video.frames import read_video

DEEP = [(f"gray{bits}{order}", bits) for bits in (9, 10, 12, 14, 16) for order in ("le", "be")]
FORMATS = [("gray", 8), ("ya8", 8), *DEEP, ("ya16le", 16), ("ya16be", 16)]
UNTAGGED, LIMITED, FULL = 0, 1, 2


def ramp(pix_fmt, bits, tag):
    """A frame of every level of a format, and these levels."""
    levels = np.arange(max(1 << bits, 512)).reshape(-1, 256) % (1 << bits)
    samples = levels.astype("u1" if bits == 8 else ">u2" if pix_fmt.endswith("be") else "<u2")
    if pix_fmt.startswith("ya"):
        both = np.full((*levels.shape, 2), (1 << bits) - 1, samples.dtype)
        both[..., 0] = samples
        samples = both.reshape(len(levels), -1)
    frame = av.VideoFrame(256, len(levels), pix_fmt)
    rows = np.zeros((len(levels), frame.planes[0].line_size), np.uint8)
    rows[:, : samples.nbytes // len(levels)] = np.ascontiguousarray(samples).view(np.uint8).reshape(len(levels), -1)
    frame.planes[0].update(rows.tobytes())
    frame.color_range = tag
    return frame, levels


def furthest(frame, expected):
    """How far a frame's RGB is from a gray of these values at most."""
    image = to_image(Path("clip"), frame, VideoReformatter())
    return np.abs(image - expected[..., None]).max()


@pytest.mark.parametrize(("pix_fmt", "bits"), FORMATS)
def test_limited_gray_reaches_from_black_at_16_to_white_at_235(pix_fmt, bits):
    frame, levels = ramp(pix_fmt, bits, LIMITED)
    step = 1 << (bits - 8)
    assert furthest(frame, np.clip((levels - 16 * step) * 255 / (219 * step), 0, 255)) < 0.55


@pytest.mark.parametrize("tag", [FULL, UNTAGGED], ids=["full", "untagged"])
@pytest.mark.parametrize(("pix_fmt", "bits"), FORMATS)
def test_full_and_untagged_gray_keep_every_level(pix_fmt, bits, tag):
    frame, levels = ramp(pix_fmt, bits, tag)
    assert furthest(frame, levels * 255 / ((1 << bits) - 1)) < 1.5  # of deep ones swscale cuts off some bits first


def test_gray_needs_no_colour_matrix():
    frame, levels = ramp("gray", 8, LIMITED)
    frame.colorspace = 8  # YCgCo, which a coloured clip is refused for
    assert furthest(frame, np.clip((levels - 16) * 255 / 219, 0, 255)) < 0.55


def write_gray(path, codec, tag, **options):
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 256, 64, "gray"
        stream.codec_context.color_range, stream.codec_context.thread_count = tag, 1
        frame = av.VideoFrame(256, 64, "gray")
        frame.planes[0].update(bytes([180]) * 256 * 64)
        frame.color_range = tag
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("codec", "tag", "expected"),
    [("libx265", UNTAGGED, 191), ("libx265", FULL, 180), ("ffv1", UNTAGGED, 180), ("ffv1", LIMITED, 191)],
)
def test_what_has_no_tag_is_limited_in_video_and_full_in_archives(tmp_path, codec, tag, expected):
    options = {"x265-params": "log-level=none:pools=1:bframes=0"} if codec == "libx265" else {}
    path = write_gray(tmp_path / "a.mkv", codec, tag, **options)
    assert expected == read_video(path, 1).images[0][32, 128, 0]


@pytest.mark.parametrize("name", ["g265_tv.mp4", "c_gray_tv.mp4"])
def test_monochrome_hevc_has_the_levels_of_neutral_chroma(cases, name):
    images = read_video(cases / "gray_limited_range" / name, 8).images
    right = [0, 255, 121, 191, 51, 76, 150, 29]
    assert max(abs(int(image[0, 0, 0]) - level) for image, level in zip(images, right, strict=True)) <= 1
