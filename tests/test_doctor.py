"""What the doctor reads, from small folders that stand in for / , and what it makes of it."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from stagebench.cli import doctor as command
from stagebench.cli import main
from stagebench.core.machine import environment
from stagebench.core.places import place_of
from stagebench.core.settings import GenerationSettings, LoadSettings, ModelSettings
from stagebench.gate import doctor
from stagebench.gate.doctor import Finding


def root(folder, **files):
    """A file system with these files; in their names, __ stands for a slash."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return folder


def test_a_system_that_says_nothing_is_unknown_and_not_unfit(tmp_path):
    findings = [doctor.governor(tmp_path), doctor.steal(doctor.ticks(tmp_path), None), *doctor.gpu(None)]
    assert [each.state for each in findings] == ["unknown"] * 3


@pytest.mark.parametrize(
    ("names", "state", "detail"),
    [
        (("performance", "performance"), "ok", "performance"),
        (("performance", "powersave"), "warning", "performance, powersave"),
    ],
)
def test_every_core_must_have_the_performance_governor(tmp_path, names, state, detail):
    for i, name in enumerate(names):
        root(tmp_path, **{f"sys__devices__system__cpu__cpu{i}__cpufreq__scaling_governor": name})
    assert doctor.governor(tmp_path) == Finding("CPU governor", state, detail)


def test_the_ticks_of_now_are_read(tmp_path):
    assert doctor.ticks(root(tmp_path, proc__stat="cpu  10 1 20 60 1 2 3 3 0 0\ncpu0 1 1 1 1")) == (3, 100)


@pytest.mark.parametrize(("after", "state"), [((501, 2000), "ok"), ((600, 2000), "warning"), ((500, 1000), "unknown")])
def test_only_what_is_stolen_during_the_run_is_a_warning(after, state):
    assert doctor.steal((500, 1000), after).state == state


def a_reading(throttled=(), foreign=0):
    return environment.Reading(1980, 2619, 350.5, 41, throttled, foreign, 1.0)


def test_a_calm_gpu_is_fit():
    assert doctor.gpu(a_reading()) == [
        Finding("GPU", "ok", "SM 1980 MHz, memory 2619 MHz, power 350.5 W, temperature 41 C"),
        Finding("GPU throttling", "ok", "none"),
        Finding("GPU processes", "ok", "0 others"),
    ]


def test_a_throttled_or_shared_gpu_is_not():
    assert [f.state for f in doctor.gpu(a_reading(("power cap",), 2))] == ["ok", "warning", "warning"]


def test_a_gpu_that_does_not_tell_is_unknown():
    assert [f.state for f in doctor.gpu(a_reading(None, None))] == ["ok", "unknown", "unknown"]


def processes(between, within=0.001):
    rng = np.random.default_rng(0)
    return [level * np.exp(rng.normal(0, within, 20)) for level in np.exp(rng.normal(0, between, 8))]


@pytest.mark.parametrize(("between", "state"), [(0.005, "ok"), (0.2, "warning")])
def test_processes_that_differ_too_much_are_a_warning(between, state):
    assert doctor.spread(processes(between)).state == state


def test_rounds_that_differ_say_nothing_of_processes():
    assert doctor.spread(processes(0.0, within=0.05)).state == "ok"


def test_equal_processes_have_no_spread():
    assert "differ by 0.0%" in doctor.spread([[0.01, 0.01], [0.01, 0.01]]).detail


def test_the_visible_slowdown_is_seen_nine_times_in_ten():
    rng, between = np.random.default_rng(0), 0.02
    base, head = rng.normal(0, between, (2, 4000, doctor.PAIRS))
    differences = (head + doctor.visible(between) - base).mean(axis=1)
    critical = np.quantile((head - base).mean(axis=1), 0.99)  # of no slowdown
    assert np.mean(differences > critical) == pytest.approx(0.9, abs=0.02)


def test_each_process_of_the_quick_run_times_its_rounds():
    seconds = doctor.measure(2)
    assert [len(rounds) for rounds in seconds] == [doctor.ROUNDS] * 2
    assert min(map(min, seconds)) > 0


def a_baseline(folder, name, without=(), **other):
    path = folder / name / "baseline.json"
    path.parent.mkdir(parents=True)
    machine = environment.identity(ModelSettings(), GenerationSettings(), "What?", None, LoadSettings()) | other
    machine = {key: value for key, value in machine.items() if key not in without}
    own = {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []}
    path.write_text(json.dumps({"stagebench": own, "machine_info": machine, "benchmarks": []}))


def test_a_baseline_is_comparable_or_the_keys_that_differ_are_reported(tmp_path):
    a_baseline(tmp_path, "same")
    a_baseline(tmp_path, "older", torch="2.0")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "baseline.json").write_text("{")
    found = command.comparable_with(place_of(tmp_path))
    assert [reason.partition(": ")[0] for reason in found["older"]] == ["torch"]
    assert found["same"] == []
    assert "must be JSON" in found["broken"][0]


def test_a_key_that_a_baseline_does_not_have_yet_is_reported(tmp_path):
    a_baseline(tmp_path, "older", without=("torch", "preprocess", "loading"))
    assert command.comparable_with(place_of(tmp_path))["older"] == [
        f"torch: {environment.machine('cpu')['torch']!r} here, 'absent' there",
        "loading: missing",
        "preprocess: missing",
    ]


@pytest.mark.parametrize(
    ("state", "code", "last"),
    [("ok", 0, "fit for timing"), ("unknown", 0, "fit for timing"), ("warning", 3, "not fit")],
)
def test_one_warning_gives_exit_code_three(monkeypatch, tmp_path, state, code, last):
    findings = [Finding("load", state, "said so"), Finding("steal", "unknown", "silent")]
    monkeypatch.setattr(command, "examine", lambda processes: findings)
    result = CliRunner().invoke(main, ["doctor", "--baselines", str(tmp_path)])
    assert (result.exit_code, result.output.splitlines()[-1].startswith(last)) == (code, True)
    assert re.search(rf"load +({state} +)?said so", result.output)
    assert state in result.output


def test_the_whole_examination_runs_here():
    names = [finding.name for finding in command.examine(processes=2)]
    assert {"CPU governor", "load", "steal", "quick A/A run"} <= set(names)
