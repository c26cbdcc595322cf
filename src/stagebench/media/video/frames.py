"""Read frames of a clip: exact, evenly spaced, in display order, with the clip's colour tags and rotation applied.

All packets are read in one pass, because headers can be wrong. Where the packets' times are reliable, only what the
wanted frames need is decoded: from the last key frame before each, without unreferenced pictures. That gives the same
frames, bit for bit, as decoding everything in order. Where it might not, everything is decoded in order, and
`frames_decoded` shows it. Damage in skipped packets is not noticed, and neither is damage that FFmpeg accepts, as in a
frame of HEVC or VP9.

HDR tone mapping, deinterlacing and non-square pixels are not handled: players differ, and models hardly depend on them.
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
_NEAR = 1  # packets to decode needlessly rather than flush the decoder, which stalls its threads
_log_in_use = Lock()

_Decoded = tuple[Sequence[Image], Sequence[int | None], int]  # images, their times where reliable, frames made


def read_video(path: Path, count: int, loading: LoadSettings = _ALL, *, keyed: bool = True) -> Media:
    """Read `count` evenly spaced frames in a window of a clip's first video stream.

    `frames_decoded` counts all frames that the decoder made in the reading that gave these. Raise MediaError where the
    file is missing, empty, not a video, too large, truncated, damaged, of an unsupported colour matrix or orientation,
    or has fewer frames. Raise it also for a window where times are unknown or do not ascend.
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
    """Return the duration of a clip's frames in seconds, from the time of the first to the end of the last.

    A container's own duration includes its other streams: sound may begin before and end after. Refuse what
    `read_video` refuses, a clip without times, and a single frame without a duration.
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
    even = steps[0] if len(set(steps)) == 1 else 0  # FFmpeg's guess from a frame rate may be shorter
    last = max(float(said[-1][1] or 0), even) if said else 0
    last = last or sum(steps[-1:])
    if not last:
        raise MediaError(f"{path.name}: must have the duration of its frames, got {len(times)} without one")
    return float((Fraction(times[-1]) + Fraction(last) - Fraction(times[0])) * track.time_base)


def _decode_keyed(path: Path, stream: av.VideoStream, track: Track, count: int, loading: LoadSettings) -> _Decoded:
    """Decode what the chosen frames need; fewer images than `count` mean that the track's times are not reliable."""
    times = [track.times[i] for i in track.shown]
    chosen = choose_frames(path.name, times, track.time_base, count, loading)
    known, wanted = set(times), {times[i] for i in chosen}
    images: list[Image] = []
    reformatter = VideoReformatter()
    produced, latest = 0, -math.inf
    with suppress(av.error.FFmpegError):  # decoding in order will report it
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
        # Its frame threads keep references across a flush: at a damaged key frame after it, FFmpeg predicts from the
        # frames before, or crashes. With slice threads a flush drops them, and the damage is an error.
        context.thread_type = "SLICE"
    skips = context.codec.canonical_name == "h264"  # it marks unreferenced pictures
    for first, last in _stretches(track, targets):
        for i in range(first, last + 1):
            context.skip_frame = "NONREF" if skips and i not in targets else "DEFAULT"
            yield from stream.decode(track.packets[i])
        yield from stream.decode(None)
        context.flush_buffers()  # after it the decoder starts anew


def _stretches(track: Track, targets: list[int]) -> list[tuple[int, int]]:
    """Return the first and last packet of each stretch to decode; targets, in display order, may share a stretch."""
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
    """Decode every frame in display order, and once more where the packets gave the wrong number of frames."""
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
    """Decode every frame in display order; convert the wanted ones (ascending)."""
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
        # AVI has no times, and FFmpeg gives the first frame of MPEG-1 its decoding time, all others display times.
        guessed = container.format.name == "avi" and stream.codec_context.codec.canonical_name == "mpeg1video"
        for number, frame in enumerate(container.decode(stream)):
            meter.add("frames_decoded")
            if frame.is_corrupt:
                raise MediaError(f"{path.name}: must be whole, got a damaged frame {number}")
            frame.pts = None if guessed else frame.pts
            yield frame


def settled(read: Callable[[Threads], T]) -> T:
    """Read on all cores; where that fails or FFmpeg logs damage, read again on one, which decides.

    With frame threads FFmpeg loses the flags of damaged H.264 frames in a race, and with slice threads it never notices
    a missing slice. One thread notices both, but is slow. So all cores are used until FFmpeg logs an error, which it
    does before the decoder returns its last frame. FFmpeg has one log, so another thread meanwhile reads on one core.
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
    """Collect FFmpeg's log as level, name and message; it reports a concealed damaged frame as information only."""
    level, skipping = log.get_level(), log.get_skip_repeated()
    log.set_skip_repeated(False)  # else it would omit a message equal to an earlier clip's last
    log.set_level(log.INFO)
    try:
        with log.Capture(local=False) as said:
            yield said
    finally:
        log.set_level(level)
        log.set_skip_repeated(skipping)
