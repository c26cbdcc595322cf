"""Agreement of two texts, and the arithmetic of speculative decoding, against simulation and closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebench.analysis.attribution import Costs
from stagebench.analysis.drafting import agreement, checks, speculation, tokens_per_check

drafts = st.integers(0, 40)
texts = st.lists(st.integers(0, 3), max_size=12)


@given(st.lists(st.booleans(), max_size=60), drafts)
def test_each_check_but_the_last_gives_one_token_and_those_that_were_right_before_it(right, k):
    text, taken = list(right), 0
    while text:
        given = 0
        while given < min(k, len(text)) and text[given]:
            given += 1
        text, taken = text[given + 1 :], taken + 1
    assert checks(right, k) == taken


@given(st.lists(st.booleans(), min_size=1, max_size=60), drafts)
def test_a_draft_that_is_never_right_leaves_the_targets_own_token(right, k):
    assert tokens_per_check([[False for _ in right]], k) == tokens_per_check([right], 0) == 1.0


@pytest.mark.parametrize("k", [1, 4, 10])
def test_tokens_of_a_check_are_the_papers_closed_form_where_tokens_are_independent(k):
    right = np.random.default_rng(0).random(200_000) < 0.8
    assert tokens_per_check([right.tolist()], k) == pytest.approx((1 - 0.8 ** (k + 1)) / (1 - 0.8), rel=0.01)


def test_tokens_of_a_check_are_fewer_where_wrong_ones_do_not_come_together():
    """Of both texts half are right: what independent tokens of one rate give is not what texts give."""
    assert tokens_per_check([[True, False] * 10], 4) < tokens_per_check([[True] * 10 + [False] * 10], 4) * 1.4
    assert (checks([True, False] * 10, 4), checks([True] * 10 + [False] * 10, 4)) == (10, 12)


def test_rates_by_position_are_of_the_pairs_that_reach_it():
    found = agreement([([5, 6, 7], [5, 9, 7]), ([5], [5, 6])])
    assert found["match_rates"] == [1.0, 0.0, 1.0]


def test_prefixes_end_where_two_texts_part_or_one_ends():
    assert agreement([([5, 6, 7], [5, 9, 7]), ([5, 6], [5, 6, 8]), ([1], [2])])["mean_prefix"] == 1.0


def test_acceptance_counts_tokens_up_to_the_first_that_differs():
    """3 agreed and 2 parted; the equal 7 after the parting is luck."""
    assert agreement([([5, 6, 7], [5, 9, 7]), ([5, 6], [5, 6, 8]), ([1], [2])])["prefix_acceptance"] == 3 / 5


def test_texts_without_a_token_have_no_acceptance():
    found = agreement([([], [1])])
    assert (found["match_rates"], found["mean_prefix"], found["prefix_acceptance"]) == ([], 0.0, None)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
def test_draft_and_target_agree_both_ways(pairs):
    assert agreement(pairs) == agreement([(b, a) for a, b in pairs])


@given(st.lists(texts, min_size=1, max_size=6))
def test_a_text_agrees_with_itself(each):
    assert agreement([(text, text) for text in each])["prefix_acceptance"] in (1.0, None)


def test_acceptance_is_the_rate_that_the_texts_were_made_with():
    rng = np.random.default_rng(0)
    same = rng.random((400, 50)) < 0.8
    target = [list(range(50))] * 400
    draft = [[token if equal else -1 for token, equal in enumerate(row)] for row in same]
    assert agreement(list(zip(draft, target, strict=True)))["prefix_acceptance"] == pytest.approx(0.8, abs=0.02)


DRAFT = Costs("draft", {"prefill": 1.0}, 11, 1.0)
TARGET = Costs("target", {"prefill": 2.0}, 11, 10.0)


def line(right, sequence="a", plain=8.0, drafted=2.0):
    return {"sequence": sequence, "tokens": 4, "right": right, "plain": plain, "drafted": drafted}


def test_a_draft_that_is_always_right_is_bounded_by_its_own_time():
    found = speculation([line([True] * 20)], DRAFT, TARGET)
    assert (found["cost_ratio"], found["acceptance"], found["tokens_per_check"]) == (0.1, 1.0, 5.0)
    assert found["expected_speedup"] == pytest.approx(5 / 1.4)
    assert found["e2e_speedup"] == pytest.approx(12 / (3 + 10 / (5 / 1.4)))
    assert (found["best_draft_tokens"], found["best_speedup"]) == (19, pytest.approx(20 / 2.9))


def test_a_draft_that_is_never_right_is_best_left_out():
    found = speculation([line([False] * 20)], DRAFT, TARGET)
    assert (found["best_draft_tokens"], found["best_speedup"], found["expected_speedup"]) == (0, 1.0, 1 / 1.4)


def test_the_measured_speedup_is_of_all_samples_and_has_an_interval_over_sequences():
    two = [line([True], "a", 6.0, 2.0), line([False], "b", 2.0, 2.0)]
    found, same = speculation(two, DRAFT, TARGET), speculation([x | {"sequence": "a"} for x in two], DRAFT, TARGET)
    assert (found["measured_speedup"], found["acceptance"], same["measured_interval"]) == (2.0, 0.5, None)
    assert (found["measured_interval"], found["acceptance_interval"]) == (
        {"low": 1.0, "high": 3.0},
        {"low": 0.0, "high": 1.0},
    )


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_the_whole_path_gains_no_more_than_decode_where_drafting_pays(right):
    found = speculation([line(right)], DRAFT, TARGET)
    assert found["e2e_speedup"] <= max(found["expected_speedup"], 1.0)


def test_what_was_refused_or_has_one_token_is_no_sample():
    refused = {"sequence": "a", "tokens": 4, "error": "another text"}
    assert speculation([refused, line([])], DRAFT, TARGET) is None
    assert speculation([refused, line([True])], DRAFT, TARGET)["samples"] == 1
    assert speculation([line([True])], Costs("draft", {"prefill": 1.0}, 1, 0.0), TARGET) is None
