"""LLaVA-1.5 (https://arxiv.org/abs/2310.03744): eight frames as one grid image, over transformers' own class.

The authors pad an image to a square with the mean colour before resizing it (`expand2square` in their `mm_utils.py`),
so that no part of it is cropped. The grid is padded in the same way.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from stagebench.core.artifacts import Image, Inputs
from stagebench.models.pixels import ImageProcessor
from stagebench.models.profiles import TEXT, VISION
from stagebench.models.protocol import Family

COLUMNS, ROWS = 4, 2


class Llava(Family):
    """LLaVA-1.5 behind the stages' protocol; "pretrained" reads a `llava-hf` checkpoint."""

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
        """Return 576 tokens per image, plus CLS where the config has "full" features."""
        return images * (self.patches + int(self.hf_model.config.vision_feature_select_strategy == "full"))

    def picture(self, images: Sequence[Image]) -> Tensor:
        """Lay eight images out in one grid, and normalise it."""
        side = self.hf_model.config.vision_config.image_size
        return self.image_processor(grid(images, side, self.image_processor).unsqueeze(0))

    def reference_inputs(self, inputs: Inputs) -> dict[str, Any]:
        """Return the grids of all rows in one batch."""
        return super().reference_inputs(inputs) | {"pixel_values": self.pixels_of(inputs).flatten(0, 1)}

    def encode(self, inputs: Inputs) -> Tensor:
        """Run tower and projector: (batch, visual tokens, hidden size)."""
        pixels = self.pixels_of(inputs)
        output = self.hf_model.get_image_features(pixel_values=pixels.flatten(0, 1), return_dict=True)
        features = torch.stack(tuple(output.pooler_output))
        return features.reshape(pixels.shape[0], -1, features.shape[-1])

    @classmethod
    def random_config(cls, profile: str) -> LlavaConfig:
        """Return a config with 336 px and 576 visual tokens; "7b" has the shapes of llava-hf/llava-1.5-7b-hf."""
        text = LlamaConfig(**{"vocab_size": 32064} | TEXT[profile])
        return LlavaConfig(
            vision_config=CLIPVisionConfig(**VISION[profile], image_size=336, patch_size=14),
            text_config=text,
            image_token_id=text.vocab_size - 1,
            image_seq_length=576,
        )


def grid(images: Sequence[Image], side: int, processor: ImageProcessor) -> Tensor:
    """Lay out eight images, uint8 (height, width, 3), row by row in one square picture, uint8 (side, side, 3).

    Each is scaled (antialiased bicubic) to a quarter of the side, with the aspect ratio of the first. The rest of the
    square has the processor's mean colour.
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
