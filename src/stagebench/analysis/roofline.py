"""How near a stage comes to what the machine can do: MFU and MBU against measured ceilings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the machine was seen to do a second, not what its maker says; above 1 a ceiling was measured too low."""

    flops: float  # floating point operations, of the fastest matrix product measured in the dtype of the model
    bandwidth: float  # bytes
    bandwidth_kind: str  # how that was measured, "read" or "copy"

    def mfu(self, flops: float, seconds: float) -> float:
        """Return the model FLOPs utilisation: FLOPs that the maths needs, a second, over the ceiling.

        Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, appendix B; there over the maker's peak.
        """
        return flops / seconds / self.flops

    def mbu(self, bytes_read: float, seconds: float) -> float:
        """Return the model bandwidth utilisation: bytes that must be read, a second, over the ceiling.

        Databricks 2023, "LLM Inference Performance Engineering: Best Practices": (weights + KV cache) / tpot,
        over the peak.
        """
        return bytes_read / seconds / self.bandwidth
