"""The load stage by kind of media, and every way to read a clip, without a model.

"Cold" means that the page cache was dropped for the files before each round; imports and the code itself are warm.
"""

from __future__ import annotations

import functools
import time

import numpy as np
import pytest
from clips import Clip
from metered import metered
from page_cache import cached_share, drop
from PIL import Image
from readers import LIMITS, READERS

from stagebench.core.artifacts import Sample
from stagebench.core.settings import LoadSettings
from stagebench.core.stages import LOAD
from stagebench.pipeline.load import load

COUNT = 8
MATRIX = [Clip(seconds, *size) for size in ((640, 480), (1440, 1080)) for seconds in (0.2, 1, 5, 20)]


@pytest.fixture(scope="session")
def paths(stage_clip, tmp_path_factory):
    """The same scene as a clip, as raw events, and as event images."""
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(load(Sample(stage_clip.events), 8).images):
        Image.fromarray(np.asarray(image)).save(folder / f"{i}.png")
    return {"video": stage_clip.video, "events": stage_clip.events, "png": folder}


@pytest.mark.parametrize("images", [5, 8])
@pytest.mark.parametrize("media", ["video", "events", "png"])
def test_load(benchmark, paths, media, images, stage_rounds, pytestconfig):
    if pytestconfig.option.stage_input:
        pytest.skip("compares kinds of media on the synthetic clip; with --stage-input, test_stage measures its load")
    benchmark.group = f"load {images} images"
    result = metered(benchmark, load, (Sample(paths[media]), images), stage_rounds)

    assert len(result.images) == images
    benchmark.extra_info |= {"unit": LOAD.unit, "units": images}


def as_pngs(path, folder):
    """Frames as a folder of PNGs."""
    for i, image in enumerate(READERS["keyed"](path, COUNT)):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder, lambda: load(Sample(folder), COUNT).images


def as_array(path, folder):
    """Frames as one array."""
    np.save(folder / "frames.npy", np.stack(READERS["keyed"](path, COUNT)))
    return folder, lambda: np.load(folder / "frames.npy")


def as_hit(path, folder):
    """The clip, by the frame cache, which has its frames."""
    sample = Sample(path, loading=LoadSettings(cache=folder))
    while not load(sample, COUNT).cache_hits:  # frames of a clip that was written a moment ago are not kept
        time.sleep(0.1)
    return folder, lambda: load(sample, COUNT).images


def as_clip(name, path, folder):
    """The clip, by one of the ways that read clips."""
    reader = (READERS | LIMITS)[name]
    return path, functools.partial(reader, path, COUNT)


# Each writes what it needs, and returns which files are read, and a function that reads them.
WAYS = {"png": as_pngs, "npy": as_array, "cached": as_hit} | {
    name: functools.partial(as_clip, name) for name in READERS | LIMITS
}


def pytest_generate_tests(metafunc):
    if "clip" in metafunc.fixturenames:
        clips = MATRIX if metafunc.config.option.stage_scale else [None]
        metafunc.parametrize("clip", clips, ids=[clip.name if clip else "scene" for clip in clips], scope="session")


@pytest.fixture(scope="session")
def clip_path(clip, stage_clip, tmp_path_factory):
    return clip.write(tmp_path_factory.getbasetemp()) if clip else stage_clip.video


@pytest.mark.parametrize("state", ["warm", "cold"])
@pytest.mark.parametrize("way", WAYS)
def test_read(benchmark, clip, clip_path, way, state, stage_rounds, tmp_path, pytestconfig):
    if pytestconfig.option.stage_input:
        pytest.skip("compares ways on clips of known length; with --stage-input, test_stage measures its load")
    try:
        files, read = WAYS[way](clip_path, tmp_path)
        images = read()
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"{way} is not installed: {str(error).splitlines()[0]}")
    setup = functools.partial(make_cold, files) if state == "cold" else None
    benchmark.group = f"read {COUNT} frames, {state}, {clip.name if clip else 'scene'}"
    benchmark.pedantic(read, setup=setup, rounds=stage_rounds, warmup_rounds=1)

    if way not in LIMITS:
        expected = READERS["in order"](clip_path, COUNT)
        assert [image.tobytes() for image in expected] == [image.tobytes() for image in images]
    benchmark.extra_info |= {"work": {"images": 0 if images is None else len(images)}}
    if clip:
        benchmark.extra_info |= {"way": f"{way}, {state}, {clip.width}x{clip.height}", "seconds": clip.seconds}


def make_cold(path):
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        drop(file)
        if (share := cached_share(file)) > 0.05:
            pytest.skip(f"the page cache can't be dropped here: {share:.0%} of {file.name} is still in memory")
