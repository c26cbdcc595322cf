"""The stages beside `generate()`, pass by pass."""

import json
import math

import beside_generate
import pytest
from click.testing import CliRunner

MODELS = ["eventgpt", "llava-1.5", "video-llava"]


def test_each_way_has_a_turn_in_every_pass_and_the_first_passes_warm_up():
    order = []
    ways = {name: lambda name=name: order.append(name) or float(len(order)) for name in "ab"}
    seconds = beside_generate.by_turns(ways, 50, seed=1)
    passes = ["".join(order[i : i + 2]) for i in range(0, 104, 2)]
    assert set(passes) == {"ab", "ba"}
    assert sorted(seconds["a"] + seconds["b"]) == list(range(5, 105))


@pytest.fixture
def slower(monkeypatch):
    """A clock by which the stages take 1.02 to 1.04 of `generate()`, whose own passes differ by far more."""
    monkeypatch.setattr(beside_generate, "by_turns", lambda ways, passes, seed: SECONDS)


SECONDS = {
    "generate": [1.0 + i % 7 for i in range(30)],
    "staged": [(1.0 + i % 7) * (1.02 + 0.01 * (i % 3)) for i in range(30)],
}


def test_a_ratio_is_that_of_a_pass_with_its_interval(slower, tmp_path):
    path = tmp_path / "ratios.json"
    result = CliRunner().invoke(beside_generate.main, [str(path)])
    assert result.exit_code == 0, result.output
    rows = json.loads(path.read_text())["rows"]
    assert [row["model"] for row in rows] == MODELS
    assert all(math.isclose(row["ratio"], 1.03) and 1.02 <= row["low"] <= 1.03 <= row["high"] <= 1.04 for row in rows)


def test_both_ways_take_some_time(tmp_path):
    path = tmp_path / "ratios.json"
    result = CliRunner().invoke(beside_generate.main, [str(path), "--passes", "10", "--new-tokens", "2"])
    assert result.exit_code == 0, result.output
    rows = json.loads(path.read_text())["rows"]
    assert {len(row["seconds"][way]) for row in rows for way in ("staged", "generate")} == {10}
    assert min(min(row["seconds"][way]) for row in rows for way in ("staged", "generate")) > 0
