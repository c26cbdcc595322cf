"""Gemma 3, with the shapes of https://huggingface.co/google/gemma-3-12b-it: five layers of six see a window."""

from stagebench.models.registration import Registration

_ROPE = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
CARD = Registration(
    name="gemma3",
    network="transformers:Gemma3ForConditionalGeneration",
    config={
        "text_config": {
            "vocab_size": 262208,
            "hidden_size": 3840,
            "intermediate_size": 15360,
            "num_hidden_layers": 48,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "sliding_window": 1024,
            "rope_parameters": {"full_attention": _ROPE},
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 896,
            "patch_size": 14,
            "vision_use_head": False,
        },
    },
    tiny={
        "vision_config": {"num_hidden_layers": 1, "num_attention_heads": 1},  # an image is 4096 patches
        "text_config": {"query_pre_attn_scalar": 32, "tie_word_embeddings": False},  # so narrow, tied ones repeat
        "tie_word_embeddings": False,  # the last word; a head's width scales its queries, as in the real one
    },
    tokens={"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
    image="<start_of_image>",
    image_processor={"size": {"height": 896, "width": 896}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
)
