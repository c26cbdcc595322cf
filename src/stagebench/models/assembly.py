"""What an adapter is put together from: a network, its tokenizer and CLIP's image processor."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from stagebench.errors import CheckpointError
from stagebench.models.pixels import ImageProcessor, PilProcessor, processor_of
from stagebench.models.tokenizer import build_tokenizer
from stagebench.models.weights import (
    check_model_type,
    only_special_tokens,
    pretrained_network,
    random_network,
    reading,
)
from stagebench.types import ModelSettings

N = TypeVar("N", bound=PreTrainedModel)
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


def pretrained_assembly(cls: type[N], settings: ModelSettings) -> Assembly[N]:
    """Read the three from a folder or hub id in transformers' own layout.

    Raises:
        CheckpointError: where it is of another model, or not whole.
    """
    weights = str(settings.weights)
    with reading(f"the checkpoint {weights}"):
        # Before anything is built: of another model's config transformers would make a 7B network of defaults.
        found, _ = cls.config_class.get_config_dict(weights)
        check_model_type(f"the config of {weights}", found, cls.config_class.model_type)
        config = cls.config_class.from_pretrained(weights)
        with reading(f"the tokenizer of {weights}"):
            tokenizer = AutoTokenizer.from_pretrained(weights, padding_side="left")
        processor = pretrained_image_processor(weights, config.vision_config.image_size, settings)
        network = pretrained_network(cls, settings, config=config)
        only_special_tokens(network, tokenizer)
    return network, tokenizer, processor


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
        # Tried, because what it gives depends on more of its settings than one.
        height, width = PilProcessor(reference)([np.zeros((48, 64, 3), np.uint8)]).shape[-2:]
    if (height, width) != (side, side):
        raise CheckpointError(
            f"the image processor of {source} must give the tower's {side} x {side} pixels, got {height} x {width}"
        )
    return processor_of(reference, settings)
