"""How media are read, models built and texts generated: one setting for all models of a run. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagebench.core.errors import MediaError, ModelError, StageError

DEFAULT_QUESTION = "Describe in detail what happened in the scene."

SLICES = ("count", "time")
MEDIA = ("own", "frames", "events")
TIME_UNITS = ("s", "ms", "us", "ns")
MAX_SIDE = 8192  # pixels of an event image: no sensor is larger, and a wrong number would draw one of gigabytes


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How media are read; the same for all models of a run, and part of a baseline's identity.

    Attributes:
        slices: events are cut into slices of equal "count" (EventGPT's) or of equal "time".
        image_size: (width, height) of every event image, up to `MAX_SIDE`; None for what the slice's own events
            reach, as upstream.
        start: seconds into the clip or recording at which to begin.
        duration: seconds to read from there; None for all.
        cache: a folder that keeps decoded frames; None for no cache.
        time_unit: what the times of recordings count that do not say it, one of `TIME_UNITS`; None for microseconds,
            where these are the times of some camera, and otherwise a refusal.
        media: which medium of the synthetic clip every model gets: its "own" kind, the clip's "frames" or the "events";
            with one that is not their own, two models see the same pixels.
    """

    slices: str = "count"
    image_size: tuple[int, int] | None = None
    start: float = 0.0
    duration: float | None = None
    cache: Path | None = None
    media: str = "own"
    time_unit: str | None = None

    def __post_init__(self) -> None:
        if self.slices not in SLICES:
            raise MediaError(f"slices must be of equal {' or '.join(SLICES)}, got {self.slices!r}")
        if self.media not in MEDIA:
            raise MediaError(f"media must be one of {', '.join(MEDIA)}, got {self.media!r}")
        if self.time_unit not in (None, *TIME_UNITS):
            raise MediaError(f"time_unit must be one of {', '.join(TIME_UNITS)}, got {self.time_unit!r}")
        if self.image_size is not None and not all(1 <= side <= MAX_SIDE for side in self.image_size):
            width, height = self.image_size
            raise MediaError(f"image_size must be from 1 x 1 to {MAX_SIDE} x {MAX_SIDE}, got {width} x {height}")
        if not 0 <= self.start < float("inf"):
            raise MediaError(f"start must be at least 0 s and finite, got {self.start}")
        if self.duration is not None and not 0 < self.duration < float("inf"):
            raise MediaError(f"duration must be more than 0 s and finite, got {self.duration}")

    @property
    def whole(self) -> bool:
        """Return whether all of it is read."""
        return self.start == 0 and self.duration is None

    def describe_window(self) -> str:
        """Say which part is read."""
        return f"{'all' if self.duration is None else f'{self.duration:g} s'} from {self.start:g} s"

    def describe(self) -> str:
        """Write one line for a baseline's identity."""
        size = "own size" if self.image_size is None else "{} x {}".format(*self.image_size)
        cache = ", from the frame cache" if self.cache else ""
        unit = "" if self.time_unit in (None, "us") else f", times in {self.time_unit}"
        return f"pyav; slices of equal {self.slices}, {size}; {self.describe_window()}{unit}{cache}"


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How text is generated, greedily: one setting for all models of a run, and printed with it.

    Attributes:
        max_new_tokens: the limit, the first token included.
        fixed_length: go on to the limit whatever the model says (stop tokens are suppressed).
    """

    max_new_tokens: int = 32
    fixed_length: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise StageError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")

    def options(self) -> dict[str, Any]:
        """Return the same as keyword arguments of transformers' `generate()`."""
        minimum = {"min_new_tokens": self.max_new_tokens} if self.fixed_length else {}
        return {"max_new_tokens": self.max_new_tokens, "do_sample": False, **minimum}

    def describe(self) -> str:
        """Write one line for the head of a table."""
        return f"greedy, {'exactly' if self.fixed_length else 'up to'} {self.max_new_tokens} new tokens"


PROFILES = ("tiny", "7b", "pretrained")
KERNELS = ("efficient", "default")
BACKENDS = ("eager", "graph", "compiled", "fused")
"""How stages run: plainly, which is the reference, or as `backends` has it."""
DTYPES = ("float32", "bfloat16", "float16")
PREPROCESSORS = {"pil": "pil: CLIPImageProcessorPil", "torch": "torch: interpolate, bicubic, antialiased"}
"""How images become pixels (`models.pixels`), and what does it."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How a model is built; the same for all models of a run, and part of a baseline's identity.

    Attributes:
        profile: "tiny" (real architecture and token counts, narrow, random), "7b" (real shapes, random weights made on
            the device) or "pretrained".
        weights: a checkpoint folder or hub id; only with "pretrained".
        pickled_weights: they lie in pickles (.bin), and may be read from there; else in safetensors only.
        device: a torch device, "cpu" or "cuda".
        dtype: one of `DTYPES`.
        attention: transformers' attention implementation, "sdpa" or "eager".
        kernels: on a GPU, "efficient" pins one attention kernel, so that equal inputs give equal tokens; "default" lets
            torch choose, and then even `generate()` does not repeat itself.
        threads: of torch's operators on the CPU.
        seed: of random weights.
        preprocess: one of `PREPROCESSORS`: "pil" is the reference, "torch" faster and within 2/255 of it.
        backend: one of `BACKENDS`.
    """

    profile: str = "tiny"
    weights: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    attention: str = "sdpa"
    kernels: str = "efficient"
    threads: int = 1
    seed: int = 0
    preprocess: str = "pil"
    backend: str = "eager"
    pickled_weights: bool = False

    def __post_init__(self) -> None:
        choices = {"backend": BACKENDS, "profile": PROFILES, "dtype": DTYPES, "kernels": KERNELS}
        for name, allowed in (choices | {"preprocess": tuple(PREPROCESSORS)}).items():
            if getattr(self, name) not in allowed:
                raise ModelError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.threads < 1:
            raise ModelError(f"threads must be at least 1, got {self.threads}")
        if not 0 <= self.seed < 2**63:
            raise ModelError(f"seed must be from 0 to 2**63 - 1, got {self.seed}")
        if (self.profile == "pretrained") != (self.weights is not None):
            raise ModelError(
                f"weights are given with the profile 'pretrained' and only with it, got profile {self.profile!r} "
                f"and weights {self.weights!r}"
            )
