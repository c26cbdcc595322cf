"""Qwen2.5-VL, with the shapes of https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct: window attention in the tower."""

from stagebench.models.cards import layers
from stagebench.models.registration import Registration

_ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
_TEXT = layers(3584, 18944, 28, 28, num_key_value_heads=4, vocab_size=152064, rms_norm_eps=1e-6, rope_parameters=_ROPE)
CARD = Registration(
    name="qwen2.5-vl",
    network="transformers:Qwen2_5_VLForConditionalGeneration",
    config={
        "text_config": _TEXT | {"max_position_embeddings": 128000},
        "vision_config": {"hidden_size": 1280, "out_hidden_size": 3584},
    },
    tokens={
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    },
    image="<|vision_start|><|image_pad|><|vision_end|>",
    video="<|vision_start|><|video_pad|><|vision_end|>",
    image_processor={"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}},
)
