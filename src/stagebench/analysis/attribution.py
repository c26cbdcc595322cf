"""Why one model is faster than another: the seconds saved, shared out among load, ..., tokens and time per token.

A model's time is a sum of parts and one product,

    total = load + preprocess + encode + prefill + unattributed + further tokens x time per further token,

so changing one factor after the other from the baseline's value to the other model's tells a story that depends on the
order only in the product. `Attribution.seconds` averages over all orders: the Shapley value (Shapley 1953, "A value for
n-person games"). For a sum and a product of two it has a closed form: a part gets its own difference, and the product
m x t, of m further tokens at t seconds each, is split into

    tokens:         (m_a - m_b) * (t_a + t_b) / 2
    time per token: (t_a - t_b) * (m_a + m_b) / 2.

`Attribution.logs` is the logarithmic mean Divisia decomposition of ln(total_a / total_b) (LMDI-I; Ang 2005, "The LMDI
approach to decomposition analysis: a practical guide", Energy Policy 33). Both add up exactly, and swapping the models
flips every sign.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import exprel

from stagebench.analysis.intervals import Interval, bootstrap
from stagebench.core.errors import AnalysisError
from stagebench.core.stages import DECODE, IN_GENERATE

TOKENS = "tokens"
TIME_PER_TOKEN = "time per token"  # noqa: S105 # no password: a factor's name
UNATTRIBUTED = "unattributed"
BEFORE_THE_FIRST = (*(stage for stage in IN_GENERATE if stage != DECODE.name), "ttft")  # over at the first token
ROUNDING = 1e-12  # of a total: less than this is no difference


@dataclass(frozen=True, slots=True)
class Costs:
    """What one model spends on one sample, or on average over many; raise AnalysisError for numbers that can't be.

    Any real numbers do, exact fractions too: at least 0 and finite, with a total above 0 and at least one token.
    """

    model: str
    parts: Mapping[str, float]  # seconds by stage of all that just adds up; only `unattributed` may be negative
    tokens: float  # new ones, the first and a stop token included
    decode: float  # seconds that the tokens took
    prefilled: int = 1  # tokens that `parts` pay for: 0 where `decode` is a whole generation that nobody took apart

    def __post_init__(self) -> None:
        for name, seconds in {**self.parts, DECODE.name if self.prefilled else "generation": self.decode}.items():
            if not math.isfinite(seconds) or (seconds < 0 and name != UNATTRIBUTED):
                raise AnalysisError(f"{self.model}: {name} must be at least 0 s and finite, got {seconds}")
        if not 1 <= self.tokens < math.inf:
            raise AnalysisError(f"{self.model}: there must be at least one token, got {self.tokens}")
        if not self.total > 0:
            raise AnalysisError(f"{self.model}: the total must be more than 0 s, got {self.total}")

    @property
    def further(self) -> float:
        """Tokens that `decode` is the time of."""
        return self.tokens - self.prefilled

    @property
    def time_per_token(self) -> float | None:
        """Return the seconds a further token; None without one."""
        return self.decode / self.further if self.further else None

    @property
    def total(self) -> float:
        """All seconds."""
        return sum(self.parts.values()) + self.decode


@dataclass(frozen=True, slots=True)
class Attribution:
    """The seconds that `other` saves against `baseline`, by factor. Negative where it loses them."""

    baseline: Costs
    other: Costs
    seconds: dict[str, float]  # by factor; they add up to `saved`
    logs: dict[str, float]  # by factor; they add up to the logarithm of `speedup`

    @property
    def saved(self) -> float:
        """Seconds, by all factors together."""
        return self.baseline.total - self.other.total

    @property
    def speedup(self) -> float:
        """How many times as fast the other model is."""
        return self.baseline.total / self.other.total

    @property
    def shares(self) -> dict[str, float] | None:
        """Of the seconds saved, by factor; they add up to 1. None where nothing is saved that rounding could not be."""
        return _shares(self.seconds, self.saved, self.baseline.total)

    @property
    def log_shares(self) -> dict[str, float] | None:
        """Of the logarithm of the speedup; None as `shares`."""
        return _shares(self.logs, math.log(self.speedup))

    @property
    def decode_speedup(self) -> float | None:
        """How many times as fast the tokens come out in all; None where one of the models took no time for them."""
        return self.baseline.decode / self.other.decode if self.baseline.decode and self.other.decode else None

    @property
    def decode_log_shares(self) -> dict[str, float] | None:
        """Of the logarithm of `decode_speedup`, by number and time of the tokens; None where it has no meaning."""
        if not all(costs.decode and costs.further for costs in (self.baseline, self.other)):
            return None
        number = math.log(self.baseline.further) - math.log(self.other.further)
        time = _log_rate(self.baseline) - _log_rate(self.other)
        return _shares({TOKENS: number, TIME_PER_TOKEN: time}, number + time)


@dataclass(frozen=True, slots=True)
class Intervals:
    """How far an attribution would move with other samples; all of 95 %."""

    saved: Interval
    speedup: Interval
    seconds: dict[str, Interval]  # by factor
    shares: dict[str, Interval] | None  # None where `saved` reaches 0: a share of what may be nothing has no meaning
    samples: int  # pairs
    clusters: int  # sequences they are cut from; with fewer than five the intervals are too narrow


def attribute(baseline: Costs, other: Costs) -> Attribution:
    """Share out the seconds that one model saves against another; raise AnalysisError where both have one name.

    Where only one of them has encode or prefill apart, both are first taken as whole generations, as `alike` does.
    """
    if baseline.model == other.model:
        raise AnalysisError(f"two models must have two names, got {other.model!r} twice")
    a, b = alike(baseline, other)
    seconds = {name: a.parts[name] - b.parts[name] for name in a.parts}
    mean = _logarithmic_mean(a.total, b.total)
    logs = {name: each / mean for name, each in {**seconds, **_product_logs(a, b)}.items()}
    return Attribution(a, b, seconds | _product_seconds(a, b), logs)


def alike(baseline: Costs, other: Costs) -> tuple[Costs, Costs]:
    """Bring both to the same parts; raise AnalysisError where one has a part that the other has not."""
    if baseline.parts.keys() != other.parts.keys() or baseline.prefilled != other.prefilled:
        baseline, other = whole_generation(baseline), whole_generation(other)
    if apart := sorted(baseline.parts.keys() ^ other.parts.keys()):
        raise AnalysisError(
            f"{baseline.model} and {other.model} must have the same parts, got {', '.join(apart)} for one of them only"
        )
    return baseline, other


def whole_generation(costs: Costs) -> Costs:
    """Put what comes before the first token back into one generation with decode, which then pays for every token."""
    inside = [costs.parts[name] for name in BEFORE_THE_FIRST if name in costs.parts]
    outside = {name: seconds for name, seconds in costs.parts.items() if name not in BEFORE_THE_FIRST}
    return replace(costs, parts=outside, decode=costs.decode + sum(inside), prefilled=0)


def mean_of(costs: Sequence[Costs]) -> Costs:
    """Average every part, tokens and decode over samples: the time per token is all time by all tokens.

    Raise AnalysisError where there are no costs, or they have not the same parts.
    """
    if not costs:
        raise AnalysisError("an average needs at least one sample, got none")
    first, n = costs[0], len(costs)
    if any(each.parts.keys() != first.parts.keys() or each.prefilled != first.prefilled for each in costs):
        raise AnalysisError(f"{first.model}: every sample must have the parts {', '.join(first.parts)}")
    parts = {name: sum(each.parts[name] for each in costs) / n for name in first.parts}
    tokens, decode = sum(each.tokens for each in costs) / n, sum(each.decode for each in costs) / n
    return replace(first, parts=parts, tokens=tokens, decode=decode)


def compare(
    baseline: Mapping[str, Costs], other: Mapping[str, Costs], sequences: Mapping[str, str] | None = None
) -> tuple[Attribution, Intervals | None]:
    """Attribute the difference of two models over the samples that both have; raise AnalysisError where none are.

    Costs and sequences are by the sample's id. Samples of one sequence are drawn together; fewer than two have no
    intervals.
    """
    shared = sorted(baseline.keys() & other.keys())
    if not shared:
        raise AnalysisError("two models must share samples, got none in common")
    sides = list(zip(*(alike(baseline[sample], other[sample]) for sample in shared), strict=True))
    result = attribute(*map(mean_of, sides))
    clusters = [(sequences or {}).get(sample, sample) for sample in shared]
    tables = [np.array([[c.tokens, c.decode, *c.parts.values()] for c in side], dtype=np.float64) for side in sides]

    def statistic(chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        drawn = attribute(_averaged(result.baseline, tables[0][chosen]), _averaged(result.other, tables[1][chosen]))
        seconds = np.array(list(drawn.seconds.values()))
        shares = seconds / (drawn.saved or np.inf)  # a draw that saves nothing; where many do, shares are dropped
        return np.concatenate([[drawn.saved, drawn.speedup], seconds, shares])

    found = bootstrap(clusters, statistic)
    if found is None:
        return result, None
    saved, speedup, *rest = found
    n = len(result.seconds)
    seconds, shares = (dict(zip(result.seconds, half, strict=True)) for half in (rest[:n], rest[n:]))
    meaningful = None if 0.0 in saved else shares
    return result, Intervals(saved, speedup, seconds, meaningful, len(shared), len(set(clusters)))


def _product_seconds(a: Costs, b: Costs) -> dict[str, float]:
    """Return what number and time of the further tokens save, in seconds.

    A model without further tokens has no time per token. Then all is due to their number, and to their time where
    neither has any.
    """
    number = difference = a.decode - b.decode
    if a.further == b.further:
        number = 0
    elif a.time_per_token is not None and b.time_per_token is not None:
        number = (a.further - b.further) * (a.time_per_token + b.time_per_token) / 2
    return {TOKENS: number, TIME_PER_TOKEN: difference - number}


def _product_logs(a: Costs, b: Costs) -> dict[str, float]:
    """Return the same by LMDI, before the division by the logarithmic mean of the totals.

    The limits for zero are those of Ang and Liu (2007, "Handling zero values in the LMDI approach", Energy Policy 35).
    """
    if a.further == b.further or not (a.further and b.further):
        return _product_seconds(a, b)
    difference = a.decode - b.decode
    has_logs = a.decode and b.decode
    time = _logarithmic_mean(a.decode, b.decode) * (_log_rate(a) - _log_rate(b)) if has_logs else difference
    return {TOKENS: difference - time, TIME_PER_TOKEN: time}


def _log_rate(costs: Costs) -> float:
    return math.log(costs.decode) - math.log(costs.further)


def _logarithmic_mean(x: float, y: float) -> float:
    """Return L(x, y) = (x - y) / (ln x - ln y), in a form that loses nothing where both are nearly equal."""
    return float(y * exprel(math.log(x) - math.log(y)))


def _shares(factors: dict[str, float], whole: float, scale: float = 1.0) -> dict[str, float] | None:
    """Divide by the whole; None where that is but rounding of numbers of such a scale."""
    return {name: each / whole for name, each in factors.items()} if abs(whole) > ROUNDING * scale else None


def _averaged(like: Costs, table: NDArray[np.float64]) -> Costs:
    tokens, decode, *parts = table.mean(axis=0).tolist()
    return replace(like, tokens=tokens, decode=decode, parts=dict(zip(like.parts, parts, strict=True)))
