"""What the doctor reads, from small folders that stand in for / , and what it makes of it."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from stagebench.cli import doctor as command
from stagebench.cli import main
from stagebench.core import environment, telemetry
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


def test_a_system_that_tells_nothing_is_unknown_and_not_unfit(tmp_path):
    nothing = doctor.pressure(tmp_path)
    assert nothing == {}
    assert doctor.quota(tmp_path) is None
    findings = [doctor.governor(tmp_path), *doctor.disturbances(nothing, nothing)]
    assert [each.state for each in [*findings, *doctor.gpu(None)]] == ["unknown"] * 5


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


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"sys__fs__cgroup__cpu.max": "150000 100000"}, 1.5),
        ({"sys__fs__cgroup__cpu.max": "max 100000"}, None),
        ({"proc__self__cgroup": "0::/mine", "sys__fs__cgroup__mine__cpu.max": "200000 100000"}, 2.0),
        ({"proc__self__cgroup": "0::/not/visible", "sys__fs__cgroup__cpu.max": "200000 100000"}, 2.0),
    ],
)
def test_the_containers_quota_is_read(tmp_path, files, limit):
    assert doctor.quota(root(tmp_path, **files)) == limit


@pytest.mark.parametrize(
    ("limit", "state", "detail"),
    [
        (None, "ok", "2 of 8"),
        (2.0, "ok", "2 of 8, with time for 2 of them"),
        (1.5, "warning", "2 of 8, with time for 1.5 of them: more threads than that are stopped in each period"),
    ],
)
def test_a_quota_below_the_usable_cores_is_a_warning(limit, state, detail):
    assert doctor.cores(2, 8, limit) == Finding("cores", state, detail)


def counts(*values):
    return dict(zip(("stolen", "ticks", "throttled", "swapped"), values, strict=True))


def test_the_counts_of_now_are_read(tmp_path):
    files = {
        "proc__stat": "cpu  10 1 20 60 1 2 3 3 0 0\ncpu0 1 1 1 1",
        "proc__vmstat": "pgpgin 99\npswpin 3\npswpout 4",
        "sys__fs__cgroup__cpu.stat": "nr_periods 9\nnr_throttled 5",
    }
    assert doctor.pressure(root(tmp_path, **files)) == counts(3, 100, 5, 7)


def test_only_what_happened_during_the_run_is_a_disturbance():
    before = counts(500, 1000, 40, 7)
    assert [f.state for f in doctor.disturbances(before, counts(501, 2000, 40, 7))] == ["ok"] * 3
    assert doctor.disturbances(before, counts(600, 2000, 41, 9)) == [
        Finding("steal", "warning", "10.0% of time went to other guests"),
        Finding("CPU quota", "warning", "1 periods in which the container was stopped"),
        Finding("swapping", "warning", "2 pages moved to or from swap"),
    ]


def a_reading(throttled=(), foreign=0):
    return telemetry.Reading(1980, 2619, 350.5, 41, throttled, foreign, 1.0)


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


def test_a_baseline_is_comparable_or_the_keys_that_differ_are_told(tmp_path):
    a_baseline(tmp_path, "same")
    a_baseline(tmp_path, "older", torch="2.0")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "baseline.json").write_text("{")
    found = command.baselines(tmp_path)
    assert [reason.partition(": ")[0] for reason in found["older"]] == ["torch"]
    assert found["same"] == []
    assert "must be JSON" in found["broken"][0]


def test_a_key_that_a_baseline_does_not_have_yet_is_told(tmp_path):
    a_baseline(tmp_path, "older", without=("torch", "preprocess", "loading"))
    assert command.baselines(tmp_path)["older"] == [
        f"torch: {environment.machine('cpu')['torch']!r} here, 'absent' there",
        "loading: not there",
        "preprocess: not there",
    ]


@pytest.mark.parametrize(
    ("state", "code", "last"),
    [("ok", 0, "fit to time on"), ("unknown", 0, "fit to time on"), ("warning", 3, "not fit")],
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
    assert {"CPU governor", "load", "cores", "steal", "CPU quota", "swapping", "quick A/A run"} <= set(names)
