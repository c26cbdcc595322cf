"""Frames of a clip by another library than PyAV: the very same ones, or a refusal.

PyAV reads the packets and chooses; the library gives frames by their number in display order, and has to agree on
their times. What it is known to show otherwise (mirrored clips, limited gray, more than 8 bits a sample) is refused.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import av
import numpy as np

from stagebench.core import meter
from stagebench.core.artifacts import Media
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.files import require_pixels, size_of
from stagebench.media.video.colour import display_matrix, is_limited_gray
from stagebench.media.video.container import Track, open_video, read_track, readable
from stagebench.media.video.frames import choose


def read_video_by(path: Path, count: int, loading: LoadSettings) -> Media:
    """Read what `read_video` reads, by `loading.decoder`; `frames_decoded` counts the frames that were asked for.

    Raises:
        MediaError: as `read_video`; or the library isn't installed, would show the clip otherwise, or can't read it.
    """
    size, library = size_of(path), _import(loading.decoder)
    with readable(path, size), open_video(path) as (container, stream):
        require_pixels(path, stream.codec_context.width, stream.codec_context.height, count)
        track = read_track(path, container, stream, loading)
        _require_plain(path, stream, track, loading.decoder)
    times = [track.times[i] for i in track.shown]
    chosen = choose(path, times, track.time_base, count, loading)
    try:
        images, seconds = library.read_frames(path, chosen)
        meter.add("frames_decoded", len(images))
        meter.add("images_made", len(images))
    except library.ERRORS as error:
        why = " ".join(str(error).split())[:200]
        raise MediaError(f"{path.name}: {loading.decoder} can't read it ({why})") from error
    expected = [float(times[i] * track.time_base) for i in chosen]
    if not len(images) == len(seconds) == count or not np.allclose(
        np.diff(seconds), np.diff(expected), rtol=0, atol=1e-3
    ):
        raise MediaError(f"{path.name}: {loading.decoder} must give the frames at {expected} s, got those at {seconds}")
    span = float((times[chosen[-1]] - times[chosen[0]]) * track.time_base)
    return Media(tuple(images), "frames", len(images), size, span)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"stagebench.media.video.by_{name}")
    except (ImportError, OSError, RuntimeError) as error:  # torchcodec without FFmpeg's libraries says so on 80 lines
        why = next(iter(str(error).splitlines()), type(error).__name__)
        needs = "the extra 'video'" + (" and FFmpeg's shared libraries" if name == "torchcodec" else "")
        raise MediaError(f"decoder {name} needs {needs}, got: {why}") from error


def _require_plain(path: Path, stream: av.VideoStream, track: Track, decoder: str) -> None:
    """Refuse a clip of which the libraries are not known to show the same pixels."""
    if not track.shown or track.frames < len(track.packets):
        raise MediaError(f"{path.name}: decoder {decoder} needs a time for every frame and no edits; pyav does not")
    frame = next((frame for packet in (*track.packets, None) for frame in stream.decode(packet)), None)
    if frame is None:
        raise MediaError(f"{path.name}: must be a whole video, got no frame")
    matrix = display_matrix(frame)
    if matrix is not None and matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0:
        raise MediaError(f"{path.name}: decoder {decoder} must have a clip that is not mirrored; pyav need not")
    if is_limited_gray(frame):
        raise MediaError(
            f"{path.name}: decoder {decoder} must have gray of full range, got limited {frame.format.name}"
        )
    if max(component.bits for component in frame.format.components) > 8:
        raise MediaError(f"{path.name}: decoder {decoder} must have 8 bits a sample, got {frame.format.name}")
