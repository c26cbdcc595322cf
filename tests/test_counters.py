import pytest
import torch
from torch import nn

from stagebench.counters import WorkCounter, check_work, counted_forwards, total_forwards
from stagebench.errors import StageError
from stagebench.types import Features

NONE = {"tower_forwards": 0, "projector_forwards": 0, "language_model_forwards": 0, "images_encoded": 0}


def honest_work():
    return {
        "load": NONE | {"images": 8},
        "preprocess": NONE | {"images": 8, "prompt_tokens": 40},
        "encode": NONE | {"visual_tokens": 8, "tower_forwards": 1, "projector_forwards": 1, "images_encoded": 8},
        "prefill": NONE | {"prompt_tokens": 40, "language_model_forwards": 1},
        "decode": NONE | {"new_tokens": 5, "steps": 4, "language_model_forwards": 4},
    }


def test_honest_work_passes():
    assert check_work(honest_work()) is None


@pytest.mark.parametrize(
    ("stage", "counter", "value", "message"),
    [
        ("load", "images", 0, "load must do some work, got images = 0"),
        ("encode", "tower_forwards", 0, "encode must do some work, got tower_forwards = 0"),
        ("prefill", "tower_forwards", 1, "prefill must leave the others' work alone, got tower_forwards = 1"),
        ("prefill", "projector_forwards", 1, "prefill must leave the others' work alone, got projector_forwards = 1"),
        ("decode", "tower_forwards", 2, "decode must leave the others' work alone, got tower_forwards = 2"),
        ("decode", "language_model_forwards", 5, "decode must run the language model once a step, got 5 times in 4"),
    ],
)
def test_work_that_is_missing_or_anothers_is_an_error(stage, counter, value, message):
    work = honest_work()
    work[stage][counter] = value
    with pytest.raises(StageError, match=message):
        check_work(work)


def test_a_stage_that_never_ran_is_an_error():
    work = honest_work()
    del work["encode"]
    with pytest.raises(StageError, match="every stage must run, got no encode"):
        check_work(work)


def test_totals_add_up_the_forwards_and_leave_units_alone():
    totals = {"tower_forwards": 1, "projector_forwards": 1, "language_model_forwards": 5, "images_encoded": 8}
    assert total_forwards(honest_work()) == totals


def test_forwards_are_counted_inside_the_block_only():
    tower = nn.Flatten()
    with counted_forwards({"tower": tower}) as counts:
        tower(torch.zeros(3, 2))
        tower(torch.zeros(4, 2))
    tower(torch.zeros(5, 2))
    assert counts == {"tower_forwards": 2, "images_encoded": 7}


def test_a_counter_notes_units_and_forwards_of_a_stage():
    counter = WorkCounter({"projector": nn.Identity()})
    counter("encode", lambda: Features(counter.parts["projector"](torch.zeros(1, 6, 2))))
    assert counter.work == {"encode": {"visual_tokens": 6, "projector_forwards": 1, "images_encoded": 0}}
