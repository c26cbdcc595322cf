"""`stagebench --help` lists every command at once, without importing any of them."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from stagebench.cli import COMMANDS, main

LISTED = """
import sys
from stagebench.cli import main
main(["--help"], standalone_mode=False)
print("torch" in sys.modules)
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_each_listed_command_is_there_under_its_name(name):
    command = main.get_command(click.Context(main), name)
    assert (isinstance(command, click.Command), command.name) == (True, name)


def test_the_list_shows_each_command_with_its_line():
    lines = [" ".join(line.split()) for line in CliRunner().invoke(main, ["--help"]).output.splitlines()]
    assert [line for line in lines if line.partition(" ")[0] in COMMANDS] == [
        f"{name} {line}" for name, (_, line) in COMMANDS.items()
    ]


def test_the_list_needs_no_torch():
    shown = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "False"


def test_the_package_runs_as_a_module():
    shown = subprocess.run([sys.executable, "-m", "stagebench", "--help"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("Usage: stagebench ")
