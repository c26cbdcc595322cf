"""InternVL3, with the shapes of https://huggingface.co/OpenGVLab/InternVL3-8B-hf; each frame is one tile."""

from stagebench.models.cards import layers
from stagebench.models.registration import Registration

_ROPE = {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0}
CARD = Registration(
    name="internvl",
    network="transformers:InternVLForConditionalGeneration",
    config={
        "text_config": layers(
            3584, 18944, 28, 28, num_key_value_heads=4, model_type="qwen2", vocab_size=151674, rope_parameters=_ROPE
        ),
        "vision_config": {"attention_bias": True},
        "tie_word_embeddings": False,
    },
    tokens=dict.fromkeys(("image_token", "context_image_token"), "<IMG_CONTEXT>")
    | {"start_image_token": "<img>", "end_image_token": "</img>", "video_token": "<video>"},
    image="<IMG_CONTEXT>",
    video="<video>",
    image_processor={
        "size": {"height": 448, "width": 448},
        "max_patches": 1,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
)
