"""A model put together: a network, its tokenizer and CLIP's image processor, random or out of a checkpoint."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from stagebench.core.artifacts import Inputs
from stagebench.core.errors import CheckpointError
from stagebench.core.settings import ModelSettings
from stagebench.core.shown import one_line
from stagebench.models import weights
from stagebench.models.pixels import ImageProcessor, processor_of
from stagebench.models.profiles import build_tokenizer
from stagebench.models.protocol import Family

_ENLARGED = 4  # times the tower's own side that an image may be resized to before it is cropped


def assemble(family: type[Family], settings: ModelSettings) -> Family:
    """Build a model of one of the settings' profiles; a checkpoint must be of the family, whole, and fit itself."""
    if settings.profile not in ("tiny", "pretrained"):
        return random_model(family, family.random_config(settings.profile.removesuffix("-random")), settings)
    if settings.profile == "tiny":
        settings = replace(settings, weights=str(weights.TRAINED / family.name), profile="pretrained")
        return replace(assemble(family, settings), profile="tiny")
    with weights.reading(f"the checkpoint {settings.weights}"):
        return _pretrained(family, weights.located(settings))


def random_model(
    family: type[Family],
    config: PretrainedConfig,
    settings: ModelSettings,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Family:
    """Build a random network by any config of the family, and an image processor and, if not given, a tokenizer."""
    tokenizer = tokenizer or build_tokenizer(config.get_text_config().vocab_size, family.added_tokens(config))
    hf_model = weights.from_config(family.hf_class, config, settings, settings.device)
    weights.only_special_tokens(hf_model, tokenizer)
    side = config.vision_config.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return family(settings.profile, hf_model, tokenizer, processor_of(processor, settings))


def _pretrained(family: type[Family], settings: ModelSettings) -> Family:
    source, hf_class = str(settings.weights), family.hf_class
    config = weights.read_config(f"the config of {source}", hf_class.config_class, source)
    with weights.reading(f"the tokenizer of {source}"):
        tokenizer, ids = family.read_tokenizer(source, config)
    bones, side = weights.skeleton(hf_class, config, settings), config.vision_config.image_size
    processor = _read_image_processor(family.image_source(source, config), side, settings)
    _rehearse(family("pretrained", bones, tokenizer, processor), source, side)
    _check_tokens(source, config.get_text_config().vocab_size, tokenizer, ids)
    hf_model = weights.read_weights(hf_class, config, settings)
    if family.trims_vocabulary and config.vocab_size > len(tokenizer):
        hf_model.resize_token_embeddings(len(tokenizer))
    weights.only_special_tokens(hf_model, tokenizer)
    return family("pretrained", hf_model, tokenizer, processor)


def _read_image_processor(source: str, side: int, settings: ModelSettings) -> ImageProcessor:
    """Read a checkpoint's image processor, which must give the tower's `side` x `side` pixels."""
    what, sides = f"the image processor of {source}", f"the tower's {side} x {side} pixels"
    with weights.reading(what):
        reference = CLIPImageProcessorPil.from_pretrained(source)
        sizes = [length for size in (reference.size, reference.crop_size) for length in dict(size or {}).values()]
        lengths = [length for length in sizes if length is not None]
        if lengths and max(lengths) > _ENLARGED * side:
            raise CheckpointError(f"{what} must give {sides}, got {max(lengths)}")
        if wrong := [mean for mean in reference.image_mean or () if not 0 <= mean <= 1]:
            raise CheckpointError(f"{what} must have a mean of 0 to 1, got {wrong[0]}")
        # Tried, because what it gives depends on more of its settings than one.
        pixels = ImageProcessor(reference)([np.zeros((48, 64, 3), np.uint8)])
    height, width = pixels.shape[-2:]
    if (height, width) != (side, side):
        raise CheckpointError(f"{what} must give {sides}, got {height} x {width}")
    if lengths and min(lengths) < side:
        raise CheckpointError(f"{what} must fill {side} x {side} pixels, got {min(lengths)}")
    if not pixels.isfinite().all():
        raise CheckpointError(f"{what} must give finite pixels, got {pixels.flatten()[0]}")
    return processor_of(reference, settings)


def _rehearse(model: Family, source: str, side: int) -> None:
    """Let a skeleton encode one image and read it as a prompt, by shapes alone: do the sizes in its config fit?"""
    hf_model, tokens = model.hf_model, model.visual_tokens(1)
    size = hf_model.config.get_text_config().hidden_size
    ids = torch.empty(1, 1, dtype=torch.long, device="meta")
    pixels = torch.empty(1, 1, 3, side, side, dtype=hf_model.dtype, device="meta")
    try:
        with torch.no_grad():
            features = model.encode(Inputs(ids, ids, {model.pixels_argument: pixels}, images=1))
            hf_model(inputs_embeds=features)
    except Exception as error:  # no narrower: whatever torch and transformers raise of sizes
        raise CheckpointError(f"the config of {source} must fit itself, got {one_line(error)}") from error
    if features.shape != (1, tokens, size):
        needs, got = f"{tokens} features of {size} numbers", tuple(features.shape[1:])
        raise CheckpointError(f"the config of {source} must give an image {needs}, got {got}")


def _check_tokens(source: str, embedded: int, tokenizer: PreTrainedTokenizerBase, ids: Mapping[str, int]) -> None:
    """Refuse a tokenizer with more tokens than the network embeds, or with other ids of the placeholders than given."""
    tokens = max(tokenizer.get_vocab().values()) + 1
    if tokens > embedded:
        needs = f"all {tokens} tokens of its tokenizer"
        raise CheckpointError(f"the checkpoint {source} must embed {needs}, got vocab_size {embedded}")
    for token, expected in ids.items():
        if tokenizer(token).input_ids.count(expected) != 1:
            needs, got = f"id {expected} for {token}, as its config", tokenizer.convert_tokens_to_ids(token)
            raise CheckpointError(f"the tokenizer of {source} must have {needs}, got {got}")
