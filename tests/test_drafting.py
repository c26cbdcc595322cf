"""Agreement of two texts, and the arithmetic of speculative decoding, against simulation and closed forms."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stagebench.analysis.attribution import Costs
from stagebench.analysis.drafting import agreement, best_draft, decode_speedup, drafting, tokens_per_check

rates = st.floats(0, 1)
ratios = st.floats(0, 5)
drafts = st.integers(0, 40)
texts = st.lists(st.integers(0, 3), max_size=12)


@given(st.floats(0, 0.99), drafts)
def test_tokens_of_a_check_are_the_papers_closed_form(acceptance, k):
    assert tokens_per_check(acceptance, k) == pytest.approx((1 - acceptance ** (k + 1)) / (1 - acceptance))


@given(drafts)
def test_a_draft_that_is_never_right_leaves_the_targets_own_token(k):
    assert tokens_per_check(0.0, k) == 1.0


@given(drafts)
def test_a_draft_that_is_always_right_gives_all_and_one_more(k):
    assert tokens_per_check(1.0, k) == k + 1


def test_tokens_of_a_check_are_what_a_simulation_accepts():
    rng = np.random.default_rng(0)
    accepted = rng.random((100_000, 4)) < 0.7
    simulated = 1 + np.cumprod(accepted, axis=1).sum(axis=1).mean()
    assert tokens_per_check(0.7, 4) == pytest.approx(simulated, rel=0.01)


@given(rates, ratios)
def test_drafting_nothing_changes_nothing(acceptance, cost):
    assert decode_speedup(acceptance, cost, 0) == 1.0


@given(rates, ratios)
def test_drafting_pays_only_where_acceptance_exceeds_the_cost(acceptance, cost):
    """Corollary 3.9 of the paper."""
    assume(abs(acceptance - cost) > 1e-9)
    assert (best_draft(acceptance, cost) > 0) == (acceptance > cost)


@given(rates, ratios)
def test_no_other_draft_is_faster_than_the_best(acceptance, cost):
    best = decode_speedup(acceptance, cost, best_draft(acceptance, cost))
    assert best == max(decode_speedup(acceptance, cost, k) for k in range(33))
    assert best >= 1.0


def test_a_speedup_that_was_worked_out_by_hand():
    """1 + 0.8 + ... + 0.8^5 = 3.68928 tokens for 1.25 steps."""
    assert decode_speedup(0.8, 0.05, 5) == pytest.approx(2.951424)


def test_rates_by_position_are_of_the_pairs_that_reach_it():
    found = agreement([([5, 6, 7], [5, 9, 7]), ([5], [5, 6])])
    assert found["match_rates"] == [1.0, 0.0, 1.0]


def test_prefixes_end_where_two_texts_part_or_one_ends():
    assert agreement([([5, 6, 7], [5, 9, 7]), ([5, 6], [5, 6, 8]), ([1], [2])])["mean_prefix"] == 1.0


def test_acceptance_counts_tokens_up_to_the_first_that_differs():
    """3 agreed and 2 parted; the equal 7 after the parting is luck."""
    assert agreement([([5, 6, 7], [5, 9, 7]), ([5, 6], [5, 6, 8]), ([1], [2])])["acceptance"] == 3 / 5


def test_texts_without_a_token_have_no_acceptance():
    found = agreement([([], [1])])
    assert (found["match_rates"], found["mean_prefix"], found["acceptance"]) == ([], 0.0, None)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
def test_draft_and_target_agree_both_ways(pairs):
    assert agreement(pairs) == agreement([(b, a) for a, b in pairs])


@given(st.lists(texts, min_size=1, max_size=6))
def test_a_text_agrees_with_itself(each):
    assert agreement([(text, text) for text in each])["acceptance"] in (1.0, None)


def test_acceptance_is_the_rate_that_the_texts_were_made_with():
    rng = np.random.default_rng(0)
    same = rng.random((400, 50)) < 0.8
    target = [list(range(50))] * 400
    draft = [[token if equal else -1 for token, equal in enumerate(row)] for row in same]
    assert agreement(list(zip(draft, target, strict=True)))["acceptance"] == pytest.approx(0.8, abs=0.02)


DRAFT = Costs("draft", {"prefill": 1.0}, 11, 1.0)
TARGET = Costs("target", {"prefill": 2.0}, 11, 10.0)


def test_a_draft_that_is_always_right_is_bounded_by_its_own_time():
    found = drafting(DRAFT, TARGET, 1.0)
    assert (found["cost_ratio"], found["draft_tokens"], found["tokens_per_check"]) == (0.1, 32, 33.0)
    assert found["decode_speedup"] == pytest.approx(33 / 4.2)
    assert found["e2e_speedup"] == pytest.approx(12 / (3 + 42 / 33))


def test_a_draft_that_is_never_right_is_left_out_and_costs_nothing():
    found = drafting(DRAFT, TARGET, 0.0)
    assert (found["draft_tokens"], found["decode_speedup"], found["e2e_speedup"]) == (0, 1.0, 1.0)


@given(rates)
def test_the_whole_path_gains_less_than_decode(acceptance):
    found = drafting(DRAFT, TARGET, acceptance)
    assert found["e2e_speedup"] <= found["decode_speedup"]


def test_drafting_needs_a_time_per_token_of_both_and_an_acceptance():
    assert drafting(Costs("draft", {"prefill": 1.0}, 1, 0.0), TARGET, 0.5) is None
    assert drafting(DRAFT, TARGET, None) is None
