"""Show an attribution: as JSON, and as a table with the sentences under it."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from stagebench.analysis.attribution import TIME_PER_TOKEN, TOKENS, Attribution, Costs
from stagebench.analysis.comparison import Intervals
from stagebench.analysis.narrative import sentences, unit
from stagebench.core.tables import MS, PERCENT, WORDS, Table, Value

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
    rows: list[tuple[Value, ...]] = [
        (
            labels.get(name, f"{name}, {of.label}"),
            *(_value(costs, name) for costs in (a, b)),
            *(saved, intervals.get(name), shares.get(name), logs.get(name)),
        )
        for name, saved in found["seconds"].items()
    ]
    whole = 1.0 if shares else None
    rows.append((f"total, {of.label}", a["total"], b["total"], found["saved"], None, whole, whole))
    return Table(title, columns, rows, found["sentences"])


def _value(costs: Mapping[str, Any], name: str) -> Value:
    """Return the seconds of a factor; of the number of tokens and the time of one, what their rows are labelled as."""
    if name == TOKENS:
        return f"{costs['tokens']:.1f}"
    if name == TIME_PER_TOKEN:
        return MS.write(costs["time_per_token"])
    return float(costs["parts"][name])
