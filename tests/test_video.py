"""read_video against clips made here, and against decoding everything in order."""

from __future__ import annotations

import os
import struct
import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.media.sampling import evenly_spaced
from stagebench.media.video.frames import read_video, read_video_in_order

Pixels = NDArray[np.uint8]
HEIGHT, WIDTH = 64, 96
BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)
ORANGE = (200, 60, 30)


def frame_number(i: int) -> Pixels:
    """Return a picture that differs from frame to frame and from corner to corner."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([(x * 2 + i * 3) % 256, (y * 3 + i * 5) % 256, (x + y + i * 7) % 256], axis=2).astype(np.uint8)


def write_clip(
    path: Path,
    frames: list[av.VideoFrame],
    *,
    pix_fmt: str = "yuv420p",
    codec: str = "libx264",
    colorspace: int = 2,
    color_range: int = 0,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
) -> Path:
    with av.open(path, "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=codec_options or {})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pix_fmt
        stream.codec_context.thread_count = 1
        stream.codec_context.colorspace = colorspace
        stream.codec_context.color_range = color_range
        for frame in frames:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_moving_clip(
    path: Path,
    count: int = 20,
    *,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
) -> Path:
    frames = [av.VideoFrame.from_ndarray(frame_number(i)) for i in range(count)]
    return write_clip(path, frames, options=options, codec_options=codec_options)


def decode_all(path: Path) -> list[Pixels]:
    with av.open(path) as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


def solid(
    colour: tuple[int, int, int], weights: tuple[float, float], *, full: bool, pix_fmt: str = "yuv420p"
) -> av.VideoFrame:
    """Return a YUV picture of one RGB colour, by the textbook formula (ITU-T H.273, 8.3)."""
    red, green, blue = (value / 255 for value in colour)
    kr, kb = weights
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))
    levels = (255 * y, 128 + 255 * cb, 128 + 255 * cr) if full else (16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr)
    frame = av.VideoFrame(WIDTH, HEIGHT, pix_fmt)
    for plane, level in zip(frame.planes, levels, strict=True):
        plane.update(bytes([round(level)]) * plane.buffer_size)
    frame.color_range = 2 if full else 1
    return frame


def set_display_matrix(path: Path, a: float, b: float, c: float, d: float) -> None:
    """Overwrite the matrix in an MP4's track header: 40 bytes after the name of a version 0 `tkhd` box."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    values = [round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0)]
    data[at : at + 36] = struct.pack(">9i", *values, 1 << 30)
    path.write_bytes(data)


class TestEvenlySpaced:
    @given(st.integers(1, 64), st.integers(0, 100_000))
    def test_indices_are_distinct_and_ascending(self, count: int, extra: int) -> None:
        indices = evenly_spaced(count + extra, count)

        assert sorted(set(indices)) == indices

    @given(st.integers(2, 64), st.integers(0, 100_000))
    def test_first_and_last_are_included(self, count: int, extra: int) -> None:
        indices = evenly_spaced(count + extra, count)

        assert (0, count + extra - 1, count) == (indices[0], indices[-1], len(indices))

    @given(st.integers(8, 100_000))
    def test_eight_of_any_clip_are_those_of_linspace_cut_to_integers(self, total: int) -> None:
        assert np.linspace(0, total - 1, 8).astype(int).tolist() == evenly_spaced(total, 8)

    def test_a_count_of_one_is_the_first(self) -> None:
        assert evenly_spaced(100, 1) == [0]

    @pytest.mark.parametrize(("total", "count"), [(7, 8), (0, 1), (5, 0), (5, -1)])
    def test_an_impossible_count_is_refused(self, total: int, count: int) -> None:
        with pytest.raises(MediaError, match=str(count if count < 1 else total)):
            evenly_spaced(total, count)


class TestFrames:
    def test_chosen_frames_equal_those_of_decoding_everything_in_order(self, tmp_path: Path) -> None:
        path = write_moving_clip(tmp_path / "b.mp4", 30, codec_options={"bf": "3", "g": "12", "b-pyramid": "normal"})
        expected = decode_all(path)

        media = read_video(path, 8)

        assert [expected[i].tobytes() for i in evenly_spaced(30, 8)] == [image.tobytes() for image in media.images]

    def test_b_frames_come_in_display_order(self, tmp_path: Path) -> None:
        how = {"bf": "3", "g": "12", "qp": "4"}
        path = write_moving_clip(tmp_path / "b.mp4", 12, codec_options=how)

        images = read_video(path, 12).images

        closest = [min(range(12), key=lambda i: np.abs(frame_number(i).astype(int) - image).mean()) for image in images]
        assert list(range(12)) == closest

    def test_every_decoded_frame_is_counted(self, tmp_path: Path) -> None:
        path = write_moving_clip(tmp_path / "a.mp4", codec_options={"bf": "0", "g": "5", "sc_threshold": "0"})

        assert (read_video_in_order(path, 3).frames_decoded, read_video(path, 3).frames_decoded) == (20, 11)

    def test_span_is_the_time_from_the_first_chosen_frame_to_the_last(self, tmp_path: Path) -> None:
        assert pytest.approx(19 / 25) == read_video(write_moving_clip(tmp_path / "a.mp4"), 8).span

    def test_bytes_read_is_the_size_of_the_file(self, tmp_path: Path) -> None:
        path = write_moving_clip(tmp_path / "a.mp4")

        assert path.stat().st_size == read_video(path, 8).bytes_read

    @pytest.mark.parametrize("name", ["clip.mkv", "clip.ts"])
    def test_a_container_without_a_frame_count_is_read(self, tmp_path: Path, name: str) -> None:
        path = write_moving_clip(tmp_path / name)
        with av.open(path) as container:
            assert container.streams.video[0].frames == 0

        assert read_video_in_order(path, 8).frames_decoded == 20

    @pytest.mark.parametrize("said", [5, 4000])
    def test_a_header_that_lies_about_the_count_is_not_believed(self, tmp_path: Path, said: int) -> None:
        path = write_moving_clip(tmp_path / "clip.avi", codec_options={"bf": "0"})
        expected = [decode_all(path)[i].tobytes() for i in evenly_spaced(20, 8)]
        data = bytearray(path.read_bytes())
        at = data.index(b"strh") + 8 + 32
        data[at : at + 4] = struct.pack("<I", said)
        path.write_bytes(data)

        assert expected == [image.tobytes() for image in read_video(path, 8).images]

    def test_a_packet_that_yields_no_frame_does_not_shift_the_choice(self, tmp_path: Path) -> None:
        path = tmp_path / "late.ts"
        whole = write_moving_clip(tmp_path / "whole.ts", 30, codec_options={"g": "10", "bf": "0"})
        with av.open(whole) as source, av.open(path, "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for i, packet in enumerate(source.demux(video=0)):
                if packet.size and i >= 4:  # starts between two key frames
                    packet.stream = stream
                    target.mux(packet)
        frames = decode_all(path)
        assert len(frames) < 26

        media = read_video(path, 8)

        expected = [frames[i].tobytes() for i in evenly_spaced(len(frames), 8)]
        assert expected == [image.tobytes() for image in media.images]

    def test_a_gif_is_a_clip(self, tmp_path: Path) -> None:
        from PIL import Image

        colours = [(10 * i, 255 - 10 * i, 40) for i in range(6)]
        pictures = [Image.new("RGB", (32, 16), colour) for colour in colours]
        pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=50)

        media = read_video(tmp_path / "a.gif", 6)

        assert colours == [tuple(image[8, 16].tolist()) for image in media.images]

    @pytest.mark.skipif("STAGEBENCH_DATA" not in os.environ, reason="STAGEBENCH_DATA names no folder")
    def test_real_clips_equal_decoding_everything_in_order(self) -> None:
        clips = sorted((Path(os.environ["STAGEBENCH_DATA"]) / "video").glob("c*.mp4"))
        assert clips
        for path in clips:
            frames = decode_all(path)
            expected = [frames[i].tobytes() for i in evenly_spaced(len(frames), 8)]

            assert expected == [image.tobytes() for image in read_video(path, 8).images]


class TestColour:
    @pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
    @pytest.mark.parametrize(
        ("tag", "weights"),
        [(1, BT709), (5, BT601), (6, BT601), (9, (0.2627, 0.0593))],
        ids=["709", "601-625", "601-525", "2020"],
    )
    @pytest.mark.parametrize("colour", [ORANGE, (30, 90, 220), (255, 255, 255), (0, 0, 0)])
    def test_a_tagged_colour_comes_back(
        self, tmp_path: Path, tag: int, weights: tuple[float, float], full: bool, colour: tuple[int, int, int]
    ) -> None:
        frame = solid(colour, weights, full=full)
        path = write_clip(
            tmp_path / "c.mp4",
            [frame],
            colorspace=tag,
            color_range=2 if full else 1,
            codec_options={"qp": "1"},
        )

        image = read_video(path, 1).images[0]

        assert np.abs(image.astype(int) - colour).max() <= 4

    def test_an_untagged_clip_is_bt601_in_limited_range(self, tmp_path: Path) -> None:
        frame = solid(ORANGE, BT601, full=False)
        frame.color_range = 0
        path = write_clip(tmp_path / "c.mp4", [frame], codec_options={"qp": "1"})

        image = read_video(path, 1).images[0]

        assert np.abs(image.astype(int) - ORANGE).max() <= 4

    def test_a_motion_jpeg_is_full_range(self, tmp_path: Path) -> None:
        frame = solid(ORANGE, BT601, full=True, pix_fmt="yuvj420p")
        path = write_clip(tmp_path / "c.avi", [frame], codec="mjpeg", pix_fmt="yuvj420p", color_range=2)

        image = read_video(path, 1).images[0]

        assert np.abs(image.astype(int) - ORANGE).max() <= 6

    def test_an_unsupported_colour_matrix_is_refused(self, tmp_path: Path) -> None:
        frame = solid(ORANGE, BT601, full=False)
        path = write_clip(tmp_path / "ycgco.mp4", [frame], colorspace=8)

        with pytest.raises(MediaError, match=r"ycgco\.mp4: .*colour matrix.* got number 8"):
            read_video(path, 1)


class TestOrientation:
    @pytest.mark.parametrize(
        ("matrix", "turn"),
        [
            ((1, 0, 0, 1), lambda image: image),
            ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
            ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
            ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
            ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
            ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
        ],
        ids=["0", "90 clockwise", "180", "270 clockwise", "mirrored", "transposed"],
    )
    def test_a_display_matrix_is_honoured(
        self, tmp_path: Path, matrix: tuple[float, ...], turn: Callable[[Pixels], Pixels]
    ) -> None:
        path = write_moving_clip(tmp_path / "r.mp4", 3)
        expected = turn(decode_all(path)[0])
        set_display_matrix(path, *matrix)

        image = read_video(path, 1).images[0]

        assert (expected.shape, expected.tobytes()) == (image.shape, image.tobytes())

    def test_a_turn_by_45_degrees_is_refused(self, tmp_path: Path) -> None:
        path = write_moving_clip(tmp_path / "askew.mp4", 3)
        set_display_matrix(path, 0.707, 0.707, -0.707, 0.707)

        with pytest.raises(MediaError, match=r"askew\.mp4: its rotation must be a multiple of 90 degrees, got"):
            read_video(path, 1)


class TestBadInput:
    def test_a_clip_with_fewer_frames_is_refused(self, tmp_path: Path) -> None:
        path = write_moving_clip(tmp_path / "short.mp4", 7)

        with pytest.raises(MediaError, match=r"^short\.mp4: must have at least 8 frames, got 7$"):
            read_video(path, 8)

    def test_a_truncated_clip_with_its_index_at_the_end_is_refused(self, tmp_path: Path) -> None:
        path = write_moving_clip(tmp_path / "cut.mp4")
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])

        with pytest.raises(MediaError, match=r"^cut\.mp4: must be a whole video, got a truncated file"):
            read_video(path, 2)

    @pytest.mark.parametrize("left", [0.97, 0.8, 0.6, 0.4])
    def test_a_truncated_clip_with_its_index_in_front_is_refused(self, tmp_path: Path, left: float) -> None:
        path = write_moving_clip(tmp_path / "cut.mp4", options={"movflags": "faststart"})
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])

        with pytest.raises(MediaError, match=r"^cut\.mp4: must be .*whole.*truncated"):
            read_video(path, 2)

    def test_a_clip_cut_exactly_between_two_frames_is_refused(self, tmp_path: Path) -> None:
        path = write_moving_clip(tmp_path / "cut.mp4", options={"movflags": "faststart"})
        with av.open(path) as container:
            ends = [p.pos + p.size for p in container.demux(video=0) if p.size and p.pos is not None]
        path.write_bytes(path.read_bytes()[: ends[9]])

        with pytest.raises(MediaError, match=r"^cut\.mp4: must be whole, got a truncated file with 10 frames left$"):
            read_video(path, 2)

    @pytest.mark.parametrize("left", [0.95, 0.6, 0.4])
    @pytest.mark.parametrize(("name", "codec"), [("cut.mkv", "libx264"), ("cut.webm", "libvpx")])
    def test_a_truncated_matroska_is_refused(self, tmp_path: Path, name: str, codec: str, left: float) -> None:
        frames = [av.VideoFrame.from_ndarray(frame_number(i)) for i in range(20)]
        path = write_clip(tmp_path / name, frames, codec=codec)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])

        with pytest.raises(MediaError, match=rf"^{name}: must be .*whole.*, got a truncated file"):
            read_video(path, 2)

    def test_a_live_matroska_of_unknown_size_is_read_to_its_end(self, tmp_path: Path) -> None:
        path = write_moving_clip(tmp_path / "live.mkv", options={"live": "1"}, codec_options={"bf": "0", "g": "5"})

        assert b"\x18\x53\x80\x67\x01" + b"\xff" * 7 in path.read_bytes()
        assert all(map(np.array_equal, read_video(path, 20).images, decode_all(path)))

    @pytest.mark.parametrize("left", [0.97, 0.6, 0.3])
    def test_a_truncated_gif_is_refused(self, tmp_path: Path, left: float) -> None:
        frames = [av.VideoFrame.from_ndarray(frame_number(i)) for i in range(8)]
        path = write_clip(tmp_path / "cut.gif", frames, codec="gif", pix_fmt="rgb8")
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])

        with pytest.raises(MediaError, match=r"^cut\.gif: must be .*whole.*, got a truncated file"):
            read_video(path, 2)

    def test_a_gif_filled_up_with_zeros_is_whole(self, tmp_path: Path) -> None:
        frames = [av.VideoFrame.from_ndarray(frame_number(i)) for i in range(8)]
        path = write_clip(tmp_path / "a.gif", frames, codec="gif", pix_fmt="rgb8")
        path.write_bytes(path.read_bytes() + bytes(100))

        assert len(read_video(path, 8).images) == 8

    def test_a_clip_with_a_hole_is_refused(self, tmp_path: Path) -> None:
        path = write_moving_clip(tmp_path / "hole.mp4", options={"movflags": "faststart"})
        data = bytearray(path.read_bytes())
        middle = len(data) * 6 // 10
        data[middle : middle + len(data) // 5] = bytes(len(data) // 5)
        path.write_bytes(data)

        with pytest.raises(MediaError, match=r"^hole\.mp4: must be .*whole.*damaged"):
            read_video(path, 2)

    def test_an_audio_file_is_refused(self, tmp_path: Path) -> None:
        with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes(16000))

        with pytest.raises(MediaError, match=r"^sound\.wav: must be a video, got a file with no video stream$"):
            read_video(tmp_path / "sound.wav", 1)

    def test_an_unknown_codec_is_refused(self, tmp_path: Path) -> None:
        path = write_moving_clip(tmp_path / "odd.mp4")
        path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))

        with pytest.raises(MediaError, match=r"^odd\.mp4: must be in a codec that FFmpeg decodes, got an unknown one"):
            read_video(path, 1)

    def test_an_empty_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "empty.mp4").touch()

        with pytest.raises(MediaError, match=r"^empty\.mp4: must hold data, got an empty file$"):
            read_video(tmp_path / "empty.mp4", 1)

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MediaError, match=r"^none\.mp4: can't be read: No such file or directory$"):
            read_video(tmp_path / "none.mp4", 1)

    def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "folder.mp4").mkdir()

        with pytest.raises(MediaError, match=r"^folder\.mp4: must be a file, got a folder$"):
            read_video(tmp_path / "folder.mp4", 1)

    @pytest.mark.parametrize("text", ["hello", "not a video\n" * 100])
    def test_a_text_file_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "text.mp4").write_text(text)

        with pytest.raises(MediaError, match=r"^text\.mp4: must be a whole video, got text \("):
            read_video(tmp_path / "text.mp4", 1)

    def test_no_frames_at_all_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MediaError, match="at least 1 image must be requested, got 0"):
            read_video(write_moving_clip(tmp_path / "a.mp4"), 0)

    def test_nothing_is_written_to_stderr(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        path = write_moving_clip(tmp_path / "cut.mp4", options={"movflags": "faststart"})
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        capfd.readouterr()

        with pytest.raises(MediaError):
            read_video(path, 2)

        assert capfd.readouterr() == ("", "")


def test_a_matroska_header_that_reaches_beyond_the_file_is_refused(tmp_path):
    path = tmp_path / "damaged.mkv"
    path.write_bytes(b"\x1a\x45\xdf\xa3" + b"\x01" + b"\xfe" * 7 + b"\0" * 64)
    with pytest.raises(MediaError, match=r"damaged\.mkv: must be a whole video"):
        read_video(path, 8)
