"""What a container says of its video before anything is decoded: every packet, read once, and whether to trust it.

Times are those of the packets, in units of the stream's time base; display order is the order of times. A clip whose
packets don't tell it reliably has no `shown`, and can only be decoded from its first frame to its last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av

from stagebench.errors import MediaError
from stagebench.types import LoadSettings

MAX_PIXELS = 2**26  # of a frame, 8192 x 8192: a header that says more is damaged, and would cost gigabytes

_MP4_STARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
# Formats that keep a time for every packet, and codecs that make exactly one frame of each and start afresh at a key
# frame. Of H.264 and HEVC that is so only for some key frames: see `_is_entry`.
_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts")
_CODECS = ("h264", "hevc", "vp9", "av1", "mjpeg")


@dataclass(frozen=True, slots=True)
class Track:
    """The packets of a video stream, in the order of decoding.

    Attributes:
        packets: those that hold data, up to the end of what is to be read.
        times: (packets,) when the frame of each is shown, in units of `time_base`; empty where that can't be trusted.
        entries: indices of the packets at which a decoder may start, ascending.
        shown: indices of the packets that become frames, in display order; empty likewise.
        frames: how many of the packets become frames, as far as one can tell.
        time_base: seconds.
    """

    packets: list[av.Packet[av.VideoStream]]
    times: list[int]
    entries: list[int]
    shown: list[int]
    frames: int
    time_base: Fraction

    def entry_of(self, target: int) -> int:
        """The last packet at which a decoder may start that is to make a frame of packet `target`.

        What is decoded after a key frame but shown before it may need the key frame before.
        """
        return max(i for i in self.entries if i <= target and self.times[i] <= self.times[target])


@contextmanager
def readable(path: Path, size: int) -> Iterator[None]:
    """Say in one line what FFmpeg could not read.

    Args:
        path: the file.
        size: in bytes.

    Raises:
        MediaError: in place of FFmpeg's error.
    """
    try:
        yield
    except av.error.FFmpegError as error:
        reason = "a truncated file" if is_cut_mp4(path, size) else "a damaged one or something else"
        raise MediaError(f"{path.name}: must be a whole video, got {reason} ({error.strerror})") from error


@contextmanager
def open_video(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a file, and its first video stream, ready to be decoded by several threads.

    Raises:
        MediaError: there is none.
        av.error.FFmpegError: FFmpeg can't read the file.
    """
    with av.open(path, metadata_errors="ignore") as container:
        if not container.streams.video:
            raise MediaError(f"{path.name}: must be a video, got a file with no video stream")
        stream = container.streams.video[0]
        if getattr(stream, "codec_context", None) is None:  # which PyAV's types leave out
            raise MediaError(f"{path.name}: must be in a codec that FFmpeg decodes, got one that it doesn't know")
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        yield container, stream


def read_track(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, loading: LoadSettings
) -> Track:
    """Read the packets of a stream, up to the window's end; a file that ends inside one is refused.

    Args:
        path: named in errors.
        container: as it was opened, nothing read yet.
        stream: one of its streams.
        loading: the window; what comes after it is not read.

    Raises:
        MediaError: a packet is damaged, or the file was cut off.
        av.error.FFmpegError: FFmpeg can't read on.
    """
    packets: list[av.Packet[av.VideoStream]] = []
    base = stream.time_base or Fraction(1)
    reach = None if loading.duration is None else (loading.start + loading.duration) / base
    end: float | None = None
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise MediaError(f"{path.name}: must be whole, got a truncated or damaged packet {len(packets)}")
        if packet.size == 0:  # the last one, which stands for the end
            continue
        if reach is not None and end is None and packet.pts is not None and not packet.is_discard:
            end = packet.pts + reach
        if end is not None and packet.dts is not None and packet.dts >= end:  # and later ones are shown later still
            break
        packets.append(packet)
    else:
        # FFmpeg reads an MP4 that was cut between two frames without complaint.
        if is_cut_mp4(path, path.stat().st_size):
            frames = sum(not packet.is_discard for packet in packets)
            raise MediaError(f"{path.name}: must be whole, got a truncated file with {frames} frames left")
    return _understand(packets, container.format.name, stream.codec_context, base)


def _understand(
    packets: list[av.Packet[av.VideoStream]], container_format: str, context: av.VideoCodecContext, base: Fraction
) -> Track:
    frames = [i for i, packet in enumerate(packets) if not packet.is_discard]
    if container_format in _FORMATS and context.codec.canonical_name in _CODECS:
        times = [packet.pts for packet in packets if packet.pts is not None]
        entries = [i for i, packet in enumerate(packets) if packet.is_keyframe and _is_entry(packet, context)]
        if len(times) == len(packets) and _are_ordered(times, frames, entries):
            return Track(packets, times, entries, sorted(frames, key=times.__getitem__), len(frames), base)
    return Track(packets, [], [], [], len(frames), base)


def _are_ordered(times: list[int], frames: list[int], entries: list[int]) -> bool:
    """Whether no two frames have one time, and every key frame is shown after all that is decoded before it.

    Where a clip's clock was set back, or its very first frames need a key frame that isn't there, that is not so.
    """
    shown = [times[i] for i in frames]
    if not shown or entries[:1] != [0] or len(set(shown)) < len(shown) or min(shown) < times[0]:
        return False
    latest = list(accumulate(times, max))
    return all(times[entry] > latest[entry - 1] for entry in entries[1:])


def _is_entry(packet: av.Packet[av.VideoStream], context: av.VideoCodecContext) -> bool:
    """Whether nothing from before this key frame is needed to decode what follows it.

    Containers call a frame a key frame from which decoding "recovers"; of H.264 only an IDR picture forgets what was
    before (ITU-T H.264, 7.4.1.2.4). Of HEVC every kind does, but for what is shown before it.
    """
    if context.codec.canonical_name != "h264":
        return True
    return any(kind == 5 for kind in _nal_types(bytes(packet), context.extradata or b""))


def _nal_types(data: bytes, extradata: bytes) -> Iterator[int]:
    """The types of the NAL units of an H.264 packet: after start codes, or after lengths (ISO/IEC 14496-15, 5.3)."""
    if extradata[:1] == b"\x01" and len(extradata) > 4:
        width, at = (extradata[4] & 3) + 1, 0
        while at + width < len(data):
            yield data[at + width] & 31
            at += width + int.from_bytes(data[at : at + width], "big")
    else:
        at = data.find(b"\0\0\1")
        while 0 <= at < len(data) - 3:
            yield data[at + 3] & 31
            at = data.find(b"\0\0\1", at + 3)


def is_cut_mp4(path: Path, size: int) -> bool:
    """Whether a file begins as an MP4 and has a top-level box beyond its end, no index (moov), or nothing else.

    Boxes: ISO/IEC 14496-12, 4.2. Other containers are not judged.
    """
    if size < 8:
        return False
    start, kinds = 0, set()
    with path.open("rb") as file:
        while start + 8 <= size:
            file.seek(start)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if start == 0 and kind not in _MP4_STARTS:
                return False
            if length == 1:  # the true length is in the next eight bytes
                length = int.from_bytes(head[8:], "big")
            kinds.add(kind)
            if kind in (b"moov", b"mdat", b"moof") and start + length > size:
                return True
            if length < 8:  # 0: up to the end of the file; else not a box
                break
            start += length
    return b"moov" not in kinds or kinds.isdisjoint((b"mdat", b"moof"))
