import pytest
import torch
from torch import nn

from stagebench.core.artifacts import Features
from stagebench.core.errors import StageError
from stagebench.pipeline.counters import (
    OperatorCounter,
    WorkCounter,
    additive,
    check_work,
    count_work,
    counted_forwards,
)

NONE = {"tower_forwards": 0, "projector_forwards": 0, "language_model_forwards": 0, "images_encoded": 0}


def honest_work():
    return {
        "load": NONE | {"images": 8, "bytes_read": 1000, "packets": 36, "frames_decoded": 18, "images_made": 8},
        "preprocess": NONE | {"images": 8, "prompt_tokens": 40, "images_processed": 8, "resized_pixels": 900},
        "encode": NONE | {"visual_tokens": 8, "tower_forwards": 1, "projector_forwards": 1, "images_encoded": 8},
        "prefill": NONE | {"prompt_tokens": 40, "language_model_forwards": 1},
        "decode": NONE | {"new_tokens": 5, "steps": 4, "language_model_forwards": 4},
    }


def test_honest_work_passes():
    assert check_work(honest_work()) is None


@pytest.mark.parametrize(
    ("stage", "counter", "value", "message"),
    [
        ("load", "images", 0, "load must do work, got images = 0"),
        ("load", "bytes_read", 0, "load must do work, got bytes_read = 0"),
        ("preprocess", "images_processed", 0, "preprocess must do work, got images_processed = 0"),
        ("load", "packets", 0, "load must do work, got packets = 0"),
        ("load", "frames_decoded", 0, "load must do work, got frames_decoded = 0"),
        ("load", "events_read", 9, "load must do work, got events_drawn = 0"),
        ("load", "images_made", 0, "load must do work, got images_made = 0"),
        ("load", "images_made", 7, "load must make each of its 8 images, got images_made = 7"),
        ("load", "resized_pixels", 9, "load must not do another stage's work, got resized_pixels = 9"),
        ("encode", "resized_pixels", 9, "encode must not do another stage's work, got resized_pixels = 9"),
        ("encode", "images_processed", 8, "encode must not do another stage's work, got images_processed = 8"),
        ("preprocess", "frames_decoded", 18, "preprocess must not do another stage's work, got frames_decoded = 18"),
        ("decode", "events_drawn", 1, "decode must not do another stage's work, got events_drawn = 1"),
        ("encode", "tower_forwards", 0, "encode must do work, got tower_forwards = 0"),
        ("prefill", "tower_forwards", 1, "prefill must not do another stage's work, got tower_forwards = 1"),
        ("prefill", "projector_forwards", 1, "prefill must not do another stage's work, got projector_forwards = 1"),
        ("decode", "tower_forwards", 2, "decode must not do another stage's work, got tower_forwards = 2"),
        ("decode", "language_model_forwards", 5, "decode must run the language model once per step, got 5 times in 4"),
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
    forwards = {"tower_forwards": 1, "projector_forwards": 1, "language_model_forwards": 5, "images_encoded": 8}
    assert additive(*honest_work().values()) == forwards | {"flops": 0}


def test_forwards_are_counted_inside_the_block_only():
    tower = nn.Flatten()
    with counted_forwards({"tower": tower}) as counts:
        tower(torch.zeros(3, 2))
        tower(torch.zeros(4, 2))
    tower(torch.zeros(5, 2))
    assert counts == {"tower_forwards": 2, "images_encoded": 7}


def test_a_counter_notes_units_and_forwards_of_a_stage():
    counter = WorkCounter({"projector": nn.Identity()})
    counter("encode", lambda: Features(counter.modules["projector"](torch.zeros(1, 6, 2))))
    assert counter.work["encode"]["visual_tokens"] == 6
    assert counter.work["encode"]["projector_forwards"] == 1


def test_operators_and_flops_of_a_matrix_product():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    with OperatorCounter() as counter:
        product, work = count_work(lambda: a @ b)
    assert torch.equal(product, torch.full((3, 5), 4.0))
    assert (work["flops"], counter.operators) == (2 * 3 * 4 * 5, {"aten.mm.default": 1})


def test_a_value_read_back_is_a_host_read():
    _, work = count_work(lambda: bool(torch.ones(2).max()))
    assert work["host_reads"] == 1


def test_only_what_adds_up_over_stages_is_compared_with_generate():
    work = NONE | {"flops": 7, "aten_operators": 9, "prompt_tokens": 40}
    assert additive(work) == NONE | {"flops": 7}


@pytest.mark.gpu
def test_bytes_to_the_device_are_counted(gpu):
    counter = OperatorCounter()
    with counter:
        torch.ones(1000, dtype=torch.float32).to(gpu)
        torch.ones(10, dtype=torch.float32, device=gpu).copy_(torch.ones(10))
    assert counter.host_to_device_bytes == 4040
