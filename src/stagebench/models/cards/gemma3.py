"""Gemma 3, with the shapes of https://huggingface.co/google/gemma-3-12b-it: five of six layers use windows."""

from stagebench.models.cards import layers
from stagebench.models.registration import Registration

_ROPE = {"full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}}
_VISION = layers(1152, 4304, 27, 16, model_type="siglip_vision_model", vision_use_head=False)
CARD = Registration(
    name="gemma3",
    network="transformers:Gemma3ForConditionalGeneration",
    config={
        "text_config": layers(
            3840, 15360, 48, 16, num_key_value_heads=8, vocab_size=262208, sliding_window=1024, rope_parameters=_ROPE
        ),
        "vision_config": _VISION | {"image_size": 896, "patch_size": 14},
    },
    tiny={
        "vision_config": {"num_hidden_layers": 1, "num_attention_heads": 1},  # an image is 4096 patches
        "text_config": {"query_pre_attn_scalar": 32, "tie_word_embeddings": False},  # narrow tied embeddings repeat
        "tie_word_embeddings": False,  # the last word; queries are scaled by the head width, as in the real model
    },
    tokens={"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
    image="<start_of_image>",
    image_processor={"size": {"height": 896, "width": 896}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
)
