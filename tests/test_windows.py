"""A clip is as long as its own frames are shown, whatever else is in its container."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stagebench.analysis.experiments.dataset import Dataset, Entry
from stagebench.analysis.experiments.design import cut, seconds_of
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.video.frames import read_video

RATE, FRAMES = 25, 20
SOUND = {".mp4": "aac", ".mkv": "aac", ".mov": "aac", ".ts": "mp2", ".avi": "mp2", ".flv": "aac", ".webm": "libopus"}
VIDEO = {".avi": ("mpeg4", {"g": "5", "bf": "2"}), ".webm": ("libvpx", {"g": "5", "deadline": "realtime"})}


def write(path, sound=0.0, start=0, frames=FRAMES, times=None, options=None, sound_start=0.0):
    """A clip of 0.8 s, with so many seconds of sound beside it; `times` in 25ths of a second."""
    codec, how = VIDEO.get(path.suffix, ("libx264", {"g": "5", "bf": "2"}))
    with av.open(path, "w", options=options or {}) as target:
        stream = target.add_stream(codec, rate=RATE, options=how)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        beside = target.add_stream(SOUND[path.suffix], rate=48000) if sound else None
        for time in times or range(start, start + frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * (time % 20), np.uint8))
            frame.pts = time
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
        if beside is not None:
            write_silence(target, beside, sound, sound_start)
    return path


def write_silence(target, stream, seconds, start):
    size = stream.codec_context.frame_size or 1024
    for at in range(0, int(seconds * 48000), size):
        kind = stream.codec_context.format.name
        frame = av.AudioFrame(format=kind, layout="stereo", samples=size)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = 48000, int(start * 48000) + at, Fraction(1, 48000)
        target.mux(stream.encode(frame))
    target.mux(stream.encode(None))


@pytest.mark.parametrize("sound", [0.0, 0.4, 3.0], ids=["no sound", "shorter sound", "longer sound"])
@pytest.mark.parametrize("suffix", SOUND)
def test_the_length_is_that_of_the_frames_whatever_the_sound(tmp_path, suffix, sound):
    assert seconds_of(write(tmp_path / f"a{suffix}", sound)) == pytest.approx(0.8, abs=0.002)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".flv"])
def test_the_length_begins_at_the_first_frame(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", sound=2.0, start=50)

    assert seconds_of(path) == pytest.approx(0.8, abs=0.002)


@pytest.mark.parametrize(
    "how", [{"movflags": "frag_keyframe+empty_moov"}, {"use_editlist": "0"}, {"movflags": "faststart"}]
)
def test_the_length_of_an_mp4_is_that_of_its_frames_however_written(tmp_path, how):
    assert seconds_of(write(tmp_path / "a.mp4", sound=2.0, options=how)) == pytest.approx(0.8)


def test_the_length_of_an_edited_mp4_is_that_of_the_frames_left(tmp_path):
    path = write(tmp_path / "a.mp4")
    data = path.read_bytes()
    at = data.index(b"elst") + 12
    media_time = int.from_bytes(data[at + 4 : at + 8], "big") + 5 * 512  # from the sixth frame on, in 12800ths
    path.write_bytes(data[:at] + (600).to_bytes(4, "big") + media_time.to_bytes(4, "big") + data[at + 8 :])

    assert seconds_of(path) == pytest.approx(0.6)


def test_the_length_of_a_gif_is_the_sum_of_its_delays(tmp_path):
    from PIL import Image

    pictures = [Image.new("RGB", (16, 8), (20 * i, 0, 0)) for i in range(4)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[50, 200, 100, 300])

    assert seconds_of(tmp_path / "a.gif") == pytest.approx(0.65)


def test_the_length_of_a_clip_of_varying_rate_ends_with_its_last_frame(tmp_path):
    assert seconds_of(write(tmp_path / "a.mkv", times=[3, 4, 8, 9, 15])) == pytest.approx(13 / 25, abs=0.002)


def test_one_frame_lasts_as_long_as_it_is_shown(tmp_path):
    assert seconds_of(write(tmp_path / "a.mp4", frames=1)) == pytest.approx(1 / 25)


def test_a_clip_without_times_has_no_length(tmp_path):
    path = tmp_path / "a.h264"
    write(tmp_path / "a.mp4")
    with av.open(tmp_path / "a.mp4") as whole, av.open(path, "w", format="h264") as target:
        stream = target.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)

    with pytest.raises(MediaError, match=r"^a\.h264: must have the time of every frame .*, got none$"):
        seconds_of(path)


def windows_of(path: Path, length):
    return cut(Dataset((Entry("a", "a", "?", {"video": path}),)), length).entries


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_every_window_has_frames(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", sound=3.0, start=10)
    found = [(entry.start, entry.duration) for entry in windows_of(path, 0.2)]

    images = [len(read_video(path, 5, LoadSettings(start=start, duration=length)).images) for start, length in found]

    assert (len(found), images) == (4, [5, 5, 5, 5])


def test_two_seconds_of_video_beside_six_of_sound_are_four_windows(cases):
    path = cases / "container_duration" / "audlong.mp4"

    assert (seconds_of(path), len(windows_of(path, 0.5))) == (2.0, 4)
