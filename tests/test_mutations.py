"""Eight planted faults, each a way in which published benchmarks of these models lied; a named test catches each.

The named test runs in a pytest session of its own inside this process, with the fault planted, and must fail.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

from stagebench.core.stages import STAGE_NAMES
from stagebench.models.eventgpt import EventGPT
from stagebench.models.llava import Llava
from stagebench.models.video_llava import VideoLlava
from stagebench.pipeline import decode, prefill, timed_pass

ROOT = Path(__file__).parents[1]
GREEDILY = "tests/test_split.py::test_the_split_equals_generate_greedily"
UNDER_EVERY_OPTION = "tests/test_split.py::test_the_split_equals_generate_under_every_option"
CLAIMS = "tests/test_claims.py::test_every_claim_but_the_timed_one_holds_for_an_honest_model[llava-1.5]"
ONE_DECODE = "tests/test_adapters.py::test_a_prefilled_is_good_for_one_decode[llava-1.5]"
STAGE_TIMES = "tests/test_cli.py::test_the_stages_and_the_rest_make_up_the_whole"


def run_the_tower_twice(patch):
    for adapter in (EventGPT, Llava, VideoLlava):
        once = adapter.encode
        patch.setattr(adapter, "encode", lambda self, inputs, once=once: (once(self, inputs), once(self, inputs))[1])


def apply_the_adaptor_twice(patch):
    once = EventGPT.encode
    patch.setattr(EventGPT, "encode", lambda self, inputs: self.hf_model.model.feature_adaptor(once(self, inputs)))


def change_the_state(patch, key, change):
    """Change a tensor of the state that prefill hands to decode."""
    honest = prefill._first_step

    def lying(*args, **kwargs):
        prefilled = honest(*args, **kwargs)
        if prefilled.state.get(key) is None:
            return prefilled
        return replace(prefilled, state=prefilled.state | {key: change(prefilled.state[key])})

    patch.setattr(prefill, "_first_step", lying)


def shift_the_mask(patch):
    change_the_state(patch, "attention_mask", lambda mask: mask.roll(1, dims=-1))


def shift_the_positions(patch):
    change_the_state(patch, "position_ids", lambda positions: positions + 1)


def decode_from_a_used_cache(patch):
    patch.setattr(decode, "_require_fresh_cache", lambda prefilled: None)


def let_the_penalty_ignore_the_prompt(patch):
    honest = prefill._first_step

    # generate() passes arguments by the names in the signature, so they stand here as they do there.
    def lying(hf_model, input_ids, logits_processor, stopping_criteria, generation_config, **state):
        def forgetful(ids, scores):
            return logits_processor(ids[:, input_ids.shape[1] :], scores)

        return honest(hf_model, input_ids, forgetful, stopping_criteria, generation_config, **state)

    patch.setattr(prefill, "_first_step", lying)


def drop_the_stop_token(patch):
    honest = decode._generation

    def lying(end):
        generation = honest(end)
        rows = tuple(
            row[:-1] if reason == "stop" and len(row) > 1 else row
            for row, reason in zip(generation.token_ids, generation.finish_reasons, strict=True)
        )
        steps = max(map(len, rows)) - 1
        return replace(generation, token_ids=rows, steps=steps, step_ends=generation.step_ends[:steps])

    patch.setattr(decode, "_generation", lying)


def time_a_stage_at_nothing(patch):
    def lying(self, stage, function, *args):
        self.seconds = dict.fromkeys(STAGE_NAMES, 0.0)
        return function(*args)

    patch.setattr(timed_pass.Stopwatch, "__call__", lying)


class Fault:
    """A pytest plugin: plants the fault for a session, and notes which tests failed in it."""

    def __init__(self, plant):
        self.plant, self.patch, self.failed = plant, pytest.MonkeyPatch(), []

    def pytest_sessionstart(self):
        settings.load_profile("mutation")
        self.plant(self.patch)

    def pytest_unconfigure(self):
        self.patch.undo()
        settings.load_profile("ci")

    def pytest_runtest_logreport(self, report):
        if report.failed and report.when == "call":
            self.failed.append(report.nodeid)


@pytest.mark.parametrize(
    ("plant", "named_test"),
    [
        (run_the_tower_twice, CLAIMS),
        (apply_the_adaptor_twice, GREEDILY),
        (shift_the_mask, GREEDILY),
        (shift_the_positions, GREEDILY),
        (decode_from_a_used_cache, ONE_DECODE),
        (let_the_penalty_ignore_the_prompt, UNDER_EVERY_OPTION),
        (drop_the_stop_token, GREEDILY),
        (time_a_stage_at_nothing, STAGE_TIMES),
    ],
    ids=lambda value: value.__name__ if callable(value) else value.split("::")[1],
)
def test_a_planted_fault_is_caught_by_the_named_test(plant, named_test, monkeypatch):
    monkeypatch.chdir(ROOT)
    # Imported afresh: Hypothesis takes a test's settings at its import, and the faults must not be shrunk for minutes.
    for name in [name for name in sys.modules if name.endswith("test_split")]:
        monkeypatch.delitem(sys.modules, name)
    fault = Fault(plant)
    code = pytest.main(["-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", named_test], plugins=[fault])
    assert (code, fault.failed) == (pytest.ExitCode.TESTS_FAILED, [named_test])
