"""Read a gate's rules from `[tool.stagebench.gate]` in pyproject.toml: of base and head, the stricter hold."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stagebench.core.checks import is_number
from stagebench.core.errors import GateError
from stagebench.core.results import short_name

RULES_FILE = "pyproject.toml"
INEXACT = ("peak_bytes", "bytes_from_files")  # depend on earlier work in the process, or on libraries' own reads
SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class Limit:
    """The largest slowdown that passes. A benchmark is too slow only above both."""

    threshold: float = 0.05  # a ratio minus one: 5 % slower
    floor: float = 0.0  # seconds; smaller differences are ignored

    def of(self, seconds: float) -> float:
        """Return both as one relative limit for a benchmark that takes `seconds`."""
        return max(self.threshold, self.floor / seconds)


@dataclass(frozen=True)
class Rules:
    """The rules of a gate."""

    limit: Limit = Limit()  # of every benchmark without another one
    by_glob: tuple[tuple[str, Mapping[str, float]], ...] = ()  # pattern and changed keys; the last match wins
    tolerance: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(INEXACT, 0.02))
    """By inexact counter, the relative increase that passes."""
    select: str = ""  # the benchmarks that a gate runs by default, as pytest's `-k`
    alpha: float = 0.01  # the share of unchanged suites that may be called a regression
    confidence: float = 0.95  # of each benchmark's interval
    of_head: Rules | None = None  # the head's own rules, where known: no limit is above theirs

    def spread_over(self, decisions: int) -> Rules:
        """Return rules for each of several decisions that together make no more errors than one with these."""
        return replace(self, alpha=self.alpha / decisions, confidence=1 - (1 - self.confidence) / decisions)

    def limit_of(self, benchmark: str, marked: Any, marked_in_head: Any = None) -> Limit:
        """Return the limit of a benchmark: the default, changed by the last matching rule, then by its marker.

        `marked` are the arguments of `@pytest.mark.gate` in the base's results. Those of the head can only make the
        limit stricter.
        """
        own = self._own_limit(benchmark, marked)
        try:
            head = (self.of_head or self)._own_limit(benchmark, marked_in_head)
        except GateError:  # the head's marker is absent or invalid
            return own
        return Limit(min(own.threshold, head.threshold), min(own.floor, head.floor))

    def _own_limit(self, benchmark: str, marked: Any) -> Limit:
        matching = [  # as in a shell, but brackets are literal, because most names have them
            keys
            for pattern, keys in self.by_glob
            if any(fnmatchcase(name, pattern.replace("[", "[[]")) for name in (benchmark, short_name(benchmark)))
        ]
        own = limit_keys(marked, f"the marker of {benchmark}")
        return replace(self.limit, **(dict(matching[-1] if matching else {}) | own))

    def described(self) -> dict[str, Any]:
        """Return the rules by name, for comparing them with another side's."""
        rules: dict[str, Any] = {"threshold": self.limit.threshold, "floor": f"{self.limit.floor:g} s"}
        rules |= {"select": self.select} if self.select else {}
        for pattern, keys in self.by_glob:
            rules.setdefault(f"rule for {pattern}:", []).append(dict(keys))
        return rules | {f"tolerance of {counter}:": share for counter, share in sorted(self.tolerance.items())}


def read_toml(path: Path) -> tuple[str | None, dict[str, Any]]:
    """Return the text of a pyproject.toml, with its line ends, and its data; None and {} if it does not exist."""
    try:
        text = path.read_bytes().decode() if path.exists() else None
        return text, tomllib.loads(text or "")
    except (OSError, ValueError, RecursionError) as error:
        raise GateError(f"{path} must be TOML, got: {' '.join(str(error).split())}") from error


def read_rules(path: Path) -> Rules:
    """Read the rules in a pyproject.toml, or the defaults; raise GateError that names an invalid key."""
    section: Any = read_toml(path)[1]
    where = f"[tool.stagebench.gate] in {path.name}"
    for key in ("tool", "stagebench", "gate"):
        section = _table(section.get(key, {}), where)
    rules, tolerance = section.get("rules", []), _table(section.get("tolerance", {}), f"{where}: tolerance")
    if not isinstance(rules, list):
        raise GateError(f"{where}: rules must be a list of tables, got {rules!r}")
    given = {key: value for key, value in section.items() if key not in ("rules", "tolerance", "select")}
    default, select = Rules(), section.get("select", "")
    if not isinstance(select, str):
        raise GateError(f"{where}: select must be a text such as pytest's -k, got {select!r}")
    return Rules(
        limit=replace(default.limit, **limit_keys(given, where)),
        by_glob=tuple(_rule(rule, where) for rule in rules),
        select=select,
        tolerance={**default.tolerance, **{key: _share(value, f"{where}: {key}") for key, value in tolerance.items()}},
    )


def read_both(base: Path, head: Path) -> tuple[Rules, list[str]]:
    """Return the rules that judge, the stricter of both, and a line per difference; GateError for the base's."""
    rules = read_rules(base)
    try:
        own = read_rules(head)
    except GateError as error:
        return rules, [f"those of the head are invalid: {str(error).replace(str(head), head.name)}"]
    lines = differing(rules.described(), own.described())
    if not any(line.startswith("rule for ") for line in lines) and rules.by_glob != own.by_glob:
        lines.append("rules: in another order in the head")
    tolerance = {key: min(share, own.tolerance[key]) for key, share in rules.tolerance.items() if key in own.tolerance}
    return replace(rules, tolerance=tolerance, of_head=own), lines


def differing(base: Mapping[str, Any], head: Mapping[str, Any]) -> list[str]:
    """Return a line for each difference between the limits of two sides."""
    return [
        f"{key} {base.get(key, 'not given')} in the base, {head.get(key, 'not given')} in the head"
        for key in dict.fromkeys((*base, *head))
        if base.get(key) != head.get(key)
    ]


def limit_keys(given: Any, where: str) -> dict[str, float]:
    """Return the checked threshold and floor of a table, both optional; raise GateError for anything else."""
    checks = {"threshold": _share, "floor": seconds_of}
    if unknown := sorted(_table(given, where).keys() - checks.keys()):
        raise GateError(f"{where} may have {' and '.join(checks)}, got {', '.join(unknown)}")
    return {key: checks[key](value, f"{where}: {key}") for key, value in given.items()}


def _rule(rule: Any, where: str) -> tuple[str, Mapping[str, float]]:
    table = dict(_table(rule, f"{where}: a rule"))
    pattern = table.pop("match", None)
    if not isinstance(pattern, str) or not pattern:
        raise GateError(f"{where}: a rule must have a match, got {rule!r}")
    return pattern, limit_keys(table, f"{where}: the rule {pattern!r}")


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise GateError(f"{where} must be a table, got {value!r}")
    return value


def _share(value: Any, where: str) -> float:
    if not is_number(value, 0):
        raise GateError(f"{where} must be a number of at least 0 (0.05 is 5 %), got {value!r}")
    return float(value)


def seconds_of(value: Any, where: str) -> float:
    """Return a time with a unit in seconds; raise GateError for anything else."""
    found = re.fullmatch(r"(\d{1,99}(?:\.\d+)?) ?(h|m|s|ms|us|ns)", value) if isinstance(value, str) else None
    if found is None:
        raise GateError(f'{where} must be a time such as "20us", "1.5 ms" or "5m", got {value!r}')
    return float(found[1]) * SECONDS[found[2]]
