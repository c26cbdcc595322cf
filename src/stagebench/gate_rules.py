"""What counts as slower: thresholds, floors and tolerances, out of `[tool.stagebench.gate]` in pyproject.toml."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stagebench.baseline import INEXACT
from stagebench.errors import GateError

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class Limit:
    """How much slower is too much: relative, and in seconds. A benchmark is too slow only where it is above both.

    Attributes:
        threshold: a ratio less one; 0.05 is 5 % slower.
        floor: seconds below which a difference matters to nobody.
    """

    threshold: float = 0.05
    floor: float = 50e-6

    def of(self, seconds: float) -> float:
        """The two as one relative limit, for a benchmark that takes so many seconds."""
        return max(self.threshold, self.floor / seconds)


@dataclass(frozen=True)
class Rules:
    """What a gate decides by.

    Attributes:
        limit: of every benchmark that nothing else names.
        by_glob: pattern and the keys it changes, in order; the last match wins.
        tolerance: by counter, the relative increase allowed for one that does not repeat exactly.
        alpha: how often a suite in which nothing changed may be called a regression.
        confidence: of each benchmark's interval.
    """

    limit: Limit = Limit()
    by_glob: tuple[tuple[str, Mapping[str, float]], ...] = ()
    tolerance: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(INEXACT, 0.02))
    alpha: float = 0.01
    confidence: float = 0.95

    def limit_of(self, benchmark: str, marked: Mapping[str, Any]) -> Limit:
        """The limit of one benchmark: the default, changed by the last rule that matches, changed by its own marker.

        Args:
            benchmark: full name; a pattern may also match the part after the file.
            marked: keyword arguments of `@pytest.mark.gate`, as the run stores them; empty without the marker.
        """
        names = (benchmark, benchmark.split("::")[-1])
        matching = [keys for pattern, keys in self.by_glob if any(_matches(name, pattern) for name in names)]
        own = limit_keys(marked, f"the marker of {benchmark}")
        return replace(self.limit, **(dict(matching[-1] if matching else {}) | own))


def read_rules(path: Path) -> Rules:
    """Read the rules of a project; the defaults where the file or its section is missing.

    Args:
        path: of pyproject.toml.

    Raises:
        GateError: naming the key that makes no sense.
    """
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GateError(f"{path} must be TOML, got: {error}") from error
    where = f"[tool.stagebench.gate] in {path.name}"
    section: Mapping[str, Any] = tables
    for key in ("tool", "stagebench", "gate"):
        section = _table(section.get(key, {}), where)
    given = {key: value for key, value in section.items() if key not in ("rules", "tolerance")}
    tolerance = _table(section.get("tolerance", {}), f"{where}: tolerance")
    default = Rules()
    return Rules(
        limit=replace(default.limit, **limit_keys(given, where)),
        by_glob=tuple(_rule(rule, where) for rule in _list(section.get("rules", []), f"{where}: rules")),
        tolerance=dict(default.tolerance) | {key: _share(value, f"{where}: {key}") for key, value in tolerance.items()},
    )


def limit_keys(given: Mapping[str, Any], where: str) -> dict[str, float]:
    """Check a threshold and a floor; both may be absent.

    Raises:
        GateError: for any other key, or a value that is no such number.
    """
    if unknown := sorted(given.keys() - {"threshold", "floor"}):
        raise GateError(f"{where} knows threshold and floor, got {', '.join(unknown)}")
    checks = {"threshold": _share, "floor": _duration}
    return {key: checks[key](value, f"{where}: {key}") for key, value in given.items()}


def _rule(rule: Any, where: str) -> tuple[str, Mapping[str, float]]:
    table = dict(_table(rule, f"{where}: a rule"))
    pattern = table.pop("match", None)
    if not isinstance(pattern, str) or not pattern:
        raise GateError(f"{where}: a rule must have a match, got {rule!r}")
    return pattern, limit_keys(table, f"{where}: the rule {pattern!r}")


def _matches(name: str, pattern: str) -> bool:
    """Like the shell, but for brackets: they are in the name of nearly every benchmark, and mean themselves."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise GateError(f"{where} must be a table, got {value!r}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise GateError(f"{where} must be a list of tables, got {value!r}")
    return value


def _share(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise GateError(f"{where} must be a number of at least 0 (0.05 is 5 %), got {value!r}")
    return float(value)


def _duration(value: Any, where: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|ms|us|ns)", value) if isinstance(value, str) else None
    if found is None:
        raise GateError(f'{where} must be a time like "20us" or "1.5 ms", got {value!r}')
    return float(found[1]) * SECONDS[found[2]]
