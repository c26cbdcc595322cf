"""`stagebench gate` in projects of strangers, whose benchmarks know pytest-benchmark and nothing of ours."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stagebench.core.errors import GateError
from stagebench.gate.runner import COPY_OF, worktrees
from stagebench.gate.runner.fresh_process import pytest_arguments, require_models

pytest_plugins = ("pytester",)
SRC = Path(__file__).parents[1] / "src"

BENCHMARK = """
import job

def test_work(benchmark):
    benchmark(job.work)
    benchmark.extra_info["counters"] = {"steps": job.STEPS}

def test_no_benchmark():
    raise ValueError("nobody runs this")
"""
WORK = "STEPS = 3\n\ndef work():\n    return sum(range(1000))\n"
ASKED = " ".join(
    option
    for plugin, option in {"xdist": "-n 2", "pytest_cov": "--cov=job", "pytest_profiling": "--profile"}.items()
    if importlib.util.find_spec(plugin)
)
SETTINGS = f"""
[tool.pytest.ini_options]
addopts = "{ASKED} --ff --strict-markers --benchmark-skip --benchmark-autosave --benchmark-compare-fail=mean:5%"
testpaths = ["tests"]
filterwarnings = ["error"]
"""
CONFTEST = """
import pytest

def pytest_addoption(parser):
    parser.addoption("--size", type=int, default=5)

def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["load"] = [0.1, 0.2]

@pytest.fixture
def size(request):
    return request.config.getoption("--size")
"""
OWN_FIXTURE = """
import pytest
import job

@pytest.mark.benchmark(group="own", min_rounds=10**9, max_time=1000)
@pytest.mark.parametrize(("name", "limit"), [("a b", float("nan")), ("c::d", float("inf"))])
def test_work(benchmark, size, name, limit):
    benchmark(job.work)
    assert size == 5
    benchmark.extra_info |= {"bytes": 12, "processes": None, "rate": float("nan"), "counters": {"steps": job.STEPS}}
"""
LAYOUTS = {
    "flat, without settings": ({"job.py": WORK, "test_it.py": BENCHMARK}, ".", "job.py"),
    "src, with a conftest and plugins": (
        {
            "pyproject.toml": SETTINGS,
            ".gitignore": "_version.py\n",
            "src/job/__init__.py": "from job._version import version\n" + WORK,
            "src/job/_version.py": "version = '1'",
            "tests/conftest.py": CONFTEST,
            "tests/speed/test_it.py": OWN_FIXTURE,
        },
        ".",
        "src/job/__init__.py",
    ),
    "a folder of many": (
        {
            "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '-ra'\n",
            "libs/job/src/job.py": WORK,
            "services/one/benchmarks/test_it.py": BENCHMARK,
            "services/one/pyproject.toml": "[tool.stagebench.gate]\nselect = 'test_work'\n",
            "services/two/test_two.py": "raise ValueError('nobody collects this')",
        },
        "services/one",
        "libs/job/src/job.py",
    ),
}


@pytest.fixture(params=LAYOUTS)
def layout(tmp_path, git, request):
    """The folder of a project to run in, with what is installed editable in its environment, and a file of its code."""
    files, within, code = LAYOUTS[request.param]
    root = tmp_path / "project"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(tmp_path, "init", "--quiet", "project")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root / within, root / code


def gate(layout, *arguments, kind="counter", before=()):
    """The exit code, the verdicts of a kind with their reasons, and what was said."""
    folder, code = layout
    path = os.pathsep.join(map(str, (SRC, code.parent if code.name != "__init__.py" else code.parents[1], *before)))
    command = (sys.executable, "-m", "stagebench", "gate", "--base=HEAD", "--json=-", f"--out={folder.parent / 'out'}")
    pipes = {"capture_output": True, "text": True, "check": False}
    done = subprocess.run([*command, *arguments], cwd=folder, env=os.environ | {"PYTHONPATH": path}, **pipes)
    verdicts = json.loads(done.stdout)["verdicts"]
    return done.returncode, [(v["verdict"], v["reason"]) for v in verdicts if v["kind"] == kind], done.stderr


def test_each_side_counts_with_its_own_code(layout):
    code = layout[1]
    code.write_text(code.read_text().replace("STEPS = 3", "STEPS = 4"))
    status, verdicts, said = gate(layout, "--counters-only")
    assert (status, {*verdicts}) == (1, {("regression", "steps: 3 before, 4 now")}), said


def test_what_is_unchanged_passes_and_runs_in_no_process_that_imports_torch(layout, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "torch.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    status, verdicts, said = gate(layout, "--counters-only", before=[elsewhere])
    assert (status, {*verdicts}) == (0, {("pass", "all 1 as before")}), said
    assert not (tmp_path / "imported").exists()


@pytest.mark.skipif(os.environ.get("HYPOTHESIS_PROFILE") != "thorough", reason="a minute each, on a quiet machine")
@pytest.mark.parametrize(("calls", "expected"), [(1000, (0, {"pass"})), (1300, (1, {"regression"}))])
def test_a_slowdown_is_named_and_what_is_unchanged_passes(layout, calls, expected):
    code = layout[1]
    code.write_text(code.read_text().replace("range(1000)", f"range({calls})"))
    status, verdicts, said = gate(layout, "--budget=5m", kind="time")
    assert (status, {verdict for verdict, _ in verdicts}) == expected, said


@pytest.fixture
def empty(tmp_path, git):
    """A project without a benchmark."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "job.py").write_text(WORK)
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root, root / "job.py"


def test_the_first_benchmarks_of_a_project_are_new_and_pass(empty):
    (empty[0] / "test_it.py").write_text(BENCHMARK)
    status, verdicts, said = gate(empty, kind="time")
    assert (status, verdicts) == (0, [("pass", "new: the base has no such benchmark")]), said


def test_first_benchmarks_that_fail_are_an_error_of_the_head(empty):
    (empty[0] / "test_it.py").write_text(BENCHMARK.replace("job.work", "job.nothing"))
    status, _, said = gate(empty)
    assert (status, "the benchmarks of the head must pass, got test_work: AttributeError" in said) == (2, True), said


def test_without_any_benchmark_it_says_how_to_name_one(empty):
    status, _, said = gate(empty, "--counters-only")
    last = "the base must have a benchmark, got none that pytest finds; name its files after --, or a model with "
    assert (status, said.splitlines()[-1].startswith(f"stagebench: {last}")) == (2, True), said


@pytest.mark.parametrize(
    ("more", "names", "expected"),
    [
        ([], [], []),
        (["tests/speed", "-x"], [], ["tests/speed", "-x"]),
        (["tests/speed", "-x"], ["tests/speed/test_it.py::test_a"], ["tests/speed/test_it.py::test_a", "-x"]),
        (["--input", "tests"], [], ["--input", "tests"]),
        (["--stage-model=mine"], [], ["--pyargs", "stagebench.benchmarks", "--stage-model=mine"]),
    ],
)
def test_run_is_what_is_named_or_what_pytest_finds(tmp_path, more, names, expected):
    (tmp_path / "tests" / "speed").mkdir(parents=True)
    arguments = pytest_arguments(tmp_path, names, more, "", 3, 0)
    assert [*arguments[: len(expected)]] == expected
    assert arguments[len(expected)] == "--stage-times-only"


OF_A_MODEL = {"params": {"stage_plain_model": "mine", "stage_model": "eager", "stage": "load"}}


@pytest.mark.parametrize("of_others", [{}, {"params": None}, {"params": {"size": 3}}])
def test_a_model_that_no_benchmark_runs_is_refused(of_others):
    require_models(["--stage-model=mine"], {"benchmarks": [of_others, OF_A_MODEL]})
    require_models(["--stage-model=hf:mine"], {"benchmarks": [of_others, {"params": {"stage_passes": "hf:mine vllm"}}]})
    require_models(["--stage-new-tokens=3"], {"benchmarks": [of_others]})
    for option in ("--stage-model", "--stage-backend", "--stage-profile", "--stage-weights"):
        with pytest.raises(GateError, match=f"^{option} must have a selected benchmark that runs a model, got none"):
            require_models(["-x", f"{option}=mine"], {"benchmarks": [of_others]})


def test_a_folder_of_benchmarks_is_run_without_being_named(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    assert pytest_arguments(tmp_path, [], ["-x"], "", 3, 0)[:2] == ("benchmarks", "-x")


def test_a_module_of_the_repository_is_refused_where_its_copy_is_measured(pytester, monkeypatch):
    pytester.makepyfile(elsewhere="", test_it="import elsewhere\n\ndef test_it(benchmark):\n    benchmark(int)\n")
    pytester.syspathinsert()
    monkeypatch.setenv(COPY_OF, f"{pytester.path}{os.pathsep}{pytester.path / 'copies'}")
    done = pytester.runpytest_inprocess("-p", "stagebench.suite.plugin", "-p", "stagebench.gate.runner.in_process")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: a process of a gate must import the copy that it measures, got *elsewhere.py"])


def test_what_is_installed_from_the_repository_is_looked_for_in_its_copy(tmp_path, monkeypatch):
    for name, folder, editable in (("one", "libs/one/src", True), ("two", "libs/two", False)):
        (tmp_path / folder).mkdir(parents=True)
        about = tmp_path / "site" / f"{name}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        url = (tmp_path / "libs" / name).as_uri()
        (about / "direct_url.json").write_text(
            json.dumps({"url": url, "dir_info": {"editable": True} if editable else {}})
        )
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    found = {path.as_posix() for path in worktrees.imported_from(tmp_path)}
    assert found == {"site", "libs/one/src", "libs/two"}


def test_the_options_of_the_docs_are_those_of_the_command():
    text = (SRC.parent / "docs" / "gate.md").read_text()
    help_text = subprocess.run(
        [sys.executable, "-m", "stagebench", "gate", "--help"], capture_output=True, text=True, check=True
    ).stdout
    named = {*re.findall(r"`(--(?!stage)[a-z-]+)", text)} - {"--benchmark-skip", "--benchmark-disable"}
    assert named - {*re.findall(r"--[a-z-]+", help_text)} == set()
