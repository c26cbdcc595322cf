"""prefill: features and token ids -> KV cache and the first token. Time to first token ends here.

transformers' own `generate()` prepares the cache, the logits processors and the stopping criteria, and then calls back.
So every option of `generate()` is honoured, and nothing of it is rewritten here.
"""

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation import GenerationMode

from stagebench.core.artifacts import Features, Inputs, Prefilled
from stagebench.core.errors import StageError
from stagebench.models.protocol import Family, VisionLanguageModel
from stagebench.pipeline.decode import append_next_token

_SPLITTABLE = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
_ARGUMENTS = ("generation_config", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "tokenizer")
"""Arguments of `generate()` itself. Those of the model (positions, a cache) would not reach a backend's graphs."""

_OPTIONS = frozenset(name for name in vars(GenerationConfig()) if not name.startswith("_")) | {*_ARGUMENTS}
_CACHES = ("dynamic", "static", "sliding_window", "hybrid", "hybrid_chunked")

_REFUSED: Mapping[str, tuple[tuple[object, ...], str]] = {
    "stop_strings": ((), "generate() does not pass the tokenizer on (use a StopStringCriteria in stopping_criteria)"),
    "token_healing": ((False,), "it rewrites the prompt, which holds the features already"),
    "use_cache": ((True,), "decode continues from the KV cache"),
    "cache_implementation": (_CACHES, f"it must be one of {', '.join(_CACHES)}"),
    "compile_config": ((), "only backends compile"),
    "is_assistant": ((False,), "the stages don't assist another model"),
    "max_time": ((), "it ends a text by time"),
}
"""Options with the values that are accepted, and why another value can't be used."""


@torch.no_grad()
def prefill(model: VisionLanguageModel, inputs: Inputs, features: Features, options: Mapping[str, Any]) -> Prefilled:
    """Run the stage, with the token ids of the inputs; the pixels are not encoded again.

    The options are keyword arguments of `generate()`. Refuse options that can't be split (beam search, assisted
    decoding, other inputs), and more tokens than the model has positions, before a backend sets anything up.
    `generate()` refuses its own invalid options (a negative temperature) later.
    """
    options = _accepted(model.hf_model.generation_config, options)
    first_step: Callable[..., Prefilled] = _first_step
    with model.prompted(inputs, features) as given:
        if isinstance(model, Family) and model.backend is not None:
            # Run first, so that the device is busy while generate() prepares.
            generation_config = resolved(model.hf_model, inputs.input_ids, options)
            require_splittable(model.hf_model, generation_config)
            ready = model.backend.prompt(given.pop("inputs_embeds"), inputs.attention_mask, generation_config)
            first_step = functools.partial(_first_step, ready=ready, room=generation_config.max_length)
        prefilled: Prefilled = model.hf_model.generate(**given, custom_generate=first_step, **options)
    return prefilled if model.backend is None else model.backend.continued(prefilled)


def _accepted(default: GenerationConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for `generate()`; refuse those that would be ignored or can't be split."""
    for name, value in options.items():
        if name not in _OPTIONS and value is not None and value is not False:
            why = "the stages take only options of generation"
            raise StageError(f"{name} can't be split: {why}")
    given = options.get("generation_config")
    for name, (neutral, why) in _REFUSED.items():
        asked = (options.get(name), getattr(given, name, None), getattr(default, name, None))
        value = next((value for value in asked if value is not None), None)
        if value is not None and value not in neutral:
            got = repr(value) if isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"
            raise StageError(f"{name} can't be split, got {got}: {why}")
    return {name: value for name, value in options.items() if name in _OPTIONS}


def resolved(hf_model: PreTrainedModel, input_ids: Tensor, options: Mapping[str, Any]) -> GenerationConfig:
    """Return the config that `generate()` will merge; its `max_length` counts prompt and new tokens."""
    keywords = {name: option for name, option in options.items() if name not in _ARGUMENTS}
    given = options.get("generation_config")
    # Always pass a config: without one transformers 5.17 takes 11 ms to look for a model's legacy options.
    asked = GenerationConfig() if given is None else copy.deepcopy(given)
    asked.update(**keywords)
    config, _ = hf_model._prepare_generation_config(asked)
    new_tokens = config.max_new_tokens
    limits = (keywords.get("max_length"), getattr(given, "max_length", None), hf_model.generation_config.max_length)
    if new_tokens is None and all(limit is None for limit in limits):
        new_tokens = config.max_length  # the default counts new tokens
    if new_tokens is not None:
        config.max_length = input_ids.shape[1] + new_tokens
    return config


def _first_step(
    hf_model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    ready: tuple[Tensor, dict[str, Any]] | None = None,
    room: int | None = None,
    **state: Any,
) -> Prefilled:
    require_splittable(hf_model, generation_config)
    if room is not None and generation_config.max_length > room:
        raise StageError(f"the backend has room for {room} tokens, got {generation_config.max_length} from generate()")
    logits, state = ready or _forward(hf_model, input_ids, generation_config, state)
    unfinished = torch.ones(input_ids.shape[0], dtype=torch.long, device=input_ids.device)
    choice = logits_processor, stopping_criteria, generation_config
    sequences, unfinished = append_next_token(logits, input_ids, unfinished, choice)
    lengths = torch.ones_like(unfinished)
    return Prefilled(sequences, input_ids.shape[1], unfinished, lengths, (), state, *choice, hf_model=hf_model)


def _forward(
    hf_model: PreTrainedModel, input_ids: Tensor, generation_config: GenerationConfig, state: dict[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    if generation_config.prefill_chunk_size is None:
        outputs = hf_model._prefill(input_ids, generation_config, state)
    else:
        outputs = _forward_in_chunks(hf_model, input_ids, state, generation_config.prefill_chunk_size)
    kind = {"is_encoder_decoder": hf_model.config.is_encoder_decoder}  # some families have no default for it
    state = hf_model._update_model_kwargs_for_generation(outputs, state, **kind)
    # Needed by the first forward only; kept, they would hold the prompt's embeddings in memory while decoding.
    state.pop("inputs_embeds", None)
    return outputs.logits, state


def _forward_in_chunks(hf_model: PreTrainedModel, input_ids: Tensor, state: dict[str, Any], size: int) -> Any:
    """Prefill in chunks as transformers does, but of embeddings: chunks of token ids would lose the features."""
    if "inputs_embeds" not in state:
        raise StageError(f"prefill_chunk_size can't be split where the network embeds its prompt itself, got {size}")
    embeds, mask, positions = state["inputs_embeds"], state.get("attention_mask"), state.get("position_ids")
    for start in range(0, input_ids.shape[1], size):
        end = start + size
        chunk = state | {"inputs_embeds": embeds[:, start:end]}
        if mask is not None:
            chunk["attention_mask"] = mask[:, :end]
        if positions is not None:
            chunk["position_ids"] = positions[..., start:end]
        inputs = hf_model.prepare_inputs_for_generation(input_ids[:, start:end], is_first_iteration=True, **chunk)
        outputs = hf_model(**inputs, return_dict=True)
    return outputs


def require_splittable(hf_model: PreTrainedModel, generation_config: GenerationConfig) -> None:
    """Refuse all but greedy search and sampling, and more tokens than the model has positions."""
    mode = generation_config.get_generation_mode()
    if mode not in _SPLITTABLE:
        raise StageError(f"only greedy search and sampling can be split into stages, got {mode.value}")
    if generation_config.return_dict_in_generate:
        raise StageError("the split returns token ids only, got return_dict_in_generate=True")
    text, length = hf_model.config.get_text_config(), generation_config.max_length
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and length > positions:
        raise StageError(f"prompt and new tokens must fit the model's {positions} positions, got {length}")
