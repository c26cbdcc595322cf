"""The interpreter of a base that depends on something else; its packages are wheels made on the spot."""

import io
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console

import stagebench
from stagebench.core.errors import GateError
from stagebench.gate.runner import environments
from stagebench.gate.runner.environments import dependencies, differing_packages, python_of_base, python_with
from stagebench.gate.runner.gate import gate


def checkout(folder, *dependencies, constraints=""):
    (folder / "benchmarks").mkdir(parents=True)
    lines = ", ".join(f'"{dependency}"' for dependency in dependencies)
    (folder / "pyproject.toml").write_text(f"[project]\ndependencies = [{lines}]\n")
    (folder / "benchmarks" / "constraints.txt").write_text(constraints)
    return folder


@pytest.fixture
def wheel(tmp_path, write_wheel):
    """A requirement of a package with a module `tiny`."""
    return f"tiny @ {write_wheel(tmp_path, 'tiny', '1.0', 'VALUE = 1').as_uri()}"


def find(tmp_path, base, head):
    said = []
    return python_of_base(base, head, tmp_path / "home", said.append), said


def test_equal_dependencies_need_no_other_interpreter(tmp_path):
    base, head = checkout(tmp_path / "base", "a", "b"), checkout(tmp_path / "head", "b", "a")
    assert find(tmp_path, base, head) == (Path(sys.executable), [])


def test_other_dependencies_get_an_environment_of_their_own_once(tmp_path, wheel):
    base, head = checkout(tmp_path / "base", wheel), checkout(tmp_path / "head")
    python, said = find(tmp_path, base, head)
    assert [line.startswith("base and head have different dependencies") for line in said] == [True]
    done = subprocess.run([python, "-c", "import tiny; print(tiny.VALUE)"], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert find(tmp_path, base, head) == (python, [])
    (python.parents[1] / "complete").unlink()  # as where the build was interrupted
    assert len(find(tmp_path, base, head)[1]) == 1


BEHIND = """
import pathlib, sys
import pytest, stagebench, tiny
own, behind = pathlib.Path(tiny.__file__).parent, pathlib.Path(pytest.__file__).parents[1]
print(stagebench.__file__, sys.path.index(str(own)) < sys.path.index(str(behind)))
"""


def test_such_an_environment_has_this_package_and_what_it_needs_behind_its_own(tmp_path, wheel, monkeypatch):
    """A project need not depend on what measures it."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python, _ = find(tmp_path, checkout(tmp_path / "base", wheel), checkout(tmp_path / "head"))
    done = subprocess.run([python, "-c", BEHIND], capture_output=True, text=True, check=True)
    assert done.stdout == f"{stagebench.__file__} True\n"


def test_two_gates_at_once_build_it_once(tmp_path, monkeypatch):
    def build(folder, *wanted):
        time.sleep(0.2)
        (folder / "complete").touch()

    monkeypatch.setattr(environments, "_build", build)
    base, head = checkout(tmp_path / "base", "a"), checkout(tmp_path / "head")
    with ThreadPoolExecutor(2) as both:
        found = list(both.map(lambda _: find(tmp_path, base, head), range(2)))
    assert found[0][0] == found[1][0]
    assert sorted(len(said) for _, said in found) == [0, 1]


def test_what_cannot_be_installed_is_one_line(tmp_path):
    base = checkout(tmp_path / "base", f"tiny @ {(tmp_path / 'tiny-1.0-py3-none-any.whl').as_uri()}")
    head = checkout(tmp_path / "head")
    with pytest.raises(GateError, match=r"use --base-python instead: .*$"):
        find(tmp_path, base, head)


def test_other_pins_are_other_dependencies(tmp_path):
    base, head = checkout(tmp_path / "base", constraints="numpy==1.0"), checkout(tmp_path / "head")
    assert dependencies(base) != dependencies(head)


def test_a_base_that_says_of_no_dependencies_runs_with_this_interpreter(tmp_path):
    (tmp_path / "base").mkdir()
    assert find(tmp_path, tmp_path / "base", checkout(tmp_path / "head", "a")) == (Path(sys.executable), [])


def test_a_project_that_can_not_be_read_is_refused(tmp_path):
    checkout(tmp_path / "base")
    (tmp_path / "base" / "pyproject.toml").write_text("=")
    with pytest.raises(GateError, match=r"pyproject\.toml must be TOML, got: "):
        find(tmp_path, tmp_path / "base", tmp_path / "base")


def test_what_a_requirement_names_is_installed_before_what_is_here_once(tmp_path, shelf):
    said = []
    first, again = (python_with(["iniconfig==99.*"], tmp_path / "home", said.append) for _ in range(2))
    here = {"base": version("iniconfig"), "head": "99.0"}
    assert differing_packages(Path(sys.executable), first) == {"iniconfig": here}
    assert (first, [line.startswith("installing iniconfig==99.* in ") for line in said]) == (again, [True])


def test_without_a_requirement_the_interpreter_is_this_one(tmp_path):
    assert python_with([], tmp_path, print) == Path(sys.executable)


def test_a_release_that_does_not_exist_is_one_line_and_left_nothing_complete(tmp_path, shelf):
    with pytest.raises(GateError, match=r"can't make an environment, .*No matching distribution found for tiny==9$"):
        python_with(["tiny==9"], tmp_path / "home", lambda line: None)
    assert [*(tmp_path / "home").glob("*/complete")] == []


def test_a_gate_of_two_releases_runs_the_same_code_with_both_and_says_first_what_differs(uses_tiny, shelf, tmp_path):
    said = io.StringIO()
    given = {"base_with": ["tiny==1.0"], "head_with": ["tiny"], "counters_only": True, "out": tmp_path / "out"}
    decision = gate(repository=uses_tiny, console=Console(file=said, width=200), **given)
    loud = [(v.benchmark.split("::")[-1], v.verdict, v.reason) for v in decision.verdicts if v.verdict != "pass"]
    assert loud == [(f"test_stage[{n}]", "regression", "frames_decoded: 8 before, 9 now") for n in "ab"]
    assert decision.more["packages"] == {"tiny": {"base": "1.0", "head": "1.1"}}
    lines = [line for line in said.getvalue().splitlines() if not line.startswith("installing")]
    assert (lines[0], "against itself" in lines[1]) == ("what differs: tiny 1.0 -> 1.1", True)


def test_two_equal_environments_pass_and_say_that_nothing_differs(uses_tiny, shelf, tmp_path):
    said = io.StringIO()
    given = {"base_with": ["tiny==1.0"], "head_with": ["tiny==1.0"], "counters_only": True, "out": tmp_path / "out"}
    decision = gate(repository=uses_tiny, console=Console(file=said, width=200), **given)
    assert {v.verdict for v in decision.verdicts} == {"pass"}
    assert "what differs: nothing, both environments hold the same packages" in said.getvalue()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, "--base must name a revision, unless --base-with or --head-with names packages, got none"),
        (
            {"base_with": ["tiny"], "base_python": Path(sys.executable)},
            "--base-python must be complete, got tiny to install too",
        ),
    ],
)
def test_sides_that_nothing_tells_apart_or_that_are_told_twice_are_refused(given, error):
    with pytest.raises(GateError, match=f"^{re.escape(error)}$"):
        gate(counters_only=True, **given)
