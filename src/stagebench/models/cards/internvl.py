"""InternVL3, with the shapes of https://huggingface.co/OpenGVLab/InternVL3-8B-hf; a frame is one tile, as of a clip."""

from stagebench.models.registration import Registration

CARD = Registration(
    name="internvl",
    network="transformers:InternVLForConditionalGeneration",
    config={
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 151674,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0},
        },
        "vision_config": {"attention_bias": True},
        "tie_word_embeddings": False,
    },
    tokens={
        "image_token": "<IMG_CONTEXT>",
        "context_image_token": "<IMG_CONTEXT>",
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "video_token": "<video>",
    },
    image="<IMG_CONTEXT>",
    video="<video>",
    image_processor={
        "size": {"height": 448, "width": 448},
        "max_patches": 1,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
)
