"""Quantised checkpoints load as transformers loads them, or say in one line what is missing."""

import json

import pytest
import torch
from checkpoints import write_checkpoint
from safetensors.torch import load_file, save_file

from stagebench import settings_of
from stagebench.core.artifacts import Sample
from stagebench.core.errors import CheckpointError, ModelError
from stagebench.models.registry import build_model
from stagebench.pipeline.verify import count_reference, verify_work

PLAIN = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]


def built(folder, **options):
    settings = settings_of(model=f"hf:{folder}", device="cpu", frames=2, **options)
    return build_model(settings.models[0], settings.model)


def quantise(folder, **settings):
    """Write a checkpoint, say how it is quantised, and return its weights and the names of those of the text model."""
    write_checkpoint("llava", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    weights = load_file(folder / "model.safetensors")
    return weights, [key for key in weights if key.startswith("language_model") and key.endswith("_proj.weight")]


def ternary(folder):
    """Pack four numbers of -1, 0 and 1 into each byte, as BitNet's checkpoints do."""
    weights, linear = quantise(folder, quant_method="bitnet", modules_to_not_convert=PLAIN)
    for key in linear:
        rows, columns = weights[key].shape
        bits = torch.randint(0, 3, (4, rows // 4, columns), dtype=torch.uint8)
        weights[key] = bits[0] | bits[1] << 2 | bits[2] << 4 | bits[3] << 6
        weights[f"{key}_scale"] = torch.full((1,), 8.0)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def eight_bits(folder):
    """Write floats of eight bits, each block of them with its scale."""
    settings = {"quant_method": "fp8", "weight_block_size": [16, 16], "modules_to_not_convert": PLAIN}
    weights, linear = quantise(folder, **settings)
    for key in linear:
        scales = [-(-side // 16) for side in weights[key].shape]
        weights[key] = (weights[key] * 64).to(torch.float8_e4m3fn)
        weights[f"{key}_scale_inv"] = torch.full(scales, 1 / 64)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture
def uncompiled():
    with torch.compiler.set_stance("force_eager"):  # BitNet's layers unpack their weights in compiled code
        yield


@pytest.mark.parametrize(("write", "dtype"), [(ternary, torch.uint8), (eight_bits, torch.float32)])
def test_quantised_weights_give_the_tokens_and_the_work_of_generate(write, dtype, tmp_path, synthetic, uncompiled):
    write(tmp_path)
    model = built(tmp_path)  # of eight bits, transformers makes the numbers that they stand for, on a CPU
    found = verify_work(model, count_reference(model, Sample(synthetic.video), {"max_new_tokens": 3}))
    query = model.hf_model.get_submodule("model.language_model.layers.0.self_attn.q_proj")
    assert (str(found.tokens), query.weight.dtype) == ("equal", dtype)


def test_weights_of_another_shape_than_the_method_packs_are_refused(tmp_path):
    quantise(tmp_path, quant_method="bitnet", modules_to_not_convert=PLAIN)
    with pytest.raises(CheckpointError, match="must hold exactly the model's keys, got mismatched keys: "):
        built(tmp_path)


@pytest.mark.parametrize(
    ("settings", "library"),
    [
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed-tensors"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "torchao"),
    ],
)
def test_a_library_that_is_missing_is_named_in_one_line(settings, library, tmp_path):
    quantise(tmp_path, **settings)
    with pytest.raises(CheckpointError, match=f"can't read the checkpoint .*Error: .*{library}") as error:
        built(tmp_path)
    assert "\n" not in str(error.value)


def test_a_method_that_transformers_does_not_know_is_refused(tmp_path):
    quantise(tmp_path, quant_method="nobody's")
    with pytest.raises(CheckpointError, match="weights must be quantised by a method of transformers, got nobody's"):
        built(tmp_path)


def test_a_text_model_alone_may_be_quantised(tmp_path):
    quantise(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"quantization_config": None}
    config["text_config"]["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="random weights can't be quantised, got "):
        built(tmp_path, profile="random")


def test_random_weights_of_a_quantised_checkpoint_are_refused(tmp_path):
    quantise(tmp_path, quant_method="fp8")
    with pytest.raises(ModelError, match=r"random weights can't be quantised, got hf:.*, quantised by fp8"):
        built(tmp_path, profile="random")
