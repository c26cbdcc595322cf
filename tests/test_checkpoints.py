"""LLaVA's and Video-LLaVA's checkpoints: what is read, what is refused, and in which words."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from stagebench.core.artifacts import Media
from stagebench.core.errors import CheckpointError
from stagebench.core.settings import ModelSettings
from stagebench.models.registry import build_model
from stagebench.models.weights import reading, require_exact_keys
from stagebench.pipeline.encode import encode
from stagebench.pipeline.preprocess import preprocess

SIDES = {"llava-1.5": 336, "video-llava": 224}


@pytest.fixture(scope="module", params=sorted(SIDES))
def saved(request, tiny_model):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def original(saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in (saved.hf_model, saved.tokenizer, saved.image_processor.reference):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(original, tmp_path):
    return shutil.copytree(original, tmp_path / "checkpoint")


def edit_json(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def edit_weights(checkpoint, edit):
    weights = load_file(checkpoint / "model.safetensors")
    edit(weights)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})


def pretrained(name, folder):
    return build_model(name, ModelSettings(profile="pretrained", weights=str(folder)))


def refusal(name, folder):
    """The one line in which a checkpoint is refused, its path left out."""
    with pytest.raises(CheckpointError) as caught:
        pretrained(name, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "FOLDER")


def test_a_checkpoint_is_read_back_as_it_was_saved(saved, checkpoint):
    read = pretrained(saved.name, checkpoint)
    images = np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), dtype=np.uint8)
    media = Media(tuple(images), "frames", 8, 0, None)
    first, second = (encode(m, preprocess(m, media, "What moves?")).tokens for m in (saved, read))
    assert torch.equal(first, second)


def test_a_checkpoints_own_sampling_defaults_are_dropped(saved, checkpoint):
    changes = {"do_sample": True, "temperature": 0.6, "repetition_penalty": 1.5}
    edit_json(checkpoint / "generation_config.json", lambda config: config.update(changes))
    own = pretrained(saved.name, checkpoint).hf_model.generation_config
    assert (own.do_sample or False, own.temperature or 1.0, own.repetition_penalty or 1.0) == (False, 1.0, 1.0)


def test_a_checkpoint_with_a_missing_key_is_refused_by_name(saved, checkpoint):
    key = "multi_modal_projector.linear_1.bias"
    edit_weights(checkpoint, lambda weights: weights.pop(next(k for k in weights if k.endswith(key))))
    expected = f"the checkpoint FOLDER must hold exactly the model's keys, got missing keys: model.{key}"
    assert expected == refusal(saved.name, checkpoint)


def test_a_missing_key_is_said_by_the_error_alone(saved, checkpoint, capfd):
    edit_weights(checkpoint, lambda weights: weights.pop(next(k for k in weights if k.endswith("linear_1.bias"))))
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    transformers_logging.add_handler(handler)
    try:
        refusal(saved.name, checkpoint)
    finally:
        transformers_logging.remove_handler(handler)
    expected = ([], ("", ""))
    assert expected == (records, tuple(capfd.readouterr()))


def test_transformers_speaks_again_after_reading():
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    with pytest.raises(CheckpointError), reading("a file"):
        raise OSError
    assert before == (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, "k0"), (3, "k0, k1, k2"), (4, "k0, k1, k2 and 1 more"), (9, "k0, k1, k2 and 6 more")],
)
def test_the_first_three_keys_are_named_and_the_others_counted(count, expected):
    with pytest.raises(CheckpointError) as caught:
        require_exact_keys("c", {"unexpected_keys": {f"k{i}" for i in range(count)}})
    assert f"the checkpoint c must hold exactly the model's keys, got unexpected keys: {expected}" == str(caught.value)


@pytest.mark.parametrize("found", ["llama", "EventChat_llama", "llava_next", None])
def test_a_checkpoint_of_another_model_is_refused_before_anything_is_built(saved, checkpoint, found):
    edit_json(checkpoint / "config.json", lambda config: config.update(model_type=found))
    (checkpoint / "model.safetensors").unlink()
    wanted = saved.hf_model.config.model_type
    assert f"the config of FOLDER must have model_type {wanted}, got {found}" == refusal(saved.name, checkpoint)


def test_a_folder_that_is_no_checkpoint_is_refused(saved, tmp_path):
    wanted = saved.hf_model.config.model_type
    assert f"the config of FOLDER must have model_type {wanted}, got None" == refusal(saved.name, tmp_path)


def test_a_missing_folder_is_refused(saved, tmp_path):
    assert refusal(saved.name, tmp_path / "nowhere").startswith("FOLDER must be a folder, in the hub's")


def test_a_config_value_of_another_type_is_refused(saved, checkpoint):
    edit_json(checkpoint / "config.json", lambda config: config["text_config"].update(hidden_size="64"))
    expected = "'hidden_size': TypeError: Field 'hidden_size' expected int, got str (value: '64')"
    assert refusal(saved.name, checkpoint).endswith(expected)


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("config.json", "[]", "the config of"),
        ("tokenizer.json", None, "the tokenizer of"),
        ("tokenizer.json", "{}", "the tokenizer of"),
        ("tokenizer.json", "{", "the tokenizer of"),
        ("tokenizer_config.json", "{", "the tokenizer of"),
        ("preprocessor_config.json", None, "the image processor of"),
        ("preprocessor_config.json", "{", "the image processor of"),
        ("preprocessor_config.json", '{"crop_size": "big"}', "the image processor of"),
        ("model.safetensors", "hello", "the checkpoint"),
    ],
)
def test_a_missing_or_damaged_file_is_refused(saved, checkpoint, file, content, what):
    if content is None:
        (checkpoint / file).unlink()
    else:
        (checkpoint / file).write_text(content)
    assert refusal(saved.name, checkpoint).startswith(f"can't read {what} FOLDER: ")


def test_a_checkpoint_without_weights_is_refused(saved, checkpoint):
    (checkpoint / "model.safetensors").unlink()
    expected = "the checkpoint FOLDER must hold weights in model.safetensors, got none"
    assert expected == refusal(saved.name, checkpoint)


def test_truncated_weights_are_refused(saved, checkpoint):
    whole = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert refusal(saved.name, checkpoint).startswith("can't read the checkpoint FOLDER: SafetensorError: ")


def test_an_image_processor_of_another_size_is_refused(saved, checkpoint):
    size = {"size": {"shortest_edge": 112}, "crop_size": {"height": 112, "width": 112}}
    edit_json(checkpoint / "preprocessor_config.json", lambda config: config.update(size))
    side = SIDES[saved.name]
    expected = f"the image processor of FOLDER must give the tower's {side} x {side} pixels, got 112 x 112"
    assert expected == refusal(saved.name, checkpoint)
