"""SmolVLM2, with the shapes of https://huggingface.co/HuggingFaceTB/SmolVLM2-2.2B-Instruct; frames are not split."""

from stagebench.models.cards import layers
from stagebench.models.registration import Registration

_ROPE = {"rope_type": "default", "rope_theta": 130000.0}
_TEXT = layers(2048, 8192, 24, 32, model_type="llama", head_dim=64, vocab_size=49280, rope_parameters=_ROPE)
CARD = Registration(
    name="smolvlm",
    network="transformers:SmolVLMForConditionalGeneration",
    config={
        "text_config": _TEXT | {"max_position_embeddings": 8192},
        "vision_config": {"intermediate_size": 4304, "num_hidden_layers": 27, "image_size": 384, "patch_size": 14},
        "scale_factor": 3,
    },
    tokens={
        "image_token": "<image>",
        "video_token": "<video>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    },
    image="<image>",
    video="<video>",
    image_processor={"do_image_splitting": False, "max_image_size": {"longest_edge": 384}},
    processor={"image_seq_len": 81},
)
