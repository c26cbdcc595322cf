"""LLaVA-1.5: eight frames as one grid image. A thin adapter over transformers' own class.

Paper: https://arxiv.org/abs/2310.03744. Upstream pads an image to a square with the mean colour before it is resized
(`expand2square` in the authors' `mm_utils.py`), so that no part of it is cropped away; the grid is treated likewise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from stagebench.core.artifacts import Image, Inputs, Media
from stagebench.core.settings import ModelSettings
from stagebench.models.assembly import pretrained_adapter, random_assembly
from stagebench.models.embedding import embed_with_features, repeat_placeholder
from stagebench.models.pixels import ImageProcessor
from stagebench.models.protocol import Accelerator
from stagebench.models.sizes import text_shape, vision_shape

COLUMNS, ROWS = 4, 2
PROMPT = "USER: <image>\n{question} ASSISTANT:"


def grid(images: Sequence[Image], side: int, processor: ImageProcessor) -> Tensor:
    """Lay eight images out as one square picture, row by row, none of them cropped.

    Each image is scaled (antialiased bicubic) to a quarter of the side, its proportions kept; what is left of the
    square has the processor's mean colour.

    Args:
        images: eight uint8 (height, width, 3); they may differ in size, the first one's proportions make the cell.
        side: of the result, in pixels.
        processor: scales them, and has the mean.

    Returns:
        uint8 (side, side, 3), where the processor works.
    """
    height, width = images[0].shape[:2]
    scale = min(side // COLUMNS / width, side // ROWS / height)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    cells = processor.resize(images, height, width).reshape(ROWS, COLUMNS, height, width, 3)
    picture = cells.transpose(1, 2).reshape(ROWS * height, COLUMNS * width, 3)
    background = [int(255 * mean) for mean in processor.reference.image_mean]
    canvas = torch.tensor(background, dtype=torch.uint8, device=picture.device).repeat(side, side, 1)
    top, left = (side - picture.shape[0]) // 2, (side - picture.shape[1]) // 2
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


@dataclass(frozen=True)
class Llava:
    """The adapter; see `protocol.VisionLanguageModel`."""

    profile: str
    network: LlavaForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    image_processor: ImageProcessor
    name: str = "llava-1.5"
    media: str = "video"
    marks: tuple[str, ...] = ("<image>",)
    images_per_sample: int = COLUMNS * ROWS
    backend: Accelerator | None = None

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules whose forwards are counted."""
        model = self.network.model
        return {
            "tower": model.vision_tower,
            "projector": model.multi_modal_projector,
            "language_model": model.language_model,
        }

    def visual_tokens(self, images: int) -> int:
        """As the protocol says: 576 an image, and CLS too where the config has "full" features."""
        config = self.network.config
        patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        return int(images * (patches + (config.vision_feature_select_strategy == "full")))

    def preprocess(self, media: Media, question: str) -> Inputs:
        """Eight images into one grid, normalised, and the prompt with one placeholder a visual token."""
        config = self.network.config
        picture = grid(media.images, config.vision_config.image_size, self.image_processor)
        ids = self.tokenizer(PROMPT.format(question=question)).input_ids
        placeholder = self.network.config.image_token_id
        input_ids = torch.tensor(
            [repeat_placeholder(ids, placeholder, self.visual_tokens(1))], device=self.network.device
        )
        return Inputs(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            pixels=self.image_processor(picture.unsqueeze(0)).unsqueeze(0).to(self.network.device, self.network.dtype),
        )

    def encode(self, inputs: Inputs) -> Tensor:
        """Tower and projector: (batch, visual tokens, hidden size)."""
        output = self.network.get_image_features(pixel_values=inputs.pixels.flatten(0, 1), return_dict=True)
        features = torch.stack(tuple(output.pooler_output))
        return features.reshape(inputs.pixels.shape[0], -1, features.shape[-1])

    def embed(self, inputs: Inputs, features: Tensor) -> Tensor:
        """The prompt's embeddings with the features in place."""
        embedding = self.network.get_input_embeddings()
        return embed_with_features(embedding, inputs.input_ids, self.network.config.image_token_id, features)

    def reference_inputs(self, inputs: Inputs) -> dict[str, Any]:
        """What plain `generate()` takes."""
        return {
            "input_ids": inputs.input_ids,
            "attention_mask": inputs.attention_mask,
            "pixel_values": inputs.pixels.flatten(0, 1),
        }


def build(settings: ModelSettings) -> Llava:
    """Build LLaVA-1.5 in one of its profiles; "pretrained" reads a `llava-hf` checkpoint.

    Raises:
        CheckpointError: where a pretrained folder is of another model, not whole, or contradicts itself.
    """
    if settings.profile == "pretrained":
        return pretrained_adapter(Llava, LlavaForConditionalGeneration, settings)
    return build_from_config(config_of(settings.profile), settings)


def build_from_config(config: LlavaConfig, settings: ModelSettings) -> Llava:
    """Build it with random weights and a tokenizer of the config's vocabulary."""
    return Llava(settings.profile, *random_assembly(LlavaForConditionalGeneration, config, Llava.marks, settings))


def config_of(profile: str) -> LlavaConfig:
    """Real geometry (336 px, 576 visual tokens); "7b" has the shapes of llava-hf/llava-1.5-7b-hf."""
    vocab = 512 if profile == "tiny" else 32064
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**vision_shape(profile, 336)),
        text_config=LlamaConfig(**text_shape(profile, vocab)),
        image_token_id=vocab - 1,
        image_seq_length=576,
    )
