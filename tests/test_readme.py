"""What the README tells people to type works."""

import json
import re
import shlex
import shutil
from configparser import ConfigParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from stagebench.cli import main
from stagebench.media.scene import render_scene
from stagebench.types import STAGES

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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the files that the README's examples name."""
    scene = render_scene(tmp_path)
    shutil.move(scene.video, tmp_path / "clip.mp4")
    shutil.move(scene.events, tmp_path / "recording.npy")
    own = {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []}
    machine = {"device": "CPU", "profile": "tiny", "dtype": "float32"}
    run = {"stagebench": own, "machine_info": machine, "benchmarks": [{"fullname": "test_stage", "stats": {}}]}
    (tmp_path / "out.json").write_text(json.dumps(run))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", commands("stagebench"))
def test_a_stagebench_command_runs(command, folder):
    device = [] if "baseline" in command else ["--device", "cpu"]
    result = CliRunner().invoke(main, [*shlex.split(command)[1:], *device])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", commands("pytest"))
def test_a_pytest_command_runs(command, folder, suite_command):
    arguments = [a.replace("=clip", f"={folder}/clip").replace("=out", f"={folder}/out") for a in shlex.split(command)]
    done = suite_command(*arguments[2:], "-k", "llava-1.5 and encode")  # one benchmark stands for all
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr


def test_every_test_that_the_lies_name_exists():
    lies = (ROOT / "docs" / "how-numbers-lie.md").read_text(encoding="utf-8")
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", lies)
    assert [name for name in named if f"def {name}(" not in tests] == []
    assert len(named) > 12


def test_the_table_of_the_h200_is_that_of_the_results():
    results = json.loads((ROOT / "docs" / "results" / "h200-7b-stages.json").read_text(encoding="utf-8"))
    median = {b["name"]: b["stats"]["median"] * 1e3 for b in results["benchmarks"]}
    models = ("eventgpt", "llava-1.5", "video-llava")
    rows = {stage: [median[f"test_stage[{model}-{stage}]"] for model in models] for stage in STAGES}
    sums = [sum(column) for column in zip(*(rows[stage] for stage in STAGES[2:]), strict=True)]
    rows |= {"encode + prefill + decode": sums, "`generate()`": [median[f"test_generate[{m}]"] for m in models]}
    lines = [f"| {name} | {' | '.join(f'{ms:.1f}' for ms in values)} |" for name, values in rows.items()]
    assert [line for line in lines if line not in TEXT] == []
