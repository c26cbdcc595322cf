"""Find or make the interpreters of a gate's sides: with the base's dependencies, or with other versions of packages.

An environment that is made holds what differs alone, and stays. What is installed here comes after it on its search
path: this package and its dependencies are found there, and a build of torch that fits the machine is not replaced.
"""

import hashlib
import json
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path

from stagebench.core.errors import GateError
from stagebench.core.machine import processes
from stagebench.core.machine.locks import locked
from stagebench.gate.limits import RULES_FILE, read_toml

Say = Callable[[str], None]
_DRY = "-m pip install --dry-run --report - --quiet --disable-pip-version-check --no-deps --ignore-installed".split()

# The first of a name on the search path is what is imported.
_VERSIONS = """
import json
from importlib.metadata import distributions
print(json.dumps({each.name: each.version for each in reversed([*distributions()]) if each.name}))
"""


def dependencies(root: Path) -> tuple[list[str], str]:
    """Return a checkout's `dependencies` and its pins; raise GateError for an unreadable pyproject.toml."""
    project, pins = read_toml(root / RULES_FILE)[1].get("project", {}), root / "benchmarks" / "constraints.txt"
    return sorted(project.get("dependencies", [])), pins.read_text(encoding="utf-8") if pins.is_file() else ""


def python_of_base(base: Path, head: Path, home: Path, say: Say) -> Path:
    """Return this interpreter, or one in `home` with the base's dependencies if they differ; GateError if it fails."""
    wanted = given = dependencies(base)
    with suppress(GateError):  # pytest will report an unreadable head
        given = dependencies(head)
    if wanted == given or not wanted[0]:
        return Path(sys.executable)
    needed, pinned = wanted
    what = "base and head have different dependencies: installing the base's"
    return _made(home, repr(wanted), what, needed, pinned, say)


def python_with(requirements: Sequence[str], home: Path, say: Say) -> Path:
    """Return this interpreter, or one in `home` with packages as pip's requirements say, such as "numpy==2.*".

    All other packages are those of this interpreter, but for what these packages need in another version. Raise
    GateError where pip fails.
    """
    if not requirements:
        return Path(sys.executable)
    here = sorted((each.name or "", each.version) for each in distributions())
    return _made(home, repr((here, sorted(requirements))), "installing", requirements, None, say)


def newest(requirement: str) -> str | None:
    """Return the newest release that pip finds here for a requirement, or None; raise GateError where pip fails."""
    status, said, complaint = processes.run([sys.executable, *_DRY, requirement])
    if b"No matching distribution" in complaint:
        return None
    if status:
        raise GateError(f"pip must find {requirement}, got {_last(complaint)}")
    return str(json.loads(said)["install"][0]["metadata"]["version"])


def differing_packages(base: Path, head: Path) -> dict[str, dict[str, str | None]]:
    """Return by name the packages that two interpreters have in different versions, by side; None where absent."""
    before, after = (_versions(python) for python in (base, head))
    both = {name: {"base": before.get(name), "head": after.get(name)} for name in sorted({*before, *after})}
    return {name: sides for name, sides in both.items() if sides["base"] != sides["head"]}


def _versions(python: Path) -> Mapping[str, str]:
    found: dict[str, str] = json.loads(_call(python, "-c", _VERSIONS))
    return found


def _made(home: Path, key: str, what: str, needed: Sequence[str], pinned: str | None, say: Say) -> Path:
    """Return an environment's interpreter; make it where that was not done, or was interrupted.

    With pins, all that is needed is installed anew. Without, what is here is taken where it fits.
    """
    digest = hashlib.sha256(repr((sys.version, sys.prefix, key)).encode()).hexdigest()[:12]
    folder = home / f"python-{digest}"
    with locked(folder):  # else two gates would build it at once
        if not (folder / "complete").is_file():
            say(f"{what} {', '.join(needed) if pinned is None else ''} in {folder}".replace("  ", " "))
            _build(folder, needed, pinned)
    return folder / "bin" / "python"


def _build(folder: Path, needed: Sequence[str], pinned: str | None) -> None:
    here, python = Path(sys.executable), folder / "bin" / "python"
    _call(here, "-m", "venv", "--clear", "--without-pip", str(folder))  # clears an interrupted build
    behind = [str(Path(__file__).parents[3]), *(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))]
    path = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)})) / "behind.pth"
    pins = folder / "constraints.txt"
    pins.write_text(pinned or "", encoding="utf-8")
    if pinned is None:
        _write(path, behind)  # where pip finds what is here
    pip = ("-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check")
    _call(here, *pip, "install", "--constraint", str(pins), *needed)
    _write(path, behind)
    (folder / "complete").touch()


def _write(path: Path, folders: Sequence[str]) -> None:
    path.write_text("\n".join(dict.fromkeys(folders)) + "\n", encoding="utf-8")


def _call(python: Path, *arguments: str) -> bytes:
    status, said, complaint = processes.run([str(python), *arguments])
    if status:
        raise GateError(f"can't make an environment, use --base-python instead: {_last(complaint)}")
    return said


def _last(complaint: bytes) -> str:
    return (complaint.decode(errors="replace").strip().splitlines() or ["no word"])[-1]
