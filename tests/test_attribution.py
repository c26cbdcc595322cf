"""The attribution against its definition, in exact fractions, and on numbers that were published with a wrong one."""

import math
from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import permutations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import quad

from stagebench.analysis.attribution import TIME_PER_TOKEN, TOKENS, Costs, alike, attribute, mean_of, whole_generation
from stagebench.analysis.narrative import as_json, sentences, table
from stagebench.core.errors import AnalysisError

SLOW = Costs("video-llava", {"load": 6.858, "preprocess": 0.072}, 102.4, 2.533, prefilled=0)
FAST = Costs("eventgpt", {"load": 0.851, "preprocess": 0.023}, 45.5, 0.977, prefilled=0)
PARTS = ("load", "preprocess", "encode", "prefill")

seconds = st.fractions(min_value=0, max_value=20, max_denominator=1000)
positive = st.fractions(min_value=Fraction(1, 1000), max_value=20, max_denominator=1000)
tokens = st.fractions(min_value=Fraction(3, 2), max_value=300, max_denominator=20)


@st.composite
def pairs(draw, parts=seconds, decode=positive):
    """Two models, exact to the last digit."""
    prefilled = draw(st.sampled_from([0, 1]))
    return [
        Costs(name, {part: draw(parts) for part in PARTS}, draw(tokens), draw(decode), prefilled) for name in ("a", "b")
    ]


@cache
def turns():
    """In how many of all orders a factor's turn comes when just these have been switched before it."""
    orders = permutations((*PARTS, TOKENS, TIME_PER_TOKEN))
    return Counter((name, frozenset(order[:place])) for order in orders for place, name in enumerate(order))


def by_all_orders(a, b):
    """The Shapley value as it is defined: the mean, over all orders, of what a factor changes when its turn comes."""
    factors = [{**each.parts, TOKENS: each.further, TIME_PER_TOKEN: each.time_per_token} for each in (b, a)]

    def total(switched):
        now = {name: factors[name in switched][name] for name in factors[0]}
        return sum(now[part] for part in PARTS) + now[TOKENS] * now[TIME_PER_TOKEN]

    shares = dict.fromkeys(factors[0], Fraction(0))
    for (name, before), times in turns().items():
        shares[name] += times * (total(before | {name}) - total(before))
    return {name: share / turns().total() * len(shares) for name, share in shares.items()}


@given(pairs())
def test_it_is_the_mean_over_all_orders(pair):
    assert attribute(*pair).seconds == by_all_orders(*pair)


@given(pairs())
def test_it_adds_up_exactly(pair):
    result = attribute(*pair)
    assert sum(result.seconds.values()) == result.saved == pair[0].total - pair[1].total


@given(pairs())
def test_logs_add_up_to_the_logarithm_of_the_speedup(pair):
    result = attribute(*pair)
    assert math.fsum(result.logs.values()) == pytest.approx(math.log(result.speedup), rel=1e-9, abs=1e-12)


@given(pairs())
def test_swapping_the_models_flips_every_sign(pair):
    there, back = attribute(*pair), attribute(*reversed(pair))
    assert {name: -value for name, value in there.seconds.items()} == back.seconds
    assert {name: -value for name, value in there.logs.items()} == pytest.approx(back.logs, rel=1e-12, abs=1e-12)


@given(pairs())
def test_swapping_the_models_flips_every_sign_of_floats_too(pair):
    floats = [
        Costs(c.model, {k: float(v) for k, v in c.parts.items()}, float(c.tokens), float(c.decode), c.prefilled)
        for c in pair
    ]
    there, back = attribute(*floats), attribute(*reversed(floats))
    assert {name: -value for name, value in there.seconds.items()} == back.seconds


@given(pairs(), st.permutations(PARTS))
def test_the_order_in_which_parts_are_given_changes_nothing(pair, order):
    told = [Costs(c.model, {name: c.parts[name] for name in order}, c.tokens, c.decode, c.prefilled) for c in pair]
    assert attribute(*told).seconds == attribute(*pair).seconds


@given(pairs(), st.sampled_from([*PARTS, TOKENS, TIME_PER_TOKEN]))
def test_what_is_equal_in_both_gets_nothing(pair, factor):
    a, b = pair
    parts = b.parts | ({factor: a.parts[factor]} if factor in PARTS else {})
    count = a.tokens if factor == TOKENS else b.tokens
    rate = a.time_per_token if factor == TIME_PER_TOKEN else b.time_per_token
    result = attribute(a, Costs("b", parts, count, rate * (count - b.prefilled), b.prefilled))
    assert result.seconds[factor] == 0
    assert result.logs[factor] == pytest.approx(0, abs=1e-12)


@given(pairs(), st.fractions(min_value=Fraction(1, 1000), max_value=1000, max_denominator=1000))
def test_the_unit_of_time_changes_no_share(pair, unit):
    assume(pair[0].total != pair[1].total)
    scaled = [
        Costs(c.model, {k: v * unit for k, v in c.parts.items()}, c.tokens, c.decode * unit, c.prefilled) for c in pair
    ]
    assert attribute(*scaled).shares == attribute(*pair).shares
    assert attribute(*scaled).logs == pytest.approx(attribute(*pair).logs, rel=1e-9, abs=1e-12)


@given(pairs())
def test_logs_are_the_integral_along_the_exponential_path(pair):
    """What makes it a Divisia index: both factors of the product move exponentially from one model to the other."""
    a, b = pair
    log_tokens = math.log(a.further / b.further)
    moved, _ = quad(lambda s: float(b.decode) ** (1 - s) * float(a.decode) ** s * log_tokens, 0, 1)
    result = attribute(a, b)
    mean = _integral_mean(float(a.total), float(b.total))
    assert result.logs[TOKENS] == pytest.approx(moved / mean, rel=1e-6, abs=1e-12)


def _integral_mean(x, y):
    return quad(lambda s: x**s * y ** (1 - s), 0, 1)[0]


def test_the_published_totals_are_5_11_times_apart():
    result = attribute(SLOW, FAST)
    assert (round(result.speedup, 2), round(result.saved, 3)) == (5.11, 7.612)


def test_the_published_seconds_are_saved_by_loading():
    shares = attribute(SLOW, FAST).shares
    assert {name: round(100 * share, 1) for name, share in shares.items()} == {
        "load": 78.9,
        "preprocess": 0.6,
        TOKENS: 17.3,
        TIME_PER_TOKEN: 3.2,
    }


def test_the_published_generation_is_faster_because_it_is_shorter():
    result = attribute(SLOW, FAST)
    assert round(result.decode_speedup, 3) == 2.593
    assert {name: round(100 * share, 1) for name, share in result.decode_log_shares.items()} == {
        TOKENS: 85.1,
        TIME_PER_TOKEN: 14.9,
    }


def test_the_published_shares_were_the_slower_models_own_stages():
    """73 % loading and 27 % generation had been claimed: where the slower model spends its time, not what is saved."""
    load, generation = SLOW.parts["load"], SLOW.decode
    assert [round(100 * stage / SLOW.total, 1) for stage in (load, generation)] == [72.5, 26.8]
    assert [round(100 * stage / (load + generation)) for stage in (load, generation)] == [73, 27]
    shares = attribute(SLOW, FAST).shares
    saved = (shares["load"], shares[TOKENS] + shares[TIME_PER_TOKEN])
    assert [round(100 * share, 1) for share in saved] == [78.9, 20.4]


def test_every_factor_has_a_sentence():
    assert sentences(as_json(attribute(SLOW, FAST))) == [
        "eventgpt takes 1,851.000 ms where video-llava takes 9,463.000 ms: 5.11 times as fast.",
        "Loading explains 6,007.000 of the 7,612.000 ms saved (78.9 %).",
        "Preprocessing explains 49.000 of the 7,612.000 ms saved (0.6 %).",
        "The number of tokens explains 1,314.642 of the 7,612.000 ms saved (17.3 %).",
        "The time per token explains 241.358 of the 7,612.000 ms saved (3.2 %).",
        "Of generation alone, 2.593 times as fast, 85.1 % is the number of tokens and 14.9 % the time per token, "
        "in logarithms.",
    ]


def test_sentences_say_lost_and_slow_the_other_way_round():
    assert sentences(as_json(attribute(FAST, SLOW)))[:2] == [
        "video-llava takes 9,463.000 ms where eventgpt takes 1,851.000 ms: 5.11 times as slow.",
        "Loading explains 6,007.000 of the 7,612.000 ms lost (78.9 %).",
    ]


def test_sentences_name_what_goes_the_other_way_and_what_does_nothing():
    a = Costs("a", {"load": 0.3, "encode": 0.1}, 11, 0.1)
    b = Costs("b", {"load": 0.1, "encode": 0.2}, 11, 0.1)
    assert sentences(as_json(attribute(a, b)))[1:] == [
        "Loading explains 200.000 of the 100.000 ms saved (200.0 %).",
        "Encoding goes the other way, by 100.000 ms (-100.0 %).",
        "The number of tokens makes no difference.",
        "The time per token makes no difference.",
    ]


def test_equal_totals_have_no_shares_and_sentences_without_them():
    a, b = Costs("a", {"load": 2.0, "encode": 1.0}, 2, 1.0), Costs("b", {"load": 1.0, "encode": 2.0}, 2, 1.0)
    result = attribute(a, b)
    assert (result.shares, result.log_shares, result.decode_log_shares) == (None, None, None)
    assert sentences(as_json(result))[1:3] == ["Loading saves 1,000.000 ms.", "Encoding loses 1,000.000 ms."]
    assert "shares" not in as_json(result)
    assert table(as_json(result)).grid()[2][0] == ["load, ms", "2,000.000", "1,000.000", "1,000.000"]


def test_a_model_that_writes_one_token_has_no_time_per_token_and_its_number_explains_all():
    one, more = Costs("one", {"prefill": 1.0}, 1, 0.0), Costs("more", {"prefill": 1.0}, 11, 2.0)
    result = attribute(more, one)
    assert result.seconds == {"prefill": 0.0, TOKENS: 2.0, TIME_PER_TOKEN: 0.0}
    assert result.logs == pytest.approx({"prefill": 0.0, TOKENS: math.log(3), TIME_PER_TOKEN: 0.0})


def test_two_models_that_write_one_token_differ_in_no_number():
    a, b = (Costs(name, {"prefill": 1.0}, 1, decode) for name, decode in (("a", 0.002), ("b", 0.001)))
    assert attribute(a, b).seconds == {"prefill": 0.0, TOKENS: 0, TIME_PER_TOKEN: 0.001}


def test_tokens_that_take_no_time_put_all_on_the_time_per_token():
    a, b = Costs("a", {"load": 1.0}, 5, 2.0, 0), Costs("b", {"load": 1.0}, 5.5, 0.0, 0)
    assert attribute(a, b).logs == pytest.approx({"load": 0.0, TOKENS: 0.0, TIME_PER_TOKEN: math.log(3)})


def test_totals_that_are_worlds_apart_have_logs_too():
    result = attribute(Costs("a", {"load": 1.0}, 2, 0.0), Costs("b", {"load": 1e-20}, 2, 0.0))
    assert result.logs == pytest.approx({"load": 20 * math.log(10), TOKENS: 0.0, TIME_PER_TOKEN: 0.0})


def test_a_whole_generation_and_one_that_is_taken_apart_are_compared_whole():
    apart = Costs("apart", {"load": 1.0, "preprocess": 0.1, "encode": 0.2, "prefill": 0.3}, 10, 2.0)
    a, b = alike(SLOW, apart)
    assert (a, b) == (SLOW, Costs("apart", {"load": 1.0, "preprocess": 0.1}, 10, 2.5, prefilled=0))
    assert whole_generation(b) == b


def test_parts_that_only_one_model_has_are_refused():
    with pytest.raises(AnalysisError, match="must have the same parts, got wait for one of them only"):
        attribute(Costs("a", {"load": 1.0, "wait": 1.0}, 2, 1.0), Costs("b", {"load": 1.0}, 2, 1.0))


def test_two_models_of_one_name_are_refused():
    with pytest.raises(AnalysisError, match="two models must have two names, got 'eventgpt' twice"):
        attribute(FAST, FAST)


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        (({"load": -1.0}, 2, 1.0), "load must be at least 0 s and finite, got -1.0"),
        (({"load": math.nan}, 2, 1.0), "load must be at least 0 s and finite, got nan"),
        (({"load": 1.0}, 2, math.inf), "decode must be at least 0 s and finite, got inf"),
        (({"load": 1.0}, 0, 1.0), "there must be at least one token, got 0"),
        (({"load": 1.0}, 0.5, 1.0), "there must be at least one token, got 0.5"),
        (({"load": 1.0}, math.nan, 1.0), "there must be at least one token, got nan"),
        (({"load": 0.0}, 2, 0.0), "the total must be more than 0 s, got 0.0"),
    ],
)
def test_impossible_costs_are_refused(numbers, complaint):
    with pytest.raises(AnalysisError, match=f"^m: {complaint}"):
        Costs("m", *numbers)


def test_a_mean_has_the_time_per_token_of_all_tokens_together():
    few, many = Costs("m", {"load": 1.0}, 2, 1.0), Costs("m", {"load": 3.0}, 11, 2.0)
    assert mean_of([few, many]) == Costs("m", {"load": 2.0}, 6.5, 1.5)
    assert mean_of([few, many]).time_per_token == 3.0 / 11


def test_a_mean_over_unlike_parts_or_nothing_is_refused():
    with pytest.raises(AnalysisError, match="every sample must have the parts load"):
        mean_of([Costs("m", {"load": 1.0}, 2, 1.0), Costs("m", {}, 2, 1.0)])
    with pytest.raises(AnalysisError, match="at least one sample, got none"):
        mean_of([])
