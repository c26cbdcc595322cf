"""The plugin beside other options of pytest and pytest-benchmark, on a suite that takes no time."""

import json
from functools import partial

import pytest

from stagebench.core.results import read_results
from stagebench.gate import baseline
from stagebench.gate.runner import in_process

pytest_plugins = ("pytester",)

DISABLED = ("--benchmark-disable", "--benchmark-skip", "--collect-only", "--setup-plan")
LOOK = """
import gc

def test_look(benchmark):
    seen = []
    benchmark.pedantic(lambda: seen.append(gc.isenabled()), rounds=2, warmup_rounds=1)
    benchmark.extra_info["seen"] = seen
"""


def test_the_help_of_pytest_lists_the_options(quick_suite):
    done = quick_suite("--help")
    assert done.ret == 0
    done.stdout.fnmatch_lines(["*--stage-model=*"])


@pytest.mark.parametrize("option", DISABLED)
def test_where_nothing_is_timed_nothing_has_vanished(stored, option):
    assert stored(option, "--benchmark-compare").ret == 0


@pytest.mark.parametrize("option", DISABLED[:2])
def test_where_nothing_is_timed_that_is_said(stored, option):
    stored(option, "--benchmark-compare").stdout.fnmatch_lines(
        ["stagebench: nothing was timed, so nothing is compared"]
    )


@pytest.mark.parametrize("option", DISABLED[:2])
def test_a_gate_needs_times(stored, option):
    done = stored(option, "--benchmark-compare", "--stage-gate")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*--stage-gate needs timed benchmarks, got disabled or skipped ones"])


def test_a_worker_of_xdist_runs_each_benchmark_once_and_compares_nothing(stored, monkeypatch):
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw1")
    done = stored("--benchmark-compare")
    assert done.ret == 0
    done.assert_outcomes(passed=2)


@pytest.mark.parametrize("arguments", [(), ("--collect-only",), ("--stage-gate",)])
def test_without_pytest_benchmark_the_plugin_disturbs_nobody(quick_suite, arguments):
    (quick_suite.folder / "test_stages.py").write_text("def test_plain(): pass\n")
    done = quick_suite("-p", "no:benchmark", *arguments)
    assert done.ret == (pytest.ExitCode.USAGE_ERROR if "--stage-gate" in arguments else 0)
    done.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_a_limit_without_a_baseline_is_refused_before_anything_is_measured(quick_suite):
    done = quick_suite("--benchmark-compare", "--benchmark-compare-fail=min:5%")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*--benchmark-compare-fail needs a baseline: no baseline yet for this environment*"])


@pytest.mark.parametrize(
    "named", ["", "no-such.json", "0001", "no/such/run", "test_stages.py::test_stage", "baselines"]
)
def test_a_comparison_with_what_is_no_run_is_a_usage_error_of_one_line(quick_suite, named):
    done = quick_suite(f"--benchmark-compare={named}")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in done.stderr.lines if line] == [
        f"ERROR: --benchmark-compare must name a run or nothing, got no file {named}"
    ]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"benchmarks": []}', '{"benchmarks": [{"stats": NaN}]}', "\x00"])
def test_a_damaged_run_of_the_storage_is_a_usage_error_of_one_line(quick_suite, text):
    assert quick_suite("--benchmark-save=x").ret == 0
    (path,) = quick_suite.folder.glob(".benchmarks/*/*.json")
    path.write_text(text)
    done = quick_suite("--benchmark-compare=0001")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert len([line for line in done.stderr.lines if line]) == 1


def test_a_run_of_the_storage_is_compared_with_by_its_number(quick_suite):
    assert quick_suite("--benchmark-save=x").ret == 0
    assert quick_suite("--benchmark-compare=0001").ret == 0


@pytest.mark.parametrize(("arguments", "collects"), [((), False), (("--stage-timed-gc",), True)])
def test_garbage_is_collected_in_timed_rounds_only_when_asked_for(quick_suite, arguments, collects):
    (quick_suite.folder / "test_stages.py").write_text(LOOK)
    assert quick_suite("--benchmark-json=out.json", *arguments).ret == 0
    run = json.loads((quick_suite.folder / "out.json").read_text())
    assert run["machine_info"]["gc"] == ("on" if collects else "off")
    assert run["benchmarks"][0]["extra_info"]["seen"] == [collects] * 3


def test_the_garbage_collector_can_not_be_on_and_off(quick_suite):
    assert quick_suite("--stage-timed-gc", "--benchmark-disable-gc").ret == pytest.ExitCode.USAGE_ERROR


CONTENT = '"content": {"frames": "00ff00ff00ff00ff"}, "stage": "load", "work": {"host_reads": 2}'


@pytest.fixture
def digested(stored):
    """A suite that tells the content of load, and a run of it."""
    rewrite(stored, '"work": {"host_reads": 2}', CONTENT)
    assert stored("--benchmark-json=digested.json").ret == 0
    return stored


def rewrite(run, old, new):
    path = run.folder / "test_stages.py"
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("judge", [(), ("--stage-gate",)])
@pytest.mark.parametrize(
    ("allowed", "status"), [((), 1), (("--stage-allow-changed=encode",), 1), (("--stage-allow-changed=load",), 0)]
)
def test_other_content_fails_until_it_is_let_pass_by_its_stage(digested, judge, allowed, status):
    rewrite(digested, "00ff00ff00ff00ff", "11ff00ff00ff00ff")
    done = digested("--benchmark-compare=digested.json", *judge, *allowed)
    assert done.ret == status
    done.stdout.fnmatch_lines(["*frames: *other content, 00ff00ff00ff00ff*"])


def test_content_that_is_no_longer_told_fails(digested):
    rewrite(digested, CONTENT, '"work": {"host_reads": 2}')
    assert digested("--benchmark-compare=digested.json").ret == pytest.ExitCode.TESTS_FAILED


def test_content_that_the_baseline_does_not_tell_is_no_difference(stored):
    rewrite(stored, '"work": {"host_reads": 2}', CONTENT)
    assert stored("--benchmark-compare").ret == 0


def test_other_work_beside_content_that_is_let_pass_still_fails(digested):
    rewrite(digested, "00ff00ff00ff00ff", "11ff00ff00ff00ff")
    rewrite(digested, '"host_reads": 2', '"host_reads": 3')
    assert (
        digested("--benchmark-compare=digested.json", "--stage-allow-changed=load").ret == pytest.ExitCode.TESTS_FAILED
    )


def test_a_stage_that_is_none_is_refused(quick_suite):
    assert quick_suite("--stage-allow-changed=loud").ret == pytest.ExitCode.USAGE_ERROR


ERRORS = {
    "of a benchmark": ("    benchmark.pedantic", "    open('no-such-file')\n    benchmark.pedantic"),
    "of a fixture": ("(benchmark, stage)", "(benchmark, stage, no_such_fixture)"),
    "of collection": ("import pytest", "import pytest, no_such_module"),
    "of nothing to run": ("def test_stage", "def stage_test"),
}
CHECKS = {
    "an assertion": "assert False",
    "a stage": "from stagebench.core.errors import StageError\n    raise StageError('two towers')",
    "pytest.fail": "pytest.fail('so')",
}
ENDS = {
    "a hook": "def pytest_sessionfinish(session): 1 / 0",
    "a summary": "def pytest_terminal_summary(): 1 / 0",
    "the end": "def pytest_unconfigure(): 1 / 0",
    "a status": "def pytest_sessionfinish(session): session.exitstatus = 1",
    "an exit": "import pytest\ndef pytest_runtest_logfinish(): pytest.exit('enough', 1)",
}


@pytest.mark.parametrize("error", ERRORS)
def test_under_a_gate_an_error_is_no_verdict(stored, error):
    rewrite(stored, *ERRORS[error])
    assert stored("--benchmark-compare", "--stage-gate").ret == 2


@pytest.mark.parametrize("check", CHECKS)
def test_under_a_gate_a_check_of_a_benchmark_that_fails_is_a_verdict(stored, check):
    rewrite(stored, "    benchmark.pedantic", f"    {CHECKS[check]}\n    benchmark.pedantic")
    assert stored("--benchmark-compare", "--stage-gate").ret == 1


@pytest.mark.parametrize("end", ENDS)
def test_under_a_gate_what_fails_behind_the_benchmarks_is_no_verdict(stored, end):
    (stored.folder / "conftest.py").write_text(f"pytest_plugins = ('stagebench.suite.plugin',)\n{ENDS[end]}\n")
    assert stored("--benchmark-compare", "--stage-gate").ret == 2


def without_gc(run):
    (path,) = (run.folder / "baselines").glob("*/baseline.json")
    stored = json.loads(path.read_text())
    del stored["machine_info"]["gc"]
    path.write_text(json.dumps(stored))


@pytest.mark.parametrize("judge", [(), ("--stage-gate",)])
def test_a_baseline_of_before_is_compared_with_where_garbage_is_collected_as_it_was_then(quick_suite, judge):
    assert quick_suite("--stage-timed-gc", "--benchmark-json=out.json").ret == 0
    baseline.accept(quick_suite.folder / "out.json", quick_suite.folder / "baselines", "the first one")
    without_gc(quick_suite)
    done = quick_suite("--stage-timed-gc", "--benchmark-compare", *judge)
    assert done.ret == 0
    done.stdout.fnmatch_lines(["*stagebench: comparing with *"])
    quick_suite("--benchmark-compare").stdout.fnmatch_lines(
        ["*no baseline yet for this environment*differs in gc: 'off' here, 'on' there"]
    )


def test_the_identity_is_there_whichever_plugin_is_loaded_first(quick_suite):
    (quick_suite.folder / "conftest.py").write_text("")
    assert quick_suite("-p", "stagebench.suite.plugin", "--benchmark-json=out.json").ret == 0
    baseline.accept(quick_suite.folder / "out.json", quick_suite.folder / "baselines", "the first one")
    assert quick_suite("-p", "stagebench.suite.plugin", "--benchmark-compare").ret == 0


SORT = "    benchmark.extra_info['counters'] = {'n': len(benchmark(sorted, [2, 1]))}\n"


@pytest.fixture
def without_models(quick_suite, pytester):
    """The same of a benchmark of something else, with no option that is about models."""
    (quick_suite.folder / "test_stages.py").write_text("def test_sort(benchmark):\n" + SORT)
    return partial(pytester.runpytest_inprocess, "--benchmark-max-time=0.01")


@pytest.mark.parametrize("named", ["", "=out.json"])
def test_benchmarks_of_no_model_are_compared_with_what_was_stored_of_such(without_models, quick_suite, named):
    assert without_models("--benchmark-json=out.json").ret == 0
    baseline.accept(quick_suite.folder / "out.json", quick_suite.folder / "baselines", "the first one")
    done = without_models(f"--benchmark-compare{named}", "--stage-gate")
    assert done.ret == 0
    done.stdout.fnmatch_lines(["stagebench gate: inconclusive (1 inconclusive, 1 pass)"])
    (quick_suite.folder / "test_stages.py").write_text("def test_other(benchmark):\n" + SORT)
    assert without_models(f"--benchmark-compare{named}").ret == pytest.ExitCode.TESTS_FAILED


def test_a_run_that_looked_for_a_baseline_in_vain_is_of_no_model_either(without_models, quick_suite):
    assert without_models("--benchmark-json=out.json", "--benchmark-compare").ret == 0
    assert read_results(quick_suite.folder / "out.json")["machine_info"]["profile"] == "none"


def test_a_run_of_medians_alone_is_no_internal_error(stored):
    (path,) = (stored.folder / "baselines").glob("*/baseline.json")
    run = json.loads(path.read_text())
    for benchmark in run["benchmarks"]:
        benchmark["stats"] = {"median": 1.0}
    path.write_text(json.dumps(run))
    done = stored("--benchmark-compare")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert len([line for line in done.stderr.lines if line]) == 1


@pytest.mark.parametrize("late", ["pytest.xfail('slow')", "pytest.skip('slow')"])
def test_what_does_not_pass_after_it_was_timed_has_vanished(stored, late):
    rewrite(stored, "    benchmark.extra_info |=", f"    stage == 'decode' and {late}\n    benchmark.extra_info |=")
    assert stored("--benchmark-compare", "--benchmark-json=out.json").ret == 1
    run = json.loads((stored.folder / "out.json").read_text())
    assert [b["name"] for b in run["benchmarks"]] == ["test_stage[encode]"]
    assert stored("--benchmark-compare", "--stage-gate").ret == 2


@pytest.mark.parametrize("work", [[2], None, "2"])
def test_work_that_is_none_is_said_in_one_line(stored, work):
    rewrite(stored, '{"host_reads": 2}', repr(work))
    result = stored("--benchmark-compare")
    assert (result.ret, "INTERNALERROR" in result.stdout.str() + result.stderr.str()) == (1, False)
    said = f"stagebench: test_stage[encode]: work must be an object, got {work!r}"
    assert said in result.stdout.str()


@pytest.mark.parametrize(
    "option", ["-k encode", "--deselect test_stages.py::test_stage[decode]", "--stage-model=llava-1.5"]
)
def test_a_file_of_settings_does_not_choose_what_is_compared(stored, option):
    if "--stage-model" in option:
        rewrite(stored, '["encode", "decode"]', '["encode"]')
    (stored.folder / "pytest.ini").write_text(f"[pytest]\naddopts = {option}\n")
    assert [stored("--benchmark-compare", *judge).ret for judge in ((), ("--stage-gate",))] == [1, 2]
    assert stored("--benchmark-compare", "-k", "encode").ret == 0


@pytest.mark.parametrize(("asked", "status"), [((), 1), (("--stage-model=eventgpt",), 0)])
def test_a_model_that_is_not_among_those_asked_for_is_not_missed_whatever_its_name(stored, asked, status):
    (path,) = (stored.folder / "baselines").glob("*/baseline.json")
    run = json.loads(path.read_text())
    run["benchmarks"].append(run["benchmarks"][0] | {"fullname": "test_stages.py::test_stage[x]"})
    run["benchmarks"][-1]["extra_info"] = {"model": "x"}
    path.write_text(json.dumps(run))
    assert stored("--benchmark-compare", *asked).ret == status


@pytest.mark.parametrize(
    ("model", "selection"), [("qwen3-vl", []), ("eventgpt", ["--stage-model without llava-1.5, video-llava"])]
)
def test_models_that_run_by_name_alone_are_no_part_of_a_suite(quick_suite, model, selection):
    assert quick_suite(f"--stage-model={model}", "--benchmark-json=out.json").ret == 0
    run = json.loads((quick_suite.folder / "out.json").read_text())
    assert run["stagebench"]["selection"] == selection


def test_limits_of_a_marker_have_names(quick_suite):
    (quick_suite.folder / "test_stages.py").write_text(
        quick_suite.suite.replace("@pytest", "@pytest.mark.gate(0.5)\n@pytest")
    )
    result = quick_suite()
    result.stdout.fnmatch_lines(["*must name its limits, got (0.5,)*"])


@pytest.mark.parametrize("count", [float("nan"), float("inf"), 1.5, "3", True, None, -1, [3]])
def test_a_counter_that_is_no_whole_number_is_refused_by_the_name_of_its_benchmark(count):
    benchmark = {"fullname": "test_x.py::test_x", "extra_info": {"counters": {"steps": count}}}
    with pytest.raises(pytest.UsageError, match=r"^test_x\.py::test_x: counters: steps must be "):
        in_process.pytest_benchmark_update_json({"machine_info": {"profile": "none"}, "benchmarks": [benchmark]})
