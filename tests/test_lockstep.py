"""Two processes take turns, and neither waits for one that is no more."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stagebench.gate.runner.lockstep import VARIABLE, Lockstep, pipes

ROUNDS = 5

PROCESS = """
import os, sys
from stagebench.gate.runner.lockstep import Lockstep
name, rounds = sys.argv[1], int(sys.argv[2])
lockstep = Lockstep.of_environment()
lockstep.begin()
for _ in range(rounds):
    os.write(1, name.encode())
    lockstep.pass_on()
if name == sys.argv[3]:
    os.kill(os.getpid(), 9)
"""


def written(rounds, killed=""):
    """What two processes wrote in so many rounds each, one letter a round."""
    src = Path(__file__).parents[1] / "src"
    read, write = os.pipe()
    with pipes() as both:
        started = [
            subprocess.Popen(
                [sys.executable, "-c", PROCESS, name, str(n), killed],
                env=os.environ | {"PYTHONPATH": str(src)} | {VARIABLE: ",".join(map(str, ends))},
                stdout=write,
                pass_fds=ends,
            )
            for name, n, ends in zip("ab", rounds, both, strict=True)
        ]
    os.close(write)
    with os.fdopen(read, "rb") as file:
        text = file.read().decode()
    assert [process.wait(timeout=60) for process in started] == [-9 if name == killed else 0 for name in "ab"]
    return text


def test_two_processes_have_their_rounds_by_turns():
    assert written((ROUNDS, ROUNDS)) == "ab" * ROUNDS


@pytest.mark.parametrize(("rounds", "expected"), [((2, 5), "ababbbb"), ((5, 2), "ababaaa")])
def test_one_that_has_more_to_do_goes_on_alone(rounds, expected):
    assert written(rounds) == expected


@pytest.mark.parametrize(("killed", "expected"), [("a", "abababbbb"), ("b", "abababaaa")])
def test_one_goes_on_alone_when_the_other_is_killed(killed, expected):
    rounds = {"a": (3, 6), "b": (6, 3)}[killed]
    assert written(rounds, killed) == expected


def test_a_process_that_runs_alone_never_waits(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    lockstep = Lockstep.of_environment()
    lockstep.begin()
    lockstep.pass_on()
    assert (lockstep.alone, lockstep.turns) == (True, 0)


def test_the_first_waits_until_the_second_is_ready():
    with pipes() as (first, second):
        one = Lockstep(first)
        beginning = threading.Thread(target=one.begin)
        beginning.start()
        beginning.join(0.1)
        waited = beginning.is_alive()
        other = threading.Thread(target=Lockstep(second).begin)
        other.start()
        beginning.join(60)
        os.write(first[1], b".")  # so that the second may end
        other.join(60)
        assert (waited, one.alone, one.turns) == (True, False, 1)
