"""Damaged clips of every common container: a video is cut, flipped, overwritten, spliced, or lies about its sizes.

Run as `python tests/fuzz/video.py --inputs 4000 --workers 2`; how, is said in `harness.py`.
"""

from __future__ import annotations

import functools
import io
import random
import tempfile
import wave
from pathlib import Path

import av
import harness
import numpy as np

from stagebench.core.artifacts import Sample
from stagebench.pipeline.load import load

# container, codec, options of the codec, options of the container
SEEDS = (
    ("mp4", "libx264", {"bf": "3", "g": "6"}, {}),
    ("mp4", "libx264", {"bf": "2", "g": "50"}, {"movflags": "faststart"}),
    ("mp4", "libx264", {"g": "5"}, {"movflags": "frag_keyframe+empty_moov"}),
    ("mp4", "mpeg4", {"g": "5", "bf": "2"}, {}),
    ("matroska", "libx264", {"bf": "3", "g": "6"}, {}),
    ("matroska", "libvpx-vp9", {"g": "6", "deadline": "realtime"}, {}),
    ("webm", "libvpx", {"g": "6"}, {}),
    ("mpegts", "libx264", {"bf": "3", "g": "6"}, {}),
    ("avi", "mpeg4", {"g": "6"}, {}),
    ("avi", "mjpeg", {}, {}),
    ("gif", "gif", {}, {}),
    ("flv", "flv", {"g": "6"}, {}),
)
BOXES = (b"stsz", b"stts", b"stsc", b"stco", b"ctts", b"stss", b"elst", b"tkhd", b"mdhd", b"mvhd", b"avc1", b"moov")


def make(index: int, folder: Path) -> Path:
    """Write damaged clip number `index`."""
    draw = random.Random(index)
    data = draw.choice([damaged] * 20 + [without_frames, sound, unknown_codec, noise])(draw)
    path = folder / f"{index}.mp4"
    path.write_bytes(data)
    return path


def read(path: Path) -> object:
    """Read it as the load stage does."""
    return load(Sample(path), 4)


def damaged(draw: random.Random) -> bytes:
    """A clip with one to four kinds of damage."""
    data = seed(draw.randrange(len(SEEDS)))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        data = draw.choice((cut, flip, flip, overwrite, remove, repeat, splice, lie, lie))(draw, data) or b"\0"
    return data


def cut(draw: random.Random, data: bytes) -> bytes:
    """The beginning, or the end."""
    at = draw.randrange(1, len(data) + 1)
    return data[:at] if draw.random() < 0.8 else data[at:]


def flip(draw: random.Random, data: bytes) -> bytes:
    """Some bits, anywhere or all in the header."""
    changed = bytearray(data)
    reach = draw.choice((len(data), min(len(data), 2000)))
    for _ in range(draw.choice((1, 4, 64))):
        changed[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def overwrite(draw: random.Random, data: bytes) -> bytes:
    """A run of bytes, by zeros, by ones or by noise."""
    length = min(draw.choice((4, 16, 200, 2000)), len(data))
    at = draw.randrange(len(data) - length + 1)
    return data[:at] + draw.choice((bytes(length), b"\xff" * length, draw.randbytes(length))) + data[at + length :]


def remove(draw: random.Random, data: bytes) -> bytes:
    """A run of bytes is missing."""
    at = draw.randrange(len(data))
    return data[:at] + data[at + draw.choice((1, 4, 188, 1000)) :]


def repeat(draw: random.Random, data: bytes) -> bytes:
    """A run of bytes comes twice."""
    at = draw.randrange(len(data))
    return data[:at] + data[max(0, at - draw.choice((1, 4, 188, 1000))) :]


def splice(draw: random.Random, data: bytes) -> bytes:
    """The beginning of one clip and the end of another."""
    other = seed(draw.randrange(len(SEEDS)))
    return data[: draw.randrange(1, len(data) + 1)] + other[draw.randrange(len(other)) :]


def lie(draw: random.Random, data: bytes) -> bytes:
    """A huge size, count or length: in a field of an MP4's index where there is one, else anywhere in the header."""
    named = [data.find(box) for box in BOXES if box in data]
    at = draw.choice(named) + 4 * draw.randrange(-1, 24) if named else draw.randrange(min(len(data), 1000))
    at = max(0, min(at, len(data) - 8))
    value = draw.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 0x00FFFFFF, 0x40000000, 0xFFFF0000))
    return data[:at] + value.to_bytes(4, draw.choice(("big", "little"))) + data[at + 4 :]


def without_frames(draw: random.Random) -> bytes:
    """A container that announces a stream of video and has nothing in it, cut or whole."""
    name, codec, codec_options, options = SEEDS[draw.randrange(len(SEEDS))]
    data = encode(name, codec, codec_options, options, frames=0, sides=(64, 48))
    return data if draw.random() < 0.5 else cut(draw, data or b"\0")


def sound(draw: random.Random) -> bytes:
    """No video in it, damaged or not."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(draw.randbytes(2 * draw.randrange(4000)))
    return buffer.getvalue() if draw.random() < 0.5 else flip(draw, buffer.getvalue())


def unknown_codec(draw: random.Random) -> bytes:
    """A whole clip, tagged as made by another codec."""
    tag = draw.choice((b"zzzz", b"hvc1", b"vp09", b"av01", b"mp4v", b"png ", b"raw ", b"drac", b"ap4h", b"dvh1"))
    return seed(draw.randrange(4)).replace(b"avc1", tag).replace(b"mp4v", tag)


def noise(draw: random.Random) -> bytes:
    """Random bytes after the beginning of a container that is none."""
    return seed(draw.randrange(len(SEEDS)))[: draw.choice((0, 4, 12, 40, 200))] + draw.randbytes(
        draw.randrange(1, 5000)
    )


@functools.cache
def seed(number: int) -> bytes:
    """A whole clip of 20 small frames."""
    name, codec, codec_options, options = SEEDS[number]
    return encode(name, codec, codec_options, options, frames=20, sides=(64, 48))


def encode(
    name: str, codec: str, codec_options: dict[str, str], options: dict[str, str], frames: int, sides: tuple[int, int]
) -> bytes:
    """A clip of noise that moves."""
    width, height = sides
    texture = np.random.default_rng(0).integers(0, 256, (height, width + frames, 3), np.uint8)
    with (
        tempfile.NamedTemporaryFile() as file,  # "faststart" reads again what it wrote
        av.open(file.name, "w", format=name, options=options) as container,
    ):
        stream = container.add_stream(codec, rate=25, options=codec_options)
        stream.width, stream.height = sides
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        stream.codec_context.thread_count = 1  # equal numbers give equal inputs
        for i in range(frames):
            picture = np.ascontiguousarray(texture[:, i : i + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture).reformat(format=stream.pix_fmt)))
        container.mux(stream.encode(None))
        container.close()
        return Path(file.name).read_bytes()


if __name__ == "__main__":
    harness.main(make, read)
