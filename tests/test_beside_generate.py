"""The stages beside `generate()`, by turns."""

import json
import math

import beside_generate
import numpy as np
import pytest
from click.testing import CliRunner

from stagebench.media.scene import render_scene
from stagebench.models.registry import build_model
from stagebench.pipeline import prepared
from stagebench.types import DEFAULT_QUESTION, GenerationSettings, ModelSettings, Sample

MODELS = ["eventgpt", "llava-1.5", "video-llava"]


@pytest.fixture(scope="module")
def model():
    return build_model("llava-1.5", ModelSettings())


@pytest.fixture(scope="module")
def inputs(model, tmp_path_factory):
    return prepared(model, Sample(render_scene(tmp_path_factory.mktemp("scene")).video, DEFAULT_QUESTION))


@pytest.mark.parametrize("stages_first", [False, True])
@pytest.mark.parametrize(("tokens", "turns"), [(2, 2), (8, 2), (9, 3), (20, 4)])
def test_turn_by_turn_both_ways_write_the_same_tokens(model, inputs, monkeypatch, stages_first, tokens, turns):
    texts = []
    for name in ("decode", "reference_generate"):
        whole = getattr(beside_generate, name)
        monkeypatch.setattr(beside_generate, name, lambda *given, whole=whole: texts.append(whole(*given)))
    options = GenerationSettings(tokens, fixed_length=True).options()
    found = beside_generate.one_pass(model, inputs, options, stages_first=stages_first)
    assert [len(found["staged"]), len(found["generate"])] == [turns, turns]
    assert min(found["staged"] + found["generate"]) > 0
    staged, generate = sorted(texts, key=lambda text: hasattr(text, "tolist"))
    assert [list(row) for row in staged.token_ids] == generate.tolist()


@pytest.fixture
def calls(monkeypatch):
    """A list that grows by one at each token of either way."""
    seen, criterion = [], beside_generate.EveryFewTokens.__call__
    monkeypatch.setattr(
        beside_generate.EveryFewTokens, "__call__", lambda self, *given: seen.append(0) or criterion(self, *given)
    )
    return seen


def test_a_turn_of_the_stages_is_as_long_as_one_of_generate(model, inputs, calls):
    given = model, inputs, GenerationSettings(20, fixed_length=True).options()
    after_stages = [len(calls) for _ in beside_generate.staged_turns(*given)]
    after_generate = []
    calls.clear()
    beside_generate.generate_turns(*given, meanwhile=lambda: after_generate.append(len(calls)))
    assert after_stages == [1, 9, 17, 21]  # decode asks once more why a row has ended
    assert [*after_generate, len(calls)] == [1, 9, 17, 20]


@pytest.fixture
def slower(monkeypatch):
    """A clock by which the stages take 1.02 to 1.04 of `generate()` in one half of a pass, and as long in the other.

    The passes themselves differ by far more.
    """
    order = []

    def one_pass(model, inputs, options, *, stages_first):
        order.append(stages_first)
        seconds, ratio = 1.0 + len(order) % 7, 1.02 + 0.01 * (len(order) % 3)
        return {"staged": [seconds * ratio, seconds], "generate": [seconds, seconds]}

    monkeypatch.setattr(beside_generate, "one_pass", one_pass)
    return order


def test_ratios_come_with_their_intervals_and_each_way_begins_in_half_the_passes(slower, tmp_path):
    path = tmp_path / "ratios.json"
    result = CliRunner().invoke(beside_generate.main, [str(path)])
    assert result.exit_code == 0, result.output
    written = json.loads(path.read_text())
    assert [row["model"] for row in written["rows"]] == MODELS
    for found in (*written["rows"], written["over_all"]):
        assert math.isclose(found["ratio"], math.sqrt(1.03))
        assert math.sqrt(1.02) <= found["low"] <= found["ratio"] <= found["high"] <= math.sqrt(1.04)
    passes = [(i % 2 == 1) for i in range(31)]
    assert slower == passes * 3


def test_a_turn_counts_by_its_share_of_the_time():
    passes = [{"staged": [1.0, 18.0 + wobble], "generate": [1.0, 9.0]} for wobble in range(-3, 4)]
    assert math.isclose(beside_generate.ratio(passes)["ratio"], 2**0.9)


@pytest.mark.parametrize("ratio", [0.98, 1.0, 1.02])
def test_of_noisy_turns_nineteen_intervals_in_twenty_hold_the_ratio(ratio):
    draw = np.random.default_rng(7)

    def one_pass():
        generate = np.r_[0.05, np.full(8, 0.2)] * np.exp(0.1 * draw.standard_t(3, 9))
        return {"staged": generate * ratio * np.exp(0.03 * draw.standard_t(3, 9)), "generate": generate}

    found = [beside_generate.ratio([one_pass() for _ in range(20)]) for _ in range(60)]
    held = sum(of["low"] <= ratio <= of["high"] for of in found)
    assert 50 <= held <= 60
    assert all(of["high"] / of["low"] < 1.03 for of in found)


def test_both_ways_take_some_time(tmp_path):
    path = tmp_path / "ratios.json"
    result = CliRunner().invoke(beside_generate.main, [str(path), "--passes", "10", "--new-tokens", "2"])
    assert result.exit_code == 0, result.output
    rows = json.loads(path.read_text())["rows"]
    times = [a_pass[way] for row in rows for a_pass in row["passes"] for way in ("staged", "generate")]
    assert {len(seconds) for seconds in times} == {2}
    assert len(times) == 60
    assert min(map(min, times)) > 0


def test_stages_that_write_other_tokens_are_not_timed(monkeypatch, tmp_path):
    other = GenerationSettings(3, fixed_length=True).options()
    whole = beside_generate.staged_generate
    monkeypatch.setattr(beside_generate, "staged_generate", lambda model, inputs, options: whole(model, inputs, other))
    result = CliRunner().invoke(beside_generate.main, [str(tmp_path / "ratios.json"), "--new-tokens", "2"])
    assert result.exit_code == 2
    assert "must write the tokens of generate() to be timed beside it, eventgpt wrote others" in result.output


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(beside_generate, "row", None)
    (tmp_path / "file").touch()
    result = CliRunner().invoke(beside_generate.main, [str(tmp_path / "file" / "ratios.json")])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
