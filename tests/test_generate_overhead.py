"""The stages beside `generate()`, by turns."""

import json

import generate_overhead
import numpy as np
import pytest
from click.testing import CliRunner

from stagebench.core.artifacts import Sample
from stagebench.core.settings import DEFAULT_QUESTION, GenerationSettings
from stagebench.pipeline.run_stages import prepared


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llava-1.5")


@pytest.fixture(scope="module")
def inputs(model, synthetic):
    return prepared(model, Sample(synthetic.video, DEFAULT_QUESTION))


@pytest.mark.parametrize("stages_first", [False, True])
@pytest.mark.parametrize(("tokens", "turns"), [(2, 2), (8, 2), (9, 3), (20, 4)])
def test_turn_by_turn_both_ways_write_the_same_tokens(model, inputs, monkeypatch, stages_first, tokens, turns):
    texts = []
    for name in ("decode", "reference_generate"):
        whole = getattr(generate_overhead, name)
        monkeypatch.setattr(generate_overhead, name, lambda *given, whole=whole: texts.append(whole(*given)))
    options = GenerationSettings(tokens, fixed_length=True).options()
    found = generate_overhead.one_pass(model, inputs, options, stages_first=stages_first)
    assert [len(found["staged"]), len(found["generate"])] == [turns, turns]
    assert min(found["staged"] + found["generate"]) > 0
    staged, generate = sorted(texts, key=lambda text: hasattr(text, "tolist"))
    assert [list(row) for row in staged.token_ids] == generate.tolist()


@pytest.fixture
def calls(monkeypatch):
    """A list that grows by one at each token of either way."""
    seen, criterion = [], generate_overhead.EveryFewTokens.__call__
    monkeypatch.setattr(
        generate_overhead.EveryFewTokens, "__call__", lambda self, *given: seen.append(0) or criterion(self, *given)
    )
    return seen


def test_a_turn_of_the_stages_is_as_long_as_one_of_generate(model, inputs, calls):
    given = model, inputs, GenerationSettings(20, fixed_length=True).options()
    after_stages = [len(calls) for _ in generate_overhead.staged_turns(*given)]
    after_generate = []
    calls.clear()
    generate_overhead.generate_turns(*given, meanwhile=lambda: after_generate.append(len(calls)))
    assert after_stages == [1, 9, 17, 21]  # decode asks once more why a row has ended
    assert [*after_generate, len(calls)] == [1, 9, 17, 20]


RATIO = {"eventgpt": 1.02, "llava-1.5": 1.05, "video-llava": 1.08}


@pytest.fixture
def slower(monkeypatch):
    """A clock by which the stages take about as much longer, while the passes themselves differ by far more."""
    order = []

    def one_pass(model, inputs, options, *, stages_first):
        order.append(stages_first)
        seconds, ratio = 1.0 + len(order) % 7, RATIO[model.name] + 0.001 * (17 * len(order) % 31 - 15)
        return {"staged": [seconds * ratio, seconds * ratio], "generate": [seconds, seconds]}

    monkeypatch.setattr(generate_overhead, "one_pass", one_pass)
    return order


def test_ratios_come_with_their_intervals_and_each_way_begins_in_half_the_passes(slower, tmp_path):
    path = tmp_path / "ratios.json"
    result = CliRunner().invoke(generate_overhead.main, [str(path)])
    assert result.exit_code == 0, result.output
    written = json.loads(path.read_text())
    expected = RATIO | {"over all": 1.05}
    found = {row["model"]: row["ratios"] for row in written["rows"]} | {"over all": written["over_all"]}
    assert found.keys() == expected.keys()
    for name, told in found.items():
        assert [of["ratio"] for of in told.values()] == pytest.approx([expected[name]] * 3, abs=0.005)
        assert all(of["low"] <= of["ratio"] <= of["high"] for of in told.values())
        assert f"{name}: {told['of_all_seconds']['ratio']:.3f} (" in result.output
    assert slower == [(i % 2 == 1) for i in range(31)] * 3


def test_a_turn_counts_by_its_share_of_the_time():
    wobbles = range(-3, 4)
    passes = [{"staged": [1.0 + 0.1 * wobble, 18.0 + wobble], "generate": [1.0, 9.0]} for wobble in wobbles]
    found = generate_overhead.ratios(passes)
    assert found["of_a_typical_turn"]["ratio"] == pytest.approx(2**0.9)
    assert found["of_all_seconds"]["ratio"] == pytest.approx(1.9)


def noisy(draw, ratio, hiccup):
    """A pass of nine turns with heavy tails; `hiccup` seconds more in one turn of the stages."""
    generate = np.r_[0.05, np.full(8, 0.2)] * np.exp(0.1 * draw.standard_t(3, 9))
    staged = generate * ratio * np.exp(0.03 * draw.standard_t(3, 9))
    staged[draw.integers(9)] += hiccup
    return {"staged": staged, "generate": generate}


@pytest.mark.parametrize("ratio", [0.98, 1.0, 1.02])
def test_of_noisy_turns_most_intervals_hold_the_ratio(ratio):
    draw = np.random.default_rng(7)
    found = [generate_overhead.ratios([noisy(draw, ratio, 0) for _ in range(20)]) for _ in range(60)]
    for what in ("of_a_typical_turn", "of_all_seconds"):
        assert sum(of[what]["low"] <= ratio <= of[what]["high"] for of in found) >= 50
    assert all(of["of_a_typical_turn"]["high"] / of["of_a_typical_turn"]["low"] < 1.03 for of in found)


def test_a_slow_step_now_and_then_shows_in_the_seconds():
    draw = np.random.default_rng(7)
    found = generate_overhead.ratios([noisy(draw, 1.0, 0.1) for _ in range(30)])
    assert found["of_all_seconds"]["low"] > 1.02
    assert found["of_a_typical_turn"]["low"] < 1.01


def test_both_ways_take_some_time(tmp_path):
    path = tmp_path / "ratios.json"
    result = CliRunner().invoke(generate_overhead.main, [str(path), "--passes", "10", "--new-tokens", "2"])
    assert result.exit_code == 0, result.output
    rows = json.loads(path.read_text())["rows"]
    times = [a_pass[way] for row in rows for a_pass in row["passes"] for way in ("staged", "generate")]
    assert {len(seconds) for seconds in times} == {2}
    assert len(times) == 60
    assert min(map(min, times)) > 0


def test_stages_that_write_other_tokens_are_not_timed(monkeypatch, tmp_path):
    other = GenerationSettings(3, fixed_length=True).options()
    whole = generate_overhead.staged_generate
    monkeypatch.setattr(
        generate_overhead, "staged_generate", lambda model, inputs, options: whole(model, inputs, other)
    )
    result = CliRunner().invoke(generate_overhead.main, [str(tmp_path / "ratios.json"), "--new-tokens", "2"])
    assert result.exit_code == 2
    assert "must write the tokens of generate() to be timed beside it, eventgpt wrote others" in result.output


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(generate_overhead, "row", None)
    (tmp_path / "file").touch()
    result = CliRunner().invoke(generate_overhead.main, [str(tmp_path / "file" / "ratios.json")])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
