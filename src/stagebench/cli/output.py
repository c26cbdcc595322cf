"""What all commands share: JSON out, and one-line refusals. Importable without torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from stagebench.errors import StagebenchError
from stagebench.json_files import write_json


def write_json_to(path: Path, data: dict[str, Any]) -> None:
    """Write JSON to a file, or to standard output for "-"."""
    if str(path) == "-":
        click.echo(json.dumps(data, indent=1, sort_keys=True))
    else:
        write_json(path, data)


@contextmanager
def refusals() -> Iterator[None]:
    """What stagebench refuses is one line and exit code 2."""
    try:
        yield
    except StagebenchError as error:
        click.echo(f"stagebench: {error}", err=True)
        sys.exit(2)
