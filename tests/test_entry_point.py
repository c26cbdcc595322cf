"""The plugin as an installed package brings it, by its entry point: in our own folders, and in those of others."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from checkpoints import write_checkpoint

from stagebench.gate.runner.fresh_process import Failure, read_failures, xml_options

pytest_plugins = ("pytester",)

ROOT = Path(__file__).parents[1]
PLUGIN = "stagebench.suite.plugin"


@pytest.fixture
def installed(tmp_path_factory, monkeypatch):
    """A folder on the path, in which the package is known as it is where it was installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    site = tmp_path_factory.mktemp("site")
    about = site / "stagebench-0.1.0.dist-info"
    about.mkdir()
    lines = (f"{name} = {value}\n" for name, value in project["entry-points"]["pytest11"].items())
    (about / "entry_points.txt").write_text(f"[pytest11]\n{''.join(lines)}")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stagebench\nVersion: 0.1.0\n")
    monkeypatch.syspath_prepend(site)
    return site


def names(done):
    return sorted(line for line in done.outlines if "::" in line)


def test_the_benchmarks_of_the_package_have_the_names_of_the_repositorys(pytester, installed):
    shipped = names(pytester.runpytest_inprocess("--pyargs", "stagebench.benchmarks", "--collect-only", "-q"))
    own = names(pytester.runpytest_inprocess(str(ROOT / "benchmarks"), f"--rootdir={ROOT}", "--collect-only", "-q"))
    assert shipped == [name for name in own if re.search("test_(ceiling|reference|stage|e2e|generate)", name)]
    assert "benchmarks/test_stages.py::test_stage[llava-1.5-encode]" in shipped


def test_settings_of_the_folder_do_not_hide_them(pytester, installed):
    pytester.makeini("[pytest]\npython_files = bench_*.py\npython_functions = bench_*\naddopts = --strict-markers\n")
    found = names(pytester.runpytest_inprocess("--pyargs", "stagebench.benchmarks", "--collect-only", "-q"))
    assert {"benchmarks/test_reference.py::test_reference", "benchmarks/test_whole.py::test_e2e[eventgpt]"} < {*found}


def test_any_model_is_timed_in_an_empty_folder(pytester, installed, tmp_path_factory):
    checkpoint = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint("llava", checkpoint)
    few = ("--stage-rounds=2", "--stage-new-tokens=3", "--stage-device=cpu", "--benchmark-json=out.json")
    asked = ("--pyargs", "stagebench.benchmarks", f"--stage-model=hf:{checkpoint}", "-k", "test_stage or test_e2e[")
    done = pytester.runpytest_inprocess(*asked, *few)
    assert done.ret == 0
    run = json.loads((pytester.path / "out.json").read_text())
    files = {benchmark["fullname"].partition("::")[0] for benchmark in run["benchmarks"]}
    assert (files, len(run["benchmarks"])) == ({"benchmarks/test_stages.py", "benchmarks/test_whole.py"}, 6)
    assert (run["stagebench"]["complete"], run["machine_info"]["gc"]) == (True, "off")


@pytest.mark.parametrize(("gone", "status"), [("test_ceilings", 0), ("test_reference", 1)])
def test_of_the_package_what_was_not_asked_for_is_not_missed(pytester, installed, gone, status):
    asked = ("--pyargs", "stagebench.benchmarks.test_reference", "--stage-rounds=1", "--stage-device=cpu")
    assert pytester.runpytest_inprocess(*asked, "--benchmark-json=out.json").ret == 0
    run = json.loads((pytester.path / "out.json").read_text())
    assert run["stagebench"]["selection"] == ["stagebench.benchmarks.test_reference"]
    run["benchmarks"].append(run["benchmarks"][0] | {"fullname": f"benchmarks/{gone}.py::test_gone"})
    (pytester.path / "out.json").write_text(json.dumps(run))
    assert pytester.runpytest_inprocess(*asked, "--benchmark-compare=out.json").ret == status


FAILING = """
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call():
    yield
    raise ValueError("so")
"""


def test_a_failure_is_reported_under_the_name_of_its_benchmark(pytester, installed):
    pytester.syspathinsert()
    pytester.makepyfile(failing=FAILING)
    asked = ("--pyargs", "stagebench.benchmarks.test_reference", "-p", "failing")
    assert pytester.runpytest_inprocess(*asked, *xml_options(pytester.path / "out.xml")).ret == 1
    (failure,) = read_failures(pytester.path / "out.xml")
    assert failure == Failure("benchmarks/test_reference.py::test_reference", "ValueError: so")


@pytest.mark.parametrize("named", ["a conftest.py", "-p"])
def test_the_plugin_is_one_however_often_it_is_named(pytester, installed, named):
    pytester.makepyfile(test_it="def test_it(pytestconfig): assert pytestconfig.option.stage_rounds == 10")
    if named == "-p":
        assert pytester.runpytest_inprocess("-p", PLUGIN, "-p", "stagebench.suite.entry_point").ret == 0
    else:
        pytester.makeconftest(f"pytest_plugins = ('{PLUGIN}', 'stagebench.suite.entry_point')")
        assert pytester.runpytest_inprocess("--stage-device=cpu").ret == 0


@pytest.mark.parametrize("given", ["typed", "a file of settings", "the environment", "a file of arguments"])
def test_one_option_is_enough_wherever_it_is_given(pytester, installed, monkeypatch, given):
    pytester.makepyfile(test_it="def test_it(pytestconfig): assert pytestconfig.option.stage_rounds == 3")
    pytester.maketxtfile(arguments="--stage-rounds=3")
    if given == "a file of settings":
        pytester.makeini("[pytest]\naddopts = --stage-rounds=3\n")
    elif given == "the environment":
        monkeypatch.setenv("PYTEST_ADDOPTS", "--stage-rounds=3")
    typed = {"typed": ["--stage-rounds", "3"], "a file of arguments": ["@arguments.txt"]}
    assert pytester.runpytest_inprocess(*typed.get(given, [])).ret == 0  # a number, as the plugin makes it


OWN_FIXTURES = """
import pytest

@pytest.fixture
def model():
    raise AssertionError("of somebody else")

options = sample = rounds = reference = verified = model
"""


def test_fixtures_of_the_folder_are_not_taken_for_those_of_the_package(pytester, installed):
    pytester.makeconftest(OWN_FIXTURES)
    asked = ("--pyargs", "stagebench.benchmarks", "--stage-model=llava-1.5", "-k", "encode", "--stage-device=cpu")
    assert pytester.runpytest_inprocess(*asked, "--stage-rounds=1", "--stage-new-tokens=2").ret == 0


OWN_BENCHMARK = """
def test_mine(stage_benchmark, stage_model, stage_sample):
    size = stage_benchmark(lambda: stage_sample.path.stat().st_size)
    assert (stage_model.name, size > 0) == ("llava-1.5", True)
"""


def test_a_benchmark_of_ones_own_has_the_fixtures_of_the_plugin(pytester, installed):
    pytester.makepyfile(test_own=OWN_BENCHMARK)
    done = pytester.runpytest_inprocess("--stage-model=llava-1.5", "--stage-device=cpu", "--benchmark-json=out.json")
    assert done.ret == 0
    (benchmark,) = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    assert (benchmark["name"], benchmark["stats"]["rounds"]) == ("test_mine[llava-1.5]", 10)


def test_the_plugin_comes_with_the_fixtures_of_the_package(pytester):
    pytester.makepyfile(**{"below/test_it": "def test_it(benchmark, stage_rounds): benchmark(sum, [stage_rounds])"})
    (pytester.path / "below" / "conftest.py").write_text("from stagebench.benchmarks.conftest import *\n")
    assert pytester.runpytest_inprocess("below", "--benchmark-json=out.json").ret == 0
    run = json.loads((pytester.path / "out.json").read_text())
    assert (run["stagebench"]["complete"], run["machine_info"]["gc"]) == (True, "off")


def test_benchmarks_that_come_without_their_plugin_are_refused(pytester):
    pytester.makepyfile(**{"below/test_it": "def test_it(benchmark): pass"})
    (pytester.path / "below" / "conftest.py").write_text("from stagebench.benchmarks.conftest import *\n")
    done = pytester.runpytest_inprocess()
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines([f"ERROR: *need its plugin from the start, add -p {PLUGIN}"])


OTHERS = {
    "conftest.py": """
import datetime
import sys
from pathlib import Path
from pytest_benchmark import plugin

class Stopped:
    @staticmethod
    def now(zone):
        return datetime.datetime(2026, 1, 1, tzinfo=zone)

plugin.datetime = Stopped

def pytest_benchmark_generate_machine_info():
    return {"node": "theirs"}

def pytest_unconfigure():
    Path("modules").write_text("\\n".join(sorted(sys.modules)))
""",
    "ticks.py": """
import itertools

COUNT = itertools.count()

def tick():
    return next(COUNT) / 1000
""",
    "test_sum.py": """
def test_sum(benchmark):
    benchmark.pedantic(sum, args=([1] * 1000,), rounds=2)
""",
}
"""Another project, in which no time passes but that of its own timer, so that its results are the same each time."""


def others_run(folder, site, *more):
    """What pytest says in another project, but for its plugins and seconds; its results, byte for byte; all modules."""
    for name, text in OTHERS.items():
        (folder / name).write_text(text)
    path = os.pathsep.join([str(site), str(ROOT / "src")])
    command = [sys.executable, "-m", "pytest", "--benchmark-json=out.json", "--benchmark-timer=ticks.tick", *more]
    environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "300"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("plugins: ")]
    said = [re.sub(r"in [\d.]+s ", "", line) for line in said]
    return said, (folder / "out.json").read_bytes(), set((folder / "modules").read_text().splitlines())


def test_another_project_sees_nothing_of_it(tmp_path, installed):
    with_us = others_run(tmp_path, installed)
    without = others_run(tmp_path, installed, "-p", "no:stagebench.suite.entry_point")
    assert with_us[:2] == without[:2]
    assert with_us[2] - without[2] == {"stagebench", "stagebench.suite", "stagebench.suite.entry_point"}


THEIRS = """
def pytest_benchmark_generate_machine_info():
    return {"node": "theirs"}
"""


@pytest.mark.parametrize("order", ["a conftest.py", "-p before us", "-p after us"])
def test_the_environment_is_ours_whatever_the_order_of_plugins(pytester, installed, order):
    pytester.syspathinsert()
    pytester.makepyfile(test_it="def test_it(benchmark): benchmark.pedantic(sum, args=([1],))")
    if order == "a conftest.py":
        pytester.makeconftest(THEIRS)
    else:
        pytester.makepyfile(theirs=THEIRS)
    typed = {
        "a conftest.py": (),
        "-p before us": ("-p", "theirs", "-p", PLUGIN),
        "-p after us": ("-p", PLUGIN, "-p", "theirs"),
    }
    assert pytester.runpytest_inprocess("--stage-device=cpu", "--benchmark-json=out.json", *typed[order]).ret == 0
    assert "node" not in json.loads((pytester.path / "out.json").read_text())["machine_info"]
