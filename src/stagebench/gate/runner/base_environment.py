"""Finds the interpreter of a base whose dependencies are not the head's: a virtual environment, built once."""

import hashlib
import sys
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stagebench.core.errors import GateError
from stagebench.core.machine import processes
from stagebench.core.machine.locks import locked


def dependencies(root: Path) -> tuple[list[str], str]:
    """Return the `dependencies` in a checkout's pyproject.toml (GateError where it can't be read), and what it pins."""
    path = root / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError) as error:
        raise GateError(f"can't read the dependencies in {path}: {error}") from error
    pins = root / "benchmarks" / "constraints.txt"
    return sorted(project.get("dependencies", [])), pins.read_text(encoding="utf-8") if pins.is_file() else ""


def python_of_base(base: Path, head: Path, home: Path, say: Callable[[str], None]) -> Path:
    """Return this interpreter, or that of a virtual environment where the base depends on something else than the head.

    Those are kept in `home`, one for each set of dependencies; raise GateError where one can't be built.
    """
    wanted = given = dependencies(base)
    with suppress(GateError):  # of a head that nobody can read pytest will say so
        given = dependencies(head)
    if wanted == given:
        return Path(sys.executable)
    folder = home / f"python-{hashlib.sha256(repr((sys.version, wanted)).encode()).hexdigest()[:12]}"
    with locked(folder):  # two gates would build it at once, each over the other's
        if not (folder / "complete").is_file():
            say(f"the base depends on other packages than the head: installing them in {folder}")
            _build(folder, wanted)
    return folder / "bin" / "python"


def _build(folder: Path, wanted: tuple[list[str], str]) -> None:
    (needed, pinned), pins = wanted, folder / "constraints.txt"
    pip = ("pip", "--python", str(folder / "bin" / "python"), "--quiet", "--disable-pip-version-check")
    _call("venv", "--clear", "--without-pip", str(folder))  # of what an interrupted build left
    pins.write_text(pinned, encoding="utf-8")
    _call(*pip, "install", "--constraint", str(pins), *needed)
    (folder / "complete").touch()


def _call(*module: str) -> None:
    status, _, said = processes.run([sys.executable, "-m", *module])
    if status:
        complaint = (said.decode(errors="replace").strip().splitlines() or ["no word"])[-1]
        raise GateError(f"can't install what the base depends on, give --base-python instead: {complaint}")
