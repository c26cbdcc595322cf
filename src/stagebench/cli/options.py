"""Options of the commands, made of the one table; settings out of them; the head of what they print."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stagebench.cli.output import Console
from stagebench.core.machine import environment
from stagebench.core.shown import cell
from stagebench.suite import options as suite_options
from stagebench.suite.options import Option

if TYPE_CHECKING:
    from stagebench.suite.settings import Settings

Command = Callable[..., Any]

json_option = click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Also write the numbers there; - for standard output.",
)
markdown_option = click.option(
    "--markdown",
    type=click.Path(path_type=Path, dir_okay=False, writable=True, allow_dash=True),
    help="Appended to, as a step summary is; - for standard output.",
)


def options(*table: Option) -> Callable[[Command], Command]:
    """Add options of the table, each as the argument of its name."""

    def decorate(command: Command) -> Command:
        for option in reversed(table):
            command = _option(option)(command)
        return command

    return decorate


def _option(option: Option) -> Callable[[Command], Command]:
    help_ = f"{option.described[0].upper()}{option.described[1:]}"
    if option.is_flag:
        return click.option(f"--{option.name}", is_flag=True, help=help_)
    kind = click.Choice(tuple(option.choices)) if option.choices else option.kind
    return click.option(f"--{option.name}", type=kind, default=option.default, multiple=option.several, help=help_)


def settings_options(*left_out: str) -> Callable[[Command], Command]:
    """Add the options that make settings; the command gets these, with one backend, as `settings`.

    Args:
        left_out: those that have their default, by name; `input` is the command's argument PATH, where it has one.
    """
    table = [option for option in suite_options.SETTINGS if option.name not in (*left_out, "input")]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_settings(**given: Any) -> None:
            from stagebench.suite.settings import settings_of  # a page of help need not wait for torch

            typed = {option.argument: given.pop(option.argument) for option in table}
            settings = settings_of(input=given.pop("input", None), **typed)
            command(settings=settings, **given)

        return options(*table)(with_settings)

    return decorate


input_argument = click.argument("input", metavar="[PATH]", required=False, type=click.Path(path_type=Path))


def print_head(console: Console, settings: Settings, rest: str) -> None:
    """Say under which conditions the numbers below were made."""
    console.print(cell(f"{settings.describe()}; {rest}"))
    if warning := environment.load_warning():
        console.print(warning, style="yellow", highlight=False)
