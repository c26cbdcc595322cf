"""How near a stage comes to what the machine can do: MFU and MBU against measured ceilings."""

from dataclasses import dataclass

from stagebench.core.errors import AnalysisError


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the machine was seen to do, not what its maker says.

    Attributes:
        flops: floating point operations a second, of the fastest matrix product measured in the dtype of the model.
        bandwidth: bytes a second.
        bandwidth_kind: how it was measured, "read" or "copy".
    """

    flops: float
    bandwidth: float
    bandwidth_kind: str

    def __post_init__(self) -> None:
        for name in ("flops", "bandwidth"):
            if not 0 < getattr(self, name) < float("inf"):
                raise AnalysisError(f"the ceiling of {name} must be above 0 and finite, got {getattr(self, name)}")

    def mfu(self, flops: float, seconds: float) -> float:
        """Return the model FLOPs utilisation: FLOPs that the maths needs, a second, over the ceiling.

        Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, appendix B; there over the maker's peak, here over the measured
        one, so that 1 can be reached. Above 1 the ceiling was measured too low.
        """
        return flops / _positive(seconds) / self.flops

    def mbu(self, bytes_read: float, seconds: float) -> float:
        """Return the model bandwidth utilisation: bytes that must be read, a second, over the ceiling.

        Databricks 2023, "LLM Inference Performance Engineering: Best Practices": (weights + KV cache) / tpot,
        over the peak.
        """
        return bytes_read / _positive(seconds) / self.bandwidth


def _positive(seconds: float) -> float:
    if not seconds > 0:
        raise AnalysisError(f"a utilisation needs a time above 0 s, got {seconds}")
    return seconds
