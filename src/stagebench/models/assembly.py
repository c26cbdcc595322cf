"""What an adapter is put together from: a network, its tokenizer and CLIP's image processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from stagebench.core.errors import CheckpointError
from stagebench.core.settings import ModelSettings
from stagebench.models.checkpoint import check_tokens, rehearse, skeleton
from stagebench.models.pixels import ImageProcessor, PilProcessor, processor_of
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.tokenizer import build_tokenizer
from stagebench.models.weights import check_model_type, only_special_tokens, pretrained_network, random_network, reading

A = TypeVar("A", bound=VisionLanguageModel)
N = TypeVar("N", bound=PreTrainedModel)
_ENLARGED = 4  # times the tower's own side that an image may be resized to before it is cropped
Assembly = tuple[N, PreTrainedTokenizerBase, ImageProcessor]


def random_assembly(
    cls: type[N], config: PretrainedConfig, added: tuple[str, ...], settings: ModelSettings
) -> Assembly[N]:
    """Build transformers' own class with random weights, and a tokenizer and an image processor that fit it.

    Args:
        cls: the network's class.
        config: with a `text_config` and a `vision_config`.
        added: special tokens of the family, the last ones of the vocabulary.
        settings: device, dtype, attention and seed.
    """
    network = random_network(cls, config, settings)
    tokenizer = build_tokenizer(config.text_config.vocab_size, added)
    only_special_tokens(network, tokenizer)
    return network, tokenizer, image_processor(config.vision_config.image_size, settings)


def pretrained_adapter(
    adapter: Callable[[str, N, PreTrainedTokenizerBase, ImageProcessor], A], cls: type[N], settings: ModelSettings
) -> A:
    """Read the three from a folder or hub id in transformers' own layout, and put an adapter together from them.

    Args:
        adapter: of the profile, and of the three.
        cls: the network's class.
        settings: with the weights.

    Raises:
        CheckpointError: where it is of another model, not whole, or its parts contradict each other.
    """
    weights = str(settings.weights)
    with reading(f"the checkpoint {weights}"):
        # Before anything is built: of another model's config transformers would make a 7B network of defaults.
        found, _ = cls.config_class.get_config_dict(weights)
        check_model_type(f"the config of {weights}", found, cls.config_class.model_type)
        config = cls.config_class.from_pretrained(weights)
        with reading(f"the tokenizer of {weights}"):
            tokenizer = AutoTokenizer.from_pretrained(weights, padding_side="left", trust_remote_code=False)
        bones, side = skeleton(cls, config, settings), config.vision_config.image_size
        processor = pretrained_image_processor(weights, side, settings)
        rehearsed = adapter("pretrained", bones, tokenizer, processor)
        rehearse(rehearsed, weights, side)
        check_tokens(
            weights, config, tokenizer, {mark: getattr(config, f"{mark[1:-1]}_token_id") for mark in rehearsed.marks}
        )
        network = pretrained_network(cls, settings, config=config)
        only_special_tokens(network, tokenizer)
    return adapter("pretrained", network, tokenizer, processor)


def image_processor(side: int, settings: ModelSettings) -> ImageProcessor:
    """CLIP's resize, crop and normalisation for a tower of `side` x `side` pixels."""
    size, crop = {"shortest_edge": side}, {"height": side, "width": side}
    return processor_of(CLIPImageProcessorPil(size=size, crop_size=crop), settings)


def pretrained_image_processor(source: str, side: int, settings: ModelSettings) -> ImageProcessor:
    """Read a checkpoint's image processor.

    Raises:
        CheckpointError: where it can't be read, or gives other pixels than `side` x `side`.
        ModelError: where it has a setting that the settings' way of preprocessing does not know.
    """
    with reading(f"the image processor of {source}"):
        reference = CLIPImageProcessorPil.from_pretrained(source)
        lengths = [each for size in (reference.size, reference.crop_size) for each in dict(size or {}).values()]
        lengths = [length for length in lengths if length is not None]
        if lengths and max(lengths) > _ENLARGED * side:
            raise CheckpointError(
                f"the image processor of {source} must give the tower's {side} x {side} pixels, got {max(lengths)}"
            )
        if wrong := [mean for mean in reference.image_mean or () if not 0 <= mean <= 1]:
            raise CheckpointError(f"the image processor of {source} must have a mean of 0 to 1, got {wrong[0]}")
        # Tried, because what it gives depends on more of its settings than one.
        pixels = PilProcessor(reference)([np.zeros((48, 64, 3), np.uint8)])
    height, width = pixels.shape[-2:]
    if (height, width) != (side, side):
        raise CheckpointError(
            f"the image processor of {source} must give the tower's {side} x {side} pixels, got {height} x {width}"
        )
    if lengths and min(lengths) < side:
        raise CheckpointError(f"the image processor of {source} must fill {side} x {side} pixels, got {min(lengths)}")
    if not pixels.isfinite().all():
        raise CheckpointError(f"the image processor of {source} must give finite pixels, got {pixels.flatten()[0]}")
    return processor_of(reference, settings)
