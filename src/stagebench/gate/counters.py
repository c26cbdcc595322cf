"""Verdicts on counted work and on content: exact, so that two runs decide.

Less work is better for the same content only. Other content, or another number of what a stage works on, is `changed`
whichever way it went, until a person lets it pass; none of a stage's own work is a regression.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from stagebench.core import meter
from stagebench.gate.limits import Rules
from stagebench.gate.runs import StoredRun, info_of, is_reference, shared
from stagebench.gate.verdicts import Verdict

UNITS = ("images", "images_encoded", "visual_tokens", "prompt_tokens", "new_tokens", "steps")
"""Counters of what was asked for, not of what it took: with less of them a stage does other work, not less."""

OWN = (
    *UNITS,
    *chain.from_iterable(meter.COUNTED.values()),
    *("resized_pixels", "tower_forwards", "language_model_forwards"),
)
"""Counters of which a stage that has any can't do without: zero of them is a remembered result, not less work."""

ALIKE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 5e-2}
"""How far features may lie apart by rounding, of the largest number, by dtype; other dtypes as float32."""

_STAGES_OF = {
    "load": ("frames", "images"),
    "preprocess": ("pixels", "prompt", "prompt_tokens"),
    "encode": ("features", "images_encoded", "visual_tokens"),
    "prefill": (),
    "decode": ("tokens", "new_tokens", "steps"),
}
STAGES = tuple(_STAGES_OF)
"""Those whose change a person can let pass."""
_STAGE_OF = {key: stage for stage, keys in _STAGES_OF.items() for key in keys}
"""Of content and counters that come without the name of their stage."""

_SLACK = {"bytes_from_files": 4096}
"""Of counters that are not ours alone: what libraries read of their own accord, at times."""

_NO_COUNT = 1e300  # and whatever is larger: an integer of 400 digits is no count either


def judge_counters(
    base: Sequence[StoredRun], head: Sequence[StoredRun], rules: Rules, allowed: Collection[str] = ()
) -> list[Verdict]:
    """Compare the counted work and the content of each benchmark, over the runs that counted any.

    Args:
        base: runs without the change.
        head: runs with it.
        rules: tolerances of counters that do not repeat exactly.
        allowed: stages whose content, or number of what they work on, may be another one.

    Returns:
        A verdict for each counter and content that is not the same on both sides, one for the benchmarks that have none
        such, and one that is not judged for each benchmark without counters.
    """
    dtype = next((run["machine_info"]["dtype"] for run in (*base, *head) if "machine_info" in run), "")
    return [
        verdict
        for name in shared(base, head)
        for verdict in _Case(name, _stage(head, name), rules, allowed, ALIKE.get(dtype, ALIKE["float32"])).judge(
            _counted(base, name), _counted(head, name)
        )
    ]


def does_other_work(verdict: Verdict) -> bool:
    """Whether the times of the benchmark say nothing: the stage got other work, or did none of its own."""
    none = verdict.verdict == "regression" and verdict.head == 0 and _key(verdict.counter or "") in OWN
    return verdict.verdict == "changed" or none


@dataclass(frozen=True, slots=True)
class _Counted:
    """What the runs of a side counted and digested for one benchmark, a list of values by name."""

    work: dict[str, list[Any]]
    content: dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class _Case:
    """One benchmark, and what it is judged by."""

    name: str
    stage: str | None
    rules: Rules
    allowed: Collection[str]
    alike: float

    def judge(self, before: _Counted, after: _Counted) -> list[Verdict]:
        """Give all verdicts on it."""
        if not (before.work or after.work or before.content or after.content):
            reason = "not counted: it has none of stagebench's counters"
            return [] if is_reference(self.name) else [Verdict(self.name, "uncounted", "pass", reason, 0)]
        both = [counter for counter in before.work if counter in after.work]
        wrong = [v for counter in both if (v := self._no_count(counter, before.work[counter], after.work[counter]))]
        sound = [counter for counter in both if counter not in {v.counter for v in wrong}]
        shared_content = [key for key in before.content if key in after.content]
        changes = [
            *(self._content(key, before.content[key], after.content[key]) for key in shared_content),
            *(self._unit(c, before.work[c], after.work[c]) for c in sound if _key(c) in UNITS),
        ]
        other = {self._stage_of(v.counter or "") for v in changes if v and (v.verdict == "changed" or v.allowed)}
        amounts = [self._amount(c, before.work[c], after.work[c], other) for c in sound if _key(c) not in UNITS]
        found = [*self._missing(before, after), *wrong, *(v for v in (*changes, *amounts) if v)]
        return found + self._as_before(before, after, found)

    def _verdict(self, verdict: str, key: str, reason: str, numbers: tuple[float, float] | None = None) -> Verdict:
        old, new = numbers or (None, None)
        return Verdict(self.name, "counter", verdict, f"{key}: {reason}", 1, old, new, counter=key)

    def _changed(self, key: str, reason: str, numbers: tuple[float, float] | None = None) -> Verdict:
        stage = self._stage_of(key)
        if stage in self.allowed:
            return replace(self._verdict("pass", key, f"allowed: {reason}", numbers), allowed=stage)
        hint = f"; --allow-changed {stage} lets it pass" if stage else ""
        return self._verdict("changed", key, reason + hint, numbers)

    def _missing(self, before: _Counted, after: _Counted) -> list[Verdict]:
        """What only one side has: of a counter that the base lacks only where it has none at all."""
        lost = [name for name in before.work if name not in after.work]
        lost += [f"content of {name}" for name in before.content if name not in after.content]
        reasons = [f"no longer counted: {', '.join(lost)}"] if lost else []
        if not before.work and after.work:
            reasons.append(f"not counted in the base: {', '.join(after.work)}")
        return [
            Verdict(self.name, "counter", "missing", reason, 1, counter=lost[0] if len(lost) == 1 else None)
            for reason in reasons
        ]

    def _no_count(self, counter: str, before: Sequence[Any], after: Sequence[Any]) -> Verdict | None:
        wrong = [value for value in (*before, *after) if not _is_count(value)]
        return self._verdict("incomparable", counter, f"must be a count, got {wrong[0]!r:.40}") if wrong else None

    def _content(self, key: str, before: Sequence[Any], after: Sequence[Any]) -> Verdict | None:
        """Compare digests, or the sketches of floats; the first of the base stands for all that are like it."""
        old = before[0]
        if any(not self._same(old, each) for each in before):
            return self._verdict("inconclusive", key, "content differs between runs of the base")
        new = next((each for each in after if not self._same(old, each)), after[0])
        if self._same(old, new):
            return self._let_pass(key, old, after)
        if isinstance(old, list) or isinstance(new, list):
            return self._changed(key, f"other content, {_apart(old, new)}, more than rounding ({self.alike:g})")
        return self._changed(key, f"other content, {old!s:.16} before, {new!s:.16} now")

    def _same(self, old: Any, new: Any) -> bool:
        return old == new if isinstance(old, str) else _distance(old, new) <= self.alike

    def _let_pass(self, key: str, old: Any, after: Sequence[Any]) -> Verdict | None:
        """Say what rounding was let pass; nothing of what is equal."""
        new = max(after, key=lambda each: _distance(old, each)) if isinstance(old, list) else old
        if old == new:
            return None
        return self._verdict("pass", key, f"{_apart(old, new)}, which is rounding (up to {self.alike:g})")

    def _unit(self, counter: str, before: Sequence[float], after: Sequence[float]) -> Verdict | None:
        old, new = before[0], _farthest(before[0], after)
        change = f"{_number(old)} before, {_number(new)} now"
        if len(set(before)) > 1:
            return self._verdict(
                "inconclusive", counter, "differs between runs of the base, so it does not count exactly"
            )
        if new == 0 < old:
            return self._verdict("regression", counter, f"no work at all, {change}", (old, new))
        return self._changed(counter, f"other work, {change}", (old, new)) if new != old else None

    def _amount(
        self, counter: str, before: Sequence[float], after: Sequence[float], other: Collection[str | None]
    ) -> Verdict | None:
        """The verdict on a counter of what it took, or None where it is as before."""
        given = self.rules.tolerance.get(_key(counter))
        old = statistics.median(before)
        new = _farthest(old, after) if given is None else statistics.median(after)
        change = f"{_number(old)} before, {_number(new)} now"
        stage = self._stage_of(counter)
        of_other = stage in other or (stage is None and bool(other))
        suffix = ", of other content" if of_other else ""
        if given is None and len(set(before)) > 1:
            return self._verdict(
                "inconclusive", counter, "differs between runs of the base, so it does not count exactly"
            )
        if new == 0 < old and _key(counter) in OWN:
            return self._verdict("regression", counter, f"no work at all, {change}{suffix}", (old, new))
        slack = (given or 0) * old + _SLACK.get(_key(counter), 0)
        if new > old + slack:
            return self._verdict("regression", counter, change + suffix, (old, new))
        if new >= old - slack:
            within = f"{change}, within its tolerance of {given or 0:.3g}"
            return self._verdict("pass", counter, within, (old, new)) if new != old else None
        own = _SLACK.get(_key(counter), 0) if stage == "load" else 0
        if 0 < own < old / 2 and new <= max(own, old / 8):  # as good as nothing: the same content came from elsewhere
            return self._changed(counter, f"{change}: kept in memory from before, or mapped into it", (old, new))
        if of_other:  # less of it says nothing good
            return self._changed(counter, change + suffix, (old, new))
        if given is None and len(set(after)) > 1:
            return self._verdict(
                "inconclusive", counter, "differs between runs of the head, so it does not count exactly"
            )
        return self._verdict("improvement", counter, f"{change}; accept it as the new baseline", (old, new))

    def _as_before(self, before: _Counted, after: _Counted, found: Sequence[Verdict]) -> list[Verdict]:
        """Count what is equal, where nothing else is graver than a pass."""
        said = {v.counter for v in found}
        equal = [name for name in before.work if name not in said]
        if any(verdict.verdict != "pass" for verdict in found) or (found and not equal):
            return []
        new = [name for name in after.work if name not in before.work]
        parts = [f"{'the other' if len(equal) < len(before.work) else 'all'} {len(equal)} as before"]
        if after.content:
            same = "same content" if before.content.keys() - said else "content allowed or within rounding"
            parts.append(same if before.content else "content not recorded in the base")
        parts += [f"new: {', '.join(new)}"] if new else []
        return [Verdict(self.name, "counter", "pass", "; ".join(parts), 1)]

    def _stage_of(self, key: str) -> str | None:
        """The stage that a counter is of: named before it, else the benchmark's own, else by what it counts."""
        named = key.rpartition(".")[0].rpartition(".")[-1]
        return named if named in STAGES else self.stage or _STAGE_OF.get(_key(key))


def _counted(runs: Sequence[StoredRun], name: str) -> _Counted:
    """Values by name, over the runs that have any; those of e2e are named stage.name."""
    found: tuple[dict[str, list[Any]], dict[str, list[Any]]] = ({}, {})
    for run in runs:
        info = info_of(run, name)
        for values, key in zip(found, ("work", "content"), strict=True):
            for counter, value in _flat(info.get(key) or {}):
                values.setdefault(counter, []).append(value)
    return _Counted(*found)


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _stage(runs: Sequence[StoredRun], name: str) -> str | None:
    """The stage of a benchmark that has one, as it says itself or as its content shows."""
    info = info_of(runs[0], name)
    shown = [stage for key in _counted(runs, name).content if (stage := _STAGE_OF.get(key))]
    return info["stage"] if info.get("stage") in STAGES else next(iter(shown), None)


def _farthest(old: float, values: Sequence[float]) -> float:
    """The value that is worst: the largest, where it is more than before, else the smallest."""
    return max(values) if max(values) > old else min(values)


def _distance(old: Any, new: Any) -> float:
    """How far two sketches lie apart, of the largest number of the first; infinite where they are none of the kind."""
    floats = [isinstance(each, list) and all(map(_is_float, each)) and len(each) > 0 for each in (old, new)]
    if not all(floats) or len(old) != len(new):
        return float("inf")
    largest = max(map(abs, old))
    apart = max(abs(a - b) for a, b in zip(old, new, strict=True))
    return float(apart / largest) if largest else (0.0 if apart == 0 else float("inf"))


def _apart(old: Any, new: Any) -> str:
    distance = _distance(old, new)
    if distance == float("inf"):
        return "no numbers that compare"
    i = max(range(len(old)), key=lambda i: abs(old[i] - new[i]))
    return f"number {i} of its sketch {old[i]:.6g} before, {new[i]:.6g} now, {distance:.2g} of the largest apart"


def _is_count(value: Any) -> bool:
    return _is_float(value) and value >= 0


def _is_float(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_NO_COUNT < value < _NO_COUNT


def _number(value: float) -> str:
    return f"{value:,.12g}"


def _key(counter: str) -> str:
    return counter.rpartition(".")[-1]
