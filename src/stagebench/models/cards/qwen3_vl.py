"""Qwen3-VL, with the shapes of https://huggingface.co/Qwen/Qwen3-VL-8B-Instruct: features enter several layers."""

from dataclasses import replace

from stagebench.models.cards import layers, qwen2_5_vl

_ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
_TEXT = layers(4096, 12288, 36, 32, num_key_value_heads=8, head_dim=128, vocab_size=151936, rope_parameters=_ROPE)
CARD = replace(
    qwen2_5_vl.CARD,  # with its special tokens
    name="qwen3-vl",
    network="transformers:Qwen3VLForConditionalGeneration",
    config={"text_config": _TEXT | {"max_position_embeddings": 262144}, "vision_config": {"out_hidden_size": 4096}},
    tiny={"text_config": {"initializer_range": 0.02}},  # heads are normalised: with wide weights no token stands out
    image_processor={
        "patch_size": 16,
        "size": {"shortest_edge": 65536, "longest_edge": 16777216},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    },
)
