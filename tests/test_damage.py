"""Damaged clips have one outcome however often they are read, and what listens to FFmpeg's log leaves it as it was."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from threading import Thread

import av
import numpy as np
import pytest
from av import logging as log

from stagebench.core.errors import MediaError
from stagebench.media.video.frames import read_video, seconds_shown, settled

TIMES = 12


def write(path: Path, codec: str = "libx264", sides: tuple[int, int] = (96, 64), **options: str) -> Path:
    """A clip of 20 frames of noise that moves."""
    texture = np.random.default_rng(0).integers(0, 256, (sides[1], sides[0] + 20, 3), np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = sides
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for i in range(20):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[:, i : i + sides[0]]))
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def without_slice(folder: Path, number: int) -> Path:
    """H.264 of four slices a picture, but one."""
    path = write(folder / "a.h264", bf="2", g="10", **{"x264-params": "slices=4"})
    data = path.read_bytes()
    starts = [i for i in range(len(data)) if data.startswith(b"\0\0\1", i)]
    slices = [pair for pair in pairwise([*starts, len(data)]) if data[pair[0] + 3] & 31 in (1, 5)]
    start, end = slices[number]
    path.write_bytes(data[:start] + data[end:])
    return path


def overwritten(path: Path, at: float, length: int = 60) -> Path:
    """The clip with a run of noise, at a fraction of its size."""
    data = bytearray(path.read_bytes())
    start = int(at * len(data))
    data[start : start + length] = np.random.default_rng(1).bytes(length)
    path.write_bytes(data)
    return path


def outcome(path: Path) -> str | list[bytes]:
    try:
        return [image.tobytes() for image in read_video(path, 4).images]
    except MediaError as error:
        return str(error)


@pytest.mark.parametrize("number", [2, 6, 13, 30])
def test_a_missing_slice_is_noticed_every_time(tmp_path, number):
    path = without_slice(tmp_path, number)
    message = f"a.h264: must be whole, got a damaged frame {outcome(path).split()[-1]}"
    assert [message] * TIMES == [outcome(path) for _ in range(TIMES)]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("at", [0.3, 0.5, 0.7])
def test_a_damaged_clip_has_one_outcome(tmp_path, codec, name, at):
    path = overwritten(write(tmp_path / name, codec, g="6", bf="2"), at)
    first = outcome(path)
    assert [first] * TIMES == [outcome(path) for _ in range(TIMES)]


def test_clips_read_at_once_have_the_outcome_of_each(tmp_path):
    path, found = without_slice(tmp_path, 13), []
    threads = [Thread(target=lambda: found.extend(outcome(path) for _ in range(TIMES))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome(path)] * 3 * TIMES == found


def test_the_length_of_a_damaged_clip_is_refused(tmp_path):
    path = without_slice(tmp_path, 13)
    for _ in range(TIMES):
        with pytest.raises(MediaError, match="damaged frame"):
            seconds_shown(path)


@pytest.mark.parametrize("level", [None, log.ERROR, log.VERBOSE])
def test_the_log_is_left_as_it_was_and_says_nothing(tmp_path, capfd, caplog, level):
    caplog.set_level(logging.DEBUG)
    log.set_level(level)
    try:
        outcome(without_slice(tmp_path, 2))
        assert (level, True) == (log.get_level(), log.get_skip_repeated())
    finally:
        log.set_level(None)
    assert capfd.readouterr() == ("", "")
    assert level is not None or not caplog.records


def readings(message: str = "", level: int = log.ERROR) -> list[str]:
    """By which threads something is read during which FFmpeg says this."""
    asked: list[str] = []

    def read(threads: str) -> None:
        asked.append(threads)
        if message:
            log.log(level, "h264", message)

    settled(read)
    return asked


def test_what_is_whole_is_read_once():
    assert readings() == ["AUTO"]


def test_an_error_that_an_earlier_clip_ended_with_is_a_sign_again():
    for _ in range(2):
        assert readings("error while decoding MB 1 2") == ["AUTO", "NONE"]


def test_a_concealed_frame_is_a_sign():
    assert readings("concealing 4 DC, 4 AC, 4 MV errors in P frame", log.INFO) == ["AUTO", "NONE"]


def test_other_information_and_warnings_are_none():
    assert readings("Increasing reorder buffer", log.WARNING) == ["AUTO"]


def test_what_is_read_while_the_log_is_in_use_is_read_by_one_thread():
    assert settled(lambda _: readings()) == ["NONE"]


def test_an_error_of_the_reading_is_raised_by_one_thread():
    asked: list[str] = []

    def read(threads: str) -> None:
        asked.append(threads)
        raise MediaError(threads)

    with pytest.raises(MediaError, match="NONE"):
        settled(read)
    assert asked == ["AUTO", "NONE"]
