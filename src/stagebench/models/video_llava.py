"""Video-LLaVA (https://arxiv.org/abs/2311.10122): eight frames of 257 visual tokens each, CLS included."""

from typing import ClassVar

from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

from stagebench.core.artifacts import Inputs
from stagebench.models.profiles import TEXT, VISION
from stagebench.models.protocol import Family


class VideoLlava(Family):
    """Video-LLaVA behind the stages' protocol; "pretrained" reads a `LanguageBind/Video-LLaVA-7B-hf` checkpoint."""

    name = "video-llava"
    input_kind = "video"
    images_per_sample = 8
    placeholder_tokens = ("<image>", "<video>")
    prompt = "USER: <video>\n{question} ASSISTANT:"
    hf_class = VideoLlavaForConditionalGeneration
    pixels_argument = "pixel_values_videos"
    module_paths: ClassVar = {
        "tower": "model.video_tower",
        "projector": "model.multi_modal_projector",
        "language_model": "model.language_model",
    }

    def visual_tokens(self, images: int) -> int:
        """Return 257 tokens per frame, CLS included."""
        return images * (self.patches + 1)

    def encode(self, inputs: Inputs) -> Tensor:
        """Run video tower and projector: (batch, frames * 257, hidden size)."""
        pixels = self.pixels_of(inputs)
        output = self.hf_model.model.get_video_features(pixel_values_videos=pixels, return_dict=True)
        features: Tensor = output.pooler_output
        return features.reshape(pixels.shape[0], -1, features.shape[-1])

    @classmethod
    def random_config(cls, profile: str) -> VideoLlavaConfig:
        """Return a config with 224 px and 2,056 visual tokens; "7b" is that of LanguageBind/Video-LLaVA-7B-hf."""
        text = LlamaConfig(**{"vocab_size": 32064} | TEXT[profile])
        return VideoLlavaConfig(
            vision_config=CLIPVisionConfig(**VISION[profile], image_size=224, patch_size=14),
            text_config=text,
            image_token_id=text.vocab_size - 2,
            video_token_id=text.vocab_size - 1,
            image_seq_length=256,
            video_seq_length=2056,
        )
