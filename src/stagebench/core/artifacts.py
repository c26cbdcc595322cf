"""The small frozen objects that one stage hands to the next. Importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from stagebench.core.errors import MediaError, ModelError, StageError

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_QUESTION = "Describe in detail what happened in the scene."

Image = NDArray[np.uint8]
FinishReason = Literal["stop", "length"]
Work = dict[str, int]

STAGES = ("load", "preprocess", "encode", "prefill", "decode")


DECODERS = ("pyav", "torchcodec", "opencv")
SLICES = ("count", "time")
MEDIA = ("own", "frames", "events")
TIME_UNITS = ("s", "ms", "us", "ns")
MAX_SIDE = 8192  # pixels of an event image: no sensor is larger, and a wrong number would draw one of gigabytes


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How media are read; the same for all models of a run, and part of a baseline's identity.

    Attributes:
        decoder: of video, one of `DECODERS`; all give the same frames.
        slices: events are cut into slices of equal "count" (EventGPT's) or of equal "time".
        image_size: (width, height) of every event image, up to `MAX_SIDE`; None for what the slice's own events
            reach, as upstream.
        start: seconds into the clip or recording at which to begin.
        duration: seconds to read from there; None for all.
        cache: a folder that keeps decoded frames; None for no cache.
        time_unit: what the times of recordings count that do not say it, one of `TIME_UNITS`; None for microseconds,
            where these are the times of some camera, and otherwise a refusal.
        media: which medium of the embedded scene every model gets: its "own" kind, the clip's "frames" or the "events";
            with one that is not their own, two models see the same pixels.
    """

    decoder: str = "pyav"
    slices: str = "count"
    image_size: tuple[int, int] | None = None
    start: float = 0.0
    duration: float | None = None
    cache: Path | None = None
    media: str = "own"
    time_unit: str | None = None

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise MediaError(f"decoder must be one of {', '.join(DECODERS)}, got {self.decoder!r}")
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
        """Whether all of it is read."""
        return self.start == 0 and self.duration is None

    def describe_window(self) -> str:
        """Which part is read."""
        return f"{'all' if self.duration is None else f'{self.duration:g} s'} from {self.start:g} s"

    def describe(self) -> str:
        """One line for a baseline's identity."""
        size = "own size" if self.image_size is None else "{} x {}".format(*self.image_size)
        cache = ", from the frame cache" if self.cache else ""
        unit = "" if self.time_unit in (None, "us") else f", times in {self.time_unit}"
        return f"{self.decoder}; slices of equal {self.slices}, {size}; {self.describe_window()}{unit}{cache}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one clip, recording or folder of event images.

    Attributes:
        path: a video file, an event recording (`media.events.READERS`), a PNG, or a folder of PNGs.
        question: what the model is asked, without any template.
        loading: how the path is read.
    """

    path: Path
    question: str = DEFAULT_QUESTION
    loading: LoadSettings = LoadSettings()


@dataclass(frozen=True, slots=True)
class Media:
    """What `load` returns: images in host memory, untouched by any model.

    Attributes:
        images: uint8 arrays (height, width, 3), RGB, in display order; event images may differ in size.
        kind: "frames" of a video, or "events" drawn as images.
        frames_decoded: frames that a decoder produced on the way (0 where nothing was decoded).
        bytes_read: size of the files read, in bytes.
        span: seconds of the scene between the first and the last thing shown; None where unknown.
        cache_hits: 1 where the images come from the frame cache, 0 where they were put there; None where it is off.
    """

    images: tuple[Image, ...]
    kind: Literal["frames", "events"]
    frames_decoded: int
    bytes_read: int
    span: float | None
    cache_hits: int | None = None

    def __post_init__(self) -> None:
        if not self.images:
            raise MediaError("media must hold at least one image, got none")
        for i, image in enumerate(self.images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
                raise MediaError(
                    f"image {i} must be uint8 of shape (height, width, 3), got {image.dtype} {image.shape}"
                )

    def work(self) -> Work:
        """What the stage did, as counters."""
        cached = {} if self.cache_hits is None else {"cache_hits": self.cache_hits}
        return {
            "images": len(self.images),
            "frames_decoded": self.frames_decoded,
            "bytes_read": self.bytes_read,
            **cached,
        }


@dataclass(frozen=True, slots=True)
class Inputs:
    """What `preprocess` returns: model-ready tensors, on the model's device.

    Attributes:
        input_ids: int64 (batch, prompt tokens), every visual token as one placeholder id.
        attention_mask: int64 (batch, prompt tokens), 0 where padded.
        pixels: the model's dtype (batch, images, 3, height, width).
    """

    input_ids: Tensor
    attention_mask: Tensor
    pixels: Tensor

    def __post_init__(self) -> None:
        if self.input_ids.ndim != 2 or self.input_ids.shape != self.attention_mask.shape:
            raise StageError(
                "input_ids and attention_mask must both be (batch, tokens), "
                f"got {tuple(self.input_ids.shape)} and {tuple(self.attention_mask.shape)}"
            )
        if self.pixels.ndim != 5 or self.pixels.shape[0] != self.input_ids.shape[0]:
            raise StageError(
                f"pixels must be (batch {self.input_ids.shape[0]}, images, 3, height, width), "
                f"got {tuple(self.pixels.shape)}"
            )

    def work(self) -> Work:
        """What the stage did, as counters."""
        return {
            "images": self.pixels.shape[0] * self.pixels.shape[1],
            "prompt_tokens": self.input_ids.numel(),
        }


@dataclass(frozen=True, slots=True)
class Features:
    """What `encode` returns.

    Attributes:
        tokens: the model's dtype (batch, visual tokens, hidden size): tower, projector, adaptor and pooling done.
    """

    tokens: Tensor

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3 or self.tokens.numel() == 0:
            raise StageError(f"features must be (batch, visual tokens, hidden size), got {tuple(self.tokens.shape)}")

    def work(self) -> Work:
        """What the stage did, as counters."""
        return {"visual_tokens": self.tokens.shape[0] * self.tokens.shape[1]}


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What `prefill` returns: everything the decode loop continues from. Good for one continuation.

    Attributes:
        sequences: int64 (batch, prompt tokens + new tokens): the prompt and what was chosen so far, one token at first.
        prompt_tokens: length of the padded prompt.
        unfinished: int64 (batch,): 1 where the row goes on.
        lengths: int64 (batch,): new tokens of each row so far, padding excluded.
        step_ends: seconds on a monotonic clock at which each decode step's token was known; empty at first.
        state: transformers' keyword arguments of the next forward, the KV cache among them.
        logits_processor: transformers' `LogitsProcessorList`, prepared for this prompt.
        stopping_criteria: transformers' `StoppingCriteriaList`, likewise.
        generation_config: transformers' `GenerationConfig`, with special tokens and lengths resolved.
        overrun: steps taken in vain after all rows had stopped, where stopping is looked at late.
    """

    sequences: Tensor
    prompt_tokens: int
    unfinished: Tensor
    lengths: Tensor
    step_ends: tuple[float, ...]
    state: dict[str, Any]
    logits_processor: Any
    stopping_criteria: Any
    generation_config: Any
    overrun: int = 0

    def work(self) -> Work:
        """What the stage did, as counters."""
        return {"prompt_tokens": self.sequences.shape[0] * self.prompt_tokens}


@dataclass(frozen=True, slots=True)
class Generation:
    """What `decode` returns, one entry a row of the batch.

    Attributes:
        token_ids: the new tokens, the first one and a stop token included, padding excluded.
        finish_reasons: "stop" (a stop token or string) or "length" (the limit).
        steps: forwards of the language model in the decode stage.
        step_ends: seconds on a monotonic clock at which each step's token was known, on the host or, where tokens stay
            on the device, there.
        overrun: further steps, taken in vain before it was seen that all rows had stopped.
    """

    token_ids: tuple[tuple[int, ...], ...]
    finish_reasons: tuple[FinishReason, ...]
    steps: int
    step_ends: tuple[float, ...] = field(repr=False)
    overrun: int = 0

    def __post_init__(self) -> None:
        if not self.token_ids or not all(self.token_ids):
            raise StageError("a generation must hold at least one token a row, got none")
        longest = max(map(len, self.token_ids))
        if longest != self.steps + 1 or len(self.step_ends) != self.steps:
            raise StageError(
                f"{longest} new tokens take {longest - 1} steps, got {self.steps} "
                f"with {len(self.step_ends)} time stamps"
            )

    def work(self) -> Work:
        """What the stage did, as counters; the first of the new tokens is prefill's."""
        overrun = {"overrun": self.overrun} if self.overrun else {}
        return {"new_tokens": sum(map(len, self.token_ids)), "steps": self.steps, **overrun}


@dataclass(frozen=True, slots=True)
class Run:
    """One timed pass of one sample through one model. Times in seconds.

    Attributes:
        model: its name.
        seconds: wall time a stage, the device synchronised at both ends.
        device_seconds: the same between two CUDA events; empty on a CPU.
        e2e: wall time around all stages and the detokenising.
        generation: of the decode stage.
        text: the new tokens as text, special tokens left out.
        spans: by stage when it began and ended, by a clock of its own, which the walk around the stages reads.
        metered: by stage what `meter` counted.
    """

    model: str
    seconds: dict[str, float]
    device_seconds: dict[str, float]
    e2e: float
    generation: Generation
    text: str
    spans: dict[str, tuple[float, float]] = field(default_factory=dict, repr=False)
    metered: dict[str, Work] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for stage in STAGES:
            if not self.seconds.get(stage, 0.0) > 0.0:
                raise StageError(f"every stage must take time, got {self.seconds.get(stage)} s for {stage}")

    @property
    def new_tokens(self) -> int:
        """The first token and a stop token included."""
        return self.generation.work()["new_tokens"]

    @property
    def unattributed(self) -> float:
        """What the stages do not explain: detokenising, and what happens between them."""
        return self.e2e - sum(self.seconds.values())

    @property
    def ttft(self) -> float:
        """Time to first token, load excluded: preprocess + encode + prefill."""
        return self.seconds["preprocess"] + self.seconds["encode"] + self.seconds["prefill"]

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first: (e2e - ttft) / (n - 1), load in neither; None where n is 1."""
        if self.generation.steps == 0:
            return None
        return (self.e2e - self.seconds["load"] - self.ttft) / self.generation.steps

    @property
    def itl(self) -> tuple[float, ...]:
        """Inter-token latencies: the raw gaps between one decode step's token and the next."""
        ends = self.generation.step_ends
        return tuple(after - before for before, after in pairwise(ends))

    @property
    def output_throughput(self) -> float:
        """New tokens a second over the whole path, load included."""
        return self.new_tokens / self.e2e


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
        """The same as keyword arguments of transformers' `generate()`."""
        minimum = {"min_new_tokens": self.max_new_tokens} if self.fixed_length else {}
        return {"max_new_tokens": self.max_new_tokens, "do_sample": False, **minimum}

    def describe(self) -> str:
        """One line for the head of a table."""
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
        if self.backend not in BACKENDS:
            raise ModelError(f"backend must be one of {', '.join(BACKENDS)}, got {self.backend!r}")
        if self.profile not in PROFILES:
            raise ModelError(f"profile must be one of {', '.join(PROFILES)}, got {self.profile!r}")
        if self.dtype not in DTYPES:
            raise ModelError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.kernels not in KERNELS:
            raise ModelError(f"kernels must be one of {', '.join(KERNELS)}, got {self.kernels!r}")
        if self.preprocess not in PREPROCESSORS:
            raise ModelError(f"preprocess must be one of {', '.join(PREPROCESSORS)}, got {self.preprocess!r}")
        if self.threads < 1:
            raise ModelError(f"threads must be at least 1, got {self.threads}")
        if not 0 <= self.seed < 2**63:
            raise ModelError(f"seed must be from 0 to 2**63 - 1, got {self.seed}")
        if (self.profile == "pretrained") != (self.weights is not None):
            raise ModelError(
                f"weights are given with the profile 'pretrained' and only with it, got profile {self.profile!r} "
                f"and weights {self.weights!r}"
            )
