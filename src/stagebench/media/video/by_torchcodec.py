"""Frames of a clip by torchcodec, chosen by their number in display order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torchcodec.decoders import VideoDecoder  # OSError or RuntimeError where it finds no FFmpeg

from stagebench.core.artifacts import Image

ERRORS = (RuntimeError, ValueError, IndexError)


def read_frames(path: Path, indices: list[int]) -> tuple[list[Image], list[float]]:
    """Return frames as uint8 (height, width, 3), RGB, and their times in seconds.

    Exact mode: torchcodec reads all packets first and seeks by their times, not by an assumed frame rate.
    """
    decoder = VideoDecoder(path.absolute(), seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=0)
    batch = decoder.get_frames_at(indices)
    return [np.ascontiguousarray(image) for image in batch.data.numpy()], batch.pts_seconds.tolist()
