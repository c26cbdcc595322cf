"""The command line: one module a command, imported when it is called, because most of them need not wait for torch."""

from __future__ import annotations

from importlib import import_module
from typing import cast

import click

from stagebench import __version__

COMMANDS = (
    "run",
    "tp",
    "analyze",
    "audit",
    "attribute",
    "gate",
    "compare",
    "record",
    "baseline",
    "trend",
    "doctor",
    "convert",
)
"""In the order of `stagebench --help`; each is the `command` of the module of its name."""


class _Commands(click.Group):
    """Imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return cast(click.Command, import_module(f"{__name__}.{name}").command) if name in COMMANDS else None


@click.group(cls=_Commands)
@click.version_option(__version__)
def main() -> None:
    """Time every stage of a vision-language model on its own."""
