"""A clip as one video, its frames with their times. transformers' own video processors need torchvision."""

import re

import numpy as np
import pytest
from checkpoints import write_checkpoint
from transformers.utils import is_torchvision_available

from stagebench import settings_of
from stagebench.core.artifacts import Media, Sample
from stagebench.core.errors import MediaError, ModelError
from stagebench.media.events.recordings import read_events
from stagebench.models import processors
from stagebench.models.registry import build_model
from stagebench.pipeline.load import load
from stagebench.pipeline.run_stages import prepared
from stagebench.pipeline.verify import count_reference, verify_work

needs_torchvision = pytest.mark.skipif(not is_torchvision_available(), reason="torchvision makes its pixels")
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl")


def built(folder, **options):
    settings = settings_of(model=f"hf:{folder}", device="cpu", as_="video", **options)
    return build_model(settings.models[0], settings.model)


@needs_torchvision
@pytest.mark.parametrize("family", FAMILIES)
def test_one_video_gives_the_tokens_and_the_work_of_generate(family, tmp_path, synthetic):
    write_checkpoint(family, tmp_path)
    model = built(tmp_path, frames=4)
    found = verify_work(model, count_reference(model, Sample(synthetic.video), {"max_new_tokens": 4}))
    assert (str(found.tokens), found.work["preprocess"]["images"]) == ("equal", 4)


@needs_torchvision
def test_the_times_of_frames_reach_the_prompt(tmp_path, synthetic):
    write_checkpoint("qwen3_vl", tmp_path)
    sample = Sample(synthetic.video)
    model, times = built(tmp_path, frames=4), load(sample, 4).times
    text = model.tokenizer.decode(prepared(model, sample).input_ids[0])
    of_pairs = [(one + other) / 2 for one, other in (times[:2], times[2:])]
    assert re.findall(r"<([\d.]+) seconds>", text) == [f"{time:.1f}" for time in of_pairs]


@needs_torchvision
def test_the_rate_of_frames_reaches_the_positions(tmp_path, synthetic):
    write_checkpoint("qwen2_5_vl", tmp_path)
    sample = Sample(synthetic.video)
    model, times = built(tmp_path, frames=4), load(sample, 4).times
    seconds = float(prepared(model, sample).given["second_per_grid_ts"])
    assert seconds == pytest.approx(2 * times[-1] / 3, abs=1e-3)  # of two frames


def test_a_video_without_torchvision_says_what_to_install(tmp_path, monkeypatch):
    write_checkpoint("qwen2_5_vl", tmp_path)
    monkeypatch.setattr(processors, "is_torchvision_available", lambda: False)
    with pytest.raises(ModelError) as error:
        built(tmp_path)
    assert str(error.value) == "a video for qwen2_5_vl needs torchvision: pip install torchvision"


def test_a_family_that_takes_no_video_is_refused_by_its_name(tmp_path):
    write_checkpoint("llava_next", tmp_path)
    with pytest.raises(ModelError) as error:
        built(tmp_path)
    assert str(error.value) == "llava_next takes images but no video, got --as video"


def test_one_video_is_part_of_the_identity(tmp_path):
    identity = settings_of(model=f"hf:{tmp_path}", device="cpu", frames=3, as_="video").identity()
    assert identity["preprocess"] == "the checkpoint's own processor, one video of 3 frames"


def test_a_registered_model_is_shown_no_video():
    with pytest.raises(ModelError, match="as video needs a model with its own processor"):
        settings_of(model="llava-1.5", device="cpu", as_="video")


def test_a_video_of_one_frame_is_refused(tmp_path):
    with pytest.raises(ModelError, match="a video must have at least 2 frames, got 1"):
        settings_of(model=f"hf:{tmp_path}", device="cpu", frames=1, as_="video")


def shown(*times):
    frames = tuple(np.zeros((4, 6, 3), np.uint8) for _ in range(3))
    return processors.as_video(Media(frames, "frames", 3, 0, None, times or None))[1]


def test_a_video_has_the_times_of_its_frames():
    (metadata,) = shown(0.0, 0.25, 1.0)["video_metadata"]
    assert (metadata.timestamps, metadata.sampled_fps, metadata.duration) == ([0.0, 0.25, 1.0], 2.0, 1.5)


def test_all_frames_are_the_video():
    given = shown(0.0, 0.5, 1.0)
    assert ([video.shape for video in given["videos"]], given["do_sample_frames"]) == ([(3, 4, 6, 3)], False)


@pytest.mark.parametrize(("times", "got"), [((), "none"), ((0.0, 0.0, 0.0), "one alone")])
def test_a_video_without_times_is_refused(times, got):
    with pytest.raises(MediaError, match=f"a video needs the times of its frames, got {got}"):
        shown(*times)


def test_a_video_of_frames_of_several_sizes_is_refused():
    images = tuple(np.zeros((4, width, 3), np.uint8) for width in (6, 7))
    with pytest.raises(MediaError, match="a video needs frames of one size, got 2 sizes"):
        processors.as_video(Media(images, "events", 0, 0, 1.0, (0.0, 1.0)))


def test_frames_keep_the_times_at_which_the_clip_shows_them(synthetic):
    media = load(Sample(synthetic.video), 3)
    assert (len(media.times), media.times[0], media.times[-1]) == (3, 0.0, media.span)


@pytest.mark.parametrize(("slices", "expected"), [("count", (0.0, 0.002)), ("time", (0.0, 0.005))])
def test_event_images_keep_the_times_at_which_they_begin(tmp_path, slices, expected):
    events = np.zeros(4, dtype=[("t", "i8"), ("x", "i2"), ("y", "i2"), ("p", "i1")])
    events["t"] = [0, 1000, 2000, 10000]
    np.save(tmp_path / "a.npy", events)
    assert read_events(tmp_path / "a.npy", 2, settings_of(model="eventgpt", slices=slices).loading).times == expected
