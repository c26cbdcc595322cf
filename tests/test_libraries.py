"""Other decoders give the frames of `read_video` or refuse, and say in one line where they aren't installed.

The libraries themselves are compared in `benchmarks/compare_decoders.py`; here a stand-in shows what is asked of them.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest

from stagebench.core.artifacts import Sample
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.video.frames import read_video, read_video_in_order
from stagebench.pipeline.load import load

RATE = 25
BY_OPENCV = LoadSettings(decoder="opencv")


def write_clip(path: Path, pix_fmt: str = "yuv420p", frames: int = 12) -> Path:
    texture = np.random.default_rng(0).integers(0, 256, (48, 64 + frames, 3), np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.codec_context.thread_count = 1
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[:, i : i + 64]))))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stands in for a library that reads by PyAV, and notes which frames it was asked for."""
    module = ModuleType("stagebench.media.video.by_opencv")

    def read_frames(path: Path, indices: list[int]) -> tuple[list[np.ndarray], list[float]]:
        module.asked = indices
        frames = read_video_in_order(path, 12).images
        return [frames[i] for i in indices], [i / RATE + module.late * (i > 5) for i in indices]

    module.read_frames, module.ERRORS, module.late = read_frames, (ValueError,), 0.0
    monkeypatch.setitem(sys.modules, "stagebench.media.video.by_opencv", module)
    return module


def test_frames_are_asked_for_by_number_in_display_order(tmp_path: Path, library: ModuleType) -> None:
    load(Sample(write_clip(tmp_path / "a.mp4"), loading=LoadSettings(decoder="opencv", start=0.16)), 3)

    assert library.asked == [4, 7, 11]


def test_media_are_those_of_the_default_decoder(tmp_path: Path, library: ModuleType) -> None:
    path = write_clip(tmp_path / "a.mp4")
    expected, media = read_video(path, 4), load(Sample(path, loading=BY_OPENCV), 4)

    assert [image.tobytes() for image in expected.images] == [image.tobytes() for image in media.images]
    assert (expected.span, expected.bytes_read) == (media.span, media.bytes_read)


def test_a_part_has_the_span_of_the_default_decoder_to_the_last_digit(tmp_path: Path, library: ModuleType) -> None:
    path = write_clip(tmp_path / "a.mp4")
    spans = [
        load(Sample(path, loading=LoadSettings(decoder=decoder, start=0.08, duration=0.3)), 3).span
        for decoder in ("pyav", "opencv")
    ]

    assert spans[0] == spans[1]


def test_fewer_frames_than_were_asked_for_are_refused(tmp_path: Path, library: ModuleType) -> None:
    whole = library.read_frames
    library.read_frames = lambda path, indices: whole(path, indices[:-1])

    with pytest.raises(MediaError, match=r"^a\.mp4: opencv must give the frames at \[.*\] s, got those at \["):
        load(Sample(write_clip(tmp_path / "a.mp4"), loading=BY_OPENCV), 4)


def test_frames_of_other_times_are_refused(tmp_path: Path, library: ModuleType) -> None:
    library.late = 1 / RATE

    with pytest.raises(MediaError, match=r"^a\.mp4: opencv must give the frames at \[.*\] s, got those at \["):
        load(Sample(write_clip(tmp_path / "a.mp4"), loading=BY_OPENCV), 4)


def test_what_the_library_can_not_read_is_refused(tmp_path: Path, library: ModuleType) -> None:
    def fail(path: Path, indices: list[int]) -> None:
        raise ValueError("no\nframe 3")

    library.read_frames = fail

    with pytest.raises(MediaError, match=r"^a\.mp4: opencv can't read it \(no frame 3\)$"):
        load(Sample(write_clip(tmp_path / "a.mp4"), loading=BY_OPENCV), 4)


def test_more_than_eight_bits_are_refused(tmp_path: Path, library: ModuleType) -> None:
    with pytest.raises(MediaError, match=r"^a\.mp4: decoder opencv must have 8 bits a sample, got yuv420p10le$"):
        load(Sample(write_clip(tmp_path / "a.mp4", "yuv420p10le"), loading=BY_OPENCV), 4)


def test_a_mirrored_clip_is_refused(tmp_path: Path, library: ModuleType) -> None:
    path = write_clip(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 4] = (-65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)

    with pytest.raises(MediaError, match=r"^a\.mp4: decoder opencv must have a clip that is not mirrored"):
        load(Sample(path, loading=BY_OPENCV), 4)


def test_a_clip_that_tells_no_times_is_refused(tmp_path: Path, library: ModuleType) -> None:
    with pytest.raises(MediaError, match=r"^a\.avi: decoder opencv needs a time for every frame"):
        load(Sample(write_clip(tmp_path / "a.avi"), loading=BY_OPENCV), 4)


@pytest.mark.parametrize("decoder", ["torchcodec", "opencv"])
def test_a_library_that_is_not_there_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: str
) -> None:
    monkeypatch.delitem(sys.modules, f"stagebench.media.video.by_{decoder}", raising=False)
    for name in ("torchcodec", "torchcodec.decoders", "cv2"):
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(MediaError, match=rf"^decoder {decoder} needs the extra 'video'.*, got: .*$"):
        load(Sample(write_clip(tmp_path / "a.mp4"), loading=LoadSettings(decoder=decoder)), 4)


@pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="OpenCV is not installed")
def test_opencv_gives_the_frames_of_the_default_decoder(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    expected, media = read_video(path, 4), load(Sample(path, loading=BY_OPENCV), 4)

    assert [image.tobytes() for image in expected.images] == [image.tobytes() for image in media.images]
