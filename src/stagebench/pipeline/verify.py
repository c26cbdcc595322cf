"""Verify, before anything is timed, that the stages give the tokens of plain `generate()` and do its work once.

Where tokens differ, the logits certify whether it was a near-tie that other kernels decide differently.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import GenerationMixin, LogitsProcessorList, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from stagebench.core.artifacts import Features, Generation, Inputs, Prefilled, Sample, Work
from stagebench.core.errors import StagebenchError, StageError
from stagebench.core.shown import one_line
from stagebench.models.protocol import Family, VisionLanguageModel
from stagebench.pipeline.counters import Content, additive, count_work, counted_run
from stagebench.pipeline.decode import cache_of, decode
from stagebench.pipeline.encode import encode
from stagebench.pipeline.prefill import prefill, require_splittable, resolved
from stagebench.pipeline.remembered import require_forgetful, varied
from stagebench.pipeline.run_stages import Options, prepared, reference_generate, scored_generate, staged_generate
from stagebench.pipeline.timing import repeats_itself

NEAR_TIE = 8.0  # ulps: kernels round at every layer, so the logits of both tokens are uncertain by a few


@dataclass(frozen=True, slots=True)
class TokenMatch:
    """How the tokens of a text compare with those of its reference.

    The gap is the reference's logit of its own token minus that of the other token, in ulps of the model's dtype.
    """

    verdict: Literal["equal", "near-tie", "different"]  # near-tie: the reference's own logits hardly differ
    position: int | None = None  # of the first token that differs
    gap: float | None = None  # at this position, if computed
    ids: tuple[int | None, int | None] = field(default=(None, None), compare=False)  # there; None after the end

    def __str__(self) -> str:
        if self.position is None:
            return self.verdict
        gap = "" if self.gap is None else f", the reference's logits are {self.gap:.2f} ulps apart"
        return f"{self.verdict}: token {self.position} differs{gap}"

    def describe(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Return the position and both tokens of the first difference, in words."""
        mine, theirs = ("the end" if i is None else f"{i} {tokenizer.decode([i])!r}" for i in self.ids)
        return f"another token {self.position}, {theirs} in place of {mine}"


def ulp(value: float, dtype: torch.dtype) -> float:
    """Return the distance of adjacent values in a value's binade, in a floating-point dtype."""
    epsilon = torch.finfo(dtype).eps
    return epsilon * 2.0 ** math.floor(math.log2(abs(value))) if value else torch.finfo(dtype).tiny


def match_tokens(reference: Sequence[int], other: Sequence[int], logits: Sequence[Tensor] | None = None) -> TokenMatch:
    """Compare the tokens of one row, and certify their first difference; after it the texts differ.

    The logits are the reference's, (vocabulary,) per step, in its model's dtype. Without them no difference can be a
    near-tie.
    """
    pairs = enumerate(zip_longest(reference, other))
    at, ids = next(((i, ids) for i, ids in pairs if ids[0] != ids[1]), (None, (None, None)))
    if at is None:
        return TokenMatch("equal")
    if logits is None or None in ids:
        return TokenMatch("different", at, math.inf if None in ids else None, ids)
    chosen, instead = (float(logits[at][token]) for token in ids)
    gap = (chosen - instead) / ulp(max(abs(chosen), abs(instead)), logits[at].dtype)
    # Not abs(): a reference that did not choose its own best token is a fault, not a tie.
    return TokenMatch("near-tie" if 0 <= gap <= NEAR_TIE else "different", at, gap, ids)


def require_same_tokens(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], first: Sequence[Sequence[int]]
) -> None:
    """Refuse a pass with other texts than the first pass."""
    for mine, expected in zip(rows, first, strict=True):
        if (match := match_tokens(expected, mine)).position is not None:
            raise StageError(f"every pass must give the tokens of the first, got {match.describe(tokenizer)}")


@dataclass(frozen=True)
class Reference:
    """Tokens and work of plain `generate()` for a sample, counted once for all backends, because counting is slow."""

    model: VisionLanguageModel  # run by its own code, without its backend
    sample: Sample
    options: Options
    inputs: Inputs
    tokens: tuple[int, ...]  # new tokens
    work: Work

    @cached_property
    def logits(self) -> list[Tensor]:
        """Return the logits of each step, (vocabulary,), computed only where tokens differ."""
        return scored_generate(self.model, self.inputs, self.options)[1]

    @torch.no_grad()
    def prompt(self, tokens: int) -> int:
        """Return the FLOPs of the language model for a prompt of `tokens`, with the logits of the last one."""
        hf_model = self.model.hf_model
        size = hf_model.config.get_text_config().hidden_size
        embeds = torch.zeros(1, tokens, size, dtype=hf_model.dtype, device=hf_model.device)
        given = {"inputs_embeds": embeds, "use_cache": False, "logits_to_keep": 1}
        return count_work(lambda: hf_model(**given))[1]["flops"]

    @torch.no_grad()
    def steps(self, slots: int) -> tuple[int, int]:
        """Return the FLOPs of all decode steps of `generate()`, and those of one step that attends to `slots` tokens.

        Both are counted in plain steps. For the latter, keys and values are added to the prompt's cache, in all layers
        with a cache of the prompt's length.
        """
        plain = replace(self.model, backend=None)
        features = encode(plain, self.inputs)
        whole, longer = (prefill(plain, self.inputs, features, self.options) for _ in range(2))
        flops = count_work(lambda: decode(plain, whole))[1]["flops"]
        given = longer.hf_model.prepare_inputs_for_generation(
            longer.sequences, next_sequence_length=1, **_lengthened(longer, slots - 1)
        )
        return flops, count_work(lambda: longer.hf_model(**given))[1]["flops"]


def _lengthened(prefilled: Prefilled, length: int) -> dict[str, Any]:
    """Return the state of a prompt with its cache padded to `length` tokens."""
    cache, tokens = cache_of(prefilled.state), prefilled.prompt_tokens
    for i, layer in enumerate(cache.layers):
        if isinstance(layer, DynamicLayer) and layer.get_seq_length() == tokens:
            full = getattr(layer, "sliding_window", math.inf) <= length  # a full window
            missing = (0, 0, 0, (layer.sliding_window - 1 if full else length) - layer.keys.shape[2])
            keys, values = pad(layer.keys, missing), pad(layer.values, missing)
            if full:
                layer.keys, layer.values, layer.cumulative_length = keys, values, length
            else:
                cache.layers[i] = DynamicLayer()  # also for a window
                cache.layers[i].update(keys, values)
    return prefilled.state


def count_reference(model: VisionLanguageModel, sample: Sample, options: Options) -> Reference:
    """Run plain `generate()` on a sample, and count its work."""
    inputs = prepared(model, sample)
    if not model.hf_model.config.is_encoder_decoder:  # their prompt is not a part of the text
        require_splittable(model.hf_model, resolved(model.hf_model, inputs.input_ids, options))
    try:
        if not isinstance(model, Family):  # it also learns the calls of its encoders, and which modules run
            _require_pixels_encoded(model, inputs, options)
        tokens, work = count_work(lambda: reference_generate(model, inputs, options), model.counted_modules)
    except StagebenchError:
        raise
    except Exception as error:  # not narrower: a checkpoint's parts make torch and transformers raise any type
        raise StageError(f"{model.name}: generate() itself fails: {one_line(error)}") from error
    return Reference(model, sample, options, inputs, tuple(tokens[0].tolist()), work)


def first_scores(model: VisionLanguageModel, inputs: Inputs, features: Features, options: Options) -> Tensor:
    """Run prefill, and return the scores of the first token: (batch, vocabulary)."""
    seen: list[Tensor] = []

    def keep(input_ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(scores.clone())
        return scores

    prepare = GenerationMixin._get_logits_processor

    def prepared_and_kept(*args: Any, **kwargs: Any) -> Any:
        return LogitsProcessorList([*prepare(*args, **kwargs), keep])

    # Not as an option, which some networks drop, such as Janus.
    with patch.object(GenerationMixin, "_get_logits_processor", prepared_and_kept):
        prefill(model, inputs, features, options)
    return seen[0]


def _require_pixels_encoded(model: VisionLanguageModel, inputs: Inputs, options: Options) -> None:
    """Refuse a network that uses its pixels outside its encoders, because prefill would be timed with that work.

    A network that is not repeatable is not refused here.
    """
    plain = replace(model, backend=None)
    first, again, other = (
        first_scores(plain, of, encode(plain, inputs), options) for of in (inputs, inputs, varied(inputs, 1))
    )
    if torch.equal(first, again) and not torch.equal(first, other):
        raise StageError(f"{model.name} can't be split: its language model uses pixels outside its encoders")


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of an untimed pass, compared with `generate()`."""

    generation: Generation
    work: dict[str, Work]  # by stage
    reference_work: Work  # of `generate()`
    tokens: TokenMatch
    content: dict[str, Content]  # by stage
    stages: Mapping[str, str] = field(default_factory=dict)  # what runs each stage of a backend


def verify(model: VisionLanguageModel, reference: Reference) -> Verification:
    """Verify, before anything is timed and as a warm-up, that the stages do what `generate()` does.

    The model is the reference's, with any backend. Refuse tokens, forwards, images or FLOPs that differ from those of
    `generate()`, and a stage with cached results.
    """
    verified = verify_work(model, reference)
    require_tokens(model, verified.tokens)
    require_forgetful(model, reference.sample, reference.options)
    return verified


def verify_work(model: VisionLanguageModel, reference: Reference) -> Verification:
    """Count a pass; refuse it unless each stage does its own work, and all together that of `generate()`."""
    if model.backend is not None:  # its set-up must not be counted
        staged_generate(model, reference.inputs, reference.options)
    generation, counter = counted_run(model, reference.sample, reference.options)
    mine, expected = additive(*counter.work.values()), expected_work(model, reference, generation)
    if apart := "; ".join(f"{name} {mine[name]}, not {n}" for name, n in expected.items() if mine[name] != n):
        raise StageError(f"the stages must do the work of generate(), got {apart}")
    tokens = generation.token_ids[0]
    match = match_tokens(reference.tokens, tokens, None if tokens == reference.tokens else reference.logits)
    stages = {} if model.backend is None else model.backend.stages
    return Verification(generation, counter.work, reference.work, match, counter.content, stages)


def require_tokens(model: VisionLanguageModel, match: TokenMatch) -> None:
    """Refuse tokens that differ from those of `generate()` more than a model promises."""
    if match.verdict not in promised(model):
        raise StageError(f"the stages must give the tokens of generate(), got {match.describe(model.tokenizer)}")


def require_text(model: VisionLanguageModel, sample: Sample, options: Options, tokens: Sequence[int]) -> None:
    """Generate a sample's text by plain `generate()`, and refuse other tokens as `require_tokens`."""
    rows, logits = scored_generate(model, prepared(model, sample), options)
    require_tokens(model, match_tokens(rows[0].tolist(), tokens, logits))


def promised(model: VisionLanguageModel) -> tuple[str, ...]:
    """Return the verdicts that a model's tokens may have, compared with those of `generate()`.

    A backend with its own kernels may differ where the logits of `generate()` are nearly tied. Where `generate()` is
    not repeatable, tokens are not judged.
    """
    if not repeats_itself(model.hf_model.device):
        return "equal", "near-tie", "different"
    return ("equal",) if model.backend is None or model.backend.exact else ("equal", "near-tie")


def expected_work(model: VisionLanguageModel, reference: Reference, generation: Generation) -> Work:
    """Return the additive counters that the stages must have: those of `generate()`, and a backend's extra work.

    The extra work is known to the last FLOP. A backend pads the prompt. In a step attention covers the whole static
    cache, empty slots included. Some steps run after all rows have stopped. A text that differs at a near-tie may have
    another length. A graph's counters are those of the plain function at its capture, times its calls.
    """
    work = additive(reference.work)
    if model.backend is None:
        return work
    prompt = reference.inputs.input_ids.shape[1]
    limit = resolved(model.hf_model, reference.inputs.input_ids, reference.options).max_length
    padded, slots = model.backend.lengths(prompt, limit)
    taken, needed = generation.steps + generation.wasted_steps, len(reference.tokens) - 1
    plainly, step = reference.steps(slots)
    padding = reference.prompt(padded) - reference.prompt(prompt) if padded > prompt else 0
    return work | {
        "language_model_forwards": work["language_model_forwards"] + taken - needed,
        "flops": work["flops"] + padding - plainly + taken * step,
    }
