"""The tokenizer of the random-weight profiles: a real one, built here, because nothing is downloaded.

WordPiece without a continuation prefix: any text over the alphabet is a greedy longest match of whole words and single
characters, and each token decodes to itself between blanks. So ids -> text -> ids is exact for every sequence of
ordinary tokens, and the number of tokens of a text can be checked against what the decode stage counted.
"""

import string
from itertools import islice, product

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AddedToken, PreTrainedTokenizerFast

from stagebench.core.errors import ModelError

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

# transformers' StopStringCriteria encodes this word and looks for it in the decoded text: it must be one token.
_PROBE = "abcdef"
_MAX_WORD = 100


def build_tokenizer(vocab_size: int, added: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Build a deterministic tokenizer.

    Args:
        vocab_size: ids from 0 to `vocab_size - 1` all decode to something; `added` come last.
        added: special tokens of a model family ("<image>", "<ev_start>").

    Returns:
        A tokenizer with `<unk>` 0, `<s>` 1 (put before every text), `</s>` 2, padding on the left.

    Raises:
        ModelError: where the vocabulary is too small for the alphabet.
    """
    specials = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    fixed = [*specials.values(), *_ALPHABET]
    least = len(fixed) + len(added) + 1
    if vocab_size < least:
        raise ModelError(f"vocab_size must be at least {least} to hold the alphabet, got {vocab_size}")
    room = vocab_size - len(fixed) - len(added)
    known = dict.fromkeys([_PROBE, *_CAPITALS, *_WORDS])
    # Consonant-vowel syllables fill the vocabulary: any size up to 32,000 and beyond, and each word is pronounceable.
    syllables = ["".join(s) for s in product("bdfghjklmnprstvz", "aeiou")]
    fillers = ("".join(s) for n in (2, 3) for s in product(syllables, repeat=n))
    for filler in islice(fillers, room):
        known.setdefault(filler)
    words = [word for word in known if word not in fixed]
    vocab = {token: i for i, token in enumerate([*fixed, *words[:room]])}
    if len(vocab) != vocab_size - len(added):
        raise ModelError(f"vocab_size must be at most {len(vocab) + len(added)}, got {vocab_size}")
    core = Tokenizer(
        models.WordPiece(vocab, unk_token="<unk>", continuing_subword_prefix="", max_input_chars_per_word=_MAX_WORD)
    )
    core.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()])
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, padding_side="left", clean_up_tokenization_spaces=False, **specials
    )
    marks = [AddedToken(token, lstrip=True, rstrip=True, special=True) for token in added]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    return tokenizer
