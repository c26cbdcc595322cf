"""Numbers that no model can have taken, whatever format they come in: the impossible is refused, the odd is doubted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stagebench.analysis.attribution import UNATTRIBUTED, Costs
from stagebench.core.errors import AnalysisError

SECONDS = (1e-9, 1e9)
"""Of a whole: from the shortest time that a clock tells to thirty years."""
MOST_TOKENS = 1e9
QUICKEST_TOKEN, SLOWEST_TOKEN = 1e-5, 10.0
"""Seconds; the first is a few launches of a kernel."""
IDLE = 0.01
"""The share of a whole that decode may take where there is nothing to decode: its call, and its clock."""

Check = Callable[[Costs], bool]


def require_possible(costs: Costs) -> None:
    """Refuse numbers beyond all that a float can be reckoned with.

    Raises:
        AnalysisError: naming the number.
    """
    least, most = SECONDS
    for name, seconds in {**costs.parts, "decode": costs.decode}.items():
        if abs(seconds) > most:
            raise AnalysisError(f"{costs.model}: {name} must be at most {most:g} s, got {seconds:.6g}")
    if costs.total < least:
        raise AnalysisError(f"{costs.model}: the total must be at least {least:g} s, got {costs.total:.6g}")
    if not 1 <= costs.tokens <= MOST_TOKENS:
        raise AnalysisError(f"{costs.model}: there must be 1 to {MOST_TOKENS:g} tokens, got {costs.tokens:.6g}")


def doubts(costs: Sequence[Costs], samples: bool) -> list[str]:
    """Say which numbers of a model can hardly hold.

    Args:
        costs: of its samples, or the only ones that are known.
        samples: whether each is that of one sample.
    """
    decode = "decode" if costs[0].prefilled else "generation"
    checks: dict[str, Check] = {
        f"{name} takes 0 s{{}}: a stage that did no work, or was not timed": _is_empty(name)
        for name in costs[0].parts
        if name != UNATTRIBUTED
    }
    checks |= {
        f"{decode} takes 0 s{{}}: a stage that did no work, or was not timed": _skips,
        f"{decode} takes time{{}} though there is no further token: that can't be": _idles,
        "a token takes less than 10 us{}: are the times in seconds?": lambda c: 0 < _per_token(c) < QUICKEST_TOKEN,
        "a token takes more than 10 s{}: are the times in milliseconds?": lambda c: _per_token(c) > SLOWEST_TOKEN,
        "the stages take longer than the whole{}: that can't be": _overruns,
    }
    counts = {text: sum(map(check, costs)) for text, check in checks.items()}
    return [text.format(f" in {n} of {len(costs)} rows" if samples else "") for text, n in counts.items() if n]


def _is_empty(name: str) -> Check:
    return lambda costs: costs.parts[name] == 0


def _skips(costs: Costs) -> bool:
    return costs.further > 0 and costs.decode == 0


def _idles(costs: Costs) -> bool:
    return costs.further == 0 and costs.decode > IDLE * costs.total


def _overruns(costs: Costs) -> bool:
    return costs.parts.get(UNATTRIBUTED, 0) < -IDLE * costs.total


def _per_token(costs: Costs) -> float:
    return costs.time_per_token or 0.0
