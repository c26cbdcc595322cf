"""Explain why one model is faster than another: attribute the seconds saved to stages, tokens and time per token.

A model's time is a sum of parts and one product,

    total = load + preprocess + encode + prefill + unattributed + further tokens x time per further token.

Changing the factors one by one from the baseline's value to the other model's gives effects that depend on the order
only in the product. `Attribution.seconds` averages over all orders: the Shapley value (Shapley 1953, "A value for
n-person games"). It has a closed form here. Each part gets its own difference. The product m x t, of m further tokens
at t seconds each, is split into

    tokens:         (m_a - m_b) * (t_a + t_b) / 2
    time per token: (t_a - t_b) * (m_a + m_b) / 2.

`Attribution.logs` is the logarithmic mean Divisia decomposition of ln(total_a / total_b) (LMDI-I; Ang 2005, "The LMDI
approach to decomposition analysis: a practical guide", Energy Policy 33). Both add up exactly. Exchanging the models
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
from stagebench.core.stages import DECODE, IN_GENERATE, IN_TTFT

TOKENS = "tokens"
TIME_PER_TOKEN = "time per token"  # noqa: S105 # a factor's name, not a password
UNATTRIBUTED = "unattributed"
BEFORE_THE_FIRST = (*(stage for stage in IN_GENERATE if stage != DECODE.name), "ttft")  # end with the first token
ROUNDING = 1e-12  # share of a total; smaller differences count as 0


@dataclass(frozen=True, slots=True)
class Costs:
    """One model's time for one sample, or its mean over many; raise AnalysisError for impossible numbers."""

    model: str
    parts: Mapping[str, float]  # seconds by stage that simply add up; only `unattributed` may be negative
    tokens: float | None  # new tokens, the first and a stop token included; None where unknown, and `decode` is 0
    decode: float  # seconds of the tokens
    prefilled: int = 1  # tokens included in `parts`: 0 where `decode` is a whole generation

    def __post_init__(self) -> None:
        for name, seconds in {**self.parts, DECODE.name if self.prefilled else "generation": self.decode}.items():
            if not math.isfinite(seconds) or (seconds < 0 and name != UNATTRIBUTED):
                raise AnalysisError(f"{self.model}: {name} must be at least 0 s and finite, got {seconds}")
        if self.tokens is not None and not 1 <= self.tokens < math.inf:
            raise AnalysisError(f"{self.model}: there must be at least one token, got {self.tokens}")
        if not self.total > 0:
            raise AnalysisError(f"{self.model}: the total must be more than 0 s, got {self.total}")

    @property
    def further(self) -> float:
        """Return the number of tokens timed by `decode`."""
        return 0 if self.tokens is None else self.tokens - self.prefilled

    @property
    def time_per_token(self) -> float | None:
        """Return the seconds per further token; None without one."""
        return self.decode / self.further if self.further else None

    @property
    def total(self) -> float:
        """Return all seconds."""
        return sum(self.parts.values()) + self.decode


@dataclass(frozen=True, slots=True)
class Attribution:
    """The seconds that `other` saves against `baseline`, by factor; negative for a loss."""

    baseline: Costs
    other: Costs
    seconds: dict[str, float]  # by factor; they add up to `saved`
    logs: dict[str, float]  # by factor; they add up to the logarithm of `speedup`

    @property
    def saved(self) -> float:
        """Return the seconds saved by all factors together."""
        return self.baseline.total - self.other.total

    @property
    def speedup(self) -> float:
        """Return how many times as fast the other model is."""
        return self.baseline.total / self.other.total

    @property
    def shares(self) -> dict[str, float] | None:
        """Return the shares of the seconds saved, which add up to 1; None where the saving is only rounding."""
        return _shares(self.seconds, self.saved, self.baseline.total)

    @property
    def log_shares(self) -> dict[str, float] | None:
        """Return the shares of the logarithm of the speedup; None as `shares`."""
        return _shares(self.logs, math.log(self.speedup))

    @property
    def decode_speedup(self) -> float | None:
        """Return how many times as fast all tokens are; None where one of the models took no time for them."""
        return self.baseline.decode / self.other.decode if self.baseline.decode and self.other.decode else None

    @property
    def decode_log_shares(self) -> dict[str, float] | None:
        """Return the shares of the logarithm of `decode_speedup`, by number and time of tokens; None if undefined."""
        if not all(costs.decode and costs.further for costs in (self.baseline, self.other)):
            return None
        number = math.log(self.baseline.further) - math.log(self.other.further)
        time = _log_rate(self.baseline) - _log_rate(self.other)
        return _shares({TOKENS: number, TIME_PER_TOKEN: time}, number + time)


@dataclass(frozen=True, slots=True)
class Intervals:
    """95 % intervals of an attribution over samples."""

    saved: Interval
    speedup: Interval
    seconds: dict[str, Interval]  # by factor
    shares: dict[str, Interval] | None  # None where `saved` includes 0, because shares are then undefined
    samples: int  # pairs
    clusters: int  # sequences of the samples; with fewer than five the intervals are too narrow


def attribute(baseline: Costs, other: Costs) -> Attribution:
    """Attribute the seconds that one model saves against another, made `alike`; raise AnalysisError for one name."""
    if baseline.model == other.model:
        raise AnalysisError(f"two models must have two names, got {other.model!r} twice")
    a, b = alike(baseline, other)
    seconds = {name: a.parts[name] - b.parts[name] for name in a.parts}
    mean = _logarithmic_mean(a.total, b.total)
    counted = a.tokens is not None or b.tokens is not None
    logs = {name: each / mean for name, each in {**seconds, **(_product_logs(a, b) if counted else {})}.items()}
    return Attribution(a, b, seconds | (_product_seconds(a, b) if counted else {}), logs)


def alike(baseline: Costs, other: Costs) -> tuple[Costs, Costs]:
    """Return both with the same parts; raise AnalysisError where one has a part that the other lacks."""
    if "ttft" in baseline.parts or "ttft" in other.parts:
        baseline, other = _with_ttft(baseline), _with_ttft(other)
    if baseline.parts.keys() != other.parts.keys() or baseline.prefilled != other.prefilled:
        baseline, other = whole_generation(baseline), whole_generation(other)
    if apart := ", ".join(sorted(baseline.parts.keys() ^ other.parts.keys())):
        both = f"{baseline.model} and {other.model}"
        raise AnalysisError(f"{both} must have the same parts, got {apart} for one of them only")
    return baseline, other


def _with_ttft(costs: Costs) -> Costs:
    """Merge the stages before the first token, where all of them are known."""
    if not all(name in costs.parts for name in IN_TTFT):
        return costs
    rest = {name: seconds for name, seconds in costs.parts.items() if name not in IN_TTFT}
    return replace(costs, parts=rest | {"ttft": sum(costs.parts[name] for name in IN_TTFT)})


def whole_generation(costs: Costs) -> Costs:
    """Merge the parts before the first token into decode, which then includes every token."""
    inside = [costs.parts[name] for name in BEFORE_THE_FIRST if name in costs.parts]
    outside = {name: seconds for name, seconds in costs.parts.items() if name not in BEFORE_THE_FIRST}
    return replace(costs, parts=outside, decode=costs.decode + sum(inside), prefilled=0)


def mean_of(costs: Sequence[Costs]) -> Costs:
    """Return mean parts, tokens and decode over samples; raise AnalysisError without any, or for different parts."""
    if not costs:
        raise AnalysisError("an average needs at least one sample, got none")
    first, n = costs[0], len(costs)
    if any(each.parts.keys() != first.parts.keys() or each.prefilled != first.prefilled for each in costs):
        raise AnalysisError(f"{first.model}: every sample must have the parts {', '.join(first.parts)}")
    parts = {name: sum(each.parts[name] for each in costs) / n for name in first.parts}
    tokens, decode = sum(each.tokens or 0 for each in costs) / n, sum(each.decode for each in costs) / n
    return replace(first, parts=parts, tokens=tokens, decode=decode)


def compare(
    baseline: Mapping[str, Costs], other: Mapping[str, Costs], sequences: Mapping[str, str] | None = None
) -> tuple[Attribution, Intervals | None]:
    """Attribute the difference of two models over their shared samples; raise AnalysisError without any.

    Costs and sequences are by sample id. Samples of one sequence are resampled together. With fewer than two sequences
    there are no intervals.
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
        shares = seconds / (drawn.saved or np.inf)  # a draw may save nothing; with many such draws shares are dropped
        return np.concatenate([[drawn.saved, drawn.speedup], seconds, shares])

    found = bootstrap(clusters, statistic)
    if found is None:
        return result, None
    saved, speedup, *rest = found
    n = len(result.seconds)
    seconds, shares = (dict(zip(result.seconds, half, strict=True)) for half in (rest[:n], rest[n:]))
    meaningful = None if saved["low"] <= 0.0 <= saved["high"] else shares
    return result, Intervals(saved, speedup, seconds, meaningful, len(shared), len(set(clusters)))


def _product_seconds(a: Costs, b: Costs) -> dict[str, float]:
    """Return the seconds saved by the number and by the time of further tokens.

    A model without further tokens has no time per token. Then their number gets the whole difference, or their time
    where neither model has any.
    """
    number = difference = a.decode - b.decode
    if a.further == b.further:
        number = 0
    elif a.time_per_token is not None and b.time_per_token is not None:
        number = (a.further - b.further) * (a.time_per_token + b.time_per_token) / 2
    return {TOKENS: number, TIME_PER_TOKEN: difference - number}


def _product_logs(a: Costs, b: Costs) -> dict[str, float]:
    """Return the same by LMDI, before division by the logarithmic mean of the totals.

    Zeros use the limits of Ang and Liu (2007, "Handling zero values in the LMDI approach", Energy Policy 35).
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
    """Return L(x, y) = (x - y) / (ln x - ln y), without loss of precision where both are nearly equal."""
    return float(y * exprel(math.log(x) - math.log(y)))


def _shares(factors: dict[str, float], whole: float, scale: float = 1.0) -> dict[str, float] | None:
    """Return the factors over the whole; None where the whole is rounding on that scale."""
    return {name: each / whole for name, each in factors.items()} if abs(whole) > ROUNDING * scale else None


def _averaged(like: Costs, table: NDArray[np.float64]) -> Costs:
    tokens, decode, *parts = table.mean(axis=0).tolist()
    return replace(like, tokens=tokens, decode=decode, parts=dict(zip(like.parts, parts, strict=True)))
