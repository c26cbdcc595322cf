"""The small frozen objects that one stage hands to the next, and what comes of a pass. Importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from stagebench.core.errors import MediaError, StageError
from stagebench.core.settings import DEFAULT_QUESTION, LoadSettings
from stagebench.core.stages import IN_TTFT, ONCE, STAGE_NAMES

if TYPE_CHECKING:
    from torch import Tensor

Image = NDArray[np.uint8]
FinishReason = Literal["stop", "length"]
Work = dict[str, int]


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
    loading: LoadSettings = field(default_factory=LoadSettings)


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
        """Return what the stage did, as counters."""
        read = {"frames_decoded": self.frames_decoded, "bytes_read": self.bytes_read}
        cached = {} if self.cache_hits is None else {"cache_hits": self.cache_hits}
        return {"images": len(self.images)} | read | cached


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
        """Return what the stage did, as counters."""
        batch, images = self.pixels.shape[:2]
        return {"images": batch * images, "prompt_tokens": self.input_ids.numel()}


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
        """Return what the stage did, as counters."""
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
        stopping_criteria: transformers' `StoppingCriteriaList`, also prepared.
        generation_config: transformers' `GenerationConfig`, with special tokens and lengths resolved.
        wasted_steps: steps wasted after all rows had stopped, where stopping is looked at late.
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
    wasted_steps: int = 0

    def work(self) -> Work:
        """Return what the stage did, as counters."""
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
        wasted_steps: further steps, wasted before it was seen that all rows had stopped.
    """

    token_ids: tuple[tuple[int, ...], ...]
    finish_reasons: tuple[FinishReason, ...]
    steps: int
    step_ends: tuple[float, ...] = field(repr=False)
    wasted_steps: int = 0

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
        """Return what the stage did, as counters; the first of the new tokens is prefill's."""
        wasted = {"wasted_steps": self.wasted_steps} if self.wasted_steps else {}
        return {"new_tokens": sum(map(len, self.token_ids)), "steps": self.steps} | wasted


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
        spans: by stage when it began and ended, by a second clock, read around the first.
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
        for stage in STAGE_NAMES:
            if not self.seconds.get(stage, 0.0) > 0.0:
                raise StageError(f"every stage must take time, got {self.seconds.get(stage)} s for {stage}")

    @property
    def new_tokens(self) -> int:
        """Count them, the first token and a stop token included."""
        return self.generation.work()["new_tokens"]

    @property
    def unattributed(self) -> float:
        """Return what the stages do not explain: detokenising, and what happens between them."""
        return self.e2e - sum(self.seconds.values())

    @property
    def ttft(self) -> float:
        """Add up the time to first token, load excluded."""
        return sum(self.seconds[stage] for stage in IN_TTFT)

    @property
    def tpot(self) -> float | None:
        """Return the time per output token: (e2e - ttft) / (n - 1), load in neither; None where n is 1."""
        if self.generation.steps == 0:
            return None
        return (self.e2e - sum(self.seconds[stage] for stage in ONCE)) / self.generation.steps

    @property
    def itl(self) -> tuple[float, ...]:
        """Return inter-token latencies: the raw gaps between one decode step's token and the next."""
        ends = self.generation.step_ends
        return tuple(after - before for before, after in pairwise(ends))

    @property
    def output_throughput(self) -> float:
        """Return new tokens a second over the whole path, load included."""
        return self.new_tokens / self.e2e
