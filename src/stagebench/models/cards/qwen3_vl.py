"""Qwen3-VL, with the shapes of https://huggingface.co/Qwen/Qwen3-VL-8B-Instruct: features go into several layers."""

from stagebench.models.cards.qwen2_5_vl import CARD as QWEN
from stagebench.models.registration import Registration

PIXELS = {  # of its image processor, and of that of Qwen3.5
    "patch_size": 16,
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
_ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
CARD = Registration(
    name="qwen3-vl",
    network="transformers:Qwen3VLForConditionalGeneration",
    config={
        "text_config": {
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "rope_parameters": _ROPE,
        },
        "vision_config": {"out_hidden_size": 4096},
    },
    tiny={"text_config": {"initializer_range": 0.02}},  # its heads are normed: wide weights let no word stand out
    tokens=QWEN.tokens,
    image=QWEN.image,
    video=QWEN.video,
    image_processor=PIXELS,
)
