"""Tiny models before and after training: their sizes and tokenizers, and how they are saved as checkpoints."""

import io
import math
from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import AddedToken, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stagebench.core.settings import ModelSettings
from stagebench.media.clips import QUESTIONS, SHAPES, draw_clips
from stagebench.models.assembly import random_model
from stagebench.models.eventgpt import EventGPT
from stagebench.models.llava import Llava
from stagebench.models.modeling_eventgpt import SlowLlamaTokenizer
from stagebench.models.protocol import Family, key_of
from stagebench.models.video_llava import VideoLlava

# Hidden size, intermediate size, layers and heads of the tower, and of the language model. They are as wide as they can
# be while a pass with 32 new tokens takes about 150 ms on one core.
_SIZES: dict[type[Family], tuple[tuple[int, int, int, int], tuple[int, int, int, int]]] = {
    EventGPT: ((64, 256, 3, 2), (128, 384, 3, 4)),
    Llava: ((128, 384, 3, 4), (128, 384, 3, 4)),
    VideoLlava: ((64, 256, 2, 2), (96, 288, 2, 2)),
}
_PIECES = 700  # of the tokenizer, 256 bytes among them
MODELS = {family.name: family for family in _SIZES}


def untrained(name: str, folder: Path, settings: ModelSettings) -> Family:
    """Build one of `MODELS` with random weights and the real geometry; write its tokenizer to a folder."""
    family = MODELS[name]
    config = family.random_config("tiny")
    pieces = _sentencepiece()
    if family is EventGPT:
        (folder / "tokenizer.model").write_bytes(pieces.serialized_model_proto())
        (folder / "tokenizer_config.json").write_text('{"legacy": true, "tokenizer_class": "LlamaTokenizer"}\n')
        tokenizer: PreTrainedTokenizerBase = SlowLlamaTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(list(family.added_tokens(config)), special_tokens=True)
    else:
        tokenizer = _fast(pieces, family.added_tokens(config))
        tokenizer.save_pretrained(folder)
        for token in family.placeholder_tokens:
            setattr(config, key_of(token), tokenizer.convert_tokens_to_ids(token))
    if family is VideoLlava:
        config.vision_feature_layer = -1  # of so few layers, none is left out
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


def _sentencepiece() -> SentencePieceProcessor:
    """Train Llama's kind of tokenizer, on all that is said of clips in any model's prompt: a piece for each word.

    So models of both kinds have the same ids, and one can draft for the other.
    """
    asked = [each for questions in QUESTIONS.values() for each in questions.values()]
    texts = [question.format(shape) for question, _ in asked for shape in SHAPES for _ in range(40)]
    texts += [answer(clip, thing) for _, answer in asked for clip in draw_clips(0, 300) for thing in clip.things]
    texts += [line for family in MODELS.values() for line in family.prompt.splitlines() for _ in range(20)]
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=(written := io.BytesIO()),
        vocab_size=_PIECES,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return SentencePieceProcessor(model_proto=written.getvalue())


def _fast(pieces: SentencePieceProcessor, added: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Make the same tokenizer as transformers' checkpoints have it, `added` its last and special tokens."""
    vocab = {pieces.id_to_piece(i): i for i in range(len(pieces))}
    # Sentencepiece joins what gives the first of its pieces; byte pieces (<0x0A>) are not joined.
    made = [piece for piece, i in vocab.items() if not (pieces.is_byte(i) or pieces.is_control(i))]
    merges = [(x[:i], x[i:]) for x in made for i in range(1, len(x)) if x[:i] in vocab and x[i:] in vocab]
    core = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    after = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(after)
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, padding_side="left", **names)
    marks = [AddedToken(token, lstrip=True, rstrip=True, special=True) for token in added]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    return tokenizer


def save_checkpoint(model: Family, folder: Path) -> None:
    """Save a model in float16 as `pretrained` reads it: EventGPT in its authors' layout, others in transformers'."""
    clip, config = folder, model.hf_model.config
    if isinstance(model, EventGPT):
        clip = folder / "clip"
        config.vision_config.save_pretrained(clip)
        config.mm_visual_tower, config.vision_config = clip.name, None
    model.image_processor.reference.save_pretrained(clip)
    model.hf_model.half().save_pretrained(folder)
