"""What all commands share: JSON output and one-line errors. Importable without torch."""

import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
import rich.console

from stagebench import __version__
from stagebench.core.errors import GateError, StagebenchError
from stagebench.core.json_files import json_text, write_json, write_text
from stagebench.core.shown import plain


def write_json_to(path: Path | None, data: dict[str, Any]) -> None:
    """Write JSON to a file, to standard output for "-", or nowhere for None."""
    if str(path) == "-":
        click.echo(json_text(data), nl=False)
    elif path:
        write_json(path, data)


def write_svg_to(path: Path | None, draw: Callable[[str], str]) -> None:
    """Write what is drawn with the version and command line as small print, or nothing for None."""
    if path:
        write_text(path, draw(f"stagebench {__version__}: {shlex.join(['stagebench', *sys.argv[1:]])}"))


def append_to(path: Path, text: str) -> None:
    """Append to a file, created with its folders if missing, or write to standard output for "-"."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with click.open_file(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StagebenchError(f"can't write {path}: {error.strerror}") from error


def require_writable(path: Path) -> None:
    """Refuse a path where a new file, or its missing folders, can't be created later; allow "-"."""
    if str(path) == "-":
        return
    try:
        folder = next(each for each in path.absolute().parents if each.exists())
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise StagebenchError(f"can't write {path}: {error.strerror}") from error


class Console(rich.console.Console):
    """A console that does not exit with 1 on a closed pipe, as rich does, because 1 is a verdict."""

    def on_broken_pipe(self) -> None:
        """Raise the `BrokenPipeError` that the system raised."""
        _drop_unwritten()
        raise


@contextmanager
def refusals() -> Iterator[None]:
    """Turn errors of stagebench and of the system into one line and exit code 2, because 1 is a verdict."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except (StagebenchError, OSError, KeyboardInterrupt) as error:
        first, _, said = (str(error) or "stopped by SIGINT").partition(":\n")  # the output of a process keeps its lines
        lines = [plain(first) + ":" * bool(said), *map(plain, said.splitlines())]
        click.echo("stagebench: " + "\n".join(lines), err=True)
        _drop_unwritten()
        sys.exit(2)


def _drop_unwritten() -> None:
    """Drop output that can't be written: Python would try again at exit, and exit with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def tidy_stop(end: str) -> Iterator[None]:
    """End a command on Ctrl-C or SIGTERM with an error that names what it came before; ignore repeated signals."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise GateError(f"stopped by {signal.Signals(number).name} before {end}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
