"""Qwen3.5, with the shapes of https://huggingface.co/Qwen/Qwen3.5-9B: three of four layers use linear attention."""

from dataclasses import replace

from stagebench.models.cards import layers, qwen3_vl

_SECTIONS = {"mrope_section": [11, 11, 10], "mrope_interleaved": True}
_ROPE = {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25} | _SECTIONS
_LINEAR = {"linear_num_key_heads": 16, "linear_num_value_heads": 32}
_TEXT = layers(4096, 12288, 32, 16, num_key_value_heads=4, head_dim=256, vocab_size=248320, rope_parameters=_ROPE)
CARD = replace(
    qwen3_vl.CARD,
    name="qwen3.5",
    network="transformers:Qwen3_5ForConditionalGeneration",
    config={
        "text_config": _TEXT | _LINEAR | {"max_position_embeddings": 262144},
        "vision_config": {"out_hidden_size": 4096},
    },
    tiny={},
)
