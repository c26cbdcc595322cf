"""Read what a container says of its video before anything is decoded: every packet, once, and whether to trust it.

Times are those of the packets, in units of the stream's time base; display order is the order of times. A clip whose
packets don't tell it reliably has no `shown`, and can only be decoded from its first frame to its last.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappushpop
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, TypeAlias

import av

from stagebench.core import meter
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.files import MAX_PIXELS, kind_of, require_pixels
from stagebench.media.video.missing import gif_size, is_cut, is_whole_transport

Threads = Literal["AUTO", "NONE"]
Packet: TypeAlias = "av.Packet[av.VideoStream]"

# Formats that hold what they show. Of others FFmpeg has playlists, which open what they name, here or in the network,
# devices, and names that stand for many files; and it makes a video of any text.
_HELD = (
    "aac,aiff,asf,av1,avi,dhav,dirac,dnxhd,dv,flac,flv,gif,gxf,h261,h263,h264,hevc,ivf,live_flv,m4v,matroska,mjpeg,mov,"
    "mp3,mpeg,mpegts,mpegvideo,mpjpeg,mxf,nut,obu,ogg,rm,vc1,vvc,wav,webm,wtv,yuv4mpegpipe"
)
_PNG = ("png", "apng")  # whose texts FFmpeg unpacks to any length
_OPTIONS = {
    "format_whitelist": _HELD,
    "protocol_whitelist": "file",
    "codec_whitelist": ",".join(sorted(av.codecs_available.difference(_PNG))),
}
# From version 19 on PyAV itself takes titles in whatever encoding.
_ANY_TITLE: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "ignore"}
# Of a GIF a few bytes draw a whole picture anew, and every one has to be drawn.
_MAX_REDRAWN = 2**31  # pixels of all its pictures: a thousand of Full HD, two seconds of drawing
_MOST_REDRAWN = 2**15  # pictures, however small: each takes its time to begin
# Formats that keep a time for every packet, and codecs that make exactly one frame of each and start afresh at a key
# frame. Of H.264 and HEVC that is so only for some key frames: see `_understand`.
_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts")
_CODECS = ("h264", "hevc", "vp9", "av1", "mjpeg")
# Codecs of which several threads give what one gives, but for damage that is logged (see `settled`), or that FFmpeg
# never notices, as in a frame of HEVC. Damaged MPEG-4, VP8 and MPEG-2 become other frames without a word.
_THREADED = ("h264", "hevc", "vp9", "av1", "prores", "dnxhd", "ffv1", "huffyuv", "utvideo")


@dataclass(frozen=True, slots=True)
class Track:
    """The packets of a video stream, in the order of decoding; the last three are empty where they can't be trusted."""

    packets: list[Packet]  # those that hold data, up to the end of what is to be read
    frames: int  # how many of the packets become frames, as far as one can tell
    time_base: Fraction  # seconds
    times: Sequence[int] = ()  # when the frame of each packet is shown, in units of `time_base`
    entries: Sequence[int] = ()  # indices of the packets at which a decoder may start, ascending
    shown: Sequence[int] = ()  # indices of the packets that become frames, in display order

    def entry_of(self, target: int) -> int:
        """Return the last packet at which a decoder may start that is to make a frame of packet `target`."""
        # What is decoded after a key frame but shown before it may need the key frame before.
        return max(i for i in self.entries if i <= target and self.times[i] <= self.times[target])


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say in one line, a `MediaError` in place of FFmpeg's, what could not be read."""
    try:
        yield
    except av.error.FFmpegError as error:
        require_pixels(path, *gif_size(path), 1)  # FFmpeg only calls the argument invalid
        reason = kind_of(path) or ("a truncated file" if is_cut(path) else "a damaged one or something else")
        raise MediaError(f"{path.name}: must be a whole video, got {reason} ({error.strerror})") from error


@contextmanager
def open_video(path: Path, threads: Threads = "AUTO") -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a file, and its first video stream, ready to be decoded, by one thread unless more are known to be safe."""
    # A name that is not absolute might be that of a protocol. Options of all streams would hold for what FFmpeg decodes
    # to learn what is in the file, too; but PyAV frees as many sets of them as there are streams in the end, and where
    # it began with fewer (MPEG-PS) that ends the process.
    with av.open(path.absolute(), container_options=_OPTIONS, **_ANY_TITLE) as container:
        meter.add("bytes_read", path.stat().st_size)
        if not container.streams.video:
            raise MediaError(f"{path.name}: must be a video, got a file with no video stream")
        stream = container.streams.video[0]
        context = getattr(stream, "codec_context", None)  # None, which PyAV's types leave out, of an unknown codec
        if context is None or context.codec.canonical_name in _PNG:
            got = "PNG, whose texts may fill the memory" if context else "one that it doesn't know"
            raise MediaError(f"{path.name}: must be in a codec that FFmpeg decodes, got {got}")
        require_pixels(path, context.width, context.height, 1)
        stream.thread_type = threads if context.codec.canonical_name in _THREADED else "NONE"
        context.options = {"max_pixels": str(MAX_PIXELS)}
        try:
            yield container, stream
        finally:  # where threads still decode, PyAV would wait for them holding the lock that they need to log
            context.flush_buffers()


def read_track(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, loading: LoadSettings
) -> Track:
    """Read the packets of a stream of a container that was just opened, up to the window's end; refuse missing ones."""
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
            flagged, reach, end = len(packets), None, None  # at a mere seam, too: all of it is read, to see why
        if packet.size == 0:  # the last one, which stands for the end
            continue
        if not packet.is_discard:  # those that an edit list leaves out have times from anywhere
            if reach is not None and end is None and packet.pts is not None:
                end = packet.pts + reach
            if end is not None and packet.dts is not None and packet.dts >= end:
                break  # later ones are shown later still
        packets.append(packet)
        _require_drawable(path, context, len(packets))
    else:
        # FFmpeg reads an MP4 that was cut between two frames without complaint, and the others wherever they were cut.
        if is_cut(path):
            frames = sum(not packet.is_discard for packet in packets)
            raise MediaError(f"{path.name}: must be whole, got a truncated file with {frames} frames left")
    if name == "mpegts" and not is_whole_transport(path, stream.id, packets, suspected=flagged is not None):
        raise MediaError(f"{lost} {flagged or 0}")
    meter.add("packets", len(packets))
    return _understand(packets, flagged is None and name in _FORMATS, context, base)


def _require_drawable(path: Path, context: av.VideoCodecContext, pictures: int) -> None:
    """Refuse a GIF that would take more time or memory than any is meant to."""
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
        # Containers call a frame a key frame from which decoding "recovers"; of H.264 only an IDR picture forgets what
        # was before (ITU-T H.264, 7.4.1.2.4). Of HEVC every kind does, but for what is shown before it.
        if context.codec.canonical_name == "h264":
            entries = [i for i in entries if 5 in _nal_types(bytes(packets[i]), context.extradata or b"")]
        held = context.reorder_depth
        if len(times) == len(packets) and _are_ordered(times, frames, entries) and _fit_reordering(times, held):
            return Track(packets, len(frames), base, times, entries, sorted(frames, key=times.__getitem__))
    return Track(packets, len(frames), base)


def _are_ordered(times: list[int], frames: list[int], entries: list[int]) -> bool:
    """Return whether no two frames have one time, and every key frame is shown after all that is decoded before it."""
    # Where a clip's clock was set back, or its very first frames need a key frame that isn't there, that is not so.
    shown = [times[i] for i in frames]
    if not shown or entries[:1] != [0] or len(set(shown)) < len(shown) or min(shown) < times[0]:
        return False
    latest = list(accumulate(times, max))
    return all(times[entry] > latest[entry - 1] for entry in entries[1:])


def _fit_reordering(times: list[int], held: int) -> bool:
    """Return whether a decoder that holds back so many frames, of packets of these times, shows them as they ascend."""
    # Where it holds back some and the packets ascend as they are, their times are of decoding: Matroska written by
    # OpenCV has such, and AVI.
    waiting = sorted(times[:held])
    shown = [heappushpop(waiting, time) for time in times[held:]] + sorted(waiting)
    told_apart = len(times) < 3 or (times == sorted(times)) == (held == 0)  # nothing is shown between two frames
    return shown == sorted(times) and told_apart


def _nal_types(data: bytes, extradata: bytes) -> Iterator[int]:
    """Yield the types of the NAL units of an H.264 packet: after start codes, or lengths (ISO/IEC 14496-15, 5.3)."""
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
