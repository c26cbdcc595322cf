"""What the benchmarks share about backends: what they say of one, and that it sets nothing up in a timed round."""

from types import SimpleNamespace

import pytest

from stagebench.suite.no_capture_guard import about, settled

WARM_UPS, ROUNDS = 2, 3


def nobody():
    """Whom to pass on to where a process runs alone."""


def pedantic(function, args, setup, rounds):
    for _ in range(WARM_UPS + rounds):
        setup()
        result = function(*args)
    return result


class Model(SimpleNamespace):
    """As much of a model as a guard looks at."""

    @property
    def setups(self):
        return len(self.backend.setups)


def model_with(*setups):
    return Model(name="gpt", backend=SimpleNamespace(name="graph", setups=list(setups)))


def setting_up_in(model, call):
    """A function of which one call sets something up; it returns how often it was called."""
    calls = []

    def function(value):
        if len(calls) == call:
            model.backend.setups.append("graph")
        calls.append(value)
        return len(calls)

    return function


@pytest.mark.parametrize("call", range(WARM_UPS))
def test_what_is_set_up_in_a_warm_up_round_is_fine(call):
    model = model_with()
    assert settled(model, pedantic, ROUNDS, nobody)(setting_up_in(model, call), ("it",)) == WARM_UPS + ROUNDS


@pytest.mark.parametrize("call", range(WARM_UPS, WARM_UPS + ROUNDS))
def test_what_is_set_up_in_a_timed_round_fails(call):
    model = model_with()
    with pytest.raises(AssertionError, match="nothing is captured or compiled in a timed round"):
        settled(model, pedantic, ROUNDS, nobody)(setting_up_in(model, call), ("it",))


def test_a_round_comes_after_the_turn_of_the_other_process_and_after_its_own_state_was_made():
    order = []
    run = settled(model_with(), pedantic, 1, lambda: order.append("passed on"))
    run(lambda: order.append("timed"), setup=lambda: order.append("fresh"))
    assert order == [*["passed on", "fresh", "timed"] * (WARM_UPS + 1), "passed on"]


def test_a_backend_is_reported_with_what_it_has_set_up():
    model = model_with(SimpleNamespace(seconds=1.5, nbytes=10), SimpleNamespace(seconds=0.5, nbytes=0))
    cost = {"seconds": 2.0, "bytes": 10, "captures": 2}
    model.backend.stages = stages = {"encode": "eager: it waits", "decode": "graph"}
    assert about(model) == {"model": "gpt", "backend": "graph", "setup": cost, "stages": stages}


def test_plain_code_has_set_nothing_up():
    assert about(SimpleNamespace(name="gpt", backend=None)) == {"model": "gpt", "backend": "eager"}
