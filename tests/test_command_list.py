"""`stagebench --help` lists every command at once, without importing any of them."""

import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from stagebench.cli import COMMANDS, main
from stagebench.suite.options import PYTEST

LISTED = """
import sys
from stagebench.cli import main
main(["--help"], standalone_mode=False)
print("torch" in sys.modules)
"""

UNITS = "threads frames tokens seconds samples passes rounds blocks processes runs requests GPUs copies".split()
UNUSED_UNLESS_GIVEN = {"json_path", "html_path", "svg_path", "markdown", "bases", "heads", "allow_changed"}


def options_of(command: click.Command, name: str) -> Iterator[tuple[str, click.Option]]:
    for below, each in getattr(command, "commands", {}).items():
        yield from options_of(each, f"{name} {below}")
    yield from ((f"{name} {each.opts[0]}", each) for each in command.params if isinstance(each, click.Option))


def all_options() -> dict[str, click.Option]:
    """Return every option of every command, and of pytest."""
    commands = [(main.get_command(click.Context(main), name), name) for name in COMMANDS]
    found = {place: option for command, name in commands for place, option in options_of(command, name)}
    return found | {f"pytest {option.opts[0]}": option for option in PYTEST}


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


def test_the_help_of_each_option_is_of_sentences():
    sentence = r"(?s)[A-Z]\S* \S+ .*[^.;]\.(?: Default: .*[^.]\.)?"
    assert {
        place: each.help for place, each in all_options().items() if not re.fullmatch(sentence, each.help or "")
    } == {}


def test_the_help_of_each_option_ends_with_its_default_where_it_has_one():
    found = {place: each for place, each in all_options().items() if each.name not in UNUSED_UNLESS_GIVEN}
    needed = {place: not (each.required or each.is_flag) for place, each in found.items()}
    assert {place: " Default: " in each.help for place, each in found.items()} == needed


def test_a_default_in_the_help_is_that_of_the_option():
    plain = {place: each for place, each in all_options().items() if isinstance(each.default, int | float | str)}
    given = {place: each for place, each in plain.items() if each.default != "" and not each.is_flag}
    stated = {place: each.help.partition(" Default: ")[2] for place, each in given.items()}
    assert stated == {place: f"{str(each.default).rstrip('.')}." for place, each in given.items()}


def test_the_help_of_each_number_has_its_unit():
    numbers = {
        place: each for place, each in all_options().items() if re.match("integer|float|numbers", each.type.name)
    }
    without = {place for place, each in numbers.items() if not any(unit in each.help for unit in UNITS)}
    assert {place for place in without if not place.endswith("seed")} == set()


def test_an_option_without_which_a_command_cannot_work_is_required():
    needed = {name for name, each in all_options().items() if each.required}
    of_bisect = {f"bisect --{name}" for name in ("with", "good", "bad", "out")}
    assert needed == {"analyze --out", "baseline accept --reason", "baseline drop --reason", "matrix --out"} | of_bisect
    for name in needed:
        *command, missing = name.split()
        others = [word for each in needed - {name} if each.split()[:-1] == command for word in (each.split()[-1], "a")]
        result = CliRunner().invoke(main, [*command, *others, *["a"] * (command[0] in ("baseline", "matrix"))])
        assert result.exit_code == 2
        assert f"Missing option '{missing}'" in result.output
