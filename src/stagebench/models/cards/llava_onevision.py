"""LLaVA-OneVision, with the shapes of https://huggingface.co/llava-hf/llava-onevision-qwen2-7b-ov-hf."""

from stagebench.models.cards import layers
from stagebench.models.registration import Registration

_ROPE = {"rope_type": "default", "rope_theta": 1e6}
CARD = Registration(
    name="llava-onevision",
    network="transformers:LlavaOnevisionForConditionalGeneration",
    config={  # the tower's config is the config class's default
        "text_config": layers(
            3584, 18944, 28, 28, num_key_value_heads=4, model_type="qwen2", vocab_size=152128, rope_parameters=_ROPE
        )
    },
    tokens={"image_token": "<image>", "video_token": "<video>"},
    image="<image>",
    video="<video>",
    processor={"num_image_tokens": 729, "vision_feature_select_strategy": "full"},
)
