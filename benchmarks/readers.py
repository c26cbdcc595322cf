"""Ways to get evenly spaced frames out of a clip, by name: ours, and those that people use instead.

All give the same frames. What a way needs is imported where it is used, outside of what is timed after a first call.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from stagebench.media.sampling import evenly_spaced
from stagebench.media.video.frames import read_video, read_video_in_order

Frames = list[NDArray[np.uint8]]
Reader = Callable[[Path, int], Frames]


def keyed(path: Path, count: int) -> Frames:
    """Our default: what the chosen frames need is decoded."""
    return list(read_video(path, count).images)


def in_order(path: Path, count: int) -> Frames:
    """Our reference: every frame is decoded, the chosen ones are converted."""
    return list(read_video_in_order(path, count).images)


def all_frames(path: Path, count: int) -> Frames:
    """Every frame is decoded and converted, then eight are kept."""
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [frames[i] for i in evenly_spaced(len(frames), count)]


def seek_per_frame(path: Path, count: int) -> Frames:
    """For every chosen frame a seek, and decoding from the key frame before it."""
    images = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        times = sorted(packet.pts for packet in container.demux(stream) if packet.size)
        for i in evenly_spaced(len(times), count):
            container.seek(times[i], stream=stream)
            for frame in container.decode(stream):
                if frame.pts == times[i]:
                    images.append(frame.to_ndarray(format="rgb24"))
                    break
    return images


def torchcodec(path: Path, count: int) -> Frames:
    """Its exact mode, on as many threads as there are cores."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=0)
    indices = evenly_spaced(decoder.metadata.num_frames, count)
    return list(decoder.get_frames_at(indices).data.numpy())


def decord(path: Path, count: int) -> Frames:
    """The maintained fork, decord2, on as many threads as it likes."""
    from decord import VideoReader

    reader = VideoReader(str(path))
    return list(reader.get_batch(evenly_spaced(len(reader), count)).asnumpy())


def opencv(path: Path, count: int) -> Frames:
    """Every frame is grabbed, the chosen ones are retrieved."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    wanted = set(evenly_spaced(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), count))
    images = []
    for i in range(max(wanted) + 1):
        capture.grab()
        if i in wanted:
            images.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    return images


READERS: dict[str, Reader] = {
    "keyed": keyed,
    "in order": in_order,
    "all to RGB": all_frames,
    "seek": seek_per_frame,
    "torchcodec": torchcodec,
    "decord2": decord,
    "OpenCV": opencv,
}


def demux_only(path: Path, count: int) -> None:
    """A limit: every packet is read, none is decoded."""
    with av.open(path) as container:
        for _ in container.demux(video=0):
            pass


def decode_only(path: Path, count: int) -> None:
    """A limit: every frame is decoded, none is converted."""
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        for _ in container.decode(video=0):
            pass


def bytes_only(path: Path, count: int) -> None:
    """A limit: the file's bytes."""
    path.read_bytes()


LIMITS = {"bytes only": bytes_only, "demux only": demux_only, "decode only": decode_only}
