"""A model's encode, prefill and decode over a static cache, each shape as one CUDA graph.

The backend captures the model's own code (`graph`), the same with compiled layers (`compiled`), or that with a decode
step in Triton (`fused`). The first use of a shape sets its graph up in seconds, and records it in `setups`. A timed
pass with a set-up must be discarded.
"""

import copy
import functools
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Cache, GenerationConfig

from stagebench.backends.capture import Captured, Function, Pool
from stagebench.backends.static_cache import compiled_layers, prompt_logits, set_length, static_cache, step_logits
from stagebench.core.artifacts import Inputs, Prefilled
from stagebench.core.errors import ModelError, StageError
from stagebench.core.stages import STAGES
from stagebench.models.protocol import Family, VisionLanguageModel
from stagebench.models.tape import tensors_of
from stagebench.pipeline.decode import Progress, take_steps
from stagebench.pipeline.timing import synchronize

Kept = TypeVar("Kept", Captured, "Session")

CACHE_BUCKET = 128  # cache lengths are multiples of it, so that prompts of similar length share a cache and its graphs
KEPT = 8  # shapes of each kind, such as a static cache with its graphs; then the least recently used is released
# Steps in flight. The host launches a step faster than the device runs it, and waiting for each token's stop check
# would leave the device idle. So the host waits for the token before the last. Where tokens are sampled it waits for
# each: a wasted step would draw random numbers and change the next text.
LAG = 2
RECOMPILE_LIMIT = 10_000  # more shapes than any run has: all layers of a kind are one function

# Kernels of backends that owe no exact tokens, the fastest first. cuDNN's comes before them, except in a step, where it
# splits the keys and is not repeatable. On an H200 it saves 0.6 of 14 ms for 590 prompt tokens, 0.35 of 2.1 ms for an
# image.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Options of what a backend captures."""

    compiled: bool = False  # the model's layers by `torch.compile`
    fused: bool = False  # the decode step of `backends.fused`
    bucket: int = 64  # prompts are padded to a multiple of this many tokens; any network's are not

    @property
    def exact(self) -> bool:
        """Return whether it captures the network's own code, and owes exactly its tokens."""
        return not (self.compiled or self.fused)


# `eager` is not here: it means no backend.
RECIPES = {"graph": Recipe(), "compiled": Recipe(compiled=True), "fused": Recipe(compiled=True, fused=True)}


@dataclass(slots=True, eq=False)
class Session:
    """A static cache with its graphs; it holds the prompt of `owner`."""

    cache: Cache
    step: Captured
    prompts: dict[int, Captured] = field(default_factory=dict)
    owner: object = None
    lag: int = LAG  # 1 where a wasted step can't be undone

    def next_logits(self, sequences: Tensor) -> Tensor:
        """Run a step with the last token of each row: (batch, 1, vocabulary), valid until the next step."""
        self.step.inputs["tokens"].copy_(sequences[:, -1:])
        logits: Tensor = self.step()
        return logits

    def release(self) -> None:
        """Free the graphs and the cache; the owner can't continue."""
        self.owner = None
        for captured in (self.step, *self.prompts.values()):
            captured.release()

    def claimed(self) -> dict[str, Any]:
        """Return the state of a new owner's prompt, which replaces the previous one in the cache."""
        self.owner = object()
        return {"cache": self.cache, "session": self, "owner": self.owner}


@dataclass(eq=False)
class Graphs:
    """What graph backends share: encoders, a bounded number of caches with their steps, and the cost of set-ups."""

    model: VisionLanguageModel  # without a backend; its own code is captured
    name: str  # one of `RECIPES`
    pool: Pool
    recipe: Recipe = Recipe()
    encoders: dict[Hashable, Captured] = field(default_factory=dict, kw_only=True)  # in order of last use
    sessions: dict[Hashable, Session] = field(default_factory=dict, kw_only=True)  # in order of last use
    setups: list[Captured] = field(default_factory=list, kw_only=True)  # all so far, also released ones

    @property
    def exact(self) -> bool:
        """Return whether it owes exactly the tokens of the plain path."""
        return self.recipe.exact

    def replayed(self) -> Counter[str]:
        """Return the work of all calls so far, because counters see no module and no operator in a graph."""
        work: Counter[str] = Counter()
        for captured in self.setups:
            work.update({name: n * captured.calls for name, n in captured.work.items()})
        return work

    def encoded(self, key: Hashable, encoder: Function, inputs: Mapping[str, Tensor]) -> Any:
        """Call an encoder as a graph, captured for a new key; return a copy of its output."""
        captured = self.latest(self.encoders, key, lambda: self.capture(encoder, inputs))
        for name, tensor in inputs.items():
            captured.inputs[name].copy_(tensor)
        output = captured()
        return copy.deepcopy(output, {id(tensor): tensor.clone() for tensor in tensors_of(output)})

    def capture(
        self, plain: Function, inputs: Mapping[str, Tensor], fast: Function | None = None, is_step: bool = False
    ) -> Captured:
        """Capture a function with copies of the inputs as its buffers, by the recipe: itself, compiled, or `fast`."""
        own = {name: tensor.clone() for name, tensor in inputs.items()}
        if fast is None and self.recipe.compiled:
            fast = self._compiled(plain, is_step)
        kernels = ATTENTION if is_step else [SDPBackend.CUDNN_ATTENTION, *ATTENTION]
        # A backend that owes no exact tokens uses the fastest attention, also where the pinned runtime excludes it.
        with nullcontext() if self.recipe.exact else sdpa_kernel(kernels, set_priority=True):
            captured = Captured(plain, fast or plain, own, self.model.counted_modules, self.pool)
        self.setups.append(captured)
        return captured

    def _compiled(self, plain: Function, is_step: bool) -> Function:
        # Products with one row become fused reductions, which read weights faster than a library's matrix product.
        options = {"coordinate_descent_tuning": True} if is_step else {}
        limits = {"recompile_limit": RECOMPILE_LIMIT, "accumulated_recompile_limit": RECOMPILE_LIMIT}

        def fast(**inputs: Tensor) -> Any:
            with torch._dynamo.config.patch(limits), compiled_layers(self.model.hf_model, options):
                return plain(**inputs)

        return fast

    def fused_step(self, cache: Cache) -> Callable[..., Tensor]:
        """Return the step in Triton over a filled cache of one row."""
        try:
            from stagebench.backends.fused import FusedStep  # here, because Triton comes with CUDA only
        except ImportError as error:
            raise ModelError(f"the backend fused needs Triton, got {error}") from error
        return FusedStep(self.model.hf_model, cache)

    def advance(self, prefilled: Prefilled, steps: int | None = None) -> Prefilled:
        """Run decode steps as `pipeline.decode.advance`; raise StageError where a later prompt holds the cache."""
        session = prefilled.state["session"]
        if session.owner is not prefilled.state["owner"]:
            raise StageError("decode needs the static cache of its own prompt, got that of a later prefill")
        sampled, device = prefilled.generation_config.do_sample, self.model.hf_model.device
        room = prefilled.generation_config.max_length - prefilled.sequences.shape[1]
        progress = _OnDevice(device, room) if device.type == "cuda" else Progress()
        end = take_steps(session.next_logits, prefilled, steps, progress, lag=1 if sampled else session.lag)
        if end.wasted_steps:
            set_length(session.cache, torch.tensor(end.sequences.shape[1] - 1, device=end.sequences.device))
        return end

    def latest(self, kept: dict[Hashable, Kept], key: Hashable, new: Callable[[], Kept]) -> Kept:
        """Return the entry of a key, or a new one; release the least recently used beyond `KEPT`."""
        if (one := kept.pop(key, None)) is None:
            one = new()
            if len(kept) == KEPT:
                synchronize(self.model.hf_model.device)  # a graph may still run
                kept.pop(next(iter(kept))).release()
        kept[key] = one
        return one


@dataclass(eq=False)
class GraphBackend(Graphs):
    """Runs the stages of a family fast; see `models.protocol.Backend`."""

    model: Family

    def encode(self, inputs: Inputs) -> Tensor:
        """Encode, as the model's own `encode`."""
        name, pixels = self.model.pixels_argument, self.model.pixels_of(inputs)
        features: Tensor = self.encoded(
            pixels.shape, lambda **given: self.model.encode(replace(inputs, given=given)), {name: pixels}
        )
        return features

    @property
    def stages(self) -> dict[str, str]:
        """Return this backend's name for all stages of `generate()`."""
        return {stage.name: self.name for stage in STAGES if stage.in_generate}

    def continued(self, prefilled: Prefilled) -> Prefilled:
        """Return it unchanged: a prompt is in the static cache from the start."""
        return prefilled

    def lengths(self, tokens: int, limit: int) -> tuple[int, int]:
        """Pad a prompt to the recipe's bucket, and a cache to `CACHE_BUCKET`; see `models.protocol.Backend`."""
        padded = up(tokens, self.recipe.bucket)
        return padded, up(max(padded, limit), CACHE_BUCKET)

    def prompt(
        self, embeds: Tensor, attention_mask: Tensor, generation_config: GenerationConfig
    ) -> tuple[Tensor, dict[str, Any]]:
        """Run a prompt; refuse a padded batch, and options that a static cache can't serve."""
        self._require_servable(attention_mask, generation_config)
        batch, tokens = embeds.shape[:2]
        padded, slots = self.lengths(tokens, generation_config.max_length)
        session = self.latest(self.sessions, (batch, slots), functools.partial(self._new_session, batch, slots))
        prompt = session.prompts.get(padded) or self._capture_prompt(session, padded, embeds)
        prompt.inputs["embeds"][:, :tokens].copy_(embeds)
        prompt.inputs["embeds"][:, tokens:].zero_()  # any finite number: a masked NaN would still give NaN
        prompt.inputs["length"].fill_(tokens)
        state = session.claimed()
        return prompt(), state

    def _require_servable(self, attention_mask: Tensor, config: GenerationConfig) -> None:
        (rows, tokens), chunk, texts = attention_mask.shape, config.prefill_chunk_size, config.num_return_sequences
        if config.max_length <= tokens:
            raise StageError(f"max_length must leave room after the prompt's {tokens} tokens, got {config.max_length}")
        for held, promise, got in (
            (config.cache_implementation in (None, "static"), "has a static cache", config.cache_implementation),
            (chunk is None, "prefills at once", f"prefill_chunk_size={chunk}"),
            (texts == 1, "gives one text per prompt", f"num_return_sequences={texts}"),
            (rows == 1 or not self.recipe.fused, "decodes one row", rows),
            (bool(attention_mask.all()), "takes batches of prompts of one length", "a padded one"),
        ):
            if not held:
                raise StageError(f"the backend {self.name} {promise}, got {got}")

    def _new_session(self, batch: int, length: int) -> Session:
        cache = static_cache(self.model.hf_model, batch, length)
        plain = functools.partial(step_logits, self.model.hf_model, cache)
        inputs = {"tokens": torch.zeros(batch, 1, dtype=torch.long, device=self.model.hf_model.device)}
        step = self.capture(plain, inputs, self.fused_step(cache) if self.recipe.fused else None, is_step=True)
        step.nbytes += sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        return Session(cache, step)

    def _capture_prompt(self, session: Session, padded: int, embeds: Tensor) -> Captured:
        plain = functools.partial(prompt_logits, self.model.hf_model, session.cache)
        length = torch.ones(1, dtype=torch.long, device=embeds.device)
        inputs = {"embeds": embeds.new_zeros(embeds.shape[0], padded, embeds.shape[2]), "length": length}
        return session.prompts.setdefault(padded, self.capture(plain, inputs))


class _OnDevice(Progress):
    """Copies each step's flag to the host without waiting; an event marks its arrival."""

    def __init__(self, device: torch.device, limit: int) -> None:
        self.flags = torch.empty(limit, dtype=torch.long, pin_memory=True)
        torch.cuda.synchronize(device)
        self.start, self.began = torch.cuda.Event(enable_timing=True), time.perf_counter()
        self.start.record()
        self.events: list[torch.cuda.Event] = []

    def note(self, unfinished: Tensor) -> None:
        self.flags[len(self.events)].copy_(unfinished.max(), non_blocking=True)
        self.events.append(torch.cuda.Event(enable_timing=True))
        self.events[-1].record()

    def going(self, i: int) -> bool:
        self.events[i].synchronize()
        return bool(self.flags[i])

    def ends(self, steps: int) -> list[float]:
        # Later events, of wasted steps, may not have happened yet, and torch can't time them.
        return [self.began + self.start.elapsed_time(event) / 1e3 for event in self.events[:steps]]


def up(n: int, multiple: int) -> int:
    """Round up to a multiple."""
    return -(-n // multiple) * multiple
