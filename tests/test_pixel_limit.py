"""What would fill the memory or take minutes is refused by its header: clips, GIFs and PNGs by one limit."""

import struct
import zlib

import av
import pytest

from stagebench.core.artifacts import Sample
from stagebench.core.errors import MediaError
from stagebench.media.files import MAX_PIXELS, MAX_TOTAL, require_pixels
from stagebench.pipeline.load import load

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def gif(path, width, height, frames):
    """Pictures of one pixel each, which redraw the whole screen."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    picture = b"\x21\xf9\x04\x04\x05\0\0\0," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    path.write_bytes(screen + picture * frames + b";")
    return path


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width, height, interlaced=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced))


def png(path, width, height, more=b"", interlaced=0):
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000), 9))
    path.write_bytes(SIGNATURE + header(width, height, interlaced) + more + pixels + chunk(b"IEND", b""))
    return path


def zeros(megabytes):
    """So many of them, compressed to a thousandth."""
    squeeze = zlib.compressobj(9)
    return b"".join(squeeze.compress(bytes(2**20)) for _ in range(megabytes)) + squeeze.flush()


def refused(path, count=1):
    with pytest.raises(MediaError) as caught:
        load(Sample(path), count)
    return str(caught.value)


LIMITS = f"at most {MAX_PIXELS} pixels per image and {MAX_TOTAL} in all"


@pytest.mark.parametrize("sides", [(65535, 65535), (16000, 16000), (8193, 8192), (65535, 1025)])
def test_a_gif_with_a_screen_larger_than_any_picture_is_refused(tmp_path, sides):
    width, height = sides
    expected = f"a.gif: must have {LIMITS}, got 1 of {width} x {height}"

    assert refused(gif(tmp_path / "a.gif", width, height, 3)) == expected


def test_a_gif_of_which_too_much_would_be_kept_is_refused(tmp_path):
    assert refused(gif(tmp_path / "a.gif", 8192, 8192, 8), 8) == f"a.gif: must have {LIMITS}, got 8 of 8192 x 8192"


@pytest.mark.parametrize(("side", "frames"), [(8192, 33), (2000, 537), (512, 8193)])
def test_a_gif_of_many_large_pictures_is_refused_before_they_are_drawn(tmp_path, side, frames):
    said = refused(gif(tmp_path / "a.gif", side, side, frames + 100))

    assert (
        said
        == f"a.gif: must have at most {MAX_PIXELS} pixels per image and {2**31} in all, got {frames} of {side} x {side}"
    )


def test_a_gif_of_very_many_small_pictures_is_refused(tmp_path):
    assert refused(gif(tmp_path / "a.gif", 4, 4, 2**15 + 1)) == "a.gif: must have at most 32768 pictures, got more"


@pytest.mark.parametrize("sides", [(30000, 30000), (12000, 12000), (2**31 - 1, 2**31 - 1), (8193, 8192), (1, 2**27)])
@pytest.mark.parametrize("interlaced", [0, 1])
def test_a_png_larger_than_any_picture_is_refused_without_a_warning(tmp_path, sides, interlaced):
    width, height = sides
    path = png(tmp_path / "a.png", width, height, interlaced=interlaced)

    assert refused(path) == f"a.png: must have {LIMITS}, got 1 of {width} x {height}"


def test_a_folder_of_pngs_that_are_too_much_together_is_refused(tmp_path):
    for number in range(6):
        png(tmp_path / f"{number}.png", 8192, 8192)

    assert refused(tmp_path, 5) == f"0.png: must have {LIMITS}, got 5 of 8192 x 8192"


def test_a_png_whose_second_header_is_larger_is_refused(tmp_path):
    assert refused(png(tmp_path / "a.png", 4, 4, header(9000, 9000))).startswith(
        f"a.png: must have {LIMITS}, got 1 of 9"
    )


def test_a_png_that_does_not_begin_with_its_header_is_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(SIGNATURE + chunk(b"tEXt", b"a\0b") + png(path, 9000, 9000).read_bytes()[8:])

    assert refused(path).startswith("a.png: must ")


@pytest.mark.parametrize(
    "more",
    [
        chunk(b"zTXt", b"a\0\0" + zeros(200)),
        chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(200)),
        chunk(b"iCCP", b"a\0\0" + zeros(200)),
        chunk(b"tEXt", b"a\0" + b"x" * 2**20) * 70,
    ],
    ids=["zTXt", "iTXt", "iCCP", "tEXt"],
)
def test_a_png_with_text_of_megabytes_is_refused(tmp_path, more):
    assert refused(png(tmp_path / "a.png", 4, 4, more)).startswith("a.png: must be a whole PNG image, got: ")


@pytest.mark.parametrize("name", ["a.avi", "a.mov", "a.nut"])
def test_a_clip_of_pngs_is_refused_because_ffmpeg_unpacks_texts_of_any_length(tmp_path, name):
    with av.open(tmp_path / name, "w") as target:
        stream = target.add_stream("png", rate=5)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "rgb24"
        target.mux(stream.encode(av.VideoFrame(16, 16, "rgb24")))
        target.mux(stream.encode(None))

    expected = f"{name}: must be in a codec that FFmpeg decodes, got PNG, with texts that may fill the memory"
    assert refused(tmp_path / name) == expected


def test_a_clip_of_which_too_much_would_be_kept_is_refused(tmp_path):
    with av.open(tmp_path / "a.mp4", "w") as target:
        stream = target.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1024, 256, "yuv420p"
        stream.codec_context.thread_count = 1
        for _ in range(3):
            frame = av.VideoFrame(1024, 256, "yuv420p")
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))

    assert refused(tmp_path / "a.mp4", 1025) == f"a.mp4: must have {LIMITS}, got 1025 of 1024 x 256"


def test_what_is_large_but_meant_is_read(tmp_path):
    require_pixels(tmp_path, 7680, 4320, 8)
    require_pixels(tmp_path, 8192, 8192, 4)
