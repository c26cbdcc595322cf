"""What docs/ci.md says of the actions and the workflows is so."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from github_stand_ins import comment_module

from stagebench import __version__
from stagebench.cli import main

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
TEXT = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?m)^\$ stagebench (.*)$", TEXT)
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")]
ACTION = yaml.safe_load((GITHUB / "actions" / "gate" / "action.yml").read_text())


def test_the_example_runs_the_action_of_this_version_on_the_whole_history():
    (text,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    checkout, _, gate = yaml.safe_load(text)["jobs"]["gate"]["steps"]
    assert gate["uses"] == f"stagebench/stagebench/.github/actions/gate@v{__version__}"
    assert checkout["with"] == {"fetch-depth": 0}
    assert checkout["uses"] in (GITHUB / "workflows" / "gate.yml").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_these_options(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *arguments = shlex.split(command)
    with main.get_command(None, name).make_context(name, arguments) as context:
        assert context.args == []


def test_each_decision_looks_as_the_table_says():
    rows = {int(code): conclusion for _, code, _, conclusion in ROWS[2:]}
    conclusions = comment_module().CONCLUSIONS
    assert rows == {code: conclusions.get(code, "failure") for code in range(4)}


def test_the_inputs_and_the_output_are_all_there_are():
    paragraph = re.search(r"The action has four inputs\.(.*?)\n\n", TEXT, flags=re.DOTALL)[1]
    named = set(re.findall("`([a-z-]+)`", paragraph))
    assert named == {*ACTION["inputs"], *ACTION["outputs"]}


def test_the_variables_of_the_nightly_are_all_there_are():
    asked = set(re.findall(r"vars\.(\w+)", "".join(path.read_text() for path in (GITHUB / "workflows").iterdir())))
    assert {name for name in asked if f"`{name}`" in TEXT} == asked == {"GPU_RUNNER", "STAGEBENCH_HISTORY"}
