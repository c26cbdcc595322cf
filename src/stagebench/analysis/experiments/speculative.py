"""Let one model draft another's greedy text: which of its tokens are right, and what both take together.

Each has read the sample in a prompt of its own, and keeps what it read in a KV cache. Both run on the plain path,
without a backend. The draft writes some tokens, the target reads them all in one forward, and takes those that it would
have written, and one of its own. What follows a wrong one is cut off both caches.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from stagebench.analysis.experiments.dataset import one_line
from stagebench.analysis.samples import DraftLine
from stagebench.core.artifacts import Prefilled, Sample
from stagebench.core.errors import AnalysisError, StagebenchError
from stagebench.core.stages import DECODE, PREFILL, STAGE_NAMES
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.decode import cache_of, decode
from stagebench.pipeline.run_stages import Options, run_stages
from stagebench.pipeline.timing import without_collection
from stagebench.pipeline.verify import match_tokens


class Reader:
    """A model that has read a sample, and reads a text after it, of which it can forget the end."""

    def __init__(self, model: VisionLanguageModel, sample: Sample, options: Options) -> None:
        self.model = replace(model, backend=None)
        before = [stage for stage in STAGE_NAMES if stage != DECODE.name]
        self._prefilled: Prefilled = run_stages(self.model, sample, options, stages=before)[PREFILL.name]
        self._hf_model = self._prefilled.hf_model or model.hf_model
        self._cache = cache_of(self._prefilled.state)
        if not all(type(layer) is DynamicLayer for layer in self._cache.layers):
            limit = "a KV cache that can be cut back, to draft or to be drafted for"
            raise AnalysisError(f"{model.name} must have {limit}")
        self._prompt, self.first = self._prefilled.sequences.split([self._prefilled.prompt_tokens, 1], dim=1)
        self._vocabulary = self._hf_model.get_input_embeddings().num_embeddings
        self.room = self._prefilled.generation_config.max_length - self._prefilled.prompt_tokens  # for a text

    def own_text(self) -> list[int]:
        """Decode as ever."""
        self.keep(0)
        return list(decode(self.model, replace(self._prefilled, state=dict(self._prefilled.state))).token_ids[0])

    def keep(self, tokens: int) -> None:
        """Forget all but so many tokens of the text, if more were read."""
        self._cache.crop(-max(self._read() - tokens, 0))

    @torch.no_grad()
    def after(self, text: Sequence[int]) -> list[int]:
        """Read the tokens of a text that were not read yet, and return which one follows each of them, greedily."""
        new, state = len(text) - self._read(), dict(self._prefilled.state)
        sequences = self._sequences(text)
        if len(text) > 1:
            kind = {"is_encoder_decoder": False, "num_new_tokens": len(text) - 1}
            state = self._hf_model._update_model_kwargs_for_generation({}, state, **kind)
        state.pop("logits_to_keep", None)  # of the last token alone
        inputs = self._hf_model.prepare_inputs_for_generation(sequences, next_sequence_length=new, **state)
        scores = self._hf_model(**inputs, return_dict=True).logits[0, -new:].float()
        if processors := self._prefilled.logits_processor:
            ends = range(sequences.shape[1] - new + 1, sequences.shape[1] + 1)
            each = (processors(sequences[:, :end], row[None]) for end, row in zip(ends, scores, strict=True))
            scores = torch.cat([*each])
        chosen: list[int] = scores.argmax(-1).tolist()
        return chosen

    def ends(self, text: Sequence[int]) -> bool:
        """Return whether a text is over, by a stop or by the limit."""
        return bool(self._prefilled.stopping_criteria(self._sequences(text), None))

    def _read(self) -> int:
        tokens: int = self._cache.get_seq_length() - self._prompt.shape[1]
        return tokens

    def _sequences(self, text: Sequence[int]) -> torch.Tensor:
        # A token that only the other model has is as good as an unknown one: neither would have written it.
        known = [token if token < self._vocabulary else 0 for token in text]
        return torch.cat([self._prompt, self._prompt.new_tensor([known])], dim=1)


def right_tokens(draft: Reader, text: Sequence[int]) -> list[bool]:
    """Return of each token of the target's text but the first whether the draft would have written it there."""
    draft.keep(0)
    return [mine == its for mine, its in zip(draft.after(text[:-1]), text[1:], strict=True)] if len(text) > 1 else []


def speculate(draft: Reader, target: Reader, tokens: int) -> tuple[list[int], int]:
    """Write a text, of which so many tokens at once are drafted; return it, and how many checks it took."""
    draft.keep(0)
    target.keep(0)
    text, checks = [int(target.first)], 0
    while not target.ends(text):
        drafted = list(text)
        for _ in range(min(tokens, target.room - len(text) - 1)):
            drafted += draft.after(drafted)[-1:]
        for token, guess in zip(target.after(drafted), [*drafted[len(text) :], None], strict=True):
            text.append(token)
            if token != guess or target.ends(text):
                break
        checks += 1
        target.keep(len(text) - 1)
        draft.keep(len(text) - 1)
    return text, checks


def measure_draft(draft: Reader, target: Reader, tokens: int) -> dict[str, Any]:
    """Time the target's decode with drafts and without, in turns; refuse another text, and other tokenizers."""
    names = draft.model.name, target.model.name
    if not share_tokens(ordinary_tokens(draft.model), ordinary_tokens(target.model)):
        raise AnalysisError(f"a draft must have the tokenizer of its target, got another of {names[0]} than {names[1]}")
    text = target.own_text()
    written, checks = speculate(draft, target, tokens)
    if (match := match_tokens(text, written)).position is not None:
        said = match.describe(target.model.tokenizer)
        raise AnalysisError(f"with drafts of {names[0]}, {names[1]} must give its own text, got {said}")
    seconds = {"plain": 0.0, "drafted": 0.0}
    with without_collection():
        for way in ("plain", "drafted", "drafted", "plain"):
            target.keep(0)
            start = time.perf_counter()
            speculate(draft, target, tokens) if way == "drafted" else target.own_text()
            seconds[way] += (time.perf_counter() - start) / 2
    return seconds | {"right": right_tokens(draft, text), "checks": checks}


def draft_lines(
    models: Sequence[VisionLanguageModel], samples: Mapping[str, Sample], options: Options, tokens: int
) -> Iterator[DraftLine]:
    """Let each model draft one sample for each other of one tokenizer; what fails has an `error` in its line."""
    reader = cache(lambda i: Reader(models[i], samples[models[i].name], options))
    tokens_of = [*map(ordinary_tokens, models)]
    for i, j in permutations(range(len(models)), 2):
        if share_tokens(tokens_of[i], tokens_of[j]):
            line: Any = {"draft": models[i].name, "target": models[j].name, "tokens": tokens}
            try:
                yield line | measure_draft(reader(i), reader(j), tokens)
            except StagebenchError as error:
                yield line | {"error": one_line(error)}


def ordinary_tokens(model: VisionLanguageModel) -> dict[int, str]:
    """Return the tokenizer's tokens by id, without those that a family added."""
    added = model.tokenizer.get_added_vocab()
    return {number: token for token, number in model.tokenizer.get_vocab().items() if token not in added}


def share_tokens(a: Mapping[int, str], b: Mapping[int, str]) -> bool:
    """Return whether every shared id means the same ordinary token."""
    both = a.keys() & b.keys()
    return bool(both) and all(a[number] == b[number] for number in both)
