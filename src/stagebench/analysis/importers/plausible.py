"""Numbers that no model can have taken, in whatever format: the impossible is refused, the odd is warned of."""

from collections.abc import Callable, Sequence
from functools import partial

from stagebench.analysis.attribution import UNATTRIBUTED, Costs
from stagebench.analysis.importers.measured import Timing
from stagebench.core.errors import AnalysisError
from stagebench.core.stages import DECODE

SECONDS = (1e-9, 1e9)
"""Of a whole: from the shortest time that a clock tells to thirty years."""
MOST_TOKENS = 1e9
QUICKEST_TOKEN, SLOWEST_TOKEN = 1e-5, 10.0
"""Seconds; the first is a few launches of a kernel."""
TOLERANCE = 0.01
"""Of a whole: what decode may take where there is nothing to decode, and how far its parts may be from it."""


def require_possible(costs: Costs) -> None:
    """Refuse numbers beyond all that a float can be reckoned with.

    Raises:
        AnalysisError: naming the number.
    """
    least, most = SECONDS
    for name, seconds in {**costs.parts, DECODE.name: costs.decode}.items():
        if abs(seconds) > most:
            raise AnalysisError(f"{costs.model}: {name} must be at most {most:g} s, got {seconds:.6g}")
    if costs.total < least:
        raise AnalysisError(f"{costs.model}: the total must be at least {least:g} s, got {costs.total:.6g}")
    if not 1 <= costs.tokens <= MOST_TOKENS:
        raise AnalysisError(f"{costs.model}: there must be 1 to {MOST_TOKENS:g} tokens, got {costs.tokens:.6g}")


def warnings(timings: Sequence[Timing]) -> list[str]:
    """Say which numbers of one model can hardly hold, and what its reader warned of."""
    first = timings[0].costs
    decode = DECODE.name if first.prefilled else "generation"
    empty = "takes 0 s{}: a stage that did no work, or was not timed"
    checks: dict[str, Callable[[Costs], bool]] = {
        f"{name} {empty}": partial(_took_none, name) for name in first.parts if name != UNATTRIBUTED
    }
    checks |= {
        f"{decode} {empty}": lambda c: c.further > 0 and c.decode == 0,
        f"{decode} takes time{{}} though there is no further token: that can't be": lambda c: (
            c.further == 0 and c.decode > TOLERANCE * c.total
        ),
        "a token takes less than 10 us{}: are the times in seconds?": lambda c: (
            0 < (c.time_per_token or 0) < QUICKEST_TOKEN
        ),
        "a token takes more than 10 s{}: are the times in milliseconds?": lambda c: (
            (c.time_per_token or 0) > SLOWEST_TOKEN
        ),
        "the stages take longer than the whole{}: that can't be": lambda c: (
            c.parts.get(UNATTRIBUTED, 0) < -TOLERANCE * c.total
        ),
    }
    if first_is_sample := timings[0].sample is not None:
        checks["the tokens{} are no whole number: means of several?"] = lambda c: c.tokens % 1 != 0
    counts = {text: sum(check(each.costs) for each in timings) for text, check in checks.items()}
    found = [
        text.format(f" in {n} of {len(timings)} rows" if first_is_sample else "") for text, n in counts.items() if n
    ]
    return [*found, *_sums(timings), *(warning for each in timings for warning in each.warnings)]


def _took_none(part: str, costs: Costs) -> bool:
    return costs.parts[part] == 0


def _sums(timings: Sequence[Timing]) -> list[str]:
    """Name stages that do not make up the whole that the file claims."""
    both = [(each.costs.total, each.e2e) for each in timings if each.e2e is not None]
    apart = [(total, e2e) for total, e2e in both if abs(e2e - total) > TOLERANCE * total]
    if not apart:
        return []
    where = f" in {len(apart)} of {len(timings)} rows, first" if len(timings) > 1 else ""
    return ["the stages do not add up to e2e{}: {:.4g} s and {:.4g} s".format(where, *apart[0])]
