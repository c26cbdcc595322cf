"""Tiny models before and after training: their sizes and tokenizers, and how they are saved as checkpoints."""

import math
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from stagebench.core.settings import ModelSettings
from stagebench.models.assembly import random_model
from stagebench.models.eventgpt import EventGPT
from stagebench.models.llava import Llava
from stagebench.models.modeling_eventgpt import SlowLlamaTokenizer
from stagebench.models.profiles import build_tokenizer
from stagebench.models.protocol import Family
from stagebench.models.video_llava import VideoLlava

# Hidden size, intermediate size, layers and heads, of the tower and of the language model: as wide as a whole pass of
# 24 tokens stays under 150 ms on one core of a CPU.
_SIZES: dict[type[Family], tuple[tuple[int, int, int, int], tuple[int, int, int, int]]] = {
    EventGPT: ((64, 256, 3, 2), (128, 384, 3, 4)),
    Llava: ((128, 384, 3, 4), (128, 384, 3, 4)),
    VideoLlava: ((64, 256, 3, 2), (64, 256, 2, 2)),
}
MODELS = {family.name: family for family in _SIZES}


def untrained(name: str, folder: Path, settings: ModelSettings) -> Family:
    """Build one of `MODELS` of the real geometry, random by the settings' seed; a folder gets its tokenizer's files."""
    family = MODELS[name]
    config = family.random_config("tiny")
    if family is EventGPT:
        # Sentencepiece's pairs of bytes, trained on the texts about drawn clips: each of their words is one piece.
        (folder / "tokenizer.model").write_bytes(Path(__file__).with_name("eventgpt.model").read_bytes())
        (folder / "tokenizer_config.json").write_text('{"legacy": true, "tokenizer_class": "LlamaTokenizer"}\n')
        tokenizer: PreTrainedTokenizerBase = SlowLlamaTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(list(family.added_tokens(config)), special_tokens=True)
    else:
        tokenizer = build_tokenizer(512, family.added_tokens(config))
        tokenizer.save_pretrained(folder)
    text = config.get_text_config()
    for part, sizes in zip((config.vision_config, text), _SIZES[family], strict=True):
        part.hidden_size, part.intermediate_size, part.num_hidden_layers, part.num_attention_heads = sizes
        part.initializer_range = 0.02 if part is config.vision_config else 0.05
    text.num_key_value_heads, text.head_dim = text.num_attention_heads, text.hidden_size // text.num_attention_heads
    text.vocab_size = len(tokenizer)
    model = random_model(family, config, settings, tokenizer)
    # Position embeddings begin as waves across and down. Drawn at random, they are a thirtieth of what a plain patch
    # is, and no motion is found before they have grown.
    weights = (x.weight for name, x in model.hf_model.named_modules() if name.endswith("position_embedding"))
    with torch.no_grad():
        for weight in weights:
            side, waves = math.isqrt(len(weight)), weight.shape[1] // 4
            angles = torch.outer(torch.arange(side), math.pi / 2 / side ** (torch.arange(waves) / waves))
            along = torch.cat([angles.sin(), angles.cos()], 1) / 2
            weight[1:] = torch.cat([along.repeat(side, 1), along.repeat_interleave(side, 0)], 1)  # after CLS
    return model


def save_checkpoint(model: Family, folder: Path) -> None:
    """Save a model in float16 as `pretrained` reads it: EventGPT in its authors' layout, others in transformers'."""
    clip, config = folder, model.hf_model.config
    if isinstance(model, EventGPT):
        clip = folder / "clip"
        config.vision_config.save_pretrained(clip)
        config.mm_visual_tower, config.vision_config = clip.name, None
    model.image_processor.reference.save_pretrained(clip)
    model.hf_model.half().save_pretrained(folder)
