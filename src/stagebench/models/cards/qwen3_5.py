"""Qwen3.5, with the shapes of https://huggingface.co/Qwen/Qwen3.5-9B: three layers of four attend linearly."""

from stagebench.models.cards.qwen3_vl import CARD as QWEN
from stagebench.models.registration import Registration

_ROPE = {
    "rope_type": "default",
    "rope_theta": 1e7,
    "partial_rotary_factor": 0.25,
    "mrope_section": [11, 11, 10],
    "mrope_interleaved": True,
}
CARD = Registration(
    name="qwen3.5",
    network="transformers:Qwen3_5ForConditionalGeneration",
    config={
        "text_config": {
            "vocab_size": 248320,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
            "max_position_embeddings": 262144,
            "rope_parameters": _ROPE,
        },
        "vision_config": {"out_hidden_size": 4096},
    },
    tokens=QWEN.tokens,
    image=QWEN.image,
    video=QWEN.video,
    image_processor=QWEN.image_processor,
)
