"""Checkpoints whose parts contradict each other, ask for more than they hold, or are pickles: one line at once."""

import contextlib
import json
import os
import re
import shutil
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stagebench.core.artifacts import Media
from stagebench.core.errors import CheckpointError
from stagebench.core.settings import ModelSettings
from stagebench.models.registry import build_model
from stagebench.pipeline.decode import decode
from stagebench.pipeline.encode import encode
from stagebench.pipeline.prefill import prefill
from stagebench.pipeline.preprocess import preprocess

FAMILIES = ("llava-1.5", "video-llava")


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tiny_model, tmp_path_factory):
    """A family's name, and a folder with a tiny checkpoint of it."""
    model, folder = tiny_model(request.param), tmp_path_factory.mktemp("checkpoint")
    for part in (model.hf_model, model.tokenizer, model.image_processor.reference):
        part.save_pretrained(folder)
    return request.param, folder


@pytest.fixture
def checkpoint(saved, tmp_path):
    return shutil.copytree(saved[1], tmp_path / "checkpoint")


def build(saved, folder, **settings):
    return build_model(saved[0], ModelSettings(profile="pretrained", weights=str(folder), **settings))


def refusal(saved, folder, **settings):
    """The one short line in which a checkpoint is refused, its path left out."""
    with pytest.raises(CheckpointError) as caught:
        build(saved, folder, **settings)
    message = str(caught.value).replace(str(folder), "FOLDER")
    assert (message.isprintable(), len(message) < 500) == (True, True)
    return message


def change(path, *keys, **values):
    """Set values in a JSON file, in the object under the keys."""
    content = json.loads(path.read_text())
    inner = content
    for key in keys:
        inner = inner[key]
    inner.update(values)
    path.write_text(json.dumps(content))


def media():
    images = np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), dtype=np.uint8)
    return Media(tuple(images), "frames", 8, 0, None)


MARKS = {"llava-1.5": ("<image>", "image_token_id", 511), "video-llava": ("<video>", "video_token_id", 511)}


@pytest.mark.parametrize("wrong", [510, 0, 5, 10**6, -200])
def test_another_id_of_the_mark_than_the_tokenizers_is_refused(saved, checkpoint, wrong):
    mark, key, right = MARKS[saved[0]]
    change(checkpoint / "config.json", **{key: wrong})
    expected = f"the tokenizer of FOLDER must have id {wrong} for {mark}, as its config, got {right}"
    assert expected == refusal(saved, checkpoint)


def test_a_tokenizer_without_the_mark_is_refused(saved, checkpoint):
    mark, _, right = MARKS[saved[0]]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (checkpoint / name).read_text()
        (checkpoint / name).write_text(text.replace(mark, "<other>"))
    assert refusal(saved, checkpoint).startswith(f"the tokenizer of FOLDER must have id {right} for {mark}, ")


def test_more_tokens_than_embeddings_are_refused(saved, checkpoint):
    change(checkpoint / "config.json", "text_config", vocab_size=400)
    expected = "the checkpoint FOLDER must embed all 512 tokens of its tokenizer, got vocab_size 400"
    assert expected == refusal(saved, checkpoint)


@pytest.mark.parametrize(("eos", "got"), [(512, 512), ([2, 99_999], 99_999), (-1, -1), ([2, "7"], "'7'"), (2.5, 2.5)])
def test_a_stop_token_that_is_none_of_the_vocabulary_is_refused(saved, checkpoint, eos, got):
    change(checkpoint / "generation_config.json", eos_token_id=eos)
    assert refusal(saved, checkpoint).endswith(f"got {got}")


@pytest.mark.parametrize(
    ("part", "values"),
    [
        (None, {"vision_feature_layer": 99}),
        (None, {"vision_feature_layer": -99}),
        (None, {"vision_feature_layer": [-2, 7]}),
        (None, {"vision_feature_layer": []}),
        ("text_config", {"num_attention_heads": 3}),
        ("text_config", {"num_attention_heads": 0}),
        ("text_config", {"num_key_value_heads": 3}),
        ("text_config", {"num_key_value_heads": 0}),
        ("text_config", {"head_dim": 7}),
        ("text_config", {"hidden_size": -64}),
        ("text_config", {"hidden_act": "none"}),
        ("text_config", {"rope_parameters": {"rope_type": "none"}}),
        ("vision_config", {"num_attention_heads": 3}),
        ("vision_config", {"hidden_size": 33}),
        ("vision_config", {"patch_size": 0}),
        ("vision_config", {"patch_size": 1000}),
        ("vision_config", {"num_channels": 4}),
        ("vision_config", {"image_size": 28}),
        ("vision_config", {"image_size": 0}),
        ("vision_config", {"image_size": 10**6}),
        ("vision_config", {"num_hidden_layers": 10**9}),
        ("vision_config", {"intermediate_size": 10**9}),
        ("text_config", {"num_hidden_layers": 10**9}),
        ("text_config", {"intermediate_size": 10**9}),
        ("text_config", {"hidden_size": 10**7}),
        ("text_config", {"hidden_size": 2**62}),
        ("text_config", {"vocab_size": 10**9}),
        ("text_config", {"head_dim": 10**9}),
    ],
)
def test_sizes_that_do_not_fit_are_refused(saved, checkpoint, part, values):
    change(checkpoint / "config.json", *([part] if part else []), **values)
    refusal(saved, checkpoint)


def test_a_config_that_asks_for_more_than_the_files_hold_is_refused_by_both_numbers(saved, checkpoint):
    change(checkpoint / "config.json", "text_config", intermediate_size=10**9)
    message = refusal(saved, checkpoint)
    assert message.startswith("the config of FOLDER asks for 38")
    assert f"its files hold {sum(t.numel() for t in load_file(checkpoint / 'model.safetensors').values())}" in message


@pytest.mark.parametrize(
    "values",
    [
        {"crop_size": {"height": 10**6, "width": 10**6}},
        {"size": {"shortest_edge": 10**6}},
        {"size": {"height": 10**6, "width": 10**6}},
        {"size": {"shortest_edge": 0}},
        {"size": {"shortest_edge": 10}},
        {"size": {"height": 336, "width": 10}},
        {"image_mean": [-9.0, 0.5, 0.5]},
        {"image_mean": [float("nan")] * 3},
        {"crop_size": {"height": 0, "width": 0}},
        {"do_center_crop": False},
        {"image_std": [0.0, 0.0, 0.0]},
        {"image_std": [0.5]},
        {"image_mean": "grey"},
        {"rescale_factor": float("nan")},
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_pixels_that_are_none_of_the_towers_are_refused(saved, checkpoint, values):
    change(checkpoint / "preprocessor_config.json", **values)
    assert "the image processor of FOLDER" in refusal(saved, checkpoint)


def test_full_features_are_a_token_more_an_image(saved, checkpoint):
    change(checkpoint / "config.json", vision_feature_select_strategy="full")
    model = build(saved, checkpoint)
    inputs, options = preprocess(model, media(), "What moves?"), {"max_new_tokens": 4, "do_sample": False}
    expected = model.hf_model.generate(**model.reference_inputs(inputs), **options)
    features = encode(model, inputs)
    actual = decode(model, prefill(model, inputs, features, options)).token_ids[0]
    assert {"llava-1.5": 577, "video-llava": 8 * 257}[saved[0]] == features.tokens.shape[1]
    assert tuple(expected[0, inputs.input_ids.shape[1] :].tolist()) == actual


def header(text, claimed=None, data=b""):
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


@pytest.mark.parametrize(
    "weights",
    [
        b"",
        header(b"{}", claimed=2**63),
        header(b"{}", claimed=10**6),
        header(b"{" * 100_000),
        header(b'{"a":' * 50_000),
        header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'),
        header(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,9],"data_offsets":[0,4]}}', data=bytes(4)),
        header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', data=bytes(4)),
        header(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            data=bytes(4),
        ),
        header(b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}', data=bytes(4)),
        header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', data=bytes(9)),
    ],
)
def test_a_hostile_header_of_the_weights_is_refused(saved, checkpoint, weights):
    (checkpoint / "model.safetensors").write_bytes(weights)
    refusal(saved, checkpoint)


@pytest.mark.parametrize(
    "index",
    ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 7}}', '{"weight_map": {"a": "gone"}}', "{" * 9999, ""],
)
def test_a_damaged_index_of_the_weights_is_refused(saved, checkpoint, index):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(index)
    refusal(saved, checkpoint)


@pytest.fixture
def pickled(checkpoint):
    """The checkpoint with its weights as torch pickled them."""
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    return checkpoint


def test_pickled_weights_are_refused_unless_asked_for(saved, pickled):
    expected = (
        "the checkpoint FOLDER must hold weights in model.safetensors, "
        "got only pytorch_model.bin: pickles are read with --pickled-weights"
    )
    assert expected == refusal(saved, pickled)


def test_pickled_weights_are_read_where_asked_for(saved, pickled):
    expected, actual = (
        build(saved, folder, pickled_weights=folder == pickled).hf_model.state_dict() for folder in (saved[1], pickled)
    )
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[key], actual[key]) for key in expected)


@pytest.mark.parametrize("values", [{"intermediate_size": 10**9}, {"num_hidden_layers": 10**9}])
def test_a_config_that_asks_for_more_than_pickled_files_can_hold_is_refused(saved, pickled, values):
    change(pickled / "config.json", "text_config", **values)
    assert refusal(saved, pickled, pickled_weights=True).startswith("the config of FOLDER asks for ")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(saved, checkpoint, value):
    weights = load_file(checkpoint / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight") and "language" in name)
    weights[name][1, 2] = value
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    message = refusal(saved, checkpoint)
    assert message.startswith("the checkpoint FOLDER must hold finite numbers, got others in model.language_model.")


@pytest.mark.parametrize(("dtype", "kind"), [(torch.int8, "I8"), (torch.bool, "BOOL"), (torch.uint8, "U8")])
def test_weights_of_integers_are_refused(saved, checkpoint, dtype, kind):
    weights = {name: tensor.to(dtype) for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    assert refusal(saved, checkpoint).startswith(f"the checkpoint FOLDER must hold floating point, got {kind} for ")


class Touches:
    """Unpickles to a new file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_weights_run_no_code_even_where_asked_for(saved, pickled, tmp_path):
    torch.save({"a": Touches(tmp_path / "canary")}, pickled / "pytorch_model.bin")
    refusal(saved, pickled, pickled_weights=True)
    assert not (tmp_path / "canary").exists()


def test_a_tokenizer_that_brings_its_own_code_does_not_run_it(saved, checkpoint, tmp_path):
    (checkpoint / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'canary')!r})\nclass Own: pass\n")
    change(checkpoint / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]})
    with contextlib.suppress(CheckpointError):  # one family's tokenizer is known to transformers, the other's not
        build(saved, checkpoint)
    assert not (tmp_path / "canary").exists()


def edit_weights(folder, edit):
    weights = edit(load_file(folder / "model.safetensors"))
    save_file({key: tensor.clone() for key, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def name_keys_as_transformers_4_did(folder):
    def old(key):
        key = re.sub(r"^model\.language_model\.", "language_model.model.", key)
        key = re.sub(r"^lm_head\.", "language_model.lm_head.", key)
        key = re.sub(r"^model\.(\w+_tower)\.(vision_model\.)?", r"\1.vision_model.", key)
        return re.sub(r"^model\.multi_modal_projector", "multi_modal_projector", key)

    edit_weights(folder, lambda weights: {old(key): tensor for key, tensor in weights.items()})


def write_the_config_of_transformers_4(folder):
    config = json.loads((folder / "config.json").read_text())
    for name in ("image", "video"):
        if f"{name}_token_id" in config:
            config[f"{name}_token_index"] = config.pop(f"{name}_token_id")
    config |= {"torch_dtype": "float16", "ignore_index": -100, "vocab_size": 512}
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "dtype"}))
    name_keys_as_transformers_4_did(folder)


def write_shards(folder, lost=0):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {key: f"model-0000{1 + (i > len(weights) // 2)}-of-00002.safetensors" for i, key in enumerate(weights)}
    for name in set(names.values()):
        save_file({key: weights[key] for key in weights if names[key] == name}, folder / name, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    for name in sorted(set(names.values()))[:lost]:
        (folder / name).unlink()


def tie_the_head(folder):
    change(folder / "config.json", tie_word_embeddings=True)
    change(folder / "config.json", "text_config", tie_word_embeddings=True)
    edit_weights(folder, lambda weights: {key: weights[key] for key in weights if "lm_head" not in key})


def leave_constants_in_the_weights(folder):
    constant = {"model.language_model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    edit_weights(folder, lambda weights: weights | constant)


def write_sides_as_numbers(folder):
    sizes = json.loads((folder / "preprocessor_config.json").read_text())
    side = sizes["crop_size"]["height"]
    change(
        folder / "preprocessor_config.json", crop_size=side, size=side, feature_extractor_type="CLIPFeatureExtractor"
    )


def write_a_processor_config(folder):
    path = folder / "preprocessor_config.json"
    nested = {"image_processor": json.loads(path.read_text()), "image_token": "<image>", "patch_size": 14}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    path.unlink()


def store_in_bfloat16(folder):
    edit_weights(folder, lambda weights: {key: tensor.bfloat16() for key, tensor in weights.items()})


def ask_for_sampling_and_several_stops(folder):
    change(folder / "generation_config.json", do_sample=True, temperature=0.2, eos_token_id=[2, 7, 100], max_length=20)


READ = [
    name_keys_as_transformers_4_did,
    write_the_config_of_transformers_4,
    write_shards,
    tie_the_head,
    leave_constants_in_the_weights,
    write_sides_as_numbers,
    write_a_processor_config,
    store_in_bfloat16,
    ask_for_sampling_and_several_stops,
]


@pytest.mark.parametrize("edit", READ)
def test_checkpoints_in_the_forms_that_are_about_give_the_same_features(saved, checkpoint, edit):
    edit(checkpoint)
    expected, actual = (
        encode(model, preprocess(model, media(), "What moves?")).tokens
        for model in (build(saved, saved[1]), build(saved, checkpoint))
    )
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.5 if edit is store_in_bfloat16 else 0)


def test_a_lost_shard_is_refused(saved, checkpoint):
    write_shards(checkpoint, lost=1)
    assert refusal(saved, checkpoint).startswith("can't read the checkpoint FOLDER: FileNotFoundError: ")
