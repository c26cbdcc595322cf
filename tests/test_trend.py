"""What a folder of runs says: change points by simulation, and a bisection that git really runs."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from stagebench.cli import main
from stagebench.core.places import place_of
from stagebench.gate import trend

HERE = {"device": "CPU", "profile": "tiny", "dtype": "float32"}
ENCODE = "benchmarks/test_stages.py::test_stage[eventgpt-encode]"
NOISES = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "laplace": lambda rng, shape: rng.laplace(size=shape),
    "student": lambda rng, shape: rng.standard_t(4, size=shape),
}


def a_run(day, median=0.01, commit=None, data=(), **machine):
    return {
        "stagebench": {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []},
        "machine_info": HERE | machine,
        "commit_info": {"id": commit or f"{day:040x}", "dirty": False},
        "datetime": (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day)).isoformat(),
        "benchmarks": [{"fullname": ENCODE, "stats": {"median": float(np.median(data or median)), "data": list(data)}}],
    }


def write(folder, *runs):
    for i, run in enumerate(runs):
        (folder / f"{i:03}.json").write_text(json.dumps(run))
    return folder


def a_step(nights=20, at=10, ratio=1.1, noise=0.005):
    rng = np.random.default_rng(0)
    return [a_run(day, 0.01 * (ratio if day >= at else 1) * np.exp(rng.normal(0, noise))) for day in range(nights)]


def read_history(folder):
    return trend.read_history(place_of(folder))


def find_changes(logs):
    [found] = trend.find_changes(logs[None])
    return found


def least_cuts(series, least, penalty):
    """The same as `trend.steps`, of one series, by trying every last cut."""
    best, cuts = {0: -penalty}, {0: []}
    for end in range(least, len(series) + 1):
        costs = {
            start: best[start] + np.square(series[start:end] - series[start:end].mean()).sum() + penalty
            for start in best
            if start <= end - least
        }
        start = min(costs, key=costs.get)
        best[end], cuts[end] = costs[start], [*cuts[start], *([start] if start else [])]
    return cuts[len(series)]


def invoke(*arguments):
    return CliRunner().invoke(main, ["trend", *map(str, arguments)])


@pytest.mark.parametrize("name", sorted(NOISES))
@pytest.mark.parametrize("nights", [10, 30, 120])
def test_noise_alone_shows_a_change_in_less_than_one_series_in_a_hundred(name, nights):
    series = 0.02 * NOISES[name](np.random.default_rng(nights), (1000, nights))
    assert sum(bool(changes) for changes, _ in trend.find_changes(series)) < 10


@pytest.mark.parametrize(("nights", "at"), [(30, 10), (30, 15), (120, 60), (120, 112)])
def test_a_step_of_a_tenth_in_noise_of_a_fiftieth_is_found_to_within_one_run(nights, at):
    noise = np.random.default_rng(at).normal(0, 0.02, (200, nights))
    found = [changes for changes, _ in trend.find_changes(noise + np.log(1.1) * (np.arange(nights) >= at))]
    assert sum(len(each) == 1 and abs(each[0] - at) <= 1 for each in found) >= 0.9 * 200


@pytest.mark.parametrize("name", sorted(NOISES))
@pytest.mark.parametrize("nights", [10, 11, 30, 90])
def test_cuts_are_those_that_trying_all_of_them_finds(name, nights):
    rng = np.random.default_rng(nights)
    walks = np.cumsum(rng.normal(0, 8, (20, nights)) * (rng.random((20, nights)) < 0.05), -1)
    series = walks + NOISES[name](rng, (20, nights))
    assert trend.steps(series, 5, 45.0) == [least_cuts(each, 5, 45.0) for each in series]


def test_two_steps_are_both_found():
    levels = np.repeat([0.0, 0.2, 0.05], 10)
    assert find_changes(levels + np.random.default_rng(0).normal(0, 0.01, 30)) == ([10, 20], [])


def test_a_series_without_any_noise_has_its_step_found_and_no_other():
    assert find_changes(np.repeat([0.0, 0.1], 10)) == ([10], [])


def test_a_night_twenty_times_as_slow_is_an_outlier_and_no_change():
    logs = np.random.default_rng(0).normal(0, 0.02, 30)
    logs[12] += np.log(20)
    assert find_changes(logs) == ([], [12])


def test_the_noise_of_a_series_is_that_of_its_samples_whatever_its_level():
    logs = np.random.default_rng(0).normal(0, 0.02, 4000) + np.repeat([0.0, 3.0], 2000)
    assert trend.noise(logs) == pytest.approx(0.02, rel=0.05)


def test_runs_are_grouped_by_environment_and_ordered_by_time(tmp_path):
    write(tmp_path, a_run(3), a_run(1), a_run(2, dtype="bfloat16"), a_run(2))
    found = read_history(tmp_path)[0]
    assert [[run.began.day for run in runs] for runs in found] == [[2, 3, 4], [3]]


def test_runs_of_an_unknown_environment_compare_with_nothing(tmp_path):
    write(tmp_path, a_run(1, driver="unknown"), a_run(2, driver="unknown"))
    assert [len(runs) for runs in read_history(tmp_path)[0]] == [1, 1]


def test_a_run_of_before_a_key_of_the_identity_is_in_one_series_with_those_that_have_its_value_of_then(tmp_path):
    write(tmp_path, a_run(1), a_run(2, gc="on"), a_run(3, gc="off"))
    assert [len(runs) for runs in read_history(tmp_path)[0]] == [2, 1]


def test_a_time_without_a_zone_is_utc(tmp_path):
    [[run]] = read_history(write(tmp_path, a_run(1) | {"datetime": "2026-01-02T00:00:00"}))[0]
    assert run.began == datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    "changed",
    [
        {"datetime": None},
        {"datetime": "yesterday"},
        {"benchmarks": [{"fullname": ENCODE, "stats": {}}]},
    ],
)
def test_a_run_without_a_time_or_a_median_is_refused(tmp_path, changed):
    write(tmp_path, a_run(1) | changed)
    assert invoke(tmp_path).exit_code == 2
    write(tmp_path, a_run(1), a_run(1) | changed)
    assert list(read_history(tmp_path)[1]) == [str(tmp_path / "001.json")]


def test_a_file_that_cannot_be_read_is_named_and_counted(tmp_path):
    write(tmp_path, a_run(1))
    (tmp_path / "half.json").write_text('{"benchmarks": [')
    result = invoke(tmp_path)
    assert result.exit_code == 0
    assert "half.json must be JSON" in " ".join(result.output.split())
    assert "runs: 1, environments: 1, files left out: 1" in result.output


@pytest.mark.parametrize("files", [{}, {"notes.json": "[]"}])
def test_a_folder_without_a_run_is_one_line_and_exit_code_two(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    result = invoke(tmp_path)
    assert (result.exit_code, result.output) == (
        2,
        f"stagebench: a history must hold at least one run, got {len(files)} other files in {tmp_path}\n",
    )


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    assert invoke(tmp_path / "none").output.startswith("stagebench: a history must be a folder, got ")


def test_of_a_single_run_no_change_is_claimed(tmp_path):
    result = invoke(write(tmp_path, a_run(1)))
    assert (result.exit_code, "a change is looked for in 10 runs or more" in result.output) == (0, True)


def test_a_change_is_reported_with_the_commits_on_both_sides_and_one_between(tmp_path):
    [series] = trend.series_of(read_history(write(tmp_path, *a_step()))[0][0])
    [change] = series.changes
    assert (change.when[:10], change.good, change.bad) == ("2026-01-11", f"{8:040x}", f"{11:040x}")
    assert change.ratio == pytest.approx(1.1, abs=0.01)


def test_the_table_and_the_json_tell_the_same_change(tmp_path):
    out = tmp_path / "trend.json"
    result = invoke(write(tmp_path, *a_step()), "--json", out)
    [series] = json.loads(out.read_text())["environments"][0]["series"]
    [change] = series["changes"]
    assert (series["benchmark"], change["when"][:10]) == (ENCODE, "2026-01-11")
    assert f"({change['ratio'] - 1:+.1%}) on 2026-01-11" in " ".join(result.output.split())
    assert change["bisect"] in result.output


@pytest.mark.parametrize(
    ("nights", "ratio", "recent", "code"), [(17, 1.1, 7, 1), (18, 1.1, 7, 0), (18, 1.1, None, 0), (17, 0.9, 7, 0)]
)
def test_a_slowdown_of_late_fails_where_that_is_asked_for(tmp_path, nights, ratio, recent, code):
    write(tmp_path, *a_step(nights, ratio=ratio))
    out = tmp_path / "out" / "trend.json"
    result = invoke(tmp_path, "--json", out, *(["--recent", recent] if recent else []))
    slower = json.loads(out.read_text())["slower"]
    assert (result.exit_code, [change["benchmark"] for change in slower]) == (code, [ENCODE] * code)


def test_a_slowdown_of_an_environment_that_is_no_more_fails_nothing(tmp_path):
    old = [run | {"machine_info": HERE | {"torch": "old"}} for run in a_step(17)]
    assert invoke(write(tmp_path, *old, a_run(30)), "--recent", 7).exit_code == 0


def test_a_benchmark_that_began_later_has_a_shorter_series(tmp_path):
    late = a_run(5)
    late["benchmarks"].append({"fullname": "late", "stats": {"median": 0.5}})
    series = trend.series_of(read_history(write(tmp_path, a_run(1), late))[0][0])
    assert {each.benchmark: each.seconds for each in series} == {ENCODE: [0.01, 0.01], "late": [0.5]}


def test_many_runs_are_read_by_several_processes_alike(tmp_path, monkeypatch):
    write(tmp_path, *a_step(30), a_run(40) | {"datetime": None})
    alone = read_history(tmp_path)
    monkeypatch.setattr(trend, "PART", 4)
    assert read_history(tmp_path) == alone


def test_a_reader_that_was_ended_is_an_error_of_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(trend, "PART", 1)
    monkeypatch.setattr(trend, "_prepare_reader", os.abort)
    result = invoke(write(tmp_path, a_run(1), a_run(2)))
    assert (result.exit_code, result.output) == (
        2,
        "stagebench: processes that read runs must not be killed, got one that was\n",
    )


READER = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import getpid
from stagebench.gate.trend import _prepare_reader
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("spawn"), _prepare_reader)
    print(pool.submit(getpid).result(), flush=True)
    time.sleep(300)
"""


def test_a_reader_ends_with_the_one_that_started_it_however_that_ended(tmp_path):
    (tmp_path / "reader.py").write_text(READER)
    with subprocess.Popen([sys.executable, tmp_path / "reader.py"], stdout=subprocess.PIPE) as parent:
        reader = Path("/proc") / parent.stdout.readline().decode().strip()
        assert reader.exists()
        parent.kill()
    until = time.monotonic() + 60
    with suppress(FileNotFoundError, ProcessLookupError):
        while (reader / "cmdline").read_bytes():  # one that is only not yet waited for has none
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_change_within_one_commit_is_the_machines(tmp_path):
    result = invoke(write(tmp_path, *[run | {"commit_info": {"id": "a" * 40}} for run in a_step()]))
    assert "both sides have one commit: the machine changed" in " ".join(result.output.split())
    assert "git bisect" not in result.output


def test_a_commit_id_that_is_none_gives_no_command_line(tmp_path):
    runs = [run | {"commit_info": {"id": f"$(touch {i})"}} for i, run in enumerate(a_step())]
    assert "git bisect" not in invoke(write(tmp_path, *runs)).output


def test_rounds_that_drift_and_stand_out_are_reported(tmp_path):
    drifting, standing_out = [0.01 + 0.001 * i for i in range(10)], [0.01, 0.0101, 0.0099, 0.01005, 0.2]
    assert "test_stage[eventgpt-encode], drifted +62.1%" in invoke(write(tmp_path, a_run(1, data=drifting))).output
    assert "test_stage[eventgpt-encode], outliers at 4" in (invoke(write(tmp_path, a_run(1, data=standing_out))).output)
    run = a_run(1, data=drifting)
    run["benchmarks"][0]["fullname"] = "tests/test_it.py::test_it[c::d]"
    assert "rounds of the last run: test_it[c::d], drifted" in invoke(write(tmp_path, run)).output


@pytest.fixture
def repository(tmp_path):
    """Nine commits whose file says how long "it" takes; a stand-in for `stagebench gate` that reads it.

    Commit 4 makes it slower, commit 3 cannot be measured. Only the gate's exit code matters to git.
    """
    folder, bin_folder = tmp_path / "repository", tmp_path / "bin"
    folder.mkdir()
    bin_folder.mkdir()
    gate = bin_folder / "stagebench"
    gate.write_text(
        '#!/bin/sh\n[ "$1 $2 $4 $5" = "gate --base --select test_stage[eventgpt-encode]" ] || exit 99\n'
        'base=$(git show "$3:it"); here=$(cat it)\n[ "$here" = none ] && exit 3\n[ "$here" -le "$base" ]\n'
    )
    gate.chmod(0o755)
    names = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = os.environ | names | {"PATH": f"{bin_folder}:{os.environ['PATH']}"}

    def git(command):
        shell = ["/bin/sh", "-c", command]
        done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    git("git init -q")
    return git


@pytest.mark.parametrize(
    ("values", "ratio", "found"),
    [
        ("10 10 10 none 20 20 20 20 20", 2.0, {3, 4}),  # what can't be measured can't be told from its neighbour
        ("10 10 10 10 20 20 20 20 20", 2.0, {4}),
        ("20 20 20 20 20 20 10 10 10", 0.5, {6}),
    ],
)
def test_the_command_line_makes_git_find_the_commit(repository, values, ratio, found):
    hashes = []
    for i, value in enumerate(values.split()):
        repository(f"echo {value} > it; echo {i} > number; git add .; git commit -qm {i}")
        hashes.append(repository("git rev-parse HEAD"))
    command = trend.bisect_command(ENCODE, hashes[0], hashes[-1], slower=ratio > 1)
    output = repository(command)
    assert {i for i, commit in enumerate(hashes) if commit in told(output)} == found


def told(output):
    """The end of what `git bisect run` prints: the first bad commit, or those it may be."""
    if "The first bad commit could be any of" in output:
        return output.split("The first bad commit could be any of")[1]
    return next(line for line in output.splitlines() if line.endswith("is the first bad commit"))
