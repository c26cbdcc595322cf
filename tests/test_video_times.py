"""Windows are of the frames' own times: where a container's do not belong to the frames, they are refused."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.sampling import ascend
from stagebench.media.video.frames import read_video, read_video_in_order

FRAMES = 40
WINDOW = LoadSettings(start=0.2, duration=0.2)
REORDERED = {"bf": "3", "g": "12", "b-pyramid": "none", "qp": "10", "x264-params": "scenecut=0"}
REFUSED = "must have the time of every frame before a part of it can be read, got"


def picture(number):
    """Six bars, black or white, which tell a number even when they are compressed."""
    bars = [220 if number >> bit & 1 else 40 for bit in range(6)]
    return np.repeat(np.repeat(np.array([[[bar] * 3 for bar in bars]], np.uint8), 48, 0), 16, 1)


def numbers(media):
    return [sum(int(image[24, 16 * bit + 8, 1] > 130) << bit for bit in range(6)) for image in media.images]


def write(path, codec="libx264", options=REORDERED, times=range(FRAMES), container=None):
    with av.open(path, "w", format=container) as target:
        stream = target.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        if codec != "libx264":
            stream.codec_context.max_b_frames = int(options.get("bf", 0))
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number))
            frame.pts = time
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


def retimed(source, path, time_of):
    """The same packets, each at a time of decoding and of showing as `time_of` says of its number, in 25ths."""
    with av.open(source) as whole, av.open(path, "w") as target:
        stream = target.add_stream_from_template(whole.streams.video[0])
        for number, packet in enumerate(packet for packet in whole.demux(video=0) if packet.size):
            packet.time_base = Fraction(1, 25)
            packet.pts = packet.dts = time_of(number)
            packet.stream = stream
            target.mux(packet)
    return path


@pytest.fixture(scope="module")
def reordered(tmp_path_factory):
    return write(tmp_path_factory.mktemp("clips") / "reordered.mp4")


def packed_avi(folder):
    """MPEG-4 as DivX packed it: two frames in one packet, and a placeholder in the next."""
    start = b"\0\0\1\xb6"
    with av.open(write(folder / "plain.avi", "mpeg4", {"bf": "1", "g": "12"})) as plain:
        packets = [bytes(packet) for packet in plain.demux(video=0) if packet.size]
        kinds = [packet[packet.index(start) + 4] >> 6 for packet in packets]  # 2: a B-frame
        path = folder / "packed.avi"
        with av.open(path, "w") as target:
            stream = target.add_stream_from_template(plain.streams.video[0])
            packets[0] = packets[0].replace(start, b"\0\0\1\xb2DivX503b1393p\0" + start, 1)
            for number, data in enumerate(packets):
                if number + 1 < FRAMES and kinds[number + 1] == 2:
                    data += packets[number + 1]
                packet = av.Packet(start + b"\x50\0\0" if kinds[number] == 2 else data)
                packet.pts = packet.dts = number
                packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, kinds[number] == 0
                target.mux(packet)
    return path


WITHOUT_TIMES = {
    "MPEG-1 in AVI": lambda folder, _: write(folder / "a.avi", "mpeg1video", {"bf": "2", "g": "12"}),
    "H.264 in AVI": lambda folder, _: write(folder / "a.avi"),
    "MPEG-4 packed in AVI": lambda folder, _: packed_avi(folder),
    "times of decoding in Matroska": lambda folder, clip: retimed(clip, folder / "a.mkv", lambda i: i),
    "times of decoding in MP4": lambda folder, clip: retimed(clip, folder / "a.mp4", lambda i: i),
    "times of decoding in MPEG-TS": lambda folder, clip: retimed(clip, folder / "a.ts", lambda i: i),
    "H.264 alone": lambda folder, _: write(folder / "a.h264", container="h264"),
    "two frames at each time": lambda folder, _: retimed(
        write(folder / "plain.mp4", options={"bf": "0"}), folder / "a.mkv", lambda i: i // 2 * 2
    ),
}


@pytest.mark.parametrize("read", [read_video, read_video_in_order])
@pytest.mark.parametrize("kind", WITHOUT_TIMES)
def test_times_that_are_not_the_frames_own_give_no_window_and_no_span(tmp_path, reordered, kind, read):
    path = WITHOUT_TIMES[kind](tmp_path, reordered)

    whole = read(path, 8)
    with pytest.raises(MediaError, match=rf"^{path.name}: {REFUSED} "):
        read(path, 5, WINDOW)

    assert (numbers(whole), whole.span) == ([0, 5, 11, 16, 22, 27, 33, 39], None)


@pytest.mark.parametrize("count", range(1, 9))
def test_times_of_decoding_do_not_choose_other_frames(tmp_path, reordered, count):
    path = retimed(reordered, tmp_path / "a.mkv", lambda i: i)

    assert numbers(read_video_in_order(path, count)) == numbers(read_video(path, count))


@pytest.mark.parametrize("frames", [1, 2])
def test_so_few_frames_that_none_can_be_shown_out_of_order_are_trusted(tmp_path, frames):
    assert read_video(write(tmp_path / "a.mp4", times=range(frames)), 1).frames_decoded == 1


WITH_TIMES = {
    "MPEG-4 in AVI": ("a.avi", "mpeg4", {"bf": "2", "g": "12"}, None),
    "MPEG-2 in AVI": ("a.avi", "mpeg2video", {"bf": "2", "g": "12"}, None),
    "MPEG-2 in a program stream": ("a.mpg", "mpeg2video", {"bf": "2", "g": "12"}, "vob"),
    "FLV": ("a.flv", "libx264", REORDERED, None),
    "MPEG-TS": ("a.ts", "libx264", REORDERED, None),
}


@pytest.mark.parametrize("start", [0, 2**33 // 3600 - 8], ids=["from zero", "over the end of a clock of 33 bits"])
@pytest.mark.parametrize("kind", WITH_TIMES)
def test_times_that_are_the_frames_own_give_the_window(tmp_path, kind, start):
    name, codec, options, container = WITH_TIMES[kind]
    if start and not name.endswith((".ts", ".mpg")):
        pytest.skip("has no such clock")
    path = write(tmp_path / name, codec, options, range(start, start + FRAMES), container)

    media = read_video(path, 5, WINDOW)

    assert ([5, 6, 7, 8, 9], pytest.approx(4 / 25)) == (numbers(media), media.span)


def with_edits(source, path, edits):
    """The same MP4, its list of edits replaced: (milliseconds, first frame) each."""
    data = source.read_bytes()
    at = data.index(b"elst")
    first = int.from_bytes(data[at + 16 : at + 20], "big")  # the time of the first frame, in 12800ths
    rows = b"".join(
        length.to_bytes(4, "big") + (first + 512 * frame).to_bytes(4, "big") + b"\0\1\0\0" for length, frame in edits
    )
    box = b"elst" + bytes(4) + len(edits).to_bytes(4, "big") + rows
    longer = len(box) - 24
    data = data[:at] + box + data[at + 24 :]
    for name, size in ((b"moov", longer), (b"trak", longer), (b"edts", longer), (b"elst", longer)):
        where = data.index(name) - 4
        data = (
            data[:where]
            + (int.from_bytes(data[where : where + 4], "big") + size).to_bytes(4, "big")
            + data[where + 4 :]
        )
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("read", [read_video, read_video_in_order])
@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([(1000, 10)], [15, 16, 17, 18, 19]),
        ([(400, 24), (400, 0)], [29, 30, 31, 32, 33]),
        ([(200, 0), (400, 25)], [25, 26, 27, 28, 29]),
        ([(200, 0), (400, 0)], [0, 1, 2, 3, 4]),
    ],
)
def test_a_window_counts_what_a_list_of_edits_shows(tmp_path, reordered, read, edits, expected):
    path = with_edits(reordered, tmp_path / "edited.mp4", edits)

    assert expected == numbers(read(path, 5, WINDOW))


@pytest.mark.parametrize(
    ("times", "ascending"), [([], True), ([0, 1], True), ([0, 0], False), ([1, 0], False), ([0, None], False)]
)
def test_times_ascend_where_each_is_later_than_the_one_before(times, ascending):
    assert ascending == ascend(times)


def test_b_frames_in_avi_are_refused_a_window(cases):
    path = cases / "avi_bframes_window" / "h264.avi"

    with pytest.raises(MediaError, match=rf"^h264\.avi: {REFUSED} times that do not ascend$"):
        read_video(path, 5, LoadSettings(start=0.1, duration=0.2))

    assert read_video(path, 5).span is None
