"""`stagebench bench`: results out of fresh processes, in a small project of its own whose suite needs no torch."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import CliRunner

from stagebench.analysis.importers.read import read_files
from stagebench.cli import main
from stagebench.core.errors import ResultsError
from stagebench.core.machine import locks
from stagebench.core.results import read_results
from stagebench.gate import baseline
from stagebench.gate.decide import processes_of
from stagebench.gate.runner import recording

ROOT = Path(__file__).parents[1]
HERE = {"device": "abacus", "profile": "tiny", "dtype": "float32"}
DECODE = "benchmarks/test_stages.py::test_stage[m-decode]"


def a_process(number, median=0.1, name=DECODE, **info):
    benchmark = {"name": name.split("::")[-1], "fullname": name, "stats": {"median": median}, "extra_info": info}
    own = {"schema": 1, "failed": 0, "exit_status": 0, "regressed": [], "times_only": number > 0}
    plan = {"rounds": 5, "select": "", "arguments": [], "code": "c", "process": number, "seconds": 60.0}
    return {"machine_info": HERE, "benchmarks": [benchmark], "stagebench": own | {"recording": plan}}


def combined(medians, proof=None, **infos):
    """Results of processes with these medians; each of `infos` has a value a process."""
    timed = {
        i: a_process(i, median, **{key: values[i - 1] for key, values in infos.items()})
        for i, median in enumerate(medians, 1)
    }
    return recording.combine({0: a_process(0, 9.0, **(proof or {}))} | timed)


def test_a_benchmark_has_the_statistics_of_the_processes_medians():
    (benchmark,) = combined([0.3, 0.1, 0.2, 0.4])["benchmarks"]
    stats = benchmark["stats"]
    assert stats["data"] == [0.3, 0.1, 0.2, 0.4]
    assert {key: stats[key] for key in ("min", "max", "median", "q1", "q3", "rounds", "iterations")} == {
        "min": 0.1,
        "max": 0.4,
        "median": 0.25,
        "q1": pytest.approx(0.15),
        "q3": pytest.approx(0.35),
        "rounds": 4,
        "iterations": 1,
    }
    assert (stats["mean"], stats["stddev"]) == pytest.approx((0.25, statistics.stdev([0.3, 0.1, 0.2, 0.4])))


def test_what_is_counted_is_the_proofs_and_what_is_timed_is_the_median_of_the_others():
    results = combined(
        [0.1, 0.2, 0.3],
        proof={"work": {"flops": 8}, "device_median": 9.0, "device_seconds": [9.0], "setup": {"seconds": 9.0}},
        device_median=[0.3, 0.1, 0.2],
        device_seconds=[[0.3, 0.4], [0.1], [0.2]],
        setup=[{"seconds": 1.0, "bytes": 10}, {"seconds": 3.0, "bytes": 30}, {"seconds": 2.0, "bytes": 20}],
        backend=["graph"] * 3,
    )
    assert results["benchmarks"][0]["extra_info"] == {
        "work": {"flops": 8},
        "device_median": 0.2,
        "device_seconds": [0.3, 0.1, 0.2],
        "setup": {"seconds": 2.0, "bytes": 20},
        "backend": "graph",
        "processes": 3,
    }


def test_bytes_of_an_even_number_of_processes_stay_whole():
    (benchmark,) = combined([0.1, 0.2], setup=[{"bytes": 3}, {"bytes": 6}])["benchmarks"]
    assert benchmark["extra_info"]["setup"] == {"bytes": 3}


def test_a_benchmark_that_a_process_skipped_is_left_out_and_named():
    runs = {i: a_process(i) for i in range(3)}
    for number in (0, 1):
        runs[number]["benchmarks"] += a_process(number, name="cold")["benchmarks"]
    results = recording.combine(runs)
    assert [b["fullname"] for b in results["benchmarks"]] == [DECODE]
    assert results["stagebench"]["recording"]["left_out"] == ["cold"]


def test_processes_that_share_no_benchmark_are_no_results():
    with pytest.raises(ResultsError, match="at least one benchmark that ran in every process"):
        recording.combine({0: a_process(0), 1: a_process(1, name="other")})


def test_results_are_as_many_processes_as_they_hold():
    processes = processes_of(combined([0.3, 0.1], proof={"work": {"flops": 8}}))
    assert [p["benchmarks"][0]["stats"]["median"] for p in processes] == [0.3, 0.1]
    assert [p["benchmarks"][0]["extra_info"]["work"] for p in processes] == [{"flops": 8}] * 2


def test_any_other_run_is_one_process():
    assert processes_of(a_process(1)) == [a_process(1)]


@pytest.mark.parametrize("data", [[0.1], [0.1, 0.2, 0.3], None])
def test_results_without_a_time_of_each_process_are_refused(data):
    results = combined([0.3, 0.1])
    results["benchmarks"][0]["stats"]["data"] = data
    with pytest.raises(ResultsError, match="must have a time for each process"):
        processes_of(results)


def write(path, run):
    path.write_text(json.dumps(run))
    return path


def run_command(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_two_results_are_compared_by_their_processes(tmp_path):
    medians = [0.1, 0.101, 0.099, 0.1005, 0.0995, 0.102, 0.098, 0.1002]
    base, head = (
        write(tmp_path / f"{factor}.json", combined([factor * m for m in medians[::order]], proof={"work": {"n": 1}}))
        for factor, order in ((1.0, 1), (1.2, -1))
    )
    result = run_command("compare", base, head, "--json", "-")
    verdicts = json.loads(result.stdout)["verdicts"]
    assert [(v["kind"], v["verdict"], v["n"]) for v in verdicts] == [("counter", "pass", 1), ("time", "regression", 8)]
    assert run_command("compare", head, base).exit_code == 0


def test_results_become_a_baseline_that_keeps_the_times_of_its_processes(tmp_path):
    path = write(tmp_path / "results.json", combined([0.3, 0.1]))
    stored = baseline.accept(path, tmp_path / "baselines", "first")
    assert [p["benchmarks"][0]["stats"]["median"] for p in processes_of(read_results(stored))] == [
        0.3,
        0.1,
    ]


def test_the_parts_of_a_time_are_reported_by_model_and_backend(tmp_path):
    def benchmark(what, backend, seconds, **more):
        name = f"test_stage[{what}-{backend}{more}]" if what != "e2e" else f"test_e2e[{backend}]"
        info = {"model": "m", "backend": backend, "new_tokens": 4} | ({"stage": what} if what != "e2e" else {}) | more
        return {"name": name, "fullname": name, "stats": {"median": seconds}, "extra_info": info}

    eager = [benchmark(s, "eager", 1.0) for s in ("load", "preprocess", "encode", "prefill", "decode")]
    graph = [benchmark(s, "graph", 0.5) for s in ("encode", "prefill", "decode")]
    others = [benchmark("decode", "graph", 7.0, batch=4, context=512), benchmark("encode", "graph", 7.0, images=8)]
    path = write(tmp_path / "results.json", a_process(1) | {"benchmarks": [*eager, *graph, *others]})
    assert {name: costs.total for name, costs in read_files([path]).costs.items()} == {"m": 5.0, "m graph": 3.5}


@pytest.fixture(scope="module")
def recorded_once(tmp_path_factory, new_project):
    """A project with a recording of two timing processes in out/."""
    root = new_project(tmp_path_factory.mktemp("record") / "project")
    code, said = record(root, "--processes", 2)
    assert code == 0, said
    return root


@pytest.fixture
def recorded(recorded_once, tmp_path):
    """A copy of it."""
    shutil.copytree(recorded_once, tmp_path / "project")
    return tmp_path / "project"


ENVIRONMENT = {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}


def command_line(*arguments, out="out"):
    return ["bench", out, "--rounds", "2", *map(str, arguments)]


def start(project, *arguments):
    command = [sys.executable, "-m", "stagebench", *command_line(*arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=project, env=os.environ | ENVIRONMENT, **pipes)


def record(project, *arguments, **options):
    """The exit code, and what was said."""
    with chdir(project):
        done = CliRunner().invoke(main, command_line(*arguments, **options), env=ENVIRONMENT)
    return done.exit_code, done.stdout + done.stderr


def files(project):
    return {str(path.relative_to(project / "out")) for path in (project / "out").rglob("*") if path.is_file()}


def processes(project):
    """When each process was kept, by its file's name; while it is written it has a hidden one."""
    return {path.name: path.stat().st_mtime_ns for path in (project / "out" / "processes").glob("[!.]*")}


def results_of(project, out="out"):
    return read_results(project / out / "results.json")


def test_a_recording_is_a_proof_and_the_processes_whose_medians_are_the_results(recorded):
    assert files(recorded) == {f"processes/0{i}.json" for i in range(3)} | {"results.json", "results.md"}
    runs = [read_results(recorded / "out" / "processes" / f"0{i}.json") for i in range(3)]
    expected = {
        b["fullname"]: [
            {x["fullname"]: x for x in run["benchmarks"]}[b["fullname"]]["stats"]["median"] for run in runs[1:]
        ]
        for b in runs[0]["benchmarks"]
    }
    results = results_of(recorded)
    assert {b["fullname"]: b["stats"]["data"] for b in results["benchmarks"]} == expected
    works = {b["name"]: b["extra_info"].get("work") for b in results["benchmarks"]}
    assert works == {
        "test_stage[a]": {"frames_decoded": 8},
        "test_stage[b]": {"frames_decoded": 8},
        "test_reference": None,
    }
    assert [len(run["benchmarks"][0]["stats"]["data"]) for run in runs] == [1, 2, 2]  # the proof is no measurement


def test_what_is_recorded_is_not_measured_again_and_further_processes_join_it(recorded):
    before = processes(recorded)
    code, said = record(recorded, "--processes", 3)
    assert (code, said.count("exists already"), said.count(" took ")) == (0, 3, 1), said
    assert {name: processes(recorded)[name] for name in before} == before
    assert {b["extra_info"]["processes"] for b in results_of(recorded)["benchmarks"]} == {3}


def test_another_plan_is_refused(recorded):
    before = processes(recorded)
    code, said = record(recorded, "--rounds", 3)
    assert (code, "00.json is of another recording: rounds: 3 here, 2 there" in said) == (2, True), said
    assert processes(recorded) == before


@pytest.mark.parametrize("name", ["conftest.py", "src/own/module.py", "src/own/table.toml"])
def test_code_that_changes_while_it_is_recorded_is_refused_before_it_runs(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("raise ValueError")
    plan = recording.plan_of(tmp_path, 1, "", ())
    (tmp_path / name).write_text("raise KeyError")
    with pytest.raises(ResultsError, match="must not change during a recording"):
        recording.Recording(tmp_path / "out", recording.Variant("", tmp_path, Path()), plan).measure(0, {})


def test_other_code_is_refused(recorded):
    (recorded / "src" / "fake.py").write_text("FRAMES = 8\n\ndef work():\n    return 1\n")
    code, said = record(recorded)
    assert (code, "is of another recording: code: " in said) == (2, True), said


def test_another_environment_is_refused_with_the_key_and_keeps_nothing(recorded):
    before = processes(recorded)
    (recorded / "dtype").write_text("bfloat16")
    code, said = record(recorded, "--processes", 3)
    assert (code, "dtype: 'bfloat16' here, 'float32' there" in said) == (2, True), said
    assert processes(recorded) == before


def test_a_selection_of_no_benchmark_is_refused_and_keeps_nothing(recorded):
    code, said = record(recorded, "--select", "nothing", out="none")
    expected = (
        "stagebench: the verifying process must run a benchmark besides the reference workload, "
        "got none of --select 'nothing'\n"
    )
    assert (code, said, (recorded / "none").exists()) == (2, expected, False)


def test_a_failed_process_is_named_with_its_reason_and_the_others_are_kept(recorded):
    suite = "import os\nif os.path.exists('break'):\n    raise ValueError('boom')\n"
    path = recorded / "benchmarks" / "test_fake.py"
    path.write_text(suite + path.read_text())
    assert record(recorded, "--processes", 1, out="other")[0] == 0
    (recorded / "break").touch()
    code, said = record(recorded, "--processes", 2, out="other")
    assert code == 2
    assert "stagebench: the benchmarks of the timing process 2 must pass, got benchmarks.test_fake: " in said
    assert "ValueError: boom" in said
    assert sorted(p.name for p in (recorded / "other" / "processes").iterdir()) == ["00.json", "01.json", "02.txt"]


def start_and_wait_for_the_next(recorded):
    """A recording that has just kept one more process."""
    process = start(recorded, "--processes", 50)
    deadline = time.monotonic() + 120
    while len(processes(recorded)) < 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_a_killed_recording_leaves_whole_files_and_goes_on(recorded):
    process = start_and_wait_for_the_next(recorded)
    process.kill()
    process.communicate(timeout=60)
    kept = processes(recorded)
    assert [len(read_results(recorded / "out/processes" / name)["benchmarks"]) for name in kept] == [3] * len(kept)
    code, said = record(recorded, "--processes", len(kept) - 1)
    assert (code, processes(recorded)) == (0, kept), said
    assert {b["stats"]["rounds"] for b in results_of(recorded)["benchmarks"]} == {len(kept) - 1}


def test_a_stopped_recording_is_reported_and_could_not_be_measured(recorded):
    process = start_and_wait_for_the_next(recorded)
    process.terminate()
    said = "".join(process.communicate(timeout=60))
    assert (process.returncode, "stopped by SIGTERM before all processes had run" in said) == (2, True), said


def test_a_second_recording_in_the_same_folder_is_refused(recorded, monkeypatch):
    process = start_and_wait_for_the_next(recorded)
    monkeypatch.setenv(locks.FOLDER, str(recorded))  # as on a file system that two machines share
    code, said = record(recorded)
    process.kill()
    process.communicate(timeout=60)
    assert (code, said) == (2, "stagebench: only one recording at a time may write to a folder, got out\n")


def test_a_second_recording_on_the_machine_is_refused_and_leaves_nothing(recorded):
    process = start_and_wait_for_the_next(recorded)
    code, said = record(recorded, out="other")
    process.kill()
    process.communicate(timeout=60)
    assert (code, len(said.splitlines())) == (2, 1)
    assert f"got a second beside process {process.pid} (stagebench bench out --rounds 2 --processes 50)" in said
    assert not (recorded / "other").exists()


def test_what_a_killed_recording_was_writing_is_swept_by_the_next_and_nothing_else(recorded):
    (recorded / "out" / "notes").touch()
    before = files(recorded)
    for half in ("out/processes/.03.json.123", "out/.results.json.123"):
        (recorded / half).touch()
    assert record(recorded, "--processes", 2)[0] == 0
    assert files(recorded) == before


@pytest.mark.parametrize(
    "argument",
    [
        "--stage-times-only",
        "--stage-rounds",
        "--stage-rounds=3",
        "--stage-order-seed=1",
        "--benchmark-json=x.json",
        "--benchmark-skip",
        "-k",
        "-kdecode",
        "-k=decode",
        "-qk",
        "-m",
        "-vvxmgpu",
        "--deselect=x",
        "--ignore-glob",
        "--co",
        "--",
        "@arguments",
    ],
)
def test_an_argument_that_is_not_the_users_to_give_is_refused_before_anything_runs(tmp_path, monkeypatch, argument):
    monkeypatch.chdir(ROOT)
    result = run_command("bench", tmp_path / "out", "--", "--stage-device", "cpu", argument, "x")
    said = f"stagebench: a recording must be chosen by --select, --rounds and OUT, got {argument}\n"
    assert (result.exit_code, result.output) == (2, said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argument",
    [
        "--stage-model=a",
        "--stage-backend",
        "--stage-media",
        "--stage-kernels=default",
        "-x",
        "-rA",
        "-pmock",
        "-Werror",
        "-q",
    ],
)
def test_an_argument_that_says_what_is_run_is_part_of_the_plan(tmp_path, argument):
    assert recording.plan_of(tmp_path, 1, "", (argument,))["arguments"] == [argument]


@pytest.fixture
def stored(recorded):
    """The project, with the recording as its baseline."""
    baseline.accept(recorded / "out" / "results.json", recorded / "baselines", "the first one")
    return recorded


def test_an_unchanged_tree_passes_its_gate_with_times_that_two_processes_cannot_decide(stored):
    code, said = record(stored, "--processes", 2, "--gate")
    assert (code, said.count("cannot decide: 2 pairs of processes, 7 are needed")) == (0, 2), said
    assert results_of(stored)["stagebench"]["regressed"] == []


def test_more_work_fails_the_gate_and_never_becomes_a_baseline(stored):
    path = stored / "src" / "fake.py"
    path.write_text(path.read_text().replace("8", "16"))
    code, said = record(stored, "--processes", 1, "--gate", out="new")
    assert (code, "frames_decoded: 8 before, 16 now" in said) == (1, True), said
    with pytest.raises(ResultsError, match="a regressed run can't become a baseline"):
        baseline.accept(stored / "new" / "results.json", stored / "baselines", "slower")


def test_a_gate_without_a_baseline_is_refused_after_the_results_are_written(recorded):
    (recorded / "out" / "results.json").unlink()
    code, said = record(recorded, "--processes", 2, "--gate")
    assert (code, "no baseline yet for this environment, so nothing is judged; baselines/ is empty" in said) == (
        2,
        True,
    )
    assert len(results_of(recorded)["benchmarks"]) == 3


def test_pytest_compares_with_a_recorded_baseline(stored):
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "--stage-rounds=1", "-p", "pytest_benchmark.plugin"]
    command += ["-p", "stagebench.suite.plugin"]
    environment = os.environ | {"PYTHONPATH": str(stored / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    path = next(stored.glob("baselines/*/baseline.json"))
    done = subprocess.run(
        [*command, f"--benchmark-compare={path}"],
        cwd=stored,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.count("(NOW)")) == (0, 3), done.stdout + done.stderr


def test_our_own_suite_is_recorded_and_accepted(tmp_path):
    options = ("--stage-device=cpu", "--stage-model=llava-1.5", "--stage-new-tokens=4")
    code, said = record(
        ROOT, "--processes", 1, "--select", "test_stage and encode", "--", *options, out=str(tmp_path / "out")
    )
    assert code == 0, said
    stored = baseline.accept(tmp_path / "out" / "results.json", tmp_path / "baselines", "first", partial=True)
    results = read_results(stored)
    images = {b["name"]: b["extra_info"].get("work", {}).get("images_encoded") for b in results["benchmarks"]}
    assert images == {"test_stage[llava-1.5-encode]": 1, "test_reference": None}


@pytest.mark.parametrize("rounds", ["0", "-1", "x"])
def test_a_recording_of_no_rounds_is_refused_before_anything_runs(tmp_path, rounds):
    result = CliRunner().invoke(main, ["bench", str(tmp_path / "out"), "--rounds", rounds])
    assert (result.exit_code, "--rounds" in result.output, list(tmp_path.iterdir())) == (2, True, [])
