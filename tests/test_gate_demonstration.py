"""The changes that the demonstration of the gate plants do what it says they do, and it judges decisions rightly."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest
import torch

from stagebench.core.artifacts import Inputs
from stagebench.media.video import frames
from stagebench.models import eventgpt

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def demonstration():
    spec = importlib.util.spec_from_file_location(
        "gate_demonstration", ROOT / "benchmarks" / "experiments" / "gate_demonstration.py"
    )
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


def planted(code, names):
    """The names of a module after the code was appended to it."""
    names = dict(names)
    exec(code, names)  # noqa: S102 # the demonstration's own text
    return names


def test_every_changed_file_exists(demonstration):
    changed = {d.changed for clock in ("wall", "cpu") for d in demonstration.decisions("decode", clock) if d.changed}
    assert [name for name in changed if not (ROOT / "src" / "stagebench" / name).is_file()] == []
    assert len(changed) == 4


def test_a_planted_loop_ends_after_its_share_of_the_time_that_the_stage_took(demonstration, monkeypatch):
    clock = iter([0.0, 10.0, 10.4, 10.9, 11.0, 99.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    code = demonstration.SLOWED.format(clock="perf_counter", stage="decode", share=0.1)
    assert planted(code, {"decode": lambda x: x + 1})["decode"](1) == 2
    assert next(clock) == 99.0


def test_the_planted_frames_are_decoded_and_counted(demonstration, synthetic):
    clip = synthetic.video
    more = planted(demonstration.MORE_WORK["frames"][1], vars(frames))["read_video"](clip, 8)
    assert more.frames_decoded == frames.read_video(clip, 8).frames_decoded + 8


def test_the_planted_copy_is_another_tensor_of_equal_values(demonstration):
    ids = torch.zeros(1, 1, dtype=torch.long)
    inputs = Inputs(input_ids=ids, attention_mask=ids + 1, given={"pixel_values": torch.ones(1, 1, 3, 2, 2)}, images=1)
    copied = planted(demonstration.MORE_WORK["copy"][1], {"preprocess": lambda: inputs})["preprocess"]()
    (pixels,), (before,) = copied.pixels, inputs.pixels
    assert (pixels is before, torch.equal(pixels, before)) == (False, True)


def test_the_planted_tower_runs_twice(demonstration, monkeypatch):
    calls = []
    hf_model = eventgpt.modeling.EventGPTForConditionalGeneration
    monkeypatch.setattr(hf_model, "get_image_tokens", lambda self, pixel_values: calls.append(pixel_values))
    planted(demonstration.MORE_WORK["tower"][1], vars(eventgpt))
    hf_model.get_image_tokens(None, 7)
    assert calls == [7, 7]


@pytest.mark.parametrize(
    ("expected", "slower", "exit_code", "right"),
    [
        ("", [], 0, True),
        ("", [], 3, True),
        ("", [], 2, False),
        ("", ["test_stage[a-load]"], 1, False),
        ("-decode]", ["test_stage[a-decode]"], 1, True),
        ("-decode]", ["test_stage[a-decode]", "test_stage[a-load]"], 1, False),
        ("-decode]", [], 0, False),
    ],
)
def test_a_decision_is_right_where_it_names_what_was_planted_and_nothing_else(
    demonstration, tmp_path, expected, slower, exit_code, right
):
    folder = tmp_path / "aa-0"
    folder.mkdir()
    verdicts = [{"benchmark": f"benchmarks/test_stages.py::{name}", "verdict": "regression"} for name in slower]
    made = {"verdicts": verdicts, "exit_code": exit_code, "base": "1b31066", "plan": {}}
    (folder / "decision.json").write_text(json.dumps(made))
    (folder / "seconds.txt").write_text("9\n")
    outcome = demonstration.outcome(demonstration.Decision("aa-0", expected=expected), tmp_path)
    assert (outcome["right"], "WRONG" in demonstration.line(outcome)) == (right, not right)


def test_what_could_not_be_decided_is_not_right(demonstration, tmp_path):
    outcome = demonstration.outcome(demonstration.Decision("aa-0"), tmp_path)
    assert (outcome["right"], "no decision" in demonstration.line(outcome)) == (False, True)
