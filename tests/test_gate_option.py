"""`pytest --stage-gate`, on a suite of two benchmarks that take no time."""

import json

import pytest

from stagebench.core.errors import ResultsError
from stagebench.gate import baseline

pytest_plugins = ("pytester",)


def rewrite(folder, old, new):
    path = folder / "test_stages.py"
    path.write_text(path.read_text().replace(old, new))


def gate(run, *arguments):
    return run("--benchmark-compare", "--stage-gate", *arguments)


def test_unchanged_counters_pass_and_the_time_of_one_process_is_called_inconclusive(stored):
    done = gate(stored)
    assert done.ret == 0
    done.stdout.fnmatch_lines(["stagebench gate: inconclusive (2 inconclusive, 2 pass)*", "*cannot decide: 1 pair*"])


@pytest.mark.parametrize(("now", "status", "verdict"), [(3, 1, "regression"), (1, 0, "improvement")])
def test_more_work_fails_and_less_work_asks_to_be_accepted(stored, now, status, verdict):
    rewrite(stored.folder, '"host_reads": 2', f'"host_reads": {now}')
    done = gate(stored)
    assert done.ret == status
    done.stdout.fnmatch_lines([f"*{verdict}*test_stage?encode?*host_reads: 2 before, {now} now*"])


def test_a_run_that_the_gate_calls_a_regression_does_not_become_a_baseline(stored):
    rewrite(stored.folder, '"host_reads": 2', '"host_reads": 3')
    gate(stored, "--benchmark-json=worse.json")
    with pytest.raises(ResultsError, match="a regressed run can't become a baseline"):
        baseline.accept(stored.folder / "worse.json", stored.folder / "baselines", "try")


def test_a_deleted_benchmark_exits_with_2(stored):
    rewrite(stored.folder, '["encode", "decode"]', '["encode"]')
    done = gate(stored)
    assert done.ret == 2
    done.stdout.fnmatch_lines(["*missing*test_stage?decode?*"])


def test_a_benchmark_left_out_by_k_is_not_missing(stored):
    assert gate(stored, "-k", "encode").ret == 0


def test_a_deleted_benchmark_is_missing_though_others_are_left_out(stored):
    rewrite(stored.folder, '["encode", "decode"]', '["encode", "load"]')
    assert gate(stored, "-k", "encode").ret == 2


def test_a_model_left_out_is_not_missing(stored):
    rewrite(stored.folder, '["encode", "decode"]', "[]")
    (stored.folder / "test_more.py").write_text(stored.suite.replace("eventgpt", "llava-1.5"))
    assert gate(stored).ret == 2
    gate(stored, "--stage-model=llava-1.5").stdout.no_fnmatch_line(" missing *")


def test_a_run_of_no_benchmark_does_not_pass(stored):
    rewrite(stored.folder, "benchmark.pedantic", "pytest.skip()\n    benchmark.pedantic")
    assert gate(stored).ret == 2


def test_a_failed_benchmark_fails_the_run_before_any_verdict(stored):
    rewrite(stored.folder, "benchmark.pedantic", "assert False\n    benchmark.pedantic")
    assert gate(stored).ret == pytest.ExitCode.TESTS_FAILED


def test_without_a_baseline_there_is_nothing_to_gate_by(quick_suite):
    done = gate(quick_suite)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*--stage-gate needs a baseline: no baseline yet for this environment*"])


def test_a_gate_needs_a_comparison(quick_suite):
    done = quick_suite("--stage-gate")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*--stage-gate needs a baseline: --benchmark-compare names it*"])


def test_rules_that_make_no_sense_are_a_usage_error(stored):
    (stored.folder / "pyproject.toml").write_text("[tool.stagebench.gate]\nthreshold = -1\n")
    done = gate(stored)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*threshold must be a number of at least 0*"])


def test_a_marker_is_kept_with_the_numbers(quick_suite):
    rewrite(quick_suite.folder, "@pytest.mark.par", '@pytest.mark.gate(threshold=0.2, floor="20us")\n@pytest.mark.par')
    assert quick_suite("--benchmark-json=out.json").ret == 0
    run = json.loads((quick_suite.folder / "out.json").read_text())
    assert [b["extra_info"]["gate"] for b in run["benchmarks"]] == [{"threshold": 0.2, "floor": "20us"}] * 2


def test_a_marker_that_makes_no_sense_fails_its_benchmark(quick_suite):
    rewrite(quick_suite.folder, "@pytest.mark.par", "@pytest.mark.gate(treshold=0.2)\n@pytest.mark.par")
    done = quick_suite()
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(["*may have threshold and floor, got treshold*"])


def test_compare_fail_keeps_working(stored):
    (path,) = (stored.folder / "baselines").glob("*/*.json")
    run = json.loads(path.read_text())
    for benchmark in run["benchmarks"]:
        times = ("min", "q1", "ld15iqr", "median", "mean", "q3", "hd15iqr", "max")
        benchmark["stats"] |= {"data": [1e-12] * 2, "total": 2e-12} | dict.fromkeys(times, 1e-12)
    path.write_text(json.dumps(run))
    done = gate(stored, "--benchmark-compare-fail=min:5%")
    assert done.ret != 0
    done.stderr.fnmatch_lines(["*Performance has regressed*"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "out.json must be JSON, got: Expecting value"),
        ("[]", "out.json must be written by stagebench's pytest plugin"),
        ('{"benchmarks": 3}', "out.json must be written by stagebench's pytest plugin"),
        (
            None,
            "out.json: test_stages.py::*: stats: median must be a finite number above 0, got None",
        ),
    ],
)
@pytest.mark.parametrize("option", ["--benchmark-compare=out.json", "--benchmark-compare"])
def test_a_damaged_baseline_is_a_usage_error_of_one_line(stored, option, text, complaint):
    path = stored.folder / "out.json"
    if text is None:
        run = json.loads(path.read_text())
        run["benchmarks"][0]["stats"]["median"] = None
        text = json.dumps(run)
    (found,) = (stored.folder / "baselines").glob("*/*.json")
    (path if "=" in option else found).write_text(text)
    done = stored(option)
    assert (done.ret, len(done.stderr.lines)) == (pytest.ExitCode.USAGE_ERROR, 2)
    done.stderr.fnmatch_lines([f"ERROR: the run *{complaint.replace('out.json', '*.json').replace('[', '?')}*"])


def test_a_comparison_with_no_file_is_a_usage_error(quick_suite):
    done = quick_suite("--benchmark-compare=no/such/run")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: --benchmark-compare must name a run or nothing, got no file no/such/run"])


def test_a_marker_that_the_baseline_has_not_is_the_first_line_of_the_verdict(stored):
    rewrite(stored.folder, "@pytest.mark.par", "@pytest.mark.gate(threshold=9)\n@pytest.mark.par")
    gate(stored).stdout.fnmatch_lines(
        [
            "the rules differ, *: the marker of *: threshold not given in the base, 9 in the head*",
            "stagebench gate: *",
        ]
    )
