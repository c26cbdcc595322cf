import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from stagebench.core.artifacts import Features, Generation, Inputs, Media, Run
from stagebench.core.errors import MediaError, ModelError, StageError
from stagebench.core.settings import GenerationSettings, LoadSettings, ModelSettings

IMAGE = np.zeros((2, 3, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "module",
    [
        "core.artifacts",
        "core.settings",
        "core.stages",
        "core.machine.environment",
        "gate.baseline",
        "gate.runner.recording",
        "cli.run",
        "analysis.report.recording_tables",
    ],
)
def test_what_a_gate_needs_imports_without_torch(module):
    code = f"import sys, stagebench.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_media_without_images_are_refused():
    with pytest.raises(MediaError, match="at least one image, got none"):
        Media((), "frames", 0, 0, None)


@pytest.mark.parametrize("image", [IMAGE.astype(np.float32), IMAGE[..., :2], IMAGE[0], IMAGE[:0]])
def test_an_image_that_is_not_uint8_rgb_is_refused(image):
    with pytest.raises(MediaError, match=r"image 1 must be uint8 of shape \(height, width, 3\)"):
        Media((IMAGE, image), "frames", 2, 0, None)


def test_a_mask_of_another_shape_is_refused():
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(StageError, match=r"must both be \(batch, tokens\), got \(1, 4\) and \(1, 3\)"):
        Inputs(ids, ids[:, 1:], {"pixel_values": torch.zeros(1, 1, 3, 2, 2)}, images=1)


@pytest.mark.parametrize(
    ("given", "images", "got"),
    [
        ({}, 1, "1 images as nothing"),
        ({"image_grid_thw": torch.ones(1, 3, dtype=torch.long)}, 1, "1 images as image_grid_thw"),
        ({"pixel_values": torch.zeros(1, 3, 2, 2)}, 0, "0 images as pixel_values"),
    ],
)
def test_inputs_without_images_or_pixels_are_refused(given, images, got):
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(StageError, match=f"^inputs must hold at least one image, and its pixels as floats, got {got}$"):
        Inputs(ids, ids, given, images)


def test_empty_features_are_refused():
    with pytest.raises(StageError, match="features must be"):
        Features(torch.zeros(1, 0, 4))


@pytest.mark.parametrize(
    ("token_ids", "steps"),
    [((), 0), (((),), 0), (((1, 2, 3),), 1), (((1, 2, 3),), 3)],
)
def test_a_generation_whose_tokens_and_steps_disagree_is_refused(token_ids, steps):
    with pytest.raises(StageError):
        Generation(token_ids, ("length",), steps, (0.0,) * steps)


def a_run(steps):
    generation = Generation((tuple(range(1, steps + 2)),), ("length",), steps, (0.0,) * steps)
    seconds = {"load": 1.0, "preprocess": 2.0, "encode": 3.0, "prefill": 4.0, "decode": 5.0}
    return Run("llava-1.5", seconds, {}, 16.0, generation, "text")


def test_a_stage_that_took_no_time_is_refused():
    run = a_run(steps=4)
    with pytest.raises(StageError, match=r"every stage must take time, got 0\.0 s for encode"):
        replace(run, seconds=run.seconds | {"encode": 0.0})


def test_what_the_stages_do_not_explain_is_unattributed():
    assert a_run(steps=4).unattributed == 1.0


def test_time_to_first_token_leaves_the_load_out():
    assert a_run(steps=4).ttft == 9.0


def test_time_per_output_token_is_what_follows_the_first_token_over_the_steps():
    assert a_run(steps=4).tpot == (16.0 - 1.0 - 9.0) / 4


def test_inter_token_latencies_are_the_gaps_between_steps():
    run = a_run(steps=3)
    assert replace(run, generation=replace(run.generation, step_ends=(1.0, 1.5, 3.0))).itl == (0.5, 1.5)


def test_one_token_has_no_time_per_output_token():
    assert a_run(steps=0).tpot is None


def test_throughput_counts_all_new_tokens_over_the_whole_path():
    assert a_run(steps=7).output_throughput == 0.5


def test_fixed_length_suppresses_stop_tokens_up_to_the_limit():
    assert GenerationSettings(max_new_tokens=7, fixed_length=True).options() == {
        "max_new_tokens": 7,
        "min_new_tokens": 7,
        "do_sample": False,
    }


@pytest.mark.parametrize("size", [(0, 480), (640, 0), (8193, 480), (640, 100_000)])
def test_an_image_size_that_no_sensor_has_is_refused(size):
    with pytest.raises(MediaError) as caught:
        LoadSettings(image_size=size)
    assert f"image_size must be from 1 x 1 to 8192 x 8192, got {size[0]} x {size[1]}" == str(caught.value)


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_a_window_that_is_negative_or_not_finite_is_refused(seconds):
    with pytest.raises(MediaError, match=f"^start must be at least 0 s and finite, got {seconds}$"):
        LoadSettings(start=seconds)
    with pytest.raises(MediaError, match=f"^duration must be more than 0 s and finite, got {seconds}$"):
        LoadSettings(duration=seconds)


def test_no_new_token_is_refused():
    with pytest.raises(StageError, match="max_new_tokens must be at least 1, got 0"):
        GenerationSettings(max_new_tokens=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"profile": "huge"}, "profile must be one of tiny, tiny-random, 7b, pretrained, random, got 'huge'"),
        ({"dtype": "int3"}, "dtype must be one of float32, bfloat16, float16, got 'int3'"),
        ({"kernels": "fast"}, "kernels must be one of efficient, default, got 'fast'"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"seed": -1}, "seed must be from 0 to"),
        ({"profile": "pretrained"}, "got profile 'pretrained' and weights None"),
        ({"weights": "folder"}, "got profile 'tiny-random' and weights 'folder'"),
    ],
)
def test_model_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ModelError, match=message):
        ModelSettings(**settings)
