"""Checkpoints of many families as transformers saves them: small random networks, tokenizers and PIL processors."""

import json
from pathlib import Path
from typing import Any

import transformers
from families import IMAGE, small_network
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

_SIDE = 56
_SQUARE = {"height": _SIDE, "width": _SIDE}
_QWEN_IDS = {"<|image_pad|>": IMAGE, "<|video_pad|>": 151, "<|vision_start|>": 152, "<|vision_end|>": 153}
_PATCHED = {"patch_size": 14, "size": {"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 4}}
_IMAGE_IDS = {"<image>": IMAGE, "<video>": 151}
_TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% elif part.type == 'video' %}VIDEO{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %} ASSISTANT:"
)

Saved = tuple[dict[str, int], dict[str, Any], dict[str, Any], dict[str, Any], str]
CHECKPOINTS: dict[str, Saved] = {
    "qwen2_5_vl": (_QWEN_IDS, {}, _PATCHED, {}, "<|vision_start|><|image_pad|><|vision_end|>"),
    "qwen3_vl": (_QWEN_IDS, {}, _PATCHED, {}, "<|vision_start|><|image_pad|><|vision_end|>"),
    "qwen3_5": (_QWEN_IDS, {}, _PATCHED, {}, "<|vision_start|><|image_pad|><|vision_end|>"),
    "internvl": (
        {"<IMG_CONTEXT>": IMAGE, "<img>": 154, "</img>": 155, "<video>": 151},
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        {"size": _SQUARE, "crop_to_patches": False},
        {"image_seq_length": 4},
        "<IMG_CONTEXT>",
    ),
    "gemma3": (
        {"<image_soft_token>": IMAGE, "<start_of_image>": 154, "<end_of_image>": 155},
        {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        {"size": _SQUARE},
        {"image_seq_length": 4},
        "<start_of_image>",
    ),
    "gemma4": (
        {
            "<|image|>": IMAGE,
            "<|video|>": 151,
            "<|audio|>": 152,
            "<boi>": 154,
            "<eoi>": 155,
            "<boa>": 156,
            "<eoa>": 157,
        },
        {
            "image_token": "<|image|>",
            "boi_token": "<boi>",
            "eoi_token": "<eoi>",
            "audio_token": "<|audio|>",
            "boa_token": "<boa>",
            "eoa_token": "<eoa>",
        },
        {"patch_size": 14, "max_soft_tokens": 70, "pooling_kernel_size": 3},
        {},
        "<|image|>",
    ),
    "llava": (
        _IMAGE_IDS,
        {},
        {"size": {"shortest_edge": _SIDE}, "crop_size": _SQUARE},
        {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
        "<image>",
    ),
    "llava_onevision": (
        _IMAGE_IDS,
        {"image_token": "<image>", "video_token": "<video>"},
        {"size": _SQUARE, "image_grid_pinpoints": [[_SIDE, _SIDE]]},
        {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
        "<image>",
    ),
    "llava_next": (
        _IMAGE_IDS,
        {},
        {"size": {"shortest_edge": _SIDE}, "crop_size": _SQUARE, "image_grid_pinpoints": [[_SIDE, _SIDE]]},
        {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
        "<image>",
    ),
}
WITHOUT_TEMPLATE: dict[str, Saved] = {
    "paligemma": ({"<image>": IMAGE}, {}, {"size": _SQUARE, "image_seq_length": 16}, {}, ""),
    "florence2": (
        {"<image>": IMAGE},
        {"image_token": "<image>"},
        {"size": _SQUARE, "do_center_crop": False, "image_seq_length": 5},
        {},
        "",
    ),
    "blip-2": ({"<image>": IMAGE}, {}, {"size": _SQUARE}, {"num_query_tokens": 4}, ""),
    "got_ocr2": ({"<imgpad>": IMAGE, "<img>": 154, "</img>": 155}, {}, {"size": _SQUARE}, {}, ""),
}
TILED: dict[str, Saved] = {
    "idefics2": (
        {"<image>": IMAGE, "<fake_token_around_image>": 156, "<end_of_utterance>": 158},
        {},
        {"size": {"shortest_edge": _SIDE, "longest_edge": _SIDE}, "do_image_splitting": True},
        {"image_seq_len": 64},
        "<image>",
    ),
}
"""By model type: ids of special tokens, names that its tokenizer has for them, settings of its image processor and of
its processor, and what stands for an image in its chat template."""


def write_checkpoint(family: str, folder: Path, **served: dict[str, Any]) -> None:
    """Save network, tokenizer, image processor and processor of a family, as the hub has them; `served` parts set."""
    special, names, of_images, of_processor, image = (CHECKPOINTS | WITHOUT_TEMPLATE | TILED)[family]
    small_network(family, **served).save_pretrained(folder)
    tokenizer = _tokenizer(special, names)
    if image:
        tokenizer.chat_template = _TEMPLATE.replace("IMAGE", image).replace("VIDEO", _video(image))
    tokenizer.save_pretrained(folder)
    getattr(transformers, IMAGE_PROCESSOR_MAPPING_NAMES[family]["pil"])(**of_images).save_pretrained(folder)
    settings = of_processor | {"processor_class": PROCESSOR_MAPPING_NAMES[family]}
    (folder / "processor_config.json").write_text(json.dumps(settings))


def _video(image: str) -> str:
    """Return what stands for a video in the chat template of a family."""
    return image.replace("image_pad", "video_pad") if "image_pad" in image else "<video>"


def _tokenizer(special: dict[str, int], names: dict[str, str]) -> PreTrainedTokenizerFast:
    """Take each character as a token; ids that nothing has, up to that of an image, are words in brackets."""
    words = ["<unk>", "<s>", "</s>", "<pad>", *map(chr, range(32, 127))]
    words += [f"<{i}>" for i in range(len(words), 160)]
    ids = {word: i for i, word in enumerate(words) if i not in special.values()} | special
    whole = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    whole.decoder = decoders.Fuse()
    usual = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, additional_special_tokens=list(special), model_max_length=4096, **usual, **names
    )
