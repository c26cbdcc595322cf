"""Small frozen objects that one stage hands to the next, and the result of a pass. Importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from stagebench.core.errors import MediaError, StageError
from stagebench.core.settings import DEFAULT_QUESTION, LoadSettings
from stagebench.core.stages import IN_TTFT, LOAD, ONCE, STAGE_NAMES

if TYPE_CHECKING:
    from torch import Tensor

Image = NDArray[np.uint8]
FinishReason = Literal["stop", "length"]
Work = dict[str, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one clip, recording or folder of event images."""

    path: Path  # a video file, an event recording (`media.events.recordings.READERS`), a PNG, or a folder of PNGs
    question: str = DEFAULT_QUESTION  # without any template
    loading: LoadSettings = field(default_factory=LoadSettings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))  # callers may give a string


@dataclass(frozen=True, slots=True)
class Media:
    """What `load` returns: images in host memory, untouched by any model."""

    images: tuple[Image, ...]  # (height, width, 3), RGB, in display order; event images may differ in size
    kind: Literal["frames", "events"]  # decoded from a video, or drawn from events
    frames_decoded: int  # by a decoder, including those not kept
    bytes_read: int  # the size of the files read
    span: float | None  # seconds of the scene from the first to the last thing shown, where known
    times: tuple[float, ...] | None = None  # of each image, or its first event, in s from the first, where known
    cache_hits: int | None = None  # 1 for images from the frame cache, 0 for images written to it; None without it

    def __post_init__(self) -> None:
        if not self.images:
            raise MediaError("media must hold at least one image, got none")
        for i, image in enumerate(self.images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
                got = f"{image.dtype} {image.shape}"
                raise MediaError(f"image {i} must be uint8 of shape (height, width, 3), got {got}")

    def work(self) -> Work:
        """Return what the stage did, as counters."""
        read = {"frames_decoded": self.frames_decoded, "bytes_read": self.bytes_read}
        cached = {} if self.cache_hits is None else {"cache_hits": self.cache_hits}
        return {"images": len(self.images)} | read | cached


@dataclass(frozen=True, slots=True)
class Inputs:
    """What `preprocess` returns: model-ready tensors, on the model's device."""

    input_ids: Tensor  # int64 (batch, prompt tokens), every visual token as one placeholder id
    attention_mask: Tensor  # int64 (batch, prompt tokens), 0 where padded
    given: Mapping[str, Tensor]  # everything else that the network's forward takes: pixels, their grids, token types
    images: int  # images or frames that the pixels were made from, in all rows together

    def __post_init__(self) -> None:
        ids, mask = tuple(self.input_ids.shape), tuple(self.attention_mask.shape)
        if len(ids) != 2 or ids != mask:
            raise StageError(f"input_ids and attention_mask must both be (batch, tokens), got {ids} and {mask}")
        if not self.pixels or self.images < 1:
            got = f"{self.images} images as {', '.join(self.given) or 'nothing'}"
            raise StageError(f"inputs must hold at least one image, and its pixels as floats, got {got}")

    @property
    def pixels(self) -> tuple[Tensor, ...]:
        """Return the tensors made from images: the floating-point ones of at least two dimensions."""
        return tuple(tensor for tensor in self.given.values() if tensor.is_floating_point() and tensor.ndim > 1)

    def work(self) -> Work:
        """Return what the stage did, as counters."""
        return {"images": self.images, "prompt_tokens": self.input_ids.numel()}


@dataclass(frozen=True, slots=True)
class Features:
    """What `encode` returns, with tower, projector, adaptor and pooling done."""

    tokens: Tensor  # the model's dtype (batch, visual tokens, hidden size)
    tape: Any = None  # `models.tape.Tape`, which prefill replays; None where it takes the tokens

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3 or self.tokens.numel() == 0:
            raise StageError(f"features must be (batch, visual tokens, hidden size), got {tuple(self.tokens.shape)}")

    def work(self) -> Work:
        """Return what the stage did, as counters."""
        return {"visual_tokens": self.tokens.shape[0] * self.tokens.shape[1]}


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What `prefill` returns: everything that the decode loop continues from. Use it for one continuation only."""

    sequences: Tensor  # int64 (batch, tokens): the prompt and the tokens chosen so far, one at first
    prompt_tokens: int  # of the padded prompt
    unfinished: Tensor  # int64 (batch,): 1 where the row is not finished
    lengths: Tensor  # int64 (batch,): new tokens of each row so far, padding excluded
    step_ends: tuple[float, ...]  # when each decode step's token was known, in s of a monotonic clock
    state: dict[str, Any]  # transformers' keyword arguments of the next forward, the KV cache among them
    logits_processor: Any  # transformers' `LogitsProcessorList`, prepared for this prompt
    stopping_criteria: Any  # transformers' `StoppingCriteriaList`, also prepared
    generation_config: Any  # transformers' `GenerationConfig`, with special tokens and lengths resolved
    wasted_steps: int = 0  # steps after all rows had stopped, where stopping is checked late
    hf_model: Any = None  # the network that took the first step: some models delegate to an inner one

    def work(self) -> Work:
        """Return what the stage did, as counters."""
        return {"prompt_tokens": self.sequences.shape[0] * self.prompt_tokens}


@dataclass(frozen=True, slots=True)
class Generation:
    """What `decode` returns, one entry per row of the batch."""

    token_ids: tuple[tuple[int, ...], ...]  # the new ones, the first one and a stop token included, padding excluded
    finish_reasons: tuple[FinishReason, ...]  # a stop token or string, or the limit
    steps: int  # forwards of the language model in the decode stage
    step_ends: tuple[float, ...] = field(repr=False)  # as in `Prefilled`, on the device where tokens stay there
    wasted_steps: int = 0  # steps after all rows had stopped
    counted: int | None = None  # new tokens as a server counts them: it may give no ids, and times are of its events

    def __post_init__(self) -> None:
        if self.counted is not None:
            return
        if not self.token_ids or not all(self.token_ids):
            raise StageError("a generation must hold at least one token per row, got none")
        longest, times = max(map(len, self.token_ids)), len(self.step_ends)
        if not longest - 1 == self.steps == times:
            got = f"{self.steps} with {times} time stamps"
            raise StageError(f"{longest} new tokens take {longest - 1} steps, got {got}")

    def work(self) -> Work:
        """Return what the stage did, as counters; `new_tokens` includes the first token, which prefill made."""
        wasted = {"wasted_steps": self.wasted_steps} if self.wasted_steps else {}
        return {"new_tokens": self.counted or sum(map(len, self.token_ids)), "steps": self.steps} | wasted


@dataclass(frozen=True, slots=True)
class Run:
    """One timed pass of one sample through one model. Times in seconds."""

    model: str
    seconds: dict[str, float]  # wall time per stage, the device synchronised at both ends, or as its engine says
    device_seconds: dict[str, float]  # the same between two CUDA events; empty on a CPU
    e2e: float  # wall time around all stages and the detokenising
    generation: Generation
    text: str  # the first row's new tokens, special ones left out
    spans: dict[str, tuple[float, float]] = field(default_factory=dict, repr=False)  # of stages, by a second clock
    metered: dict[str, Work] = field(default_factory=dict, repr=False)  # what `meter` or an engine counted, by stage
    first_token: float | None = None  # seconds to it after load, of an engine, which may not tell all stages
    prompt_ids: tuple[int, ...] = field(default=(), repr=False)  # where an engine tells them

    def __post_init__(self) -> None:
        for stage in STAGE_NAMES if self.first_token is None else self.seconds:
            if not self.seconds.get(stage, 0.0) > 0.0:
                raise StageError(f"every stage must take time, got {self.seconds.get(stage)} s for {stage}")

    @property
    def new_tokens(self) -> int:
        """Return the number of new tokens, the first token and a stop token included."""
        return self.generation.work()["new_tokens"]

    @property
    def unattributed(self) -> float:
        """Return the time outside the stages: detokenising, and what an engine does between them or can't split."""
        return self.e2e - sum(self.seconds.values())

    @property
    def ttft(self) -> float:
        """Return the time to first token, load excluded."""
        return sum(self.seconds[stage] for stage in IN_TTFT) if self.first_token is None else self.first_token

    @property
    def tpot(self) -> float | None:
        """Return the time per output token: (e2e - ttft) / (n - 1), load in neither; None where n is 1."""
        if self.generation.steps == 0:
            return None
        before = (LOAD.name,) if self.first_token else ONCE
        once = sum(self.seconds[stage] for stage in before) + (self.first_token or 0.0)
        return (self.e2e - once) / self.generation.steps

    @property
    def itl(self) -> tuple[float, ...]:
        """Return inter-token latencies: the raw gaps between one decode step's token and the next."""
        return tuple(after - before for before, after in pairwise(self.generation.step_ends))

    @property
    def output_throughput(self) -> float:
        """Return new tokens per second over the whole path, load included."""
        return self.new_tokens / self.e2e
