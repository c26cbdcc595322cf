"""The stages of the path, in order, and all that `stages.toml` knows of each without running it. Needs no torch.

To add a stage, add a descriptor there and a function in `STEPS` of the pipeline. Counters, gates, tables, importers and
benchmarks read the descriptors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

from stagebench.core.json_files import table_beside


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage's descriptor."""

    name: str  # in results, test ids and tables
    label: str  # the first word of a sentence about it
    unit: str  # the counter that measures the amount of its work
    color: str = "#8A8A8A"  # in all pictures
    content: tuple[str, ...] = ()  # names of the digests of what it makes
    asked: tuple[str, ...] = ()  # counters of what was requested, not of its cost, in the first stage that has them
    metered: tuple[str, ...] = ()  # counters that this stage's own code alone may add to
    counters: tuple[str, ...] = ()  # further counters that only the stages naming them may change
    needed: tuple[str, ...] = ()  # counters that are 0 only where it has not run
    in_generate: bool = False  # `generate()` does this too, and a backend may do it faster
    in_ttft: bool = False  # its time is part of the time to first token
    per_token: bool = False  # its time is that of the tokens after the first

    @property
    def own(self) -> tuple[str, ...]:
        """Return all counters that this stage may change and not every stage may."""
        return *self.metered, *self.counters

    @property
    def ink(self) -> str:
        """Return the colour of words on its own: black, or white where it is dark."""
        red, green, blue = bytes.fromhex(self.color[1:])
        return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "#FFFFFF"


def _described() -> Iterator[Stage]:
    for name, fields in table_beside(__file__).items():
        known: dict[str, Any] = {key: tuple(it) if isinstance(it, list) else it for key, it in fields.items()}
        yield Stage(name, **known)


LOAD, PREPROCESS, ENCODE, PREFILL, DECODE, REQUEST, FIRST_TOKEN = _described()

STAGES = (LOAD, PREPROCESS, ENCODE, PREFILL, DECODE)
STAGE = {stage.name: stage for stage in STAGES}
STAGE_NAMES = tuple(STAGE)
IN_GENERATE = tuple(stage.name for stage in STAGES if stage.in_generate)
BEFORE_GENERATE = tuple(stage.name for stage in STAGES if not stage.in_generate)
IN_TTFT = tuple(stage.name for stage in STAGES if stage.in_ttft)
ONCE = tuple(stage.name for stage in STAGES if not stage.per_token)  # once per sample, however many tokens follow

OF_SERVER = (REQUEST, FIRST_TOKEN)
"""What a server shows in place of the stages before decode: until all of a request is sent, and until it answers."""

STAGE_OF = {key: stage.name for stage in STAGES for key in (*stage.content, *stage.asked)}
"""The stage of digests and counters that come without a stage's name; tokens belong to decode, not to prefill."""

OUTSIDE = (5e-3, 0.05)
"""Seconds, or a share of e2e, that may lie outside the stages: detokenising takes less."""


def time_outside(unattributed: Sequence[float], e2e: Sequence[float]) -> str | None:
    """Return a line on the time outside the stages in the median pass, where it is more than detokenising takes."""
    rest, whole = median_low(unattributed), median_low(e2e)
    if rest <= max(OUTSIDE[0], OUTSIDE[1] * whole):
        return None
    return f"{rest * 1e3:.1f} ms of {whole * 1e3:.1f} ms lie outside the stages ({rest / whole:.0%})"
