"""Find the release of a package from which on code is slower: gates of the first release against those between.

What the gate of the first against the last release calls a regression is followed: times, or where these are fine
counters, which need no timing. A release that can't be measured or decided on is left out.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stagebench.core.checks import Count, Spread, Text, check
from stagebench.core.errors import GateError
from stagebench.core.json_files import read_json, write_json
from stagebench.core.machine.locks import locked
from stagebench.gate.limits import Rules
from stagebench.gate.runner.environments import newest
from stagebench.gate.verdicts import JUDGED, NOT_MEASURED, PASS, REGRESSION, Decision, Verdict, exit_code

GOOD, BAD, SKIPPED = "good", "bad", "skipped"
STATE = "bisect.json"  # in the folder of a search

_KEYWORD = re.compile(r"[\w:+.\[\]/-]+")  # what pytest's -k takes unquoted
_STEP = {"release": Text, "verdict": Text, "why": Text, "seconds": Spread, "runs": Count}
_STORED = {
    "package": Text,
    "releases": list[Text],
    "select": Text,
    "of": list[Text],
    "followed": list[list[Text | None]],
    "steps": list[Any],
}


@dataclass(frozen=True, slots=True)
class Step:
    """What one release is, beside the first."""

    release: str
    verdict: str  # good, bad or skipped
    why: str  # the gate's words
    seconds: float
    runs: int  # processes that decided it


@dataclass(slots=True)
class Search:
    """A search so far."""

    package: str
    releases: list[str]  # from the good one to the bad one
    select: str
    of: list[str] = field(default_factory=list)  # what decisions depend on beside the release
    followed: list[tuple[str, str | None]] = field(default_factory=list)  # benchmarks, and each one's counter or None
    steps: list[Step] = field(default_factory=list)

    @property
    def answer(self) -> tuple[str, str] | None:
        """Return the last release that is known to be good, and the first one to be bad; None where none is bad."""
        known = {step.release: step.verdict for step in self.steps} | {self.releases[0]: GOOD}
        at = {release: i for i, release in enumerate(self.releases)}
        bad = [at[release] for release, verdict in known.items() if verdict == BAD]
        if not bad:
            return None
        first = min(bad)
        return self.releases[max(at[r] for r, verdict in known.items() if verdict == GOOD and at[r] < first)], (
            self.releases[first]
        )

    @property
    def counters_only(self) -> bool:
        """Return whether counters alone are followed, which need no timing."""
        return any(counter for _, counter in self.followed)

    @property
    def selection(self) -> str:
        """Return the benchmarks that are followed, as pytest's `-k`, or those selected at first."""
        names = sorted({name.split("::")[-1] for name, _ in self.followed})
        return " or ".join(names) if names and all(map(_KEYWORD.fullmatch, names)) else self.select

    def next(self) -> str | None:
        """Return the untested release nearest to the middle of those that may be the first slower one."""
        if not self.steps:
            return self.releases[-1]
        if self.answer is None:
            return None
        good, bad = map(self.releases.index, self.answer)
        tested = {step.release for step in self.steps}
        open_ = [i for i in range(good + 1, bad) if self.releases[i] not in tested]
        return self.releases[min(open_, key=lambda i: abs(2 * i - good - bad))] if open_ else None

    def most_steps(self) -> int:
        """Return how many further releases must be tested, if none is skipped."""
        if not self.steps:
            return 1 + (len(self.releases) - 2).bit_length()
        good, bad = map(self.releases.index, self.answer or self.releases[:2])
        return (bad - good - 1).bit_length()

    def error(self, rules: Rules) -> float:
        """Return the probability that a decision on times was wrong, at most: none on counters is."""
        if self.counters_only:
            return 0.0
        wrong = {GOOD: 1 - rules.confidence, BAD: rules.alpha, SKIPPED: 0.0}
        return min(1.0, sum(wrong[step.verdict] for step in self.steps))

    def described(self, rules: Rules) -> str:
        """Return the answer in one line."""
        runs, risk = sum(step.runs for step in self.steps), f"{self.error(rules):.1%}"
        by = f"{len(self.steps)} releases and {runs} processes"
        if self.answer is None:
            last = self.steps[-1]
            none = f"none: {self.package} {self.releases[-1]} is no slower than {self.releases[0]}"
            return f"{none} ({by})" if last.verdict == GOOD else f"undecided: {last.why}"
        good, bad = self.answer
        between = self.releases[self.releases.index(good) + 1 : self.releases.index(bad)]
        also = f" (or {', '.join(between)}, which could not be decided)" if between else ""
        what = sorted({name.split("::")[-1] + (f" ({c})" if c else "") for name, c in self.followed})
        return f"{self.package} {bad}{also} made it slower: {', '.join(what)}; wrong in at most {risk}, by {by}"


Gate = Callable[[Search, str, float | None, Path], Decision]
"""Gates a release against the first one of a search, within seconds, and keeps its runs in a folder."""


def releases(package: str, good: str, bad: str) -> list[str]:
    """Return the releases from one to another, as pip finds them here: none yanked, and none before its release.

    Raise GateError where one does not exist, or the first is not before the last.
    """
    first, last = (newest(f"{package}=={release}") for release in (good, bad))
    if first is None or last is None:
        raise GateError(f"{package} must have the release {good if first is None else bad}, got none that pip finds")
    between = [last]
    while (before := newest(f"{package}>={first},!={first},<{between[0]}")) is not None:
        between.insert(0, before)
    if first == last or newest(f"{package}<{last},=={first}") is None:
        raise GateError(f"the good release must be before the bad one, got {first} and {last}")
    return [first, *between]


def bisect(search: Search, gate: Gate, folder: Path, budget: float | None, say: Callable[[str], None]) -> Search:
    """Test releases until one is found; go on with what a search in the folder has found before."""
    with locked(folder, "--out must be a folder that no other search writes to"):
        search, began = _resumed(search, folder / STATE), time.monotonic()
        while (release := search.next()) is not None:
            left = None if budget is None else (budget - (time.monotonic() - began)) / search.most_steps()
            say(f"{search.package} {release} against {search.releases[0]}; at most {search.most_steps()} to test")
            step, followed = _step(search, gate, release, left, folder)
            search.steps.append(step)
            search.followed = search.followed or followed
            say(f"{search.package} {release}: {step.verdict}, {step.why}")
            write_json(folder / STATE, asdict(search))
    return search


def _step(
    search: Search, gate: Gate, release: str, left: float | None, folder: Path
) -> tuple[Step, list[tuple[str, str | None]]]:
    began, kept = time.monotonic(), folder / f"{len(search.steps)}-{release}-{time.time_ns()}"
    try:
        decision = gate(search, release, left, kept)
    except GateError as error:
        return Step(release, SKIPPED, str(error), time.monotonic() - began, 0), []
    judged = [v for v in decision.verdicts if v.kind in JUDGED]
    failed = [v for v in judged if v.kind == "counter" and v.counter is None and v.verdict != "pass"]  # by a stage
    found = search.followed or ([] if failed else _to_follow(judged))
    # A counter that is as before has no verdict of its own, and a failure is no cost.
    mine = [v for v in judged if (v.benchmark, v.counter) in found] if search.followed else judged
    code = NOT_MEASURED if failed else exit_code(mine) if mine or not search.followed else PASS
    verdict = {PASS: GOOD, REGRESSION: BAD}.get(code, SKIPPED)
    worst = next((v for v in failed or mine if failed or exit_code([v]) == code), None)
    why = f"{worst.benchmark.split('::')[-1]}: {worst.reason}" if worst else "as before"
    runs = len([*kept.glob("*-base.json"), *kept.glob("*-head.json")])
    return Step(release, verdict, why, time.monotonic() - began, runs), found


def _to_follow(verdicts: Iterable[Verdict]) -> list[tuple[str, str | None]]:
    """Return the times that are a regression, or else the counters and contents."""
    worse = [v for v in verdicts if exit_code([v]) == REGRESSION]
    times = [v for v in worse if v.kind == "time"]
    return [(v.benchmark, v.counter) for v in times or worse]


def _resumed(search: Search, path: Path) -> Search:
    wanted = {name: getattr(search, name) for name in ("package", "releases", "select", "of")}
    if (kept := stored(path, _STORED, "search", wanted)) is None:
        return search
    for each in kept["steps"]:
        check(each, _STEP, f"{path}: steps", GateError)
    steps = [Step(**{name: each[name] for name in _STEP}) for each in kept["steps"]]
    return replace(search, steps=steps, followed=[(each[0], each[1]) for each in kept["followed"]])


def stored(path: Path, form: Mapping[str, Any], what: str, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state in a file, None if it does not exist; raise GateError if it is of another `what`."""
    if not path.exists():
        return None
    found: dict[str, Any] = read_json(path, str(path), GateError)
    check(found, form, str(path), GateError)
    if (same := {name: found[name] for name in wanted}) != wanted:
        raise GateError(f"{path} must be of the same {what}, {dict(wanted)}, got {same}")
    return found
