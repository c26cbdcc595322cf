import math

import pytest
import torch

from stagebench.models.profiles import build_tokenizer
from stagebench.pipeline.verify import TokenMatch, match_tokens, ulp


@pytest.mark.parametrize(
    ("first", "second", "position"),
    [([1, 2, 3], [1, 2, 3], None), ([1, 2, 3], [1, 9, 3], 1), ([1, 2], [1, 2, 3], 2), ([], [], None)],
)
def test_the_first_divergence_is_where_tokens_or_lengths_part(first, second, position):
    assert match_tokens(first, second).position == position


@pytest.mark.parametrize(
    ("value", "dtype", "distance"),
    [
        (1.0, torch.bfloat16, 2**-7),
        (1.99, torch.bfloat16, 2**-7),
        (-4.0, torch.bfloat16, 2**-5),
        (1.0, torch.float32, 2**-23),
        (0.0, torch.bfloat16, torch.finfo(torch.bfloat16).tiny),
    ],
)
def test_an_ulp_is_the_distance_to_the_next_value(value, dtype, distance):
    assert ulp(value, dtype) == distance


def logits(*rows):
    return [torch.tensor(row, dtype=torch.bfloat16) for row in rows]


def test_equal_tokens_are_equal_whatever_the_logits():
    assert match_tokens([1, 0], [1, 0], []) == TokenMatch("equal")


def test_a_small_gap_in_the_references_logits_is_a_near_tie():
    steps = logits([0.0, 4.0], [4.0, 3.96875])
    assert match_tokens([1, 0], [1, 1], steps) == TokenMatch("near-tie", 1, 1.0)


def test_an_exact_tie_is_a_near_tie():
    assert match_tokens([0], [1], logits([4.0, 4.0])) == TokenMatch("near-tie", 0, 0.0)


def test_a_large_gap_is_a_difference():
    assert match_tokens([0], [1], logits([4.0, 2.0])) == TokenMatch("different", 0, 64.0)


def test_a_reference_that_did_not_take_its_best_token_is_a_difference():
    assert match_tokens([1], [0], logits([4.0, 3.96875])) == TokenMatch("different", 0, -1.0)


def test_a_text_that_stops_earlier_is_a_difference():
    assert match_tokens([0, 0], [0], logits([4.0, 0.0], [4.0, 0.0])) == TokenMatch("different", 1, math.inf)


def test_a_comparison_says_where_and_by_how_much():
    text = "near-tie: token 7 differs, the reference's logits are 2.00 ulps apart"
    assert str(TokenMatch("near-tie", 7, 2.0)) == text


def test_another_token_is_said_with_its_place_both_ids_and_both_texts():
    tokenizer = build_tokenizer(200)
    first, second = tokenizer.convert_tokens_to_ids(["a", "b"])
    expected = f"another token 1, {second} 'b' in place of {first} 'a'"
    assert expected == match_tokens([7, first, 9], [7, second]).describe(tokenizer)
    outcome = match_tokens([7, first], [7, second], logits([1.0] * 200, [1.0] * 200))
    assert expected == outcome.describe(tokenizer)


def test_a_text_that_ends_early_or_late_is_said_to():
    tokenizer = build_tokenizer(200)
    (first,) = tokenizer.convert_tokens_to_ids(["a"])
    assert f"another token 1, the end in place of {first} 'a'" == match_tokens([7, first], [7]).describe(tokenizer)
    assert f"another token 1, {first} 'a' in place of the end" == match_tokens([7], [7, first]).describe(tokenizer)
