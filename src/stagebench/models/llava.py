"""LLaVA-1.5: eight frames as one grid image. A thin adapter over transformers' own class.

Paper: https://arxiv.org/abs/2310.03744. Upstream pads an image to a square with the mean colour before it is resized
(`expand2square` in the authors' `mm_utils.py`), so that no part of it is cropped away; so is the grid.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from stagebench.core.artifacts import Image, Inputs
from stagebench.core.settings import ModelSettings
from stagebench.models.assembly import assemble
from stagebench.models.pixels import ImageProcessor
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.sizes import text_sizes, vision_sizes

COLUMNS, ROWS = 4, 2


class Llava(VisionLanguageModel):
    """LLaVA-1.5 behind the stages' protocol."""

    name = "llava-1.5"
    input_kind = "video"
    images_per_sample = COLUMNS * ROWS
    placeholder_tokens = ("<image>",)
    prompt = "USER: <image>\n{question} ASSISTANT:"
    hf_class = LlavaForConditionalGeneration
    module_paths: ClassVar = {
        "tower": "model.vision_tower",
        "projector": "model.multi_modal_projector",
        "language_model": "model.language_model",
    }

    def visual_tokens(self, images: int) -> int:
        """Count 576 an image, and CLS too where the config has "full" features."""
        config = self.hf_model.config
        patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        return int(images * (patches + (config.vision_feature_select_strategy == "full")))

    def picture(self, images: Sequence[Image]) -> Tensor:
        """Lay eight images out in one grid, and normalise it."""
        picture = grid(images, self.hf_model.config.vision_config.image_size, self.image_processor)
        return self.image_processor(picture.unsqueeze(0))

    def pixel_arguments(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the grids of all rows in one batch."""
        return {"pixel_values": pixels.flatten(0, 1)}

    def encode(self, inputs: Inputs) -> Tensor:
        """Run tower and projector: (batch, visual tokens, hidden size)."""
        output = self.hf_model.get_image_features(**self.pixel_arguments(inputs.pixels), return_dict=True)
        features = torch.stack(tuple(output.pooler_output))
        return features.reshape(inputs.pixels.shape[0], -1, features.shape[-1])


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


def build(settings: ModelSettings) -> Llava:
    """Build LLaVA-1.5 in one of its profiles; "pretrained" reads a `llava-hf` checkpoint."""
    return assemble(Llava, settings, config_of)


def config_of(profile: str) -> LlavaConfig:
    """Return the real geometry (336 px, 576 visual tokens); "7b" has the shapes of llava-hf/llava-1.5-7b-hf."""
    vocab = 512 if profile == "tiny" else 32064
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**vision_sizes(profile, 336)),
        text_config=LlamaConfig(**text_sizes(profile, vocab)),
        image_token_id=vocab - 1,
        image_seq_length=576,
    )
