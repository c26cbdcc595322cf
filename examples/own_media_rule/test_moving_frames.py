"""A rule of one's own for which frames a model sees: those in which most has moved, where stagebench takes even steps.

pytest examples/own_media_rule --stage-model=llava-1.5 --stage-input=clip.mp4
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

import stagebench
from stagebench.core.artifacts import Media


def load_moving(path: Path, count: int) -> Media:
    """Decode a clip, and keep as many frames as asked for, in order: those that differ most from the one before."""
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    moved = [float(np.abs(b.astype(int) - a).mean()) for a, b in pairwise(frames)]
    chosen = sorted(np.argsort(moved)[-count:] + 1)
    return Media(tuple(frames[i] for i in chosen), "frames", len(frames), path.stat().st_size, None)


def test_load_moving(
    benchmark: Any, stage_benchmark: Callable[..., Any], stage_model: Any, stage_sample: stagebench.Sample
) -> None:
    media: Media = stage_benchmark(load_moving, (stage_sample.path, stage_model.images_per_sample))

    benchmark.group = "load"
    benchmark.extra_info |= {"model": stage_model.name, "counters": media.work()}
    stage_model.preprocess(media, stage_sample.question)  # takes it as any other media
