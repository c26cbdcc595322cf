"""Random networks of many families, small enough for a test, and inputs as their processors would make them."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from stagebench.models.profiles import narrow

IMAGE = 150
_SIDE, _PATCH = 56, 14

_VISUAL_TOKENS = {"blip-2": 4, "mllama": 0}  # in a prompt: as many as are asked for, or none, where it looks aside
_SIZES = {"vocab_size": 300, "max_position_embeddings": 2048, "patch_size": _PATCH, "image_size": _SIDE}
_IDS = {"image_token_id": IMAGE, "image_token_index": IMAGE, "video_token_id": 151, "video_token_index": 151}
_IDS |= {"vision_start_token_id": 152, "vision_end_token_id": 153, "bos_token_id": 1, "eos_token_id": 2}
_IDS |= {"pad_token_id": 3, "decoder_start_token_id": 1, "boi_token_index": 154, "eoi_token_index": 155}

Inputs = dict[str, Tensor]


def _image(config: Any) -> Inputs:
    return {"pixel_values": torch.randn(1, 3, _SIDE, _SIDE)}


def _sized(config: Any) -> Inputs:
    return _image(config) | {"image_sizes": torch.tensor([[_SIDE, _SIDE]])}


def _crops(config: Any) -> Inputs:
    return {"pixel_values": torch.randn(1, 2, 3, _SIDE, _SIDE), "image_sizes": torch.tensor([[_SIDE, _SIDE]])}


def _rows_of_images(config: Any) -> Inputs:
    return {"pixel_values": torch.randn(1, 1, 3, _SIDE, _SIDE)}


def _patches(config: Any) -> Inputs:
    vision = config.vision_config
    side = 2 * vision.spatial_merge_size
    pixels = torch.randn(side * side, 3 * getattr(vision, "temporal_patch_size", 1) * _PATCH**2)
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, side, side]])}


def _merged_patches(config: Any) -> Inputs:
    grid = {"image_grid_thw": torch.tensor([[1, 4, 4]]), "image_merge_sizes": torch.tensor([2])}
    return {"pixel_values": torch.randn(16, 3 * _PATCH**2)} | grid


def _masked_patches(config: Any) -> Inputs:
    grid = {"spatial_shapes": torch.tensor([[4, 4]]), "pixel_attention_mask": torch.ones(1, 16, dtype=torch.long)}
    return {"pixel_values": torch.randn(1, 16, 3 * _PATCH**2)} | grid


def _placed_patches(config: Any) -> Inputs:
    places = torch.cartesian_prod(torch.arange(6), torch.arange(6)).flip(-1)[None]
    return {"pixel_values": torch.rand(1, 36, 3 * _PATCH**2), "image_position_ids": places}


def _tiles(config: Any) -> Inputs:
    ones = torch.ones(1, 1, dtype=torch.long)
    masks = {"aspect_ratio_ids": ones, "aspect_ratio_mask": ones[None]}
    masks["cross_attention_mask"] = ones.expand(1, 8)[..., None, None]
    return {"pixel_values": torch.randn(1, 1, 1, 3, _SIDE, _SIDE)} | masks


_MLLAMA = {
    "text_config": {"cross_attention_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "vision_config": {
        "num_global_layers": 1,
        "attention_heads": 4,
        "intermediate_layers_indices": [0],
        "vision_output_dim": 128,
        "max_num_tiles": 1,
        "supported_aspect_ratios": [[1, 1]],
    },
}
_GEMMA4 = {
    "text_config": {
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 300,
        "global_head_dim": 8,
    },
    "vision_config": {
        "model_type": "gemma4_vision",
        "hidden_size": 32,
        "intermediate_size": 48,
        "patch_size": _PATCH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
    },
}
_MROPE = {
    "text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [16, 24, 24]}}
}
_GRIDS: dict[str, Any] = {"image_grid_pinpoints": [[_SIDE, _SIDE]]}

FAMILIES: dict[str, tuple[Callable[[Any], Inputs], dict[str, Any]]] = {
    "aria": (_image, {"projector_patch_to_query_dict": {16: 4}}),
    "aya_vision": (_image, {}),
    "blip-2": (_image, {}),
    "cohere2_vision": (_image, {}),
    "deepseek_vl": (_image, {}),
    "exaone4_5": (_patches, {}),
    "florence2": (_image, {}),
    "gemma3": (_image, {"mm_tokens_per_image": 4, "tie_word_embeddings": False}),  # so narrow, tied ones repeat a word
    "gemma4": (_placed_patches, _GEMMA4),
    "glm46v": (_patches, _MROPE),
    "glm4v": (_patches, _MROPE),
    "glm_ocr": (_patches, _MROPE),
    "got_ocr2": (_image, {}),
    "idefics2": (_rows_of_images, {}),
    "idefics3": (_rows_of_images, {}),
    "internvl": (_image, {}),
    "lfm2_vl": (_masked_patches, {}),
    "lighton_ocr": (_sized, {}),
    "llava": (_image, {}),
    "llava_next": (_crops, _GRIDS),
    "llava_next_video": (_crops, _GRIDS),
    "llava_onevision": (_crops, _GRIDS),
    "mistral3": (_sized, {}),
    "mllama": (_tiles, _MLLAMA),
    "ovis2": (_image, {}),
    "paligemma": (_image, {}),
    "qianfan_ocr": (_image, {}),
    "qwen2_5_vl": (_patches, _MROPE),
    "qwen2_vl": (_patches, _MROPE),
    "qwen3_5": (_patches, {}),
    "qwen3_5_moe": (_patches, {}),
    "qwen3_vl": (_patches, {}),
    "qwen3_vl_moe": (_patches, {}),
    "smolvlm": (_rows_of_images, {}),
    "video_llama_3": (_merged_patches, {}),
    "vipllava": (_image, {"vision_feature_layers": [-1, -2]}),
}
"""By model type: what its processor makes of an image, and settings beyond those that every family is made small by."""


_INSEPARABLE: dict[str, dict[str, Any]] = {
    "git": {},
    "idefics": {
        "vision_config": {"image_size": _SIDE, "patch_size": _PATCH},
        "use_resampler": False,
        "additional_vocab_size": 0,
        "cross_layer_interval": 1,
    },
    # Its image tokenizer is a part of what its language model is, and a method of that calls it.
    "chameleon": {
        "vocabulary_map": {"<image>": IMAGE, **{f"IMGIMG{letter}Z": 20 + i for i, letter in enumerate("ABCDEFGH")}},
        "vq_config": {"num_embeddings": 8, "base_channels": 32, "resolution": _SIDE},
    },
}


def small_config(family: str, **served: dict[str, Any]) -> PretrainedConfig:
    """Make the family's default config small, and set parts of it for an engine that can't serve it so."""
    default = AutoConfig.for_model(family)
    changes = FAMILIES[family][1] if family in FAMILIES else _INSEPARABLE[family]
    values = _updated(_identified(narrow(_updated(default.to_dict(), changes), **_SIZES)), served)
    return type(default)(**{key: value for key, value in values.items() if key != "model_type"})


def small_network(family: str, **served: dict[str, Any]) -> PreTrainedModel:
    """Build the family in float32 with random weights, none of which is zero."""
    torch.manual_seed(0)
    kind = getattr(transformers, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[family])
    hf_model = kind(small_config(family, **served))
    hf_model = hf_model.float().eval().requires_grad_(False)
    for weight in hf_model.parameters():
        if not weight.any() or (weight.ndim > 1 and weight.std() < 1e-6):
            weight.normal_(std=0.1)  # some families start with zeros, or so: their texts would not depend on pixels
    hf_model.generation_config = GenerationConfig(bos_token_id=1, pad_token_id=3)
    return hf_model


def inseparable(family: str) -> tuple[PreTrainedModel, Inputs]:
    """Build a network whose decoder looks at pixels itself, and inputs for it."""
    input_ids = torch.tensor([[1, 10, 11, 20, 21]])
    given = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    if family == "chameleon":
        input_ids = torch.tensor([[1, *[IMAGE] * 9, 20, 21]])
        given = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    if family != "idefics":
        return small_network(family), given | _image(None)
    mask = torch.ones(1, 5, 1, dtype=torch.long)
    return small_network(family), given | _rows_of_images(None) | {"image_attention_mask": mask}


def inputs_of(hf_model: PreTrainedModel, family: str) -> Inputs:
    """Return a prompt about one image of noise: a batch of one."""
    given = FAMILIES[family][0](hf_model.config)
    visual_tokens = _VISUAL_TOKENS[family] if family in _VISUAL_TOKENS else _count_features(hf_model, given)
    input_ids = torch.tensor([[1, 10, 11, 152, *[IMAGE] * visual_tokens, 153, 20, 21, 22]])
    types = {"mm_token_type_ids", "token_type_ids"} & set(inspect.signature(hf_model.forward).parameters)
    given |= {name: (input_ids == IMAGE).long() for name in types}
    return given | {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def _count_features(hf_model: PreTrainedModel, given: Inputs) -> int:
    accepted = inspect.signature(hf_model.base_model.get_image_features).parameters
    with torch.no_grad():
        output = hf_model.base_model.get_image_features(**{k: v for k, v in given.items() if k in accepted})
    features = getattr(output, "pooler_output", output)
    parts = features if isinstance(features, list | tuple) else [features]
    return sum(part.flatten(0, -2).shape[0] for part in parts)


def _identified(values: dict[str, Any]) -> dict[str, Any]:
    """Give special tokens the ids that `inputs_of` knows them by."""
    made: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key.endswith("_config"):
            made[key] = _identified(value)
        else:
            made[key] = _IDS[key] if key in _IDS and (value is None or type(value) is int) else value
    return made


def _updated(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(values.get(key), dict)
        values[key] = _updated(values[key], value) if nested else value
    return values
