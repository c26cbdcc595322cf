"""An attribution as a table for a terminal, as Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from stagebench.analysis.attribution import TIME_PER_TOKEN, TOKENS, Attribution, Costs
from stagebench.analysis.comparison import Intervals
from stagebench.analysis.intervals import Interval
from stagebench.analysis.narrative import in_unit, percent, sentences, unit
from stagebench.core.shown import cell
from stagebench.core.shown import markdown as quoted


def grid(attribution: Attribution, intervals: Intervals | None = None) -> list[list[str]]:
    """The heads of the columns, one line a factor, and one for the whole, as text."""
    a, b, of = attribution.baseline, attribution.other, unit(attribution)
    spread = (intervals.shares if intervals else None) or {}
    heads = [of, a.model, b.model, "saved", "share", "in logs", *(["95 % interval"] if spread else [])]
    factors = [
        [
            name,
            _value(a, name, of),
            _value(b, name, of),
            in_unit(seconds, of),
            _share(attribution.shares, name),
            _share(attribution.log_shares, name),
            *([_interval(spread[name])] if spread else []),
        ]
        for name, seconds in attribution.seconds.items()
    ]
    totals = ["total", *(in_unit(seconds, of) for seconds in (a.total, b.total, attribution.saved))]
    whole = percent(1.0) if attribution.shares else "-"
    return [heads, *factors, [*totals, whole, whole, *([""] if spread else [])]]


def table(attribution: Attribution, intervals: Intervals | None = None) -> Table:
    """For a terminal."""
    heads, *factors, total = grid(attribution, intervals)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column(heads[0], no_wrap=True)
    for head in heads[1:]:
        shown.add_column(cell(head), justify="right")
    for line in factors:
        shown.add_row(*map(cell, line), end_section=line is factors[-1])
    shown.add_row(*total)
    return shown


def markdown(attribution: Attribution, intervals: Intervals | None = None) -> str:
    """A table and the sentences under it."""
    heads, *lines = grid(attribution, intervals)
    rule = ["---", *["---:"] * (len(heads) - 1)]
    rows = [f"| {' | '.join(line)} |" for line in (_quoted(heads), rule, *map(_quoted, lines))]
    return "\n".join([*rows, "", *(f"- {quoted(sentence)}" for sentence in sentences(attribution, intervals))])


def _quoted(cells: Sequence[str]) -> list[str]:
    return [quoted(each) for each in cells]


def as_json(attribution: Attribution, intervals: Intervals | None = None) -> dict[str, Any]:
    """For a machine; times in seconds, and what has no meaning is absent."""
    numbers = {
        "baseline": asdict(attribution.baseline),
        "other": asdict(attribution.other),
        "saved": attribution.saved,
        "speedup": attribution.speedup,
        "seconds": attribution.seconds,
        "logs": attribution.logs,
        "sentences": sentences(attribution, intervals),
    }
    meaningful = {
        "shares": attribution.shares,
        "log_shares": attribution.log_shares,
        "decode_speedup": attribution.decode_speedup,
        "decode_log_shares": attribution.decode_log_shares,
        "intervals": asdict(intervals) if intervals else None,
    }
    return numbers | {name: value for name, value in meaningful.items() if value is not None}


def _value(costs: Costs, name: str, of: str) -> str:
    if name == TOKENS:
        return f"{costs.tokens:.1f}"
    if name == TIME_PER_TOKEN:
        return "-" if costs.time_per_token is None else f"{in_unit(costs.time_per_token, 'ms')} ms"
    return in_unit(costs.parts[name], of)


def _share(shares: dict[str, float] | None, name: str) -> str:
    return "-" if shares is None else percent(shares[name])


def _interval(found: Interval) -> str:
    return f"{100 * found.low:.1f} to {100 * found.high:.1f} %"
