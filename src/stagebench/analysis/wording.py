"""An attribution in plain sentences, one a factor."""

from __future__ import annotations

from stagebench.analysis.attribution import TIME_PER_TOKEN, TOKENS, UNATTRIBUTED, Attribution
from stagebench.analysis.comparison import Intervals
from stagebench.analysis.intervals import Interval

SUBJECTS = {
    "load": "Loading",
    "preprocess": "Preprocessing",
    "encode": "Encoding",
    "prefill": "Prefill",
    "ttft": "The time to first token",
    TOKENS: "The number of tokens",
    TIME_PER_TOKEN: "The time per token",
    UNATTRIBUTED: "What no stage explains",
}
"""What a sentence about a factor begins with; another name stands for itself."""


def sentences(attribution: Attribution, intervals: Intervals | None = None) -> list[str]:
    """Say what an attribution says: the whole, then every factor, then the tokens alone.

    Args:
        attribution: of two models.
        intervals: over its samples, where there are any.
    """
    factors = [_factor(attribution, name, intervals) for name in attribution.seconds]
    return [_whole(attribution, intervals), *factors, *_tokens_alone(attribution)]


def duration(seconds: float, scale: float) -> str:
    """Seconds for a person: in s where `scale`, the largest of what stands beside it, is at least 1 s, else in ms."""
    return f"{seconds:.3f} s" if scale >= 1 else f"{seconds * 1e3:.3f} ms"


def percent(share: float, interval: Interval | None = None) -> str:
    """A share for a person, with its interval where it has one."""
    spread = f"; 95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f} %" if interval else ""
    return f"{100 * share:.1f} %{spread}"


def subject(factor: str) -> str:
    """What a sentence about the factor begins with."""
    return SUBJECTS.get(factor, factor.capitalize())


def _whole(attribution: Attribution, intervals: Intervals | None) -> str:
    a, b = attribution.baseline, attribution.other
    scale = max(a.total, b.total)
    times, how = attribution.speedup, "fast"
    spread = [intervals.speedup.low, intervals.speedup.high] if intervals else []
    if times < 1:
        times, how, spread = 1 / times, "slow", [1 / each for each in reversed(spread)]
    interval = f" (95 % interval {spread[0]:.2f} to {spread[1]:.2f})" if spread else ""
    return (
        f"{b.model} takes {duration(b.total, scale)} where {a.model} takes {duration(a.total, scale)}: "
        f"{times:.2f} times as {how}{interval}."
    )


def _factor(attribution: Attribution, name: str, intervals: Intervals | None) -> str:
    seconds, shares = attribution.seconds[name], attribution.shares
    scale = max(attribution.baseline.total, attribution.other.total)
    amount = duration(abs(seconds), scale)
    if seconds == 0:
        return f"{subject(name)} makes no difference."
    if shares is None:
        return f"{subject(name)} {'saves' if seconds > 0 else 'loses'} {amount}."
    share = percent(shares[name], intervals.shares[name] if intervals and intervals.shares else None)
    if shares[name] < 0:
        return f"{subject(name)} goes the other way, by {amount} ({share})."
    verb = "saved" if attribution.saved > 0 else "lost"
    number, unit = duration(abs(attribution.saved), scale).split()
    return f"{subject(name)} explains {amount.split()[0]} of the {number} {unit} {verb} ({share})."


def _tokens_alone(attribution: Attribution) -> list[str]:
    shares = attribution.decode_log_shares
    if shares is None or attribution.decode_speedup is None:
        return []
    what = "decode" if attribution.baseline.prefilled else "generation"
    return [
        f"Of {what} alone, {attribution.decode_speedup:.3f} times as fast, {percent(shares[TOKENS])} is the number of "
        f"tokens and {percent(shares[TIME_PER_TOKEN])} the time per token, in logarithms."
    ]
