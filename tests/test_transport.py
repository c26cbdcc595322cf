"""Transport streams that were joined are read, and those that lost something are refused."""

import av
import numpy as np
import pytest

from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.video.frames import read_video, read_video_in_order

VIDEO, TABLE = 256, 0
FRAMES = 30


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Two streams of 30 frames, the second 30 frames later than the first, as packets of 188 bytes."""
    return [write(tmp_path_factory.mktemp("parts") / "a.ts", start) for start in (100, 100 + FRAMES)]


def write(path, start):
    texture = np.random.default_rng(start).integers(0, 256, (48, 64 + FRAMES, 3), np.uint8)
    with av.open(path, "w") as target:
        stream = target.add_stream("libx264", rate=25, options={"g": "10", "bf": "2", "x264-params": "scenecut=0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        for i in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[:, i : i + 64]))
            frame.pts = start + i
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    data = path.read_bytes()
    return [data[at : at + 188] for at in range(0, len(data), 188)]


def stream_of(packet):
    return (packet[1] & 31) << 8 | packet[2]


def keys(packets):
    """Where a key frame begins: random access is indicated."""
    return [i for i, p in enumerate(packets) if stream_of(p) == VIDEO and p[3] & 32 and p[4] and p[5] & 64]


def joined(folder, packets, before=b"", after=b""):
    path = folder / "joined.ts"
    path.write_bytes(b"".join(before + packet + after for packet in packets))
    return path


@pytest.mark.parametrize("read", [read_video, read_video_in_order])
@pytest.mark.parametrize("order", [(0, 0), (0, 1), (1, 0), (0, 1, 1, 0)])
def test_every_frame_of_joined_parts_is_read(tmp_path, parts, order, read):
    single = [read_video(joined(tmp_path, part), FRAMES).images for part in parts]

    images = read(joined(tmp_path, [packet for i in order for packet in parts[i]]), FRAMES * len(order)).images

    expected = [image.tobytes() for i in order for image in single[i]]
    assert expected == [image.tobytes() for image in images]


def test_parts_that_go_on_in_time_have_windows(tmp_path, parts):
    path = joined(tmp_path, parts[0] + parts[1])
    everything = [image.tobytes() for image in read_video(path, 2 * FRAMES).images]

    window = read_video(path, 10, LoadSettings(start=1.0, duration=0.4))

    assert everything[25:35] == [image.tobytes() for image in window.images]


def test_a_part_whose_clock_starts_anew_has_no_windows(tmp_path, parts):
    with pytest.raises(MediaError, match=r"must have the time of every frame .* times that do not ascend"):
        read_video(joined(tmp_path, parts[0] + parts[0]), 10, LoadSettings(start=1.0, duration=0.4))


@pytest.mark.parametrize(("before", "after"), [(b"time", b""), (b"", bytes(16))], ids=["192 bytes", "204 bytes"])
def test_packets_of_other_sizes_are_read(tmp_path, parts, before, after):
    path = joined(tmp_path, parts[0] + parts[1], before, after)

    assert len(read_video(path, 2 * FRAMES).images) == 2 * FRAMES


@pytest.mark.parametrize(("before", "after"), [(b"", b""), (b"time", b""), (b"", bytes(16))], ids=[188, 192, 204])
def test_a_packet_without_its_first_byte_is_missed(tmp_path, parts, before, after):
    packets = list(parts[0])
    at = keys(packets)[1] - 3
    packets[at] = b"\0" + packets[at][1:]

    with pytest.raises(MediaError, match=r"^joined\.ts: must be whole, got a .*damaged"):
        read_video(joined(tmp_path, packets, before, after), 8)


def test_zeros_that_fill_the_file_up_are_passed_over(tmp_path, parts):
    path = joined(tmp_path, [*parts[0], bytes(1000)])

    assert len(read_video(path, FRAMES).images) == FRAMES


def lost(first, second):
    """What a joined stream may have lost, by name."""
    both = first + second
    seam, gop, last = len(first), keys(first)[1], max(i for i, p in enumerate(first) if stream_of(p) == VIDEO)
    tables = gop - 2  # PAT and PMT before a key frame
    return {
        "a packet of the first key frame": both[:5] + both[6:],
        "a packet of the second part": both[: seam + 8] + both[seam + 9 :],
        "the beginning of the second part": first + second[4:],
        "the tables of the second part": first
        + [p for p in second if stream_of(p) in (VIDEO, TABLE)][keys(second)[0] :],
        "the end of the last frame": first[:last] + second,
        "a whole group of pictures": [p for i, p in enumerate(both) if not gop <= i < keys(first)[2]],
        "a whole group of pictures, tables too": first[:tables] + first[keys(first)[2] - 2 :] + second,
        "the last frame of a group, tables too": first[: tables - 3] + first[tables:] + second,
        "some time between the parts": first + second[keys(second)[1] - 2 :],
        "nothing, but a packet is marked as damaged": [
            *both[:6],
            both[6][:1] + bytes([both[6][1] | 128]) + both[6][2:],
            *both[7:],
        ],
    }


@pytest.mark.parametrize("what", lost([b"\x47\x41\x00\x30\x01\x40"] * 9, [b"\x47\x41\x00\x30\x01\x40"] * 9))
def test_what_is_missing_is_refused(tmp_path, parts, what):
    path = joined(tmp_path, lost(*parts)[what])

    with pytest.raises(MediaError, match=r"^joined\.ts: must be whole, got a .*damaged"):
        read_video(path, 8)


def test_no_run_of_packets_can_be_lost_from_the_middle(tmp_path, parts):
    whole = parts[0]
    middle = range(keys(whole)[0] + 1, keys(whole)[2])
    passed = []
    for at in middle:
        for length in (1, 3, 7):
            path = joined(tmp_path, whole[:at] + whole[at + length :])
            if any(stream_of(packet) == VIDEO for packet in whole[at : at + length]):
                try:
                    read_video(path, 1)
                except MediaError:
                    continue
                passed.append((at, length))

    assert passed == []


def test_two_streams_of_one_tool_are_26_frames(cases):
    path = cases / "ts_concatenated" / "concat.ts"
    frames = [image.tobytes() for image in read_video(path, 26).images]

    assert (26, frames[:13]) == (len(frames), frames[13:])
