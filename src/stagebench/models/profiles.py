"""The layer sizes and the tokenizer of the profiles of random weights, which need no download.

The tokenizer is WordPiece without a continuation prefix. Any text over the alphabet is a greedy longest match of whole
words and single characters, and each token decodes to itself between blanks. So ids -> text -> ids is exact for every
sequence of ordinary tokens, and the tokens of a text can be checked against decode's count.
"""

import string
from collections.abc import Mapping
from itertools import islice, product
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AddedToken, PreTrainedTokenizerFast

from stagebench.core.errors import ModelError

# CLIP ViT-L/14, Vicuna 7B v1.5 (https://huggingface.co/lmsys/vicuna-7b-v1.5), and a narrow version of each. Narrow
# layers need wide weights. With the usual 0.02, attention and the image are too small beside the residual stream.
# Every text is then one repeated word, and no comparison of tokens could fail.
_WIDE = {"initializer_range": 0.3}
_ALL = {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "pad_token_id": 3}
_TINY = {**_ALL, **_WIDE, "vocab_size": 512}

# By profile, arguments of a `CLIPVisionConfig`, without the sizes of images and patches.
VISION: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, **_WIDE},
    "7b": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
}
# By profile, arguments of a `LlamaConfig`, without the vocabulary of "7b".
TEXT: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, **_TINY},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, **_ALL},
}

# By key of a config: the largest number that `narrow` keeps.
_NARROW = {
    **dict.fromkeys(("hidden_size", "d_model", "embed_dim", "out_hidden_size", "projector_hidden_size"), 64),
    **dict.fromkeys(("projection_dim", "encoder_hidden_size", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 128),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "head_dim"), 32),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("num_hidden_layers", "depth", "encoder_layers", "decoder_layers", "linear_num_key_heads"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "num_query_tokens"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok"), 2),
    "linear_num_value_heads": 4,
}

_WORDS = """
a about above across after again air all along an and animal answer any appears are area around artificial as assistant
at away back background ball be been before behind below beside between bicycle bike big bird black blue body both
bright bus but by camera can car chat child city clear close cloud color come corner curious cyclist dark day
describe detail detailed direction does dog door down driving each edge event events every face far fast few field
first follows for foreground forward from front gives grass green ground group happened has have head helpful her his
house human image images in intelligence into is it its large left light like line little long looks man many middle
mirror more motion move moves moving near next night no object objects of off on one or other out over park parked
part passes past path people person picture polite red right river road room round running scene see seen several she
shows side sign sky slow slowly small some something stands still stop street sun surface that the their them then
there these they thing this through time to toward traffic train tree trees truck turn turns two under up vehicle video
view walk walking wall was water way what wheel where which while white who wide wind window with woman world yellow you
your questions question user
""".split()
_CAPITALS = ["A", "Describe", "The", "USER", "ASSISTANT", "What", "human's", "There"]
_ALPHABET = string.ascii_letters + string.digits + string.punctuation

_PROBE = "abcdef"  # transformers' StopStringCriteria needs it as one token


def narrow(values: Mapping[str, Any], **further: int) -> dict[str, Any]:
    """Return a config's values with few and narrow layers of each kind, and `further` keys at most as given.

    The geometry of visual tokens (sizes of images and patches, strides, grids) stays.
    """
    sizes, made = _NARROW | further, dict(values)
    made.pop("per_layer_config", None)  # settings of single layers, few of which are left
    for key, value in made.copy().items():
        if isinstance(value, dict) and key.endswith("_config"):
            made[key] = narrow(value, **further)
        elif key in sizes and type(value) is int:
            tower_head = key == "head_dim" and "num_key_value_heads" not in values  # heads share a tower's width
            made[key] = min(value, 16 if tower_head else sizes[key])
        elif key == "initializer_range":
            made[key] = _WIDE[key]
        elif key.endswith("layer_types") and value:  # of each layer, or of its feed-forward part
            made[key] = [*dict.fromkeys(value), *value][: min(len(value), _NARROW["num_hidden_layers"])]
        elif key.endswith(("_indexes", "_indices")) and value:  # of layers
            made[key] = sorted({min(layer, _NARROW["num_hidden_layers"] - 1) for layer in value})
    rope = values.get("rope_parameters") or {}
    if sections := rope.get("mrope_section"):  # sections of half of the rotated part of a head
        head = made.get("head_dim") or made["hidden_size"] // made["num_attention_heads"]
        half = int(head * rope.get("partial_rotary_factor", 1)) // 2
        parts = [half * section // sum(sections) for section in sections[1:]]
        made["rope_parameters"] = rope | {"mrope_section": [half - sum(parts), *parts]}
    return made


def build_tokenizer(
    vocab_size: int, added: tuple[str, ...] = (), names: Mapping[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """Build a deterministic tokenizer with `added` as its last, special tokens; ModelError for a wrong `vocab_size`.

    `names` are names of special tokens for a processor, such as `image_token`. The tokenizer has `<unk>` 0, `<s>` 1
    (before every text), `</s>` 2, and pads on the left.
    """
    specials = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    fixed = [*specials.values(), *_ALPHABET]
    least = len(fixed) + len(added) + 1
    if vocab_size < least:
        raise ModelError(f"vocab_size must be at least {least} to hold the alphabet, got {vocab_size}")
    # Consonant-vowel syllables fill the vocabulary, for any size beyond 32,000.
    syllables = ["".join(s) for s in product("bdfghjklmnprstvz", "aeiou")]
    fillers = ("".join(s) for n in (2, 3) for s in product(syllables, repeat=n))
    known = dict.fromkeys([*fixed, _PROBE, *_CAPITALS, *_WORDS, *islice(fillers, vocab_size)])
    vocab = {token: i for i, token in enumerate(islice(known, vocab_size - len(added)))}
    if len(vocab) != vocab_size - len(added):
        raise ModelError(f"vocab_size must be at most {len(vocab) + len(added)}, got {vocab_size}")
    core = Tokenizer(models.WordPiece(vocab, unk_token="<unk>", continuing_subword_prefix=""))
    core.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()])
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    marks = {token: AddedToken(token, lstrip=True, rstrip=True, special=True) for token in added}
    named = {name: marks[token] for name, token in (names or {}).items()}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, padding_side="left", clean_up_tokenization_spaces=False, **specials, **named
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [*marks.values()]})
    return tokenizer
