"""What the README tells people to type works."""

import re
import shlex
import shutil
from configparser import ConfigParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from stagebench.cli import main
from stagebench.media.scene import render_scene

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.splitlines()
]


def commands(program):
    return [command for command in COMMANDS if command.startswith(program)]


def test_every_command_is_of_a_kind_that_is_checked_here():
    assert [c for c in COMMANDS if not c.startswith(("stagebench ", "pytest ", "python3 -m pip install tox && "))] == []


def test_the_two_commands_run_tox_environments_that_exist():
    tox = ConfigParser()
    tox.read(ROOT / "tox.ini")
    names = [command.split("-e ")[1] for command in commands("python3")]
    assert names == ["bench", "py"]
    assert [n for n in names if f"testenv:{n}" not in tox and n not in tox["tox"]["env_list"]] == []


@pytest.mark.parametrize("command", [c for c in commands("stagebench") if "baseline" not in c])
def test_a_stagebench_command_runs(command, tmp_path, monkeypatch):
    scene = render_scene(tmp_path)
    shutil.move(scene.video, tmp_path / "clip.mp4")
    shutil.move(scene.events, tmp_path / "recording.npy")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [*shlex.split(command)[1:], "--device", "cpu"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", commands("pytest"))
def test_a_pytest_command_selects_benchmarks(command, suite_command):
    # Nothing runs, so there is nothing to save.
    arguments = [a for a in shlex.split(command)[2:] if not a.startswith("--benchmark-json")]
    done = suite_command(*arguments, "--collect-only", "-q")
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr


def test_every_test_that_the_lies_name_exists():
    lies = (ROOT / "docs" / "how-numbers-lie.md").read_text(encoding="utf-8")
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", lies)
    assert [name for name in named if f"def {name}(" not in tests] == []
    assert len(named) > 12
