"""Judge counted work and content. Both are exact, so two runs decide.

Less work is better for the same content only. Other content, or another amount of requested work, is `changed` in
either direction, until a person allows it. None of a stage's own work is a regression.
"""

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stagebench.core.results import COUNTED, Benchmark, Results, by_name, is_reference, shared
from stagebench.core.stages import LOAD, STAGE_NAMES, STAGE_OF, STAGES
from stagebench.gate.limits import Rules
from stagebench.gate.verdicts import Verdict

ASKED = {key for stage in STAGES for key in stage.asked}
"""Counters of the requested work, not of its cost: with less of them a stage does other work, not less."""
OWN = ASKED.union(*(stage.own for stage in STAGES))
"""Counters that a stage needs if it has them: zero of them is a cached result, not less work."""
CONTENT = {key for stage in STAGES for key in stage.content}
ALIKE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 5e-2}
"""By dtype, the largest distance of features that is rounding, relative to the largest number; default float32's."""
FILES, PAGE = "bytes_from_files", 4096
"""Libraries occasionally read up to a page of their own, which this counter includes."""
UNSTEADY = "differs between runs of the {}, so it is not exact"

Values = Mapping[str, Sequence[Any]]
"""Counters and digests of one benchmark on one side: by name, one value for each of the results."""


def judge_counters(
    base: Sequence[Results], head: Sequence[Results], rules: Rules, allowed: Collection[str] = ()
) -> list[Verdict]:
    """Compare the counted work and the content of each benchmark.

    Return a verdict for each counter and content that differs, one for each benchmark in which none differs, and an
    unjudged one for each benchmark without counters. In `allowed` stages the content and the requested work may change.
    """
    alike = ALIKE.get(head[0]["machine_info"]["dtype"], ALIKE["float32"])
    found = []
    for name in shared(*base, *head):
        before, after = (_values([by_name(results)[name] for results in side]) for side in (base, head))
        info = by_name(head[0])[name].get("extra_info", {})
        ours, stage = "counters" not in info, info.get("stage")
        if stage not in STAGE_NAMES:
            stage = next((STAGE_OF[key] for key in after if ours and key in CONTENT), None)
        found += _Case(name, stage, rules, allowed, alike, ours).judge(before, after)
    return found


def does_other_work(verdict: Verdict) -> bool:
    """Return whether times can't be compared, because the stage got other work, or did none of its own."""
    none = verdict.verdict == "regression" and verdict.head == 0 and _key(verdict.counter or "") in OWN
    return verdict.verdict == "changed" or none


@dataclass(frozen=True, slots=True)
class _Case:
    """One benchmark with its criteria."""

    name: str
    stage: str | None
    rules: Rules
    allowed: Collection[str]
    alike: float
    ours: bool  # whether its counters are ours; others may share a name without its meaning

    def judge(self, before: Values, after: Values) -> list[Verdict]:
        """Return all verdicts: first on requested work and content, on which the others depend."""
        if not (before or after):
            reason = "not counted: it has no counters"
            return [] if is_reference(self.name) else [Verdict(self.name, "uncounted", "pass", reason, 0)]
        both = {key: (before[key], after[key]) for key in before if key in after}
        asked = {key: pair for key, pair in both.items() if self._is_of(key, ASKED | CONTENT)}
        changes = [v for key, pair in asked.items() if (v := self._asked(key, *pair))]
        other = {self._stage_of(v.counter or "") for v in changes if v.verdict == "changed" or v.allowed}
        took = [v for key, pair in both.items() if key not in asked and (v := self._took(key, *pair, other))]
        lost = [f"content of {key}" if self._is_of(key, CONTENT) else key for key in before if key not in after]
        unknown = [] if self._counters(before) else self._counters(after)
        missing = {"no longer counted": lost, "not counted in the base": unknown}
        found = changes + took
        for why, keys in missing.items():
            single, reason = keys[0] if len(keys) == 1 else None, f"{why}: {', '.join(keys)}"
            found += [Verdict(self.name, "counter", "missing", reason, 1, counter=single)] if keys else []
        return found + self._as_before(before, after, found)

    def _verdict(
        self, verdict: str, key: str, reason: str, old: float | None = None, new: float | None = None
    ) -> Verdict:
        """Return a verdict on a counter or content; a "changed" one passes in an allowed stage."""
        stage, allowed = self._stage_of(key), None
        if verdict == "changed" and stage in self.allowed:
            verdict, reason, allowed = "pass", f"allowed: {reason}", stage
        elif verdict == "changed" and stage:
            reason += f"; --allow-changed {stage} lets it pass"
        return Verdict(self.name, "counter", verdict, f"{key}: {reason}", 1, old, new, counter=key, allowed=allowed)

    def _asked(self, key: str, before: Sequence[Any], after: Sequence[Any]) -> Verdict | None:
        """Compare requested work or content with the base's first value, which all others of the base must equal."""
        old, new = before[0], max(after, key=lambda value: _distance(before[0], value))
        rounding = self.alike if isinstance(old, list) else 0.0
        if any(_distance(old, value) > rounding for value in before):
            return self._verdict("inconclusive", key, UNSTEADY.format("base"))
        if old == new:
            return None
        apart = _apart(old, new)
        if _distance(old, new) <= rounding:
            return self._verdict("pass", key, f"{apart}, which is rounding (up to {self.alike:g})")
        if _key(key) not in ASKED:
            limit = f", more than rounding ({self.alike:g})" if isinstance(old, list) else ""
            return self._verdict("changed", key, f"other content, {apart}{limit}")
        verdict, what = ("regression", "no work at all") if new == 0 else ("changed", "other work")
        return self._verdict(verdict, key, f"{what}, {apart}", old, new)

    def _took(
        self, key: str, before: Sequence[float], after: Sequence[float], other: Collection[str | None]
    ) -> Verdict | None:
        """Compare the cost of the work; `other` are the stages with changed content or requested work."""
        name, stage = _key(key), self._stage_of(key)
        tolerance = self.rules.tolerance.get(name)
        exact, old = tolerance is None, statistics.median(before)
        if exact and len(set(before)) > 1:
            return self._verdict("inconclusive", key, UNSTEADY.format("base"))
        most = max(after) if max(after) > old else min(after)
        new = most if exact else statistics.median(after)
        if new == old:
            return None
        slack = (tolerance or 0) * old + (PAGE if name == FILES else 0)
        of_other = stage in other or (stage is None and bool(other))
        not_read = stage == LOAD.name and name == FILES and old > 2 * PAGE and new <= max(PAGE, old / 8)
        apart = _apart(old, new)
        reason = apart + ", of other content" * of_other
        cases = [
            (new == 0 < old and self._is_of(key, OWN), "regression", f"no work at all, {reason}"),
            (new > old + slack, "regression", reason),
            (new >= old - slack, "pass", f"{apart}, within its tolerance of {tolerance or 0:.3g}"),
            (not_read, "changed", f"{apart}: cached in memory, or memory-mapped"),  # for the same content
            (of_other, "changed", reason),  # less of it is not an improvement
            (exact and len(set(after)) > 1, "inconclusive", UNSTEADY.format("head")),
            (True, "improvement", f"{reason}; accept it as the new baseline"),
        ]
        verdict, said = next(each for holds, *each in cases if holds)
        return self._verdict(verdict, key, said, old, new)

    def _as_before(self, before: Values, after: Values, found: Sequence[Verdict]) -> list[Verdict]:
        """Return a verdict on the equal counters, unless another verdict is not a pass."""
        said, counters = {v.counter for v in found}, self._counters(before)
        equal = [key for key in counters if key not in said]
        if any(verdict.verdict != "pass" for verdict in found) or (found and not equal):
            return []
        parts = [f"{'the other' if len(equal) < len(counters) else 'all'} {len(equal)} as before"]
        if len(after) > len(self._counters(after)):
            content = before.keys() - counters
            same = "same content" if content - said else "content allowed or within rounding"
            parts.append(same if content else "content not recorded in the base")
        if new := [key for key in self._counters(after) if key not in before]:
            parts.append(f"new: {', '.join(new)}")
        return [Verdict(self.name, "counter", "pass", "; ".join(parts), 1)]

    def _stage_of(self, key: str) -> str | None:
        """Return a counter's stage: from its name, else the benchmark's, else by what it counts."""
        named = key.rpartition(".")[0].rpartition(".")[-1]
        if not self.ours:
            return None
        return named if named in STAGE_NAMES else self.stage or STAGE_OF.get(_key(key))

    def _is_of(self, key: str, names: Collection[str]) -> bool:
        return self.ours and _key(key) in names

    def _counters(self, values: Values) -> list[str]:
        return [key for key in values if not self._is_of(key, CONTENT)]


def _values(benchmarks: Sequence[Benchmark]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for info in [benchmark.get("extra_info", {}) for benchmark in benchmarks]:
        for key, value in (pair for kind in COUNTED for pair in _flat(info.get(kind))):
            found.setdefault(key, []).append(value)
    return found


def _flat(values: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield values by name; those of e2e are named `stage.name`."""
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _distance(old: Any, new: Any) -> float:
    """Return the distance of two values; that of sketches is relative to the first one's largest number."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new) > 0:
        apart, largest = max(abs(a - b) for a, b in zip(old, new, strict=True)), max(map(abs, old))
        return float(apart / largest) if largest else 0.0 if apart == 0 else float("inf")
    if isinstance(old, int) and isinstance(new, int):
        return abs(old - new)
    return 0.0 if old == new else float("inf")


def _apart(old: Any, new: Any) -> str:
    """Return both values in words; for sketches, the two numbers that differ most."""
    if isinstance(old, list) or isinstance(new, list):
        if (distance := _distance(old, new)) == float("inf"):
            return "no numbers that compare"
        i = max(range(len(old)), key=lambda i: abs(old[i] - new[i]))
        return f"number {i} of its sketch {old[i]:.6g} before, {new[i]:.6g} now, {distance:.2g} of the largest apart"
    one, other = (value[:16] if isinstance(value, str) else f"{value:,.12g}" for value in (old, new))
    return f"{one} before, {other} now"


def _key(counter: str) -> str:
    return counter.rpartition(".")[-1]
