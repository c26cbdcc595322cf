"""`stagebench init`: what a repository needs so that its pull requests are gated."""

import json
import os
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from stagebench import __version__
from stagebench.cli.output import append_to
from stagebench.core.errors import GateError
from stagebench.core.json_files import write_text
from stagebench.core.results import BENCHMARKS
from stagebench.gate.limits import RULES_FILE


@click.command(name="init")
def command() -> None:
    """Write workflows, a benchmark and limits into this repository.

    The workflows go to .github/workflows/ at its top, the benchmark to benchmarks/ here, and the limits into the
    pyproject.toml that is here. What is there stays as it is, and nothing is asked.
    """
    here = Path.cwd()
    top = next((each for each in (here, *here.parents) if (each / ".git").exists()), None)
    if top is None:
        raise GateError(f"init must run in a git repository, got {here}")
    text, project = _project(here)
    folder = here.relative_to(top)
    name = "-".join(["stagebench", *re.findall("[a-z0-9]+", str(folder).lower())])
    filled = {
        "NAME": name,
        "VERSION": f"v{__version__}",
        "FOLDER": json.dumps(str(folder), ensure_ascii=False),
        "INSTALL": _installation(here, project),
    }
    workflows = top / ".github" / "workflows"
    _write(workflows / f"{name}.yml", "gate.yml", filled)
    _write(workflows / f"{name}-comment.yml", "comment.yml", filled)
    own = sorted(here.glob(f"{BENCHMARKS}/**/test_*.py"))
    _write(own[0] if own else here / BENCHMARKS / "test_speed.py", "benchmark.py.txt", {})
    if text is None:
        click.echo(f"no {RULES_FILE} here, so the default limits hold")
    else:
        _add_section(here / RULES_FILE, text, project)


def _project(here: Path) -> tuple[str | None, dict[str, Any]]:
    """Read pyproject.toml, its line ends as they are; None where there is none."""
    path = here / RULES_FILE
    try:
        text = path.read_bytes().decode() if path.exists() else None
        return text, tomllib.loads(text or "")
    except (OSError, ValueError, RecursionError) as error:
        raise GateError(f"{path} must be TOML, got: {' '.join(str(error).split())}") from error


def _installation(here: Path, project: dict[str, Any]) -> str:
    if project.keys() & {"project", "build-system"} or (here / "setup.py").exists():
        return "python -m pip install -e ."
    if (here / "requirements.txt").exists():
        return "python -m pip install -r requirements.txt"
    return "python -m pip install pytest-benchmark # and what your code imports"


def _write(path: Path, template: str, filled: dict[str, str]) -> None:
    """Write a file from its template, where nothing has its name; say which it was."""
    if os.path.lexists(path):
        click.echo(f"kept {_shown(path)}")
        return
    write_text(path, re.sub(r"\b(NAME|VERSION|FOLDER|INSTALL)\b", lambda found: filled[found[0]], _template(template)))
    click.echo(f"wrote {_shown(path)}")


def _add_section(path: Path, text: str, project: dict[str, Any]) -> None:
    """Append the limits, where there is no such section and the file still is TOML with it."""
    added = "\n" * (not text.endswith("\n")) + _template("section.toml")
    added = added.replace("\n", "\r\n" if "\r\n" in text else "\n")
    try:
        absent = project.get("tool", {}).get("stagebench", {}).get("gate") is None
        tomllib.loads(text + added)
    except (AttributeError, ValueError):  # [tool] is written in one line, or is no table: nothing can be added
        absent = False
    if not absent:
        click.echo(f"kept {_shown(path)}")
        return
    append_to(path, added)
    click.echo(f"wrote [tool.stagebench.gate] in {_shown(path)}")


def _template(name: str) -> str:
    return (files("stagebench.cli") / "templates" / name).read_text(encoding="utf-8")


def _shown(path: Path) -> str:
    return os.path.relpath(path)
