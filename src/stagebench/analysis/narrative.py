"""An attribution as JSON, as a table, and in plain sentences, one a factor."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from stagebench.analysis.attribution import TIME_PER_TOKEN, TOKENS, UNATTRIBUTED, Attribution, Intervals
from stagebench.core.shown import MS, PERCENT, WORDS, Table, Unit, Value
from stagebench.core.stages import DECODE, STAGE_NAMES, STAGES

SUBJECTS = {stage.name: stage.label for stage in STAGES} | {
    "ttft": "The time to first token",
    TOKENS: "The number of tokens",
    TIME_PER_TOKEN: "The time per token",
    UNATTRIBUTED: "What no stage explains",
}
NUMBERS = ("saved", "speedup", "seconds", "logs", "shares", "log_shares", "decode_speedup", "decode_log_shares")
"""Attributes of an attribution, some of them None."""


def as_json(attribution: Attribution, intervals: Intervals | None = None) -> dict[str, Any]:
    """Return it for a machine; times in seconds, and what has no meaning is absent."""
    sides = {"baseline": attribution.baseline, "other": attribution.other}
    numbers = {
        **{side: asdict(c) | {"total": c.total, "time_per_token": c.time_per_token} for side, c in sides.items()},
        **{name: getattr(attribution, name) for name in NUMBERS},
        "intervals": asdict(intervals) if intervals else None,
    }
    found = {name: value for name, value in numbers.items() if value is not None}
    return found | {"sentences": sentences(found)}


def table(found: Mapping[str, Any], title: str = "") -> Table:
    """Lay out what `as_json` returned, a row a factor and the whole; a row's label has the unit of both models."""
    a, b = found["baseline"], found["other"]
    shares, logs = ({} if no_difference(found) else found.get(key, {}) for key in ("shares", "log_shares"))
    intervals, of = found.get("intervals", {}), _unit_of(found)
    own = replace(of, label="")  # in the label of the row, because two rows are in another
    times = (a["model"], own), (b["model"], own), ("saved", of), ("95 % interval", of)
    columns = (("factor", WORDS), *times, ("share", PERCENT), ("in logs", PERCENT))
    labels = {TOKENS: TOKENS, TIME_PER_TOKEN: f"{TIME_PER_TOKEN}, {MS.label}"}
    values = [
        costs["parts"] | {TOKENS: f"{costs['tokens'] or 0:.1f}", TIME_PER_TOKEN: MS.write(costs["time_per_token"])}
        for costs in (a, b)
    ]
    rows: list[tuple[Value, ...]] = []
    for name, saved in found["seconds"].items():
        label, numbers = labels.get(name, f"{name}, {of.label}"), (each[name] for each in values)
        rows.append((label, *numbers, saved, intervals.get("seconds", {}).get(name), shares.get(name), logs.get(name)))
    whole = 1.0 if shares else None
    rows.append((f"total, {of.label}", a["total"], b["total"], found["saved"], intervals.get("saved"), whole, whole))
    return Table(title, columns, rows, found["sentences"])


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Say what `as_json` found, with the intervals over its samples: the whole, each factor, the tokens alone."""
    of = _unit_of(found)
    return [_whole(found, of), *(_factor(found, name, of) for name in found["seconds"]), *_tokens_alone(found)]


def no_difference(found: Mapping[str, Any]) -> bool:
    """Return whether the interval of the speedup holds 1; without intervals nobody knows, and it does not."""
    interval = found.get("intervals", {}).get("speedup", {"low": math.inf, "high": math.inf})
    return bool(interval["low"] <= 1 <= interval["high"])


def factors(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a picture draws of `as_json`: of each factor and of all the subject, stage, seconds and interval."""
    spreads, own = found.get("intervals", {}), (*STAGE_NAMES, UNATTRIBUTED)
    rows = [
        (subject(name), name if name in own else DECODE.name, seconds, spreads.get("seconds", {}).get(name))
        for name, seconds in found["seconds"].items()
    ]
    rows.append(("All", "e2e", found["saved"], spreads.get("saved")))
    return [dict(zip(("name", "stage", "saved", "interval"), row, strict=True)) for row in rows]


def _unit_of(found: Mapping[str, Any]) -> Unit:
    intervals = found.get("intervals", {}).get("seconds", {}).values()
    total = max(found["baseline"]["total"], found["other"]["total"])
    return unit(total, (each["high"] - each["low"] for each in intervals))


def unit(total: float, widths: Iterable[float]) -> Unit:
    """Choose what a person reads times in: ms, or s where the total reaches 10 s, in three decimals or more.

    There are as many as show two digits of the width of the narrowest interval; one below 1 ns is rounding.
    """
    scale, label = (1.0, "s") if total >= 10 else (1e3, "ms")
    narrowest = min((width for width in widths if width >= 1e-9), default=1.0)
    return Unit(f"{{:z,.{max(3, 1 - math.floor(math.log10(narrowest * scale)))}f}}", scale, label)


def subject(factor: str) -> str:
    """Return what a sentence about a factor begins with."""
    return SUBJECTS.get(factor, factor.capitalize())


def _percent(share: float, interval: Mapping[str, float] | None = None) -> str:
    spread = f"; 95 % interval {100 * interval['low']:.1f} to {100 * interval['high']:.1f} %" if interval else ""
    return f"{100 * share:.1f} %{spread}"


def _whole(found: Mapping[str, Any], of: Unit) -> str:
    a, b = found["baseline"], found["other"]
    times, how = found["speedup"], "fast"
    spread = list(found.get("intervals", {}).get("speedup", {}).values())
    if times < 1:
        times, how, spread = 1 / times, "slow", [1 / each for each in reversed(spread)]
    digits = next((n for n in (2, 3, 4) if not any(each != 1 == round(each, n) for each in spread)), 9)
    low_to_high = " to ".join(f"{each:.{digits}f}" for each in spread)
    both = f"{b['model']} takes {of.write(b['total'])} {of.label} where {a['model']} takes {of.write(a['total'])}"
    if no_difference(found):
        return f"No difference seen: {both} {of.label}, {low_to_high} times as {how} (95 % interval)."
    interval = f" (95 % interval {low_to_high})" if spread else ""
    return f"{both} {of.label}: {times:.{digits}f} times as {how}{interval}."


def _factor(found: Mapping[str, Any], name: str, of: Unit) -> str:
    seconds, saved = found["seconds"][name], found["saved"]
    amount = of.write(abs(seconds))
    if seconds == 0:
        return f"{subject(name)} makes no difference."
    if "shares" not in found or no_difference(found):
        return f"{subject(name)} {'saves' if seconds > 0 else 'loses'} {amount} {of.label}."
    share = found["shares"][name]
    said = _percent(share, (found.get("intervals", {}).get("shares") or {}).get(name))
    if share < 0:
        return f"{subject(name)} goes the other way, by {amount} {of.label} ({said})."
    whole = f"{of.write(abs(saved))} {of.label} {'saved' if saved > 0 else 'lost'}"
    return f"{subject(name)} explains {amount} of the {whole} ({said})."


def _tokens_alone(found: Mapping[str, Any]) -> list[str]:
    shares = found.get("decode_log_shares", {TOKENS: 0.0})
    if not shares[TOKENS] or no_difference(found):
        return []
    what = DECODE.name if found["baseline"]["prefilled"] else "generation"
    return [
        f"Of {what} alone, {found['decode_speedup']:.3f} times as fast, {_percent(shares[TOKENS])} is the number of "
        f"tokens and {_percent(shares[TIME_PER_TOKEN])} the time per token, in logarithms."
    ]
