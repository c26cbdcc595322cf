import gc

import pytest

from stagebench.core.artifacts import Generation, Run
from stagebench.core.stages import STAGE_NAMES, time_outside
from stagebench.pipeline.timed_pass import clock_problems
from stagebench.pipeline.timing import without_collection

MS = 1e-3


def a_run(between=0.1, told=None, e2e=None):
    """Stages of 100 ms each by the walk's clock, so many between them; some timers tell others."""
    spans = {stage: (i * (100 + between) * MS, (i * (100 + between) + 100) * MS) for i, stage in enumerate(STAGE_NAMES)}
    seconds = dict.fromkeys(STAGE_NAMES, 100 * MS) | {stage: ms * MS for stage, ms in (told or {}).items()}
    walked = 5 * (100 + between) * MS
    end = spans["decode"][1] - 10 * MS
    generation = Generation(((1, 2),), ("length",), 1, (end,))
    return Run("m", seconds, {}, walked if e2e is None else e2e * MS, generation, "text", spans, {})


@pytest.mark.parametrize("was_on", [True, False])
def test_garbage_is_not_collected_in_a_timed_pass_and_as_before_after_it(was_on):
    (gc.enable if was_on else gc.disable)()
    try:
        with without_collection():
            inside = gc.isenabled()
        assert (inside, gc.isenabled()) == (False, was_on)
    finally:
        gc.enable()


def test_collection_is_on_again_after_a_pass_that_failed():
    with pytest.raises(RuntimeError), without_collection():
        raise RuntimeError
    assert gc.isenabled()


def test_clocks_that_agree_are_no_problem():
    assert list(clock_problems([a_run(told={"load": 101.5})])) == []


@pytest.mark.parametrize("ms", [50, 97, 104, 200])
def test_a_timer_that_another_clock_contradicts_is_named_with_both(ms):
    assert list(clock_problems([a_run(told={"decode": ms})])) == [
        f"decode must agree with a second clock, 100.00 ms, got {ms}.00 ms"
    ]


def test_one_pass_of_three_that_was_stopped_between_two_looks_is_no_problem():
    assert list(clock_problems([a_run(), a_run(told={"encode": 80}), a_run()])) == []


def test_passes_of_very_different_length_and_one_stop_are_no_problem():
    def a_pass(ms, told):
        spans = {stage: (i * ms * MS, (i + 1) * ms * MS) for i, stage in enumerate(STAGE_NAMES)}
        seconds = dict.fromkeys(STAGE_NAMES, ms * MS) | {"encode": told * MS}
        generation = Generation(((1, 2),), ("length",), 1, (spans["decode"][1],))
        return Run("m", seconds, {}, 5 * ms * MS, generation, "text", spans, {})

    assert list(clock_problems([a_pass(100, 100), a_pass(200, 150), a_pass(300, 300)])) == []
    assert list(clock_problems([a_pass(100, 60), a_pass(300, 300)])) == []
    assert len(list(clock_problems([a_pass(100, 60), a_pass(200, 150), a_pass(300, 300)]))) == 1


def test_a_whole_that_is_shorter_than_its_stages_is_a_problem():
    assert list(clock_problems([a_run(e2e=300)])) == [
        "e2e must contain all stages, 500.40 ms by a second clock, got 300.00 ms"
    ]


@pytest.mark.parametrize(("between", "said"), [(0.1, False), (4, False), (10, True)])
def test_time_outside_the_stages_is_said_where_it_is_more_than_a_little(between, said):
    run = a_run(between)
    assert (time_outside([run.unattributed], [run.e2e]) is not None) == said


def test_it_is_said_with_its_share():
    run = a_run(10)
    assert time_outside([run.unattributed], [run.e2e]) == "50.0 ms of 550.0 ms lie outside the stages (9%)"
