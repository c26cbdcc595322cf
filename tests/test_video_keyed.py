"""Decoding only what is needed gives what decoding everything gives, and gives way where it might not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebench.core.artifacts import Media
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.video.frames import read_video, read_video_in_order

FRAMES = 40


def write_clip(
    path: Path,
    *,
    codec: str = "libx264",
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
) -> Path:
    """Write moving noise, which no frame can be mistaken in; `times` in 25ths of a second."""
    times = list(range(FRAMES)) if times is None else times
    texture = np.random.default_rng(0).integers(0, 256, (48, 64 + 2 * len(times), 3), np.uint8)
    with av.open(path, "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=codec_options or {})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[:, 2 * i : 2 * i + 64]))
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def pixels(media: Media) -> list[bytes]:
    return [image.tobytes() for image in media.images]


def both(path: Path, count: int, loading: LoadSettings | None = None) -> tuple[list[bytes], list[bytes]]:
    loading = loading or LoadSettings()
    return pixels(read_video_in_order(path, count, loading)), pixels(read_video(path, count, loading))


KINDS = {
    "no B-frames": ("a.mp4", {"codec_options": {"bf": "0", "g": "7"}}),
    "B-frames": ("a.mp4", {"codec_options": {"bf": "3", "g": "12", "b-pyramid": "normal"}}),
    "open GOPs": ("a.mp4", {"codec_options": {"bf": "3", "g": "8", "x264-params": "open-gop=1"}}),
    "open GOPs, no index": ("a.ts", {"codec_options": {"bf": "3", "g": "8", "x264-params": "open-gop=1"}}),
    "intra refresh": ("a.mp4", {"codec_options": {"g": "10", "x264-params": "intra-refresh=1"}}),
    "one key frame": ("a.mp4", {"codec_options": {"g": "250"}}),
    "only key frames": ("a.mp4", {"codec_options": {"g": "1"}}),
    "no frame count": ("a.mkv", {"codec_options": {"bf": "3", "g": "9"}}),
    "fragments": ("a.mp4", {"codec_options": {"g": "9"}, "options": {"movflags": "frag_keyframe+empty_moov"}}),
    "variable frame rate": ("a.mkv", {"times": [i * i // 3 + i for i in range(FRAMES)], "codec_options": {"g": "9"}}),
    "a late start": ("a.mp4", {"times": [250 + i for i in range(FRAMES)], "codec_options": {"g": "9"}}),
    "an edit list": ("a.mp4", {"codec_options": {"bf": "2", "g": "9"}, "options": {"use_editlist": "1"}}),
    "one frame": ("a.mp4", {"times": [0]}),
    "two frames": ("a.mp4", {"times": [0, 5]}),
    "HEVC": ("a.mp4", {"codec": "libx265", "codec_options": {"x265-params": "log-level=none:keyint=8:pools=1"}}),
    "VP9": ("a.webm", {"codec": "libvpx-vp9", "codec_options": {"g": "8", "deadline": "realtime", "cpu-used": "8"}}),
    "VP8": ("a.webm", {"codec": "libvpx", "codec_options": {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "10"}}),
    "MPEG-4": ("a.avi", {"codec": "mpeg4", "codec_options": {"g": "8"}}),
    "MPEG-2": ("a.ts", {"codec": "mpeg2video", "codec_options": {"g": "8", "bf": "2"}}),
    "motion JPEG": ("a.mkv", {"codec": "mjpeg"}),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    paths = {}
    for number, (kind, (name, how)) in enumerate(KINDS.items()):
        (folder / str(number)).mkdir()
        paths[kind] = write_clip(folder / str(number) / name, **how)
    return paths


class TestEqualFrames:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_count_gives_the_frames_of_decoding_in_order(self, clips: dict[str, Path], kind: str) -> None:
        path = clips[kind]
        total = read_video_in_order(path, 1).frames_decoded
        counts = sorted({1, 2, 3, 5, 8, total} & set(range(total + 1)))

        for count in counts:
            reference, keyed = both(path, count)
            assert reference == keyed

    @given(
        kind=st.sampled_from(sorted(KINDS)),
        count=st.integers(1, 9),
        start=st.integers(0, 40),
        length=st.integers(1, 40),
    )
    def test_any_window_gives_the_frames_of_decoding_in_order(
        self, clips: dict[str, Path], kind: str, count: int, start: int, length: int
    ) -> None:
        loading = LoadSettings(start=start / 25, duration=length / 25)
        outcomes: list[object] = []
        for read in (read_video_in_order, read_video):
            try:
                outcomes.append(pixels(read(clips[kind], count, loading)))
            except MediaError as error:
                outcomes.append(str(error))

        assert outcomes[0] == outcomes[1]

    @given(
        gop=st.integers(1, 30),
        b_frames=st.integers(0, 6),
        references=st.integers(1, 4),
        pyramid=st.sampled_from(["none", "strict", "normal"]),
        open_gop=st.booleans(),
        suffix=st.sampled_from([".mp4", ".mkv", ".ts"]),
        gaps=st.lists(st.integers(1, 9), min_size=8, max_size=FRAMES),
        count=st.integers(1, 8),
    )
    def test_any_h264_gives_the_frames_of_decoding_in_order(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        gop: int,
        b_frames: int,
        references: int,
        pyramid: str,
        open_gop: bool,
        suffix: str,
        gaps: list[int],
        count: int,
    ) -> None:
        how = {"g": str(gop), "bf": str(b_frames), "refs": str(references), "b-pyramid": pyramid, "preset": "veryfast"}
        how["x264-params"] = f"open-gop={int(open_gop)}:scenecut=0"
        path = tmp_path_factory.getbasetemp() / f"drawn{suffix}"
        write_clip(path, times=np.cumsum(gaps).tolist(), codec_options=how)

        reference, keyed = both(path, count)

        assert reference == keyed

    @pytest.mark.skipif("STAGEBENCH_DATA" not in os.environ, reason="STAGEBENCH_DATA names no folder")
    def test_real_clips_give_the_frames_of_decoding_in_order(self) -> None:
        paths = sorted((Path(os.environ["STAGEBENCH_DATA"]) / "video").iterdir())
        assert paths
        for path in paths:
            reference, keyed = both(path, 8)

            assert reference == keyed


class TestWork:
    def test_only_what_is_needed_is_decoded(self, clips: dict[str, Path]) -> None:
        """Of 40 frames with a key frame every 7: 0 alone, and 35 to 39."""
        assert (
            read_video_in_order(clips["no B-frames"], 2).frames_decoded,
            read_video(clips["no B-frames"], 2).frames_decoded,
        ) == (40, 6)

    def test_frames_that_no_other_refers_to_are_not_decoded(self, clips: dict[str, Path]) -> None:
        assert read_video(clips["one key frame"], 2).frames_decoded < FRAMES

    def test_nothing_after_the_window_is_decoded(self, clips: dict[str, Path]) -> None:
        media = read_video(clips["no B-frames"], 2, LoadSettings(duration=3 / 25))

        assert (media.frames_decoded, media.span) == (3, 2 / 25)

    @pytest.mark.parametrize("kind", ["MPEG-4", "VP8"])
    def test_what_is_not_known_to_be_safe_is_decoded_in_order(self, clips: dict[str, Path], kind: str) -> None:
        path = clips[kind]

        assert read_video_in_order(path, 4).frames_decoded == read_video(path, 4).frames_decoded

    def test_frames_that_share_a_time_are_decoded_in_order(self, tmp_path: Path) -> None:
        source = write_clip(tmp_path / "a.mp4", codec_options={"g": "5", "bf": "0"})
        with av.open(source) as whole, av.open(tmp_path / "b.mkv", "w") as target:
            stream = target.add_stream_from_template(whole.streams.video[0])
            for i, packet in enumerate(whole.demux(video=0)):
                if packet.size:
                    packet.pts = packet.dts = 1000 * (i // 2)
                    packet.stream = stream
                    target.mux(packet)

        reference, keyed = both(tmp_path / "b.mkv", 4)

        assert reference == keyed
        assert read_video(tmp_path / "b.mkv", 4).frames_decoded == FRAMES

    def test_frames_at_other_times_than_the_packets_said_are_decoded_again_in_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_clip(tmp_path / "a.mp4", codec_options={"g": "5", "bf": "0"})
        expected = pixels(read_video(path, 4))
        monkeypatch.setattr("stagebench.media.video.container.Track.entry_of", lambda track, target: target)

        media = read_video(path, 4)

        assert expected == pixels(media)
        assert media.frames_decoded > FRAMES


class TestDamage:
    def test_a_damaged_key_frame_of_vp9_is_refused(self, clips: dict[str, Path], tmp_path: Path) -> None:
        with av.open(clips["VP9"]) as container:
            packets = [bytes(packet) for packet in container.demux(video=0) if packet.is_keyframe]
        data = clips["VP9"].read_bytes()
        at = data.index(packets[2]) + 1  # the code that starts a key frame (VP9 bitstream, 7.2)
        path = tmp_path / "damaged.webm"
        path.write_bytes(data[:at] + bytes(3) + data[at + 3 :])

        code = (
            f"from pathlib import Path; from stagebench.media.video.frames import *; read_video(Path({str(path)!r}), 3)"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

        said = "must be a whole video, got a damaged one or something else (Invalid data found when processing input)"
        line = "".join(ended.stderr.splitlines()[-1:])
        assert (1, f"stagebench.core.errors.MediaError: damaged.webm: {said}") == (ended.returncode, line)


class TestWindow:
    def test_a_window_begins_at_its_start_and_ends_before_its_end(self, clips: dict[str, Path]) -> None:
        everything = pixels(read_video_in_order(clips["B-frames"], FRAMES))

        window = read_video(clips["B-frames"], 5, LoadSettings(start=0.4, duration=0.2))

        assert everything[10:15] == pixels(window)

    def test_time_counts_from_the_first_frame(self, clips: dict[str, Path]) -> None:
        everything = pixels(read_video_in_order(clips["a late start"], FRAMES))

        assert everything[:2] == pixels(read_video(clips["a late start"], 2, LoadSettings(duration=0.08)))

    def test_an_empty_window_is_refused(self, clips: dict[str, Path]) -> None:
        with pytest.raises(MediaError, match=r"^a\.mp4: must have at least 1 frames in 1 s from 60 s, got 0$"):
            read_video(clips["B-frames"], 1, LoadSettings(start=60, duration=1))

    def test_a_window_with_too_few_frames_is_refused(self, clips: dict[str, Path]) -> None:
        with pytest.raises(MediaError, match=r"^a\.mp4: must have at least 8 frames in 0\.2 s from 0 s, got 5$"):
            read_video(clips["B-frames"], 8, LoadSettings(duration=0.2))
