"""An attribution as JSON, as a table, and in plain sentences, one a factor."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from math import floor, log10
from typing import Any

from stagebench.analysis.attribution import TIME_PER_TOKEN, TOKENS, UNATTRIBUTED, Attribution, Costs, Intervals
from stagebench.analysis.intervals import Interval
from stagebench.core.shown import MS, PERCENT, WORDS, Table, Unit, Value
from stagebench.core.stages import DECODE, STAGES

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
    numbers = {
        "baseline": _costs(attribution.baseline),
        "other": _costs(attribution.other),
        **{name: getattr(attribution, name) for name in NUMBERS},
        "intervals": asdict(intervals) if intervals else None,
        "sentences": sentences(attribution, intervals),
    }
    return {name: value for name, value in numbers.items() if value is not None}


def _costs(costs: Costs) -> dict[str, Any]:
    return asdict(costs) | {"total": costs.total, "time_per_token": costs.time_per_token}


def table(found: Mapping[str, Any], title: str = "") -> Table:
    """Lay out what `as_json` returned, a row a factor and the whole; a row's label has the unit of both models."""
    a, b = found["baseline"], found["other"]
    shares, logs = found.get("shares", {}), found.get("log_shares", {})
    intervals = found.get("intervals", {}).get("seconds", {})
    of = unit(max(a["total"], b["total"]), (each["high"] - each["low"] for each in intervals.values()))
    own = replace(of, label="")  # in the label of the row, because two rows are in another
    times = (a["model"], own), (b["model"], own), ("saved", of), ("95 % interval", of)
    columns = (("factor", WORDS), *times, ("share", PERCENT), ("in logs", PERCENT))
    labels = {TOKENS: TOKENS, TIME_PER_TOKEN: f"{TIME_PER_TOKEN}, {MS.label}"}
    values = [
        costs["parts"] | {TOKENS: f"{costs['tokens']:.1f}", TIME_PER_TOKEN: MS.write(costs["time_per_token"])}
        for costs in (a, b)
    ]
    rows: list[tuple[Value, ...]] = [
        (
            labels.get(name, f"{name}, {of.label}"),
            *(each[name] for each in values),
            *(saved, intervals.get(name), shares.get(name), logs.get(name)),
        )
        for name, saved in found["seconds"].items()
    ]
    whole = 1.0 if shares else None
    rows.append((f"total, {of.label}", a["total"], b["total"], found["saved"], None, whole, whole))
    return Table(title, columns, rows, found["sentences"])


def sentences(attribution: Attribution, intervals: Intervals | None = None) -> list[str]:
    """Say what an attribution says, with the intervals over its samples: the whole, each factor, the tokens alone."""
    widths = [each.high - each.low for each in intervals.seconds.values()] if intervals else []
    of = unit(max(attribution.baseline.total, attribution.other.total), widths)
    factors = [_factor(attribution, name, intervals, of) for name in attribution.seconds]
    return [_whole(attribution, intervals, of), *factors, *_tokens_alone(attribution)]


def unit(total: float, widths: Iterable[float]) -> Unit:
    """Choose what a person reads times in: ms, or s where the total reaches 10 s, in three decimals or more.

    There are as many as show two digits of the width of the narrowest interval; one below 1 ns is rounding.
    """
    scale, label = (1.0, "s") if total >= 10 else (1e3, "ms")
    narrowest = min((width for width in widths if width >= 1e-9), default=1.0)
    return Unit(f"{{:z,.{max(3, 1 - floor(log10(narrowest * scale)))}f}}", scale, label)


def subject(factor: str) -> str:
    """Return what a sentence about a factor begins with."""
    return SUBJECTS.get(factor, factor.capitalize())


def _percent(share: float, interval: Interval | None = None) -> str:
    spread = f"; 95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f} %" if interval else ""
    return f"{100 * share:.1f} %{spread}"


def _whole(attribution: Attribution, intervals: Intervals | None, of: Unit) -> str:
    a, b = attribution.baseline, attribution.other
    times, how = attribution.speedup, "fast"
    spread = [intervals.speedup.low, intervals.speedup.high] if intervals else []
    if times < 1:
        times, how, spread = 1 / times, "slow", [1 / each for each in reversed(spread)]
    interval = f" (95 % interval {spread[0]:.2f} to {spread[1]:.2f})" if spread else ""
    return (
        f"{b.model} takes {of.write(b.total)} {of.label} where {a.model} takes {of.write(a.total)} {of.label}: "
        f"{times:.2f} times as {how}{interval}."
    )


def _factor(attribution: Attribution, name: str, intervals: Intervals | None, of: Unit) -> str:
    seconds, shares = attribution.seconds[name], attribution.shares
    amount = of.write(abs(seconds))
    if seconds == 0:
        return f"{subject(name)} makes no difference."
    if shares is None:
        return f"{subject(name)} {'saves' if seconds > 0 else 'loses'} {amount} {of.label}."
    share = _percent(shares[name], intervals.shares[name] if intervals and intervals.shares else None)
    if shares[name] < 0:
        return f"{subject(name)} goes the other way, by {amount} {of.label} ({share})."
    whole = f"{of.write(abs(attribution.saved))} {of.label} {'saved' if attribution.saved > 0 else 'lost'}"
    return f"{subject(name)} explains {amount} of the {whole} ({share})."


def _tokens_alone(attribution: Attribution) -> list[str]:
    shares = attribution.decode_log_shares
    if shares is None or attribution.decode_speedup is None or not shares[TOKENS]:
        return []
    what = DECODE.name if attribution.baseline.prefilled else "generation"
    return [
        f"Of {what} alone, {attribution.decode_speedup:.3f} times as fast, {_percent(shares[TOKENS])} is the number of "
        f"tokens and {_percent(shares[TIME_PER_TOKEN])} the time per token, in logarithms."
    ]
