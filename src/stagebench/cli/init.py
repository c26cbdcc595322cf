"""`stagebench init`: write the files that a repository needs to gate its pull requests."""

import hashlib
import json
import os
import re
import subprocess
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
from stagebench.gate.limits import RULES_FILE, read_toml

# In any file, because pytest can collect other names than test_*.py.
_TAKES_BENCHMARK = "def .*[ ,(]benchmark *[,:)]|^ +([a-z].*, *)?benchmark *[,:]?$|mark.benchmark|usefixtures.*benchmark"
_FIND_BENCHMARKS = ("git", "grep", "--untracked", "-lzE", _TAKES_BENCHMARK, "--", "*.py")


@click.command(name="init")
def command() -> None:
    """Write workflows, a benchmark and limits into this repository.

    The workflows go to .github/workflows/ at its top, an example to benchmarks/ here if there is no benchmark yet, and
    the limits into the pyproject.toml here. Existing files are kept, and no questions are asked.
    """
    here = Path.cwd()
    top = next((each for each in (here, *here.parents) if (each / ".git").exists()), None)
    if top is None:
        raise GateError(f"init must run in a git repository, got {here}")
    text, project = read_toml(here / RULES_FILE)
    folder = str(here.relative_to(top))
    name = "-".join(["stagebench", *re.findall("[a-z0-9]+", folder.lower())])
    if re.search("[^a-z0-9/.]", folder):  # another folder may differ only in these characters
        name += f"-{hashlib.sha256(folder.encode()).hexdigest()[:6]}"
    filled = {"NAME": name, "VERSION": f"v{__version__}", "FOLDER": json.dumps(folder, ensure_ascii=False)}
    filled["INSTALL"] = _installation(here, project)
    for of, template in (("", "gate.yml"), ("-comment", "comment.yml")):
        workflow = re.sub(r"\b(NAME|VERSION|FOLDER|INSTALL)\b", lambda found: filled[found[0]], _template(template))
        _write(top / ".github" / "workflows" / f"{name}{of}.yml", workflow)
    found = subprocess.run(_FIND_BENCHMARKS, capture_output=True, check=False).stdout.split(b"\0")[0]  # noqa: S603 # git
    _write(here / (os.fsdecode(found) or f"{BENCHMARKS}/test_speed.py"), _template("benchmark.py.txt"))
    if text is None:
        click.echo(f"no {RULES_FILE} here, so the default limits hold")
    else:
        _add_section(here / RULES_FILE, text, project)


def _installation(here: Path, project: dict[str, Any]) -> str:
    if project.keys() & {"project", "build-system"} or (here / "setup.py").exists():
        return "python -m pip install -e ."
    if (here / "requirements.txt").exists():
        return "python -m pip install -r requirements.txt"
    return "python -m pip install pytest-benchmark # and what your code imports"


def _write(path: Path, text: str) -> None:
    """Write a file unless it exists; print which."""
    kept = os.path.lexists(path)
    if not kept:
        write_text(path, text)
    click.echo(f"{'kept' if kept else 'wrote'} {os.path.relpath(path)}")


def _add_section(path: Path, text: str, project: dict[str, Any]) -> None:
    """Append the limits unless there is such a section, or the file would not be TOML; print which."""
    added = "\n" * (not text.endswith("\n")) + _template("section.toml")
    added = added.replace("\n", "\r\n" if "\r\n" in text else "\n")
    try:
        kept = "gate" in project.get("tool", {}).get("stagebench", {})
        tomllib.loads(text + added)
    except (AttributeError, TypeError, ValueError):  # [tool] is inline or not a table
        kept = True
    if not kept:
        append_to(path, added)
    click.echo(f"kept {path.name}" if kept else f"wrote [tool.stagebench.gate] in {path.name}")


def _template(name: str) -> str:
    return (files("stagebench.cli") / "templates" / name).read_text(encoding="utf-8")
