"""An attribution in plain sentences, one a factor."""

from collections.abc import Iterable
from math import floor, log10

from stagebench.analysis.attribution import TIME_PER_TOKEN, TOKENS, UNATTRIBUTED, Attribution
from stagebench.analysis.comparison import Intervals
from stagebench.analysis.intervals import Interval
from stagebench.core.stages import DECODE, STAGES
from stagebench.core.tables import Unit

SUBJECTS = {
    **{stage.name: stage.label for stage in STAGES},
    "ttft": "The time to first token",
    TOKENS: "The number of tokens",
    TIME_PER_TOKEN: "The time per token",
    UNATTRIBUTED: "What no stage explains",
}
"""Return what a sentence about a factor begins with; another name stands for itself."""


def sentences(attribution: Attribution, intervals: Intervals | None = None) -> list[str]:
    """Say what an attribution says: the whole, then every factor, then the tokens alone.

    Args:
        attribution: of two models.
        intervals: over its samples, where there are any.
    """
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


def percent(share: float, interval: Interval | None = None) -> str:
    """Write a share for a person, with its interval where it has one."""
    spread = f"; 95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f} %" if interval else ""
    return f"{100 * share:.1f} %{spread}"


def subject(factor: str) -> str:
    """Return what a sentence about the factor begins with."""
    return SUBJECTS.get(factor, factor.capitalize())


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
    share = percent(shares[name], intervals.shares[name] if intervals and intervals.shares else None)
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
        f"Of {what} alone, {attribution.decode_speedup:.3f} times as fast, {percent(shares[TOKENS])} is the number of "
        f"tokens and {percent(shares[TIME_PER_TOKEN])} the time per token, in logarithms."
    ]
