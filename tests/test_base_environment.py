"""The interpreter of a base that depends on something else; its packages are wheels made on the spot."""

import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import stagebench
from stagebench.core.errors import GateError
from stagebench.gate.runner import worktrees
from stagebench.gate.runner.worktrees import dependencies, python_of_base


def checkout(folder, *dependencies, constraints=""):
    (folder / "benchmarks").mkdir(parents=True)
    lines = ", ".join(f'"{dependency}"' for dependency in dependencies)
    (folder / "pyproject.toml").write_text(f"[project]\ndependencies = [{lines}]\n")
    (folder / "benchmarks" / "constraints.txt").write_text(constraints)
    return folder


@pytest.fixture
def wheel(tmp_path):
    """A package of one module, `tiny`, that pip installs without a network."""
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    about = "tiny-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny.py", "VALUE = 1\n")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return f"tiny @ {path.as_uri()}"


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
    def build(folder, wanted):
        time.sleep(0.2)
        (folder / "complete").touch()

    monkeypatch.setattr(worktrees, "_build", build)
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
