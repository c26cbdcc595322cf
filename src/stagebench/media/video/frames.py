"""Read frames of a clip: exact, evenly spaced, in display order, coloured and turned as the clip is tagged.

The header is not believed: all packets are read in one pass. Where their times can be trusted, only what the wanted
frames need is decoded: from the last key frame before each, without the pictures to which no other refers. That gives
the frames of decoding everything in order, bit for bit; wherever it might not, everything is decoded in order, and
`frames_decoded` tells. Damage in what is not decoded is not noticed, nor what FFmpeg lets pass (in a frame of HEVC or
VP9, for one).

Not done, because players differ or a model wouldn't care: HDR tone mapping, deinterlacing, non-square pixels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import TypeVar

import av
from av import logging as log
from av.video.reformatter import VideoReformatter

from stagebench.core import meter
from stagebench.core.artifacts import Image, Media
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.files import require_pixels, size_of
from stagebench.media.sampling import ascend, choose_frames, evenly_spaced, own_times
from stagebench.media.video.colour import to_image
from stagebench.media.video.container import Threads, Track, open_video, read_track, readable

T = TypeVar("T")
_ALL = LoadSettings()
_NEAR = 1  # packets to decode for nothing rather than flush the decoder, which lets its threads run dry
_log_in_use = Lock()

_Decoded = tuple[Sequence[Image], Sequence[int | None], int]  # the images, their times where trusted, frames made


def read_video(path: Path, count: int, loading: LoadSettings = _ALL, *, keyed: bool = True) -> Media:
    """Decode what `count` evenly spaced frames of a clip's first video stream need, in a window, and keep these.

    `frames_decoded` counts all frames that the decoder made, in the reading that gave these. Raise MediaError where the
    file is missing, empty, not a video, too large, truncated or damaged, tagged with a colour matrix or an orientation
    that isn't supported, or has fewer frames; and for a window of a clip that tells no times, or none that ascend.
    """
    return settled(partial(_read, path, count, loading, keyed))


read_video_in_order = partial(read_video, keyed=False)  # skips nothing: the reference


def _read(path: Path, count: int, loading: LoadSettings, keyed: bool, threads: Threads) -> Media:
    size = size_of(path)
    decoded: _Decoded = ((), (), 0)
    with readable(path):
        with open_video(path, threads) as (container, stream):
            require_pixels(path, stream.codec_context.width, stream.codec_context.height, count)
            track = read_track(path, container, stream, loading)
            if keyed and track.shown:
                decoded = _decode_keyed(path, stream, track, count, loading)
        if len(decoded[0]) < max(count, 1):
            decoded = _decode_in_order(path, threads, track, count, loading, spent=decoded[2])
    images, stamps, produced = decoded
    known = [stamp for stamp in stamps if stamp is not None]
    times = tuple(float((stamp - known[0]) * track.time_base) for stamp in known)
    of_all = len(known) == len(stamps)
    return Media(tuple(images), "frames", produced, size, times[-1] if of_all else None, times if of_all else None)


def seconds_shown(path: Path) -> float:
    """Return how many seconds a clip's frames are shown, from the time of the first to the end of the last.

    A container's own length is that of its clock and of all its streams: sound may begin before and end after. Refuse
    what `read_video` does, and a clip that tells no times of its frames, or not how long its only one is shown.
    """
    return settled(partial(_seconds_shown, path))


def _seconds_shown(path: Path, threads: Threads) -> float:
    size_of(path)
    with readable(path):
        with open_video(path, threads) as (container, stream):
            track = read_track(path, container, stream, _ALL)
        said: list[tuple[int | None, int | None]] = [(track.times[i], track.packets[i].duration) for i in track.shown]
        said = said or [(frame.pts, frame.duration) for frame in _frames(path, threads)]
    times = own_times(path.name, [time for time, _ in said])
    steps = [other - one for one, other in pairwise(times)]
    even = steps[0] if len(set(steps)) == 1 else 0  # which FFmpeg's guess from a frame rate may fall short of
    last = max(float(said[-1][1] or 0), even) if said else 0
    last = last or sum(steps[-1:])
    if not last:
        raise MediaError(f"{path.name}: must say how long its frames are shown, got {len(times)} of no length")
    return float((Fraction(times[-1]) + Fraction(last) - Fraction(times[0])) * track.time_base)


def _decode_keyed(path: Path, stream: av.VideoStream, track: Track, count: int, loading: LoadSettings) -> _Decoded:
    """Decode what the chosen frames need; fewer images than `count` mean that the track can't be trusted after all."""
    times = [track.times[i] for i in track.shown]
    chosen = choose_frames(path.name, times, track.time_base, count, loading)
    known, wanted = set(times), {times[i] for i in chosen}
    images: list[Image] = []
    reformatter = VideoReformatter()
    produced, latest = 0, -math.inf
    with suppress(av.error.FFmpegError):  # decoding in order will tell what is wrong
        for frame in _needed_frames(stream, track, [track.shown[i] for i in chosen]):
            produced += 1
            meter.add("frames_decoded")
            if frame.is_corrupt or frame.pts not in known or frame.pts <= latest:
                break
            latest = frame.pts
            if frame.pts in wanted:
                images.append(to_image(path, frame, reformatter, count))
        else:
            return images, [times[i] for i in chosen], produced
    return [], [], produced


def _needed_frames(stream: av.VideoStream, track: Track, targets: list[int]) -> Iterator[av.VideoFrame]:
    """Decode the packets from the entry before each target to the target itself, in display order."""
    context = stream.codec_context
    if context.codec.canonical_name == "vp9":
        # Its frame threads keep references across a flush: where a damaged key frame follows one, FFmpeg predicts from
        # the frames before it, or dies. With slice threads a flush forgets them, and that is an error.
        context.thread_type = "SLICE"
    skips = context.codec.canonical_name == "h264"  # which marks a picture to which no other refers
    for first, last in _stretches(track, targets):
        for i in range(first, last + 1):
            context.skip_frame = "NONREF" if skips and i not in targets else "DEFAULT"
            yield from stream.decode(track.packets[i])
        yield from stream.decode(None)
        context.flush_buffers()  # after which the decoder starts afresh


def _stretches(track: Track, targets: list[int]) -> list[tuple[int, int]]:
    """Return the packets to decode, as first and last of each stretch; targets (in display order) may share one."""
    stretches: list[tuple[int, int]] = []
    for target in targets:
        entry = track.entry_of(target)
        if stretches and entry <= stretches[-1][1] + _NEAR:
            entry, last = stretches.pop()
            target = max(last, target)
        stretches.append((entry, target))
    return stretches


def _decode_in_order(
    path: Path, threads: Threads, track: Track, count: int, loading: LoadSettings, spent: int
) -> _Decoded:
    """Decode every frame in display order, and once more where the packets had not said how many there are."""
    guess = evenly_spaced(track.frames, count) if 1 <= count <= track.frames and loading.whole else []
    images, times = _decode_all(path, threads, guess)
    produced = spent + len(times)
    chosen = choose_frames(path.name, times, track.time_base, count, loading)
    if chosen != guess:  # a packet may hold two frames or none
        images, times = _decode_all(path, threads, chosen)
        produced += len(times)
    trusted = ascend(times)
    return images, [times[i] if trusted else None for i in chosen], produced


def _decode_all(path: Path, threads: Threads, wanted: list[int]) -> tuple[list[Image], list[int | None]]:
    """Decode every frame in display order; convert the wanted ones (ascending) as they go by."""
    images: list[Image] = []
    times: list[int | None] = []
    reformatter = VideoReformatter()
    for frame in _frames(path, threads):
        if len(images) < len(wanted) and len(times) == wanted[len(images)]:
            images.append(to_image(path, frame, reformatter, len(wanted)))
        times.append(frame.pts)
    return images, times


def _frames(path: Path, threads: Threads) -> Iterator[av.VideoFrame]:
    """Decode every frame in display order."""
    with open_video(path, threads) as (container, stream):
        # AVI keeps no times, and FFmpeg dates the first frame of MPEG-1 as decoded, all others as shown.
        guessed = container.format.name == "avi" and stream.codec_context.codec.canonical_name == "mpeg1video"
        for number, frame in enumerate(container.decode(stream)):
            meter.add("frames_decoded")
            if frame.is_corrupt:
                raise MediaError(f"{path.name}: must be whole, got a damaged frame {number}")
            frame.pts = None if guessed else frame.pts
            yield frame


def settled(read: Callable[[Threads], T]) -> T:
    """Read by all cores, and anew by one where that fails or FFmpeg logs a sign of damage: then this decides.

    With frame threads FFmpeg loses the flags of damaged H.264 frames in a race, and with slice threads it never notices
    a missing slice. One thread notices both, but is slow; so all are used until FFmpeg's log tells of anything wrong,
    which it does before the decoder has given its last frame. FFmpeg has one log: what is read in another thread
    meanwhile is read by one core.
    """
    if _log_in_use.acquire(blocking=False):
        try:
            with _heard() as said, suppress(MediaError):
                result = read("AUTO")
                if not any(level <= log.ERROR or "concealing" in message for level, _, message in said):
                    return result
        finally:
            _log_in_use.release()
    return read("NONE")


@contextmanager
def _heard() -> Iterator[list[tuple[int, str, str]]]:
    """Collect what FFmpeg logs: level, name and message; a damaged frame that is concealed is mere information."""
    level, skipping = log.get_level(), log.get_skip_repeated()
    log.set_skip_repeated(False)  # by which it would miss what was said last by an earlier clip
    log.set_level(log.INFO)
    try:
        with log.Capture(local=False) as said:
            yield said
    finally:
        log.set_level(level)
        log.set_skip_repeated(skipping)
