"""Hypothesis profiles (`ci`; HYPOTHESIS_PROFILE=thorough draws the many examples of a release), and the suite.

A small project stands in for ours where a command runs a whole suite several times: its benchmarks need no torch.
"""

import functools
import gc
import os
import subprocess
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from warm_processes import WarmProcesses

from stagebench.core.artifacts import Inputs
from stagebench.core.machine import locks
from stagebench.core.settings import ModelSettings
from stagebench.gate import baseline
from stagebench.gate.runner.worktrees import home_of
from stagebench.media.synthetic_clip import write_synthetic_clip
from stagebench.models.registry import build_model

# Models are built inside the examples: slow to generate is what they are.
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("ci", max_examples=60, deadline=None, derandomize=True, suppress_health_check=QUIET)
settings.register_profile(
    "mutation", max_examples=100, phases=[Phase.generate], derandomize=True, suppress_health_check=QUIET
)
settings.register_profile("thorough", max_examples=2000, deadline=None, suppress_health_check=QUIET)
torch.set_num_threads(1)  # models this small gain nothing from more, and wait for whoever has the other cores
torch.set_printoptions(threshold=8, edgeitems=1)  # a falsifying example is read by people
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

QUICK = ("--stage-device=cpu", "--stage-rounds=2", "--stage-new-tokens=4", "-p", "no:cacheprovider")


@pytest.fixture(scope="session", autouse=True)
def _a_machine_of_its_own(tmp_path_factory):
    """Measure in tests whatever else is measured on this machine: by other tests, by a person.

    What a test starts is no worker of xdist's, even if the test runs in one: pytest-benchmark would time nothing there.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
            patch.delenv(name)
        patch.setenv(locks.FOLDER, str(tmp_path_factory.mktemp("locks")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _what_is_there_stays():
    """Let the collections before a timed pass skip what is imported: looking through it takes longer than the pass."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def cases():
    """The folder of inputs that the first edition got wrong, beside the real data; they are not part of the project."""
    data = os.environ.get("STAGEBENCH_DATA")
    folder = Path(data).parent / "cases" if data else None
    if folder is None or not folder.is_dir():
        pytest.skip("needs the folder cases beside the one that STAGEBENCH_DATA names, found none")
    return folder


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory):
    """The synthetic clip, written once; a test that changes it writes its own."""
    return write_synthetic_clip(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="session")
def warm_processes(_a_machine_of_its_own):
    """Runs modules in fresh processes that needn't import torch again."""
    processes = WarmProcesses()
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def suite_command(warm_processes):
    """Runs the benchmark suite in a process of its own, on the CPU, few rounds and few tokens."""
    imported = "-Wignore:Module already imported so cannot be rewritten; {}:pytest.PytestAssertRewriteWarning"
    quick = ("pytest", "benchmarks", *QUICK, *map(imported.format, ("anyio", "stagebench")))
    return functools.partial(warm_processes.run, *quick, cwd=Path(__file__).parents[1])


@pytest.fixture(scope="session")
def gpu():
    """A CUDA device; a test that asks for it, or is marked so, is skipped on a machine without one."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, found none")
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def _gpu_marker(request):
    if request.node.get_closest_marker("gpu"):
        request.getfixturevalue("gpu")


@pytest.fixture(scope="session")
def tiny_model():
    """Builds a model in narrow layers, without a backend, once for all tests, which leave it as it was."""
    return functools.cache(lambda name: build_model(name, ModelSettings()))


@pytest.fixture(scope="session")
def plain(tiny_model):
    """EventGPT, so built."""
    return tiny_model("eventgpt")


@pytest.fixture(scope="session")
def inputs(plain):
    """Five random event images and a short prompt, for `plain`."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[1, 5, *[plain.hf_model.config.placeholder_id] * 582, 7, 8]])
    return Inputs(
        ids, torch.ones_like(ids), {"pixel_values": torch.randn(1, 5, 3, 336, 336, generator=generator)}, images=5
    )


@pytest.fixture(scope="session")
def git():
    """Calls git in a folder, as somebody with a name; its output."""

    def call(where, *arguments):
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        command = ["/usr/bin/env", "git", *identity, *arguments]
        return subprocess.run(command, cwd=where, capture_output=True, text=True, check=True).stdout

    return call


@pytest.fixture(scope="session")
def nothing_is_left(git):
    """Says whether no checkout of a gate is left in a repository."""

    def check(repository):
        left = [path.name for path in home_of(repository).iterdir()]
        return (left, len(git(repository, "worktree", "list").splitlines())) == ([], 1)

    return check


PROJECT_PLUGIN = """
def pytest_addoption(parser):
    for name in ("--stage-order-seed", "--stage-rounds"):
        parser.addoption(name, type=int)
    parser.addoption("--stage-times-only", action="store_true")
"""

PROJECT_PACKAGE = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)"  # all else is that of ours

PROJECT_CONFTEST = """
def pytest_benchmark_generate_machine_info():
    import pathlib
    files = {name: pathlib.Path(name).read_text() for name in ("dtype", "torch")}
    return {"device": "abacus", "profile": "tiny"} | files

def pytest_benchmark_update_json(config, benchmarks, output_json):
    output_json["stagebench"] = {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []}
"""

PROJECT_SUITE = """
import fake
import pytest

def measure(benchmark, pytestconfig, function):
    benchmark.pedantic(function, rounds=pytestconfig.option.stage_rounds)
    if not pytestconfig.option.stage_times_only:
        benchmark.extra_info["work"] = {"frames_decoded": fake.FRAMES}

@pytest.mark.parametrize("name", ["a", "b"])
def test_stage(benchmark, pytestconfig, name):
    measure(benchmark, pytestconfig, fake.work)
"""

PROJECT_REFERENCE = """
def test_reference(benchmark, pytestconfig):
    benchmark.pedantic(sum, args=([1] * 1000,), rounds=pytestconfig.option.stage_rounds)
"""

PROJECT_SOURCE = """
FRAMES = 8

def work():
    return sum(range(1000))
"""


@pytest.fixture(scope="session")
def new_project(git):
    """Makes a project of one commit, with benchmarks that have the options of ours, in a given folder."""

    def make(root):
        for name, text in {
            "conftest.py": PROJECT_CONFTEST,
            "benchmarks/test_fake.py": PROJECT_SUITE,
            "benchmarks/test_reference.py": PROJECT_REFERENCE,
            "src/fake.py": PROJECT_SOURCE,
            "src/stagebench/__init__.py": PROJECT_PACKAGE,
            "src/stagebench/suite/__init__.py": PROJECT_PACKAGE,
            "src/stagebench/suite/plugin.py": PROJECT_PLUGIN,
            "src/stagebench/suite/entry_point.py": "",  # ours, which pytest finds, would add the same options
            "pyproject.toml": "[tool.pytest.ini_options]\n",
            "dtype": "float32",
            "torch": "2.13",
            ".gitignore": ".benchmarks/\n__pycache__/\n",
        }.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        git(root, "init", "--quiet")
        git(root, "add", ".")
        git(root, "commit", "--quiet", "-m", "first")
        return root

    return make


@pytest.fixture(scope="session")
def write_wheel():
    """Writes a package of one module to a folder, which pip installs without a network."""

    def write(folder, name, version, code):
        path = folder / f"{name}-{version}-py3-none-any.whl"
        about = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{name}.py", code)
            archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{about}/RECORD", "")
        return path

    return write


@pytest.fixture
def shelf(tmp_path, monkeypatch, write_wheel):
    """A folder that pip takes packages from, and nowhere else: two releases of `tiny`, and one of what is here too."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for release, frames in (("1.0", 8), ("1.1", 9)):
        write_wheel(folder, "tiny", release, f"FRAMES = {frames}")
    write_wheel(folder, "iniconfig", "99.0", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def uses_tiny(tmp_path, new_project, git):
    """A project whose work is that of the release of `tiny`, and which has changed since its commit."""
    root = new_project(tmp_path / "project")
    source = root / "src" / "fake.py"
    source.write_text(source.read_text().replace("FRAMES = 8", "from tiny import FRAMES"))
    return root


QUICK_SUITE = """
import pytest

@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_stage(benchmark, stage):
    benchmark.pedantic(sum, args=([1],), rounds=2)
    benchmark.extra_info |= {"model": "eventgpt", "work": {"host_reads": 2}}
"""


@pytest.fixture(scope="session")
def loaded_once():
    """Loads what no session in this process may load anew, before pytester notes what is there."""
    import_module("stagebench.suite.settings")


@pytest.fixture
def quick_suite(loaded_once, pytester):
    """Runs pytest in this process, in a folder with a suite that takes no time; its files are the caller's to change.

    A module that uses it needs `pytest_plugins = ("pytester",)`.
    """
    pytester.makeconftest("pytest_plugins = ('stagebench.suite.plugin',)")
    pytester.makepyfile(test_stages=QUICK_SUITE)

    def run(*arguments):
        return pytester.runpytest_inprocess("--stage-device=cpu", *arguments)

    run.folder, run.suite = pytester.path, QUICK_SUITE
    return run


@pytest.fixture
def stored(quick_suite):
    """The same, with a baseline of both benchmarks."""
    assert quick_suite("--benchmark-json=out.json").ret == 0
    baseline.accept(quick_suite.folder / "out.json", quick_suite.folder / "baselines", "the first one")
    return quick_suite
