import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebench.core.errors import ModelError
from stagebench.models.profiles import build_tokenizer

ADDED = ("<ev_patch>", "<ev_start>", "<ev_end>")
TOKENIZER = build_tokenizer(512, ADDED)


@given(st.lists(st.integers(0, 511), max_size=40))
def test_ids_survive_the_way_to_text_and_back(ids):
    text = TOKENIZER.decode(ids)
    assert TOKENIZER(text, add_special_tokens=False)["input_ids"] == ids


@pytest.mark.parametrize("vocab_size", [128, 512, 32003, 32064])
def test_every_id_of_the_vocabulary_is_used_once(vocab_size):
    tokenizer = build_tokenizer(vocab_size, ADDED)
    assert sorted(tokenizer.get_vocab().values()) == list(range(vocab_size))


def test_a_text_begins_with_bos_and_unknown_words_are_spelled():
    tokens = TOKENIZER.convert_ids_to_tokens(TOKENIZER("The dog xq runs.")["input_ids"])
    assert tokens == ["<s>", "The", "dog", "x", "q", "r", "u", "n", "s", "."]


def test_added_tokens_come_last_in_the_given_order():
    assert TOKENIZER.convert_tokens_to_ids(list(ADDED)) == [509, 510, 511]


def test_a_batch_is_padded_on_the_left():
    batch = TOKENIZER(["a dog", "dog"], padding=True)
    assert batch["attention_mask"] == [[1, 1, 1], [0, 1, 1]]


def test_a_vocabulary_too_small_for_the_alphabet_is_refused():
    with pytest.raises(ModelError, match="vocab_size must be at least 102 to hold the alphabet, got 64"):
        build_tokenizer(64, ADDED)
