"""The simulated error rates of the gate, on made-up recordings: heavy-tailed noise, a drift that both sides share."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "experiments" / "gate_error_rates.py"
NAMES = (
    "test_stages.py::test_stage[m-encode]",
    "test_stages.py::test_stage[m-decode]",
    "test_reference.py::test_reference",
)


def record(folder, blocks, spread=0.01, seed=0):
    """Blocks of four processes as `stagebench gate` keeps them."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for block in range(blocks):
        first, second = rng.permutation(["base", "head"])
        for position, side in enumerate((first, second, second, first)):
            drift = 1 + 0.02 * block
            outlier = 1.3 if rng.random() < 0.05 else 1.0
            times = 0.1 * drift * outlier * np.exp(rng.normal(0, spread, len(NAMES)))
            run = {
                "machine_info": {"device": "d", "profile": "tiny", "dtype": "float32"},
                "stagebench": {
                    "schema": 1,
                    "failed": 0,
                    "exit_status": 0,
                    "regressed": [],
                    "scheduled": {"variant": side},
                },
                "benchmarks": [
                    {"fullname": name, "name": name.split("::")[1], "stats": {"median": time}}
                    for name, time in zip(NAMES, times, strict=True)
                ],
            }
            (folder / f"first-{block:02}-{position}-{side}.json").write_text(json.dumps(run))


def simulate(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def rates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    record(folder / "one", blocks=6)
    record(folder / "two", blocks=6, seed=1)
    out = folder / "rates.json"
    done = simulate(folder / "one", folder / "two", "--decisions", 200, "--power-decisions", 20, "--json", out)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_all_recorded_pairs_are_drawn_from_and_the_reference_is_no_benchmark(rates):
    assert (rates["pairs"], rates["benchmarks"]) == (24, 2)


def test_nothing_changed_raises_no_alarm_beyond_the_rate_that_is_said(rates):
    assert rates["false_alarms"]["of"] == 200
    assert rates["false_alarms"]["low"] <= 0.01


def test_a_slowdown_is_found_the_more_often_the_larger_it_is(rates):
    for power in rates["power"].values():
        found = [rate["rate"] for rate in power.values()]
        assert found[0] == 0.0
        assert found[-1] > 0.9
        assert found == sorted(found)


def test_a_gate_takes_the_start_and_the_rounds_of_its_processes(rates):
    process = 10 + 7 * sum(rates["recorded"]["seconds"])
    assert rates["seconds"]["mean"] >= (2 + 16) * process - 18
    assert rates["seconds"]["mean"] <= rates["seconds"]["p90"] * 1.5


def test_what_was_simulated_is_simulated_again_from_its_own_pairs(rates, tmp_path):
    (tmp_path / "before.json").write_text(json.dumps(rates))
    asked = ("--decisions", 200, "--power-decisions", 1, "--slowdown", 0.1, "--json", tmp_path / "again.json")
    assert simulate(tmp_path / "before.json", *asked).returncode == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert {key: again[key] for key in ("recorded", "false_alarms", "seconds")} == {
        key: rates[key] for key in ("recorded", "false_alarms", "seconds")
    }


def test_folders_without_recorded_processes_are_refused(tmp_path):
    done = simulate(tmp_path)
    assert done.returncode == 2
    assert "got no recorded pair" in done.stderr
