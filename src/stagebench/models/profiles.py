"""What the profiles of random weights have, because nothing is downloaded: layer sizes, and a tokenizer.

The tokenizer is a real one, WordPiece without a continuation prefix: any text over the alphabet is a greedy longest
match of whole words and single characters, and each token decodes to itself between blanks. So ids -> text -> ids is
exact for every sequence of ordinary tokens, and the tokens of a text can be checked against what decode counted.
"""

import string
from itertools import islice, product
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AddedToken, PreTrainedTokenizerFast

from stagebench.core.errors import ModelError

# CLIP ViT-L/14, Vicuna 7B v1.5 (https://huggingface.co/lmsys/vicuna-7b-v1.5), and a narrow version of each. Narrow
# layers need wide weights: with the usual 0.02 the residual stream drowns what attention and the image add, and every
# text is one repeated word, on which no comparison of tokens could fail.
_WIDE = {"initializer_range": 0.3}
_ALL = {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "pad_token_id": 3}
_TINY = {**_ALL, **_WIDE, "vocab_size": 512}

# By profile, arguments of a `CLIPVisionConfig`, but the size of an image and of a patch.
VISION: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, **_WIDE},
    "7b": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
}
# By profile, arguments of a `LlamaConfig`, but the number of tokens in "7b".
TEXT: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, **_TINY},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, **_ALL},
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

_PROBE = "abcdef"  # transformers' StopStringCriteria looks for it in the text that it encoded: it must be one token


def build_tokenizer(vocab_size: int, added: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Build a deterministic tokenizer, `added` its last and special tokens; ModelError for too few, or too many, ids.

    It has `<unk>` 0, `<s>` 1 (put before every text), `</s>` 2, and pads on the left.
    """
    specials = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    fixed = [*specials.values(), *_ALPHABET]
    least = len(fixed) + len(added) + 1
    if vocab_size < least:
        raise ModelError(f"vocab_size must be at least {least} to hold the alphabet, got {vocab_size}")
    # Consonant-vowel syllables fill the vocabulary: any size up to 32,000 and beyond, and each word is pronounceable.
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
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, padding_side="left", clean_up_tokenization_spaces=False, **specials
    )
    marks = [AddedToken(token, lstrip=True, rstrip=True, special=True) for token in added]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    return tokenizer
