"""The layer sizes that the families share: CLIP ViT-L/14 and a 7B Llama, and a narrow version of each."""

from typing import Any

CLIP_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}

# Narrow layers need wide weights: with the usual 0.02 the residual stream drowns what attention and the image add, and
# every text is one repeated word, on which no comparison of tokens could fail.
_WIDE = {"initializer_range": 0.3}
CLIP_TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, **_WIDE}
LLAMA_TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, **_WIDE}


def vision_sizes(profile: str, side: int) -> dict[str, Any]:
    """Arguments of a `CLIPVisionConfig`: the real image size in either profile, so token counts are real too."""
    return {**(CLIP_TINY if profile == "tiny" else CLIP_LARGE), "image_size": side, "patch_size": 14}


def text_sizes(profile: str, vocab_size: int) -> dict[str, Any]:
    """Arguments of a `LlamaConfig` (Vicuna 7B v1.5: https://huggingface.co/lmsys/vicuna-7b-v1.5)."""
    size = LLAMA_TINY if profile == "tiny" else LLAMA_7B
    return {
        **size,
        "vocab_size": vocab_size,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "pad_token_id": 3,
    }
