"""The load stage by kind of media, without a model."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stagebench.stages import load
from stagebench.types import Sample


@pytest.fixture(scope="session")
def paths(scene, tmp_path_factory):
    """The same scene as a clip, as raw events, and as event images."""
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(load.load(Sample(scene.events), 8).images):
        Image.fromarray(np.asarray(image)).save(folder / f"{i}.png")
    return {"video": scene.video, "events": scene.events, "png": folder}


@pytest.mark.parametrize("images", [5, 8])
@pytest.mark.parametrize("media", ["video", "events", "png"])
def test_load(benchmark, paths, media, images, rounds, pytestconfig):
    if pytestconfig.option.input:
        pytest.skip("compares kinds of media on the embedded scene; with --input, test_stage measures its load")
    benchmark.group = f"load {images} images"
    result = benchmark.pedantic(load.load, args=(Sample(paths[media]), images), rounds=rounds, warmup_rounds=1)

    assert len(result.images) == images
    benchmark.extra_info |= {"work": result.work(), "unit": load.UNIT, "units": images}
