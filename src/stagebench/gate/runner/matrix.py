"""Measure every model, version, engine and backend of a plan in turns, and compare each such cell with one of them.

A round runs one process of each cell, in an order that is drawn and then reversed, so that drift affects all equally.
Each process is kept when it ends: a repeated command measures what is missing. A cell that fails is left out.
"""

import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from stagebench.core.checks import Text
from stagebench.core.errors import GateError
from stagebench.core.json_files import write_json, write_text
from stagebench.core.results import Results, short_name
from stagebench.core.settings import BACKENDS, ENGINES
from stagebench.gate.limits import read_toml
from stagebench.gate.runner.bisect import stored
from stagebench.gate.runner.environments import Say, newest, python_with
from stagebench.gate.runner.recording import Recording, name_of

AXES = {"models": "model", "versions": "version", "engines": "engine", "backends": "backend"}  # of a plan, of a cell
INSTALLED = "installed"  # the version of all packages that is here
STATE = "matrix.json"  # in the folder of a matrix

_KNOWN = {"engines": ENGINES, "backends": BACKENDS}
_STORED = {"cells": list[list[Text]], "failed": dict[str, Text]}


class Cell(NamedTuple):
    """One combination; what the plan does not name is empty."""

    model: str
    version: str  # requirements, with " with " between them
    engine: str
    backend: str  # of transformers; "" for other engines

    @property
    def arguments(self) -> list[str]:
        """Return pytest's arguments that choose the cell."""
        given = {name: getattr(self, name) for name in ("model", "engine", "backend")}
        return [f"--stage-{name}={value}" for name, value in given.items() if value]

    @property
    def requirements(self) -> list[str]:
        """Return the packages that are not those installed here."""
        return [] if self.version in ("", INSTALLED) else [each.strip() for each in self.version.split(" with ")]

    def named(self) -> str:
        """Return the cell in words."""
        return ", ".join(filter(None, self))

    def label(self, benchmark: str) -> str:
        """Return what a benchmark of the cell times: its stage, or its name without the model and what runs it."""
        name, _, inside = short_name(benchmark).removeprefix("test_").removesuffix("]").partition("[")
        if not self.model:
            return f"{name}[{inside}]" if inside else name
        how = self.engine if self.engine not in ("", ENGINES[0]) else self.backend.replace(BACKENDS[0], "")
        rest = inside.replace("-".join(filter(None, (self.model, how))), "", 1).replace("--", "-").strip("-")
        return rest if rest and name in ("stage", "engine") else f"{name}[{rest}]" if rest else name


def read_plan(path: Path) -> list[Cell]:
    """Return the cells of a plan, the reference first; raise GateError that names what is wrong with it."""
    text, given = read_toml(path)
    if text is None:
        raise GateError(f"a plan must be a file of TOML, got none at {path}")
    if unknown := sorted(given.keys() - {*AXES, "reference"}):
        raise GateError(f"{path} may have {', '.join(AXES)} and reference, got {', '.join(unknown)}")
    axes = {axis: _texts(given[axis], f"{path}: {axis}") if axis in given else [""] for axis in AXES}
    for axis, known in _KNOWN.items():
        if unknown := [each for each in axes[axis] if each and each not in known]:
            raise GateError(f"{path}: {axis} must be among {', '.join(known)}, got {', '.join(unknown)}")
    if axes["models"] == [""] and (given.keys() & _KNOWN):
        raise GateError(f"{path} must name the models that engines and backends run, got none")
    every = [Cell(*each) for each in product(*axes.values())]
    cells = [*dict.fromkeys(c if c.engine in ("", ENGINES[0]) else c._replace(backend="") for c in every)]
    wanted = given.get("reference", {})
    if not isinstance(wanted, dict) or wanted.keys() - AXES.values():
        raise GateError(f"{path}: reference must be a table of {', '.join(AXES.values())}, got {wanted!r}")
    found = [cell for cell in cells if all(getattr(cell, name) == value for name, value in wanted.items())]
    if not found or len(cells) < 2:
        raise GateError(f"{path} must have two cells, one of them the reference {wanted or ''}, got {len(cells)}")
    return [found[0], *(cell for cell in cells if cell != found[0])]


def _texts(value: Any, where: str) -> list[str]:
    texts = value if isinstance(value, list) and all(isinstance(each, str) and each for each in value) else []
    if not texts or len({*texts}) < len(texts):
        raise GateError(f"{where} must be a list of texts, at least one and each once, got {value!r}")
    return texts


@dataclass(frozen=True, slots=True)
class Matrix:
    """What was measured of some cells, the reference first, in a folder: a recording of each, in turns."""

    folder: Path
    cells: list[Cell]
    failed: dict[str, str]  # why a cell is left out, by its name
    runs: list[dict[int, Results]] = field(default_factory=list)  # of each cell, by the numbers of a recording

    @classmethod
    def resumed(cls, folder: Path, cells: list[Cell]) -> "Matrix":
        """Go on with what is in a folder; raise GateError for another matrix, or a version that pip does not find."""
        wanted = {"cells": [*map(list, cells)]}
        kept = stored(folder / STATE, _STORED, "matrix", wanted)
        if kept is None:
            for each in dict.fromkeys(each for cell in cells for each in cell.requirements):
                if newest(each) is None:
                    raise GateError(f"a version must be one that pip finds, got {each}")
        for half in folder.glob("*/.[0-9]*"):  # of a killed process
            half.unlink()
        matrix = cls(folder, cells, kept["failed"] if kept else {})
        matrix._keep()
        return matrix

    def measure(self, recordings: Sequence[Recording], processes: int, budget: float | None, say: Say) -> Iterator[str]:
        """Measure what is missing of a counting process and `processes` timing ones of each cell; yield each's name.

        Raise GateError where the reference fails. A round that the budget in seconds does not allow is not begun.
        """
        self.runs.extend(recording.kept(processes) for recording in recordings)
        began, longest = time.monotonic(), 0.0
        for number in range(processes + 1):
            begun = time.monotonic()
            if budget is not None and number > 1 and begun - began + longest > budget:
                say(f"{number - 1} of {processes} rounds are measured; the same command goes on")
                return
            for i in order(number, len(self.cells)):
                if number not in self.runs[i] and (name := self.cells[i].named()) not in self.failed:
                    yield f"{name_of(number)} of {name}"
                    try:
                        self.runs[i][number] = recordings[i].measure(number, self.runs[i])
                    except GateError as error:
                        self.leave_out(i, error, say)
            longest = max(longest, time.monotonic() - begun)

    def environments(self, home: Path, say: Say) -> list[Path]:
        """Return the interpreter of each cell, made where that was not done; leave out cells where that fails."""
        pythons = []
        for i, cell in enumerate(self.cells):
            pythons.append(Path(sys.executable))
            try:
                if cell.named() not in self.failed:
                    pythons[i] = python_with(cell.requirements, home, say)
            except GateError as error:
                self.leave_out(i, error, say)
        return pythons

    def leave_out(self, i: int, error: GateError, say: Say) -> None:
        """Keep why a cell is measured no further; raise GateError for the reference, which is tried again next time."""
        name = self.cells[i].named()
        if i == 0:
            raise GateError(f"the reference, {name}, must run: {error}") from error
        self.failed[name] = str(error)
        self._keep()
        say(f"left out: {name}: {error}")

    def _keep(self) -> None:
        write_text(self.folder / ".gitignore", "*\n")  # keeps the runs out of the next copy of the working tree
        write_json(self.folder / STATE, {"cells": self.cells, "failed": self.failed})


def order(number: int, count: int) -> list[int]:
    """Return the order of cells in a round: drawn for two, and reversed in one of them."""
    drawn = random.Random(f"order {(number + 1) // 2}").sample(range(count), count)
    return drawn[::-1] if number % 2 else drawn
