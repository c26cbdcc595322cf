"""LLaVA-OneVision, with the shapes of https://huggingface.co/llava-hf/llava-onevision-qwen2-7b-ov-hf."""

from stagebench.models.registration import Registration

CARD = Registration(
    name="llava-onevision",
    network="transformers:LlavaOnevisionForConditionalGeneration",
    config={  # that of its tower is the config class's own
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 152128,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    },
    tokens={"image_token": "<image>", "video_token": "<video>"},
    image="<image>",
    video="<video>",
    processor={"num_image_tokens": 729, "vision_feature_select_strategy": "full"},
)
