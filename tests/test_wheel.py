"""The wheel alone, in an environment of its own and a stranger's folder: what no file of this repository helps with."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from checkpoints import write_checkpoint

ROOT = Path(__file__).parents[1]
OWN_MODEL = ROOT / "examples" / "own_model"
OWN_BENCHMARK = """
def test_sum(benchmark):
    benchmark.pedantic(sum, args=([1] * 1000,), rounds=3)
    benchmark.extra_info["counters"] = {"numbers_added": 1000}
"""
FEW = ("--stage-new-tokens=3", "--stage-device=cpu")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder))
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A folder of programs: the wheel is installed, and what it depends on lent by the environment of the tests."""
    home, lent = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("lent")
    subprocess.run((sys.executable, "-m", "venv", "--without-pip", home), check=True)
    for path in [path for folder in sys.path if folder.endswith("-packages") for path in Path(folder).iterdir()]:
        if not path.name.startswith(("stagebench", "__")) and path.suffix != ".pth" and not (lent / path.name).exists():
            (lent / path.name).symlink_to(path)
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        home / "bin" / "python",
        "install",
        "--no-deps",
        "--no-index",
        wheel,
    )
    subprocess.run(pip, check=True, capture_output=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(f"{lent}\n")
    return home / "bin"


@pytest.fixture
def run(environment, tmp_path, monkeypatch):
    """Runs a program of the environment in a folder that is empty at first."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(program, *arguments):
        command = [environment / program, *arguments]
        return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)

    return run


def test_the_wheel_holds_the_package_and_nothing_else_of_the_repository(wheel):
    own = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "stagebench").rglob("*.*")
        if path.is_file()
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {name for name in own if "__pycache__" not in name}


def test_a_sample_is_run_in_an_empty_folder(run):
    asked = ("--model=llava-1.5", "--device=cpu", "--passes=1", "--new-tokens=3", "--json=out.json")
    done = run("stagebench", "run", *asked)
    assert done.returncode == 0, done.stderr
    (sample,) = json.loads(Path("out.json").read_text())["samples"]
    assert (sample["model"], sample["work"]["decode"]["new_tokens"]) == ("llava-1.5", 3)


def test_a_checkpoint_is_benchmarked_in_an_empty_folder(run, environment):
    write_checkpoint("llava", Path("checkpoint").absolute())
    asked = ("--pyargs", "stagebench.benchmarks", "--stage-model=hf:./checkpoint", "-k", "test_stage and encode")
    done = run("python", "-m", "pytest", *asked, "--stage-rounds=1", "--benchmark-json=out.json", *FEW)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(Path("out.json").read_text())
    names = [benchmark["fullname"] for benchmark in results["benchmarks"]]
    assert names == ["benchmarks/test_stages.py::test_stage[hf:./checkpoint-encode]"]


@pytest.fixture
def repository(git, tmp_path, run):
    """Makes the working folder a repository of one commit, with its files."""

    def make():
        git(tmp_path, "init", "--quiet")
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "--quiet", "-m", "first")

    return make


def verdicts_of(done):
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, {v["benchmark"]: v["verdict"] for v in json.loads(done.stdout)["verdicts"]}


def test_a_benchmark_of_ones_own_is_gated(run, repository):
    Path("benchmarks").mkdir()
    Path("benchmarks", "test_own.py").write_text(OWN_BENCHMARK)
    repository()
    gate = ("gate", "--base=HEAD", "--counters-only", "--json=-", "--out")
    name = "benchmarks/test_own.py::test_sum"
    same = verdicts_of(run("stagebench", *gate, ".benchmarks/same"))
    Path("benchmarks", "test_own.py").write_text(OWN_BENCHMARK.replace("1000}", "2000}"))
    more = verdicts_of(run("stagebench", *gate, ".benchmarks/more"))
    assert (same, more) == ((0, {name: "pass"}), (1, {name: "regression"}))


def test_a_model_of_ones_own_is_gated_by_the_benchmarks_of_the_package(run, repository, tmp_path):
    for name in ("conftest.py", "mymodel.py"):
        shutil.copy(OWN_MODEL / name, tmp_path)
    Path(".gitignore").write_text("__pycache__/\nout/\npytest.ini\n")
    Path("pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")  # in neither copy, but above both
    repository()
    text = Path("mymodel.py").read_text(encoding="utf-8")
    twice = text.replace("features = self.tower(", "self.tower(pixel_values)\n            features = self.tower(")
    Path("mymodel.py").write_text(twice, encoding="utf-8")
    asked = ("--counters-only", "--json=-", "--out=out", "--select=test_stage and (encode or preproc)")
    done = run("stagebench", "gate", "--base=HEAD", *asked, "--", "--stage-model=mine", "--stage-frames=2", *FEW)
    prefix = "benchmarks/test_stages.py::test_stage[mine-"
    expected = {f"{prefix}encode]": "regression", f"{prefix}preprocess]": "pass"}
    assert verdicts_of(done) == (1, expected)
