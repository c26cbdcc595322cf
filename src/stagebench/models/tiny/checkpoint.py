"""Tiny models before and after training: their sizes and tokenizers, and how they are saved as checkpoints."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import sentencepiece
from transformers import PreTrainedTokenizerBase

from stagebench.core.settings import ModelSettings
from stagebench.media.clip_texts import EVENTS, FRAMES, FURTHER_WORDS, told
from stagebench.media.clips import draw_clips
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
TEXTS = {name: EVENTS if family.input_kind == "events" else FRAMES for name, family in MODELS.items()}
_PIECES = 640  # of EventGPT's vocabulary: 256 bytes, and all words of its texts whole
_CLIPS = 500  # whose texts these are


def untrained(name: str, folder: Path, settings: ModelSettings) -> Family:
    """Build one of `MODELS` of the real geometry, random by the settings' seed; a folder gets its tokenizer's files."""
    family = MODELS[name]
    config = family.random_config("tiny")
    if family is EventGPT:
        (folder / "tokenizer.model").write_bytes(_sentencepiece_model())
        tokenizer: PreTrainedTokenizerBase = SlowLlamaTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(list(family.added_tokens(config)), special_tokens=True)
    else:
        tokenizer = build_tokenizer(512, family.added_tokens(config), further=FURTHER_WORDS)
    config.get_text_config().vocab_size = len(tokenizer)
    for part, (hidden, intermediate, layers, heads) in zip(
        (config.vision_config, config.get_text_config()), _SIZES[family], strict=True
    ):
        part.hidden_size, part.intermediate_size, part.num_hidden_layers = hidden, intermediate, layers
        part.num_attention_heads, part.initializer_range = heads, 0.02
    text = config.get_text_config()
    text.num_key_value_heads, text.head_dim = text.num_attention_heads, text.hidden_size // text.num_attention_heads
    return random_model(family, config, settings, tokenizer)


def save_checkpoint(model: Family, folder: Path) -> None:
    """Save a model in float16 as `pretrained` reads it: EventGPT in its authors' layout, others in transformers'."""
    model.hf_model.half().save_pretrained(folder)
    if not isinstance(model, EventGPT):
        model.tokenizer.save_pretrained(folder)
        model.image_processor.reference.save_pretrained(folder)
        return
    (folder / "tokenizer_config.json").write_text('{"legacy": true, "tokenizer_class": "LlamaTokenizer"}\n')
    config = json.loads((folder / "config.json").read_text())
    clip = folder / "clip"
    clip.mkdir(exist_ok=True)
    (clip / "config.json").write_text(json.dumps(config.pop("vision_config"), indent=2))
    model.image_processor.reference.save_pretrained(clip)
    config["mm_visual_tower"] = clip.name
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def write_card(folder: Path, name: str, options: str, accuracy: Mapping[str, Mapping[str, float]]) -> str:
    """Write a model card, and return it: how the model was made, and how right it is."""
    rows = [
        f"| {about} | {x['right']:.1%} | {x['shuffled']:.1%} | {x['chance']:.1%} |" for about, x in accuracy.items()
    ]
    seen = "event images" if MODELS[name].input_kind == "events" else "frames"
    text = f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# {name}, tiny

It says what happens in stagebench's synthetic clips, of which it sees {seen}: the architecture, the size of images and
the number of tokens of the real model, in narrow layers. It has seen nothing else, and is of no use for anything else.

    python -m stagebench.models.tiny.train --model {name} {options} OUT

How many answers about held-out clips are right as a whole, with the clip's own images and with those of another clip,
and how many the most frequent answer would be:

| question | right | images shuffled | chance |
| --- | --- | --- | --- |
{chr(10).join(rows)}

Made by the project out of nothing but its own clips and texts; licensed as the project is, Apache-2.0.
"""
    (folder / "README.md").write_text(text)
    return text


def _sentencepiece_model() -> bytes:
    """Train a vocabulary of Llama's kind on the texts of EventGPT: pairs of bytes, and bytes for what else there is."""
    clips = draw_clips(0, _CLIPS)
    texts = [EventGPT.prompt]
    for question, answer in EVENTS.values():
        for index in range(len(clips)):
            clip = told(clips, index)
            texts += [text for shape in clip.objects for text in (question.format(shape), answer(clip, shape))]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        model_type="bpe",
        vocab_size=_PIECES,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()
