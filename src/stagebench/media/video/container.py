"""Read all packets of a container's video once, before anything is decoded, and whether their times can be trusted.

Times are those of the packets, in units of the stream's time base; display order is the order of times. Where the
packets' times are not reliable, `shown` is empty, and the clip must be decoded from its first frame to its last.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappushpop
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import av
from av.container import InputContainer

from stagebench.core import meter
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.files import MAX_PIXELS, kind_of, require_pixels
from stagebench.media.video.missing import Packet, gif_size, is_cut, is_whole_transport

Threads = Literal["AUTO", "NONE"]

# Formats that contain their own data. FFmpeg's other formats include playlists, which open other files or addresses,
# devices, and patterns of file names; it also makes a video of any text.
_HELD = (
    "aac,aiff,asf,av1,avi,dhav,dirac,dnxhd,dv,flac,flv,gif,gxf,h261,h263,h264,hevc,ivf,live_flv,m4v,matroska,mjpeg,mov,"
    "mp3,mpeg,mpegts,mpegvideo,mpjpeg,mxf,nut,obu,ogg,rm,vc1,vvc,wav,webm,wtv,yuv4mpegpipe"
)
_PNG = ("png", "apng")  # FFmpeg unpacks their texts to any length
_OPTIONS = {
    "format_whitelist": _HELD,
    "protocol_whitelist": "file",
    "codec_whitelist": ",".join(sorted(av.codecs_available.difference(_PNG))),
}
# From version 19 on PyAV accepts titles in any encoding.
_ANY_TITLE: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "ignore"}
# In a GIF a few bytes can redraw a whole picture, and every picture has to be drawn.
_MAX_REDRAWN = 2**31  # pixels of all its pictures: a thousand of Full HD, two seconds of drawing
_MOST_REDRAWN = 2**15  # pictures of any size: each costs a fixed time
# Formats with a time for every packet, and codecs that make exactly one frame of each packet and start anew at a key
# frame. In H.264 and HEVC only some key frames are such a start: see `_understand`.
_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts")
_CODECS = ("h264", "hevc", "vp9", "av1", "mjpeg")
# Codecs that several threads decode as one does, except for damage that is logged (see `settled`) or that FFmpeg never
# notices, as in a frame of HEVC. Several threads decode damaged MPEG-4, VP8 and MPEG-2 differently without a message.
_THREADED = ("h264", "hevc", "vp9", "av1", "prores", "dnxhd", "ffv1", "huffyuv", "utvideo")


@dataclass(frozen=True, slots=True)
class Track:
    """The packets of a video stream, in decoding order; the last three fields are empty where times are unreliable."""

    packets: list[Packet]  # those with data, up to the end of the window
    frames: int  # the number of packets that should become frames
    time_base: Fraction  # seconds
    times: Sequence[int] = ()  # when the frame of each packet is shown, in units of `time_base`
    entries: Sequence[int] = ()  # indices of the packets at which a decoder may start, ascending
    shown: Sequence[int] = ()  # indices of the packets that become frames, in display order

    def entry_of(self, target: int) -> int:
        """Return the last packet at which a decoder may start to make the frame of packet `target`."""
        # A frame decoded after a key frame but shown before it may need the previous key frame.
        return max(i for i in self.entries if i <= target and self.times[i] <= self.times[target])


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn FFmpeg's errors into a MediaError of one line."""
    try:
        yield
    except av.error.FFmpegError as error:
        require_pixels(path, *gif_size(path), 1)  # FFmpeg's message is "invalid argument"
        reason = kind_of(path) or ("a truncated file" if is_cut(path) else "a damaged one or something else")
        raise MediaError(f"{path.name}: must be a whole video, got {reason} ({error.strerror})") from error


@contextmanager
def open_video(path: Path, threads: Threads = "AUTO") -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """Open a file's first video stream for decoding, with one thread unless several are known to be safe."""
    # A relative name might be taken for a protocol. Options for all streams would also apply to FFmpeg's probing.
    # But PyAV frees one set per stream known at the end, which crashes where there were fewer at first (MPEG-PS).
    with av.open(path.absolute(), container_options=_OPTIONS, **_ANY_TITLE) as container:
        meter.add("bytes_read", path.stat().st_size)
        if not container.streams.video:
            raise MediaError(f"{path.name}: must be a video, got a file with no video stream")
        stream = container.streams.video[0]
        context = getattr(stream, "codec_context", None)  # None for an unknown codec, which PyAV's types omit
        if context is None or context.codec.canonical_name in _PNG:
            got = "PNG, with texts that may fill the memory" if context else "an unknown one"
            raise MediaError(f"{path.name}: must be in a codec that FFmpeg decodes, got {got}")
        require_pixels(path, context.width, context.height, 1)
        stream.thread_type = threads if context.codec.canonical_name in _THREADED else "NONE"
        context.options = {"max_pixels": str(MAX_PIXELS)}
        try:
            yield container, stream
        finally:  # else PyAV would wait for decoding threads while holding the lock that they need to log
            context.flush_buffers()


def read_track(path: Path, container: InputContainer, stream: av.VideoStream, loading: LoadSettings) -> Track:
    """Read the packets of a stream just opened, up to the window's end; refuse missing ones."""
    packets: list[Packet] = []
    base = stream.time_base or Fraction(1)
    reach = None if loading.duration is None else (loading.start + loading.duration) / base
    end: float | None = None
    context, name, flagged = stream.codec_context, container.format.name, None
    lost = f"{path.name}: must be whole, got a truncated, damaged or missing packet near"
    for packet in container.demux(stream):
        if packet.is_corrupt and flagged is None:
            if name != "mpegts":
                raise MediaError(f"{lost} {len(packets)}")
            flagged, reach, end = len(packets), None, None  # may be just a seam: read the whole file to find out
        if packet.size == 0:  # the last one marks the end
            continue
        if not packet.is_discard:  # packets that an edit list leaves out have arbitrary times
            if reach is not None and end is None and packet.pts is not None:
                end = packet.pts + reach
            if end is not None and packet.dts is not None and packet.dts >= end:
                break  # all later ones are shown later
        packets.append(packet)
        _require_drawable(path, context, len(packets))
    else:
        # FFmpeg reads without an error an MP4 that was cut between two frames, and other formats cut anywhere.
        if is_cut(path):
            frames = sum(not packet.is_discard for packet in packets)
            raise MediaError(f"{path.name}: must be whole, got a truncated file with {frames} frames left")
    if name == "mpegts" and not is_whole_transport(path, stream.id, packets, suspected=flagged is not None):
        raise MediaError(f"{lost} {flagged or 0}")
    meter.add("packets", len(packets))
    return _understand(packets, flagged is None and name in _FORMATS, context, base)


def _require_drawable(path: Path, context: av.VideoCodecContext, pictures: int) -> None:
    """Refuse a GIF that would take implausible time or memory."""
    if context.codec.canonical_name != "gif":
        return
    require_pixels(path, context.width, context.height, pictures, _MAX_REDRAWN)
    if pictures > _MOST_REDRAWN:
        raise MediaError(f"{path.name}: must have at most {_MOST_REDRAWN} pictures, got more")


def _understand(packets: list[Packet], trusted: bool, context: av.VideoCodecContext, base: Fraction) -> Track:
    frames = [i for i, packet in enumerate(packets) if not packet.is_discard]
    if trusted and context.codec.canonical_name in _CODECS:
        times = [packet.pts for packet in packets if packet.pts is not None]
        entries = [i for i, packet in enumerate(packets) if packet.is_keyframe]
        # Containers mark every frame where decoding "recovers" as a key frame. In H.264 only an IDR picture drops all
        # earlier references (ITU-T H.264, 7.4.1.2.4). In HEVC every kind does, except for frames shown before it.
        if context.codec.canonical_name == "h264":
            entries = [i for i in entries if 5 in _nal_types(bytes(packets[i]), context.extradata or b"")]
        held = context.reorder_depth
        if len(times) == len(packets) and _are_ordered(times, frames, entries) and _fit_reordering(times, held):
            return Track(packets, len(frames), base, times, entries, sorted(frames, key=times.__getitem__))
    return Track(packets, len(frames), base)


def _are_ordered(times: list[int], frames: list[int], entries: list[int]) -> bool:
    """Return whether all times differ, and every key frame is shown after all frames decoded before it."""
    # This fails where a clip's clock was set back, or its first frames need a key frame that is missing.
    shown = [times[i] for i in frames]
    if not shown or entries[:1] != [0] or len(set(shown)) < len(shown) or min(shown) < times[0]:
        return False
    latest = list(accumulate(times, max))
    return all(times[entry] > latest[entry - 1] for entry in entries[1:])


def _fit_reordering(times: list[int], held: int) -> bool:
    """Return whether a decoder that holds back `held` frames shows packets of these times in ascending order."""
    # Where it holds back frames and the packets already ascend, their times are decoding times, as in AVI and in
    # Matroska written by OpenCV.
    waiting = sorted(times[:held])
    shown = [heappushpop(waiting, time) for time in times[held:]] + sorted(waiting)
    told_apart = len(times) < 3 or (times == sorted(times)) == (held == 0)  # too few to reorder
    return shown == sorted(times) and told_apart


def _nal_types(data: bytes, extradata: bytes) -> Iterator[int]:
    """Yield the NAL unit types of an H.264 packet, by start codes or by lengths (ISO/IEC 14496-15, 5.3)."""
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
