"""Video-LLaVA: eight frames, each 257 visual tokens. A thin adapter over transformers' own class.

Paper: https://arxiv.org/abs/2311.10122. Frames go through the `video_tower`, CLS kept, so 8 x 257 = 2,056 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerBase,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

from stagebench.core.artifacts import Inputs, Media
from stagebench.core.settings import ModelSettings
from stagebench.models.assembly import pretrained_adapter, random_assembly
from stagebench.models.embedding import embed_with_features, repeat_placeholder
from stagebench.models.pixels import ImageProcessor
from stagebench.models.protocol import Accelerator
from stagebench.models.sizes import text_shape, vision_shape

FRAMES = 8
PROMPT = "USER: <video>\n{question} ASSISTANT:"


@dataclass(frozen=True)
class VideoLlava:
    """The adapter; see `protocol.VisionLanguageModel`."""

    profile: str
    network: VideoLlavaForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    image_processor: ImageProcessor
    name: str = "video-llava"
    media: str = "video"
    marks: tuple[str, ...] = ("<image>", "<video>")
    images_per_sample: int = FRAMES
    backend: Accelerator | None = None

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules whose forwards are counted."""
        model = self.network.model
        return {
            "tower": model.video_tower,
            "projector": model.multi_modal_projector,
            "language_model": model.language_model,
        }

    def visual_tokens(self, images: int) -> int:
        """As the protocol says: 257 a frame, CLS among them."""
        vision = self.network.config.vision_config
        return int(images * ((vision.image_size // vision.patch_size) ** 2 + 1))

    def preprocess(self, media: Media, question: str) -> Inputs:
        """Resize, crop and normalise each frame; the prompt with one placeholder a visual token."""
        visual_tokens = self.visual_tokens(len(media.images))
        ids = self.tokenizer(PROMPT.format(question=question)).input_ids
        placeholder = self.network.config.video_token_id
        input_ids = torch.tensor([repeat_placeholder(ids, placeholder, visual_tokens)], device=self.network.device)
        return Inputs(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            pixels=self.image_processor(media.images).unsqueeze(0).to(self.network.device, self.network.dtype),
        )

    def encode(self, inputs: Inputs) -> Tensor:
        """Video tower and projector: (batch, frames * 257, hidden size)."""
        output = self.network.model.get_video_features(pixel_values_videos=inputs.pixels, return_dict=True)
        features: Tensor = output.pooler_output
        return features.reshape(inputs.pixels.shape[0], -1, features.shape[-1])

    def embed(self, inputs: Inputs, features: Tensor) -> Tensor:
        """The prompt's embeddings with the features in place."""
        embedding = self.network.get_input_embeddings()
        return embed_with_features(embedding, inputs.input_ids, self.network.config.video_token_id, features)

    def reference_inputs(self, inputs: Inputs) -> dict[str, Any]:
        """What plain `generate()` takes."""
        return {
            "input_ids": inputs.input_ids,
            "attention_mask": inputs.attention_mask,
            "pixel_values_videos": inputs.pixels,
        }


def build(settings: ModelSettings) -> VideoLlava:
    """Build Video-LLaVA in one of its profiles; "pretrained" reads a `LanguageBind/Video-LLaVA-7B-hf` checkpoint.

    Raises:
        CheckpointError: where a pretrained folder is of another model, not whole, or contradicts itself.
    """
    if settings.profile == "pretrained":
        return pretrained_adapter(VideoLlava, VideoLlavaForConditionalGeneration, settings)
    return build_from_config(config_of(settings.profile), settings)


def build_from_config(config: VideoLlavaConfig, settings: ModelSettings) -> VideoLlava:
    """Build it with random weights and a tokenizer of the config's vocabulary."""
    assembly = random_assembly(VideoLlavaForConditionalGeneration, config, VideoLlava.marks, settings)
    return VideoLlava(settings.profile, *assembly)


def config_of(profile: str) -> VideoLlavaConfig:
    """Real geometry (224 px, 2,056 visual tokens); "7b" has the shapes of LanguageBind/Video-LLaVA-7B-hf."""
    vocab = 512 if profile == "tiny" else 32064
    return VideoLlavaConfig(
        vision_config=CLIPVisionConfig(**vision_shape(profile, 224)),
        text_config=LlamaConfig(**text_shape(profile, vocab)),
        image_token_id=vocab - 2,
        video_token_id=vocab - 1,
        image_seq_length=256,
        video_seq_length=2056,
    )
