"""The language model over a static KV cache, in two functions that can be captured: a prompt, and a decode step."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, GenerationMixin, PreTrainedModel, StaticCache
from transformers.cache_utils import DynamicLayer, StaticLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_layers import GradientCheckpointingLayer

from stagebench.backends.capture import NotCapturableError
from stagebench.core.errors import ModelError
from stagebench.models.protocol import CACHE_ARGUMENT

# transformers' torch attention under a name for which it makes no mask; attention is then causal by itself.
_MASKLESS = "sdpa_without_mask"

# Methods that networks with their own positions or masks override.
_OF_GENERATION = ("_prepare_position_ids_for_generation", "create_masks_for_generate")

AttentionInterface.register(_MASKLESS, sdpa_attention_forward)


def why_not_static(hf_model: PreTrainedModel) -> str | None:
    """Return what counted positions and a causal mask need and a language model lacks; None for nothing."""
    kind, plain = type(hf_model), GenerationMixin
    own = any(getattr(kind, name, None) is not getattr(plain, name, None) for name in _OF_GENERATION)
    text = hf_model.config.get_text_config()
    kinds = {type(layer).__name__ for layer in StaticCache(config=hf_model.config, max_cache_len=1).layers}
    if kinds != {StaticLayer.__name__}:
        return f"layers that attend to all tokens, got a cache of {', '.join(sorted(kinds))}"
    if own or hf_model.config.is_encoder_decoder:
        return f"positions that count the tokens, and a causal mask, got those of a {type(hf_model).__name__}"
    if getattr(text, "cross_attention_layers", None):
        return f"layers that attend to the text, got layers {text.cross_attention_layers} of cross-attention"
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in ("dynamic", "longrope"):  # padding would change their frequencies
        return f"a rotary embedding that is the same for all lengths, got {rope}"
    return None


def static_cache(hf_model: PreTrainedModel, batch: int, length: int) -> StaticCache:
    """Allocate an empty cache for the keys and values of `batch` rows of `length` tokens."""
    text = hf_model.config.get_text_config()
    cache = StaticCache(config=hf_model.config, max_cache_len=length)
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache.early_initialization(batch, text.num_key_value_heads, size, hf_model.dtype, hf_model.device)
    return cache


def growing(cache: Cache) -> list[StaticLayer]:
    """Return the layers that grow by one token in a step; all have the same length."""
    return [layer for layer in cache.layers if isinstance(layer, StaticLayer)]


def set_length(cache: Cache, length: Tensor) -> None:
    """Set the number of tokens in the cache: int64, no dimensions, on its device."""
    lengths = [layer.cumulative_length for layer in growing(cache)]
    torch._foreach_copy_(lengths, [length] * len(lengths))


class _PromptCache(Cache):  # type: ignore[misc] # transformers' class is untyped
    """A static cache that appears empty, so that attention stays in the prompt and needs only the causal mask."""

    def __init__(self, cache: StaticCache) -> None:
        super().__init__(layers=cache.layers)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        layer, tokens = self.layers[layer_idx], key_states.shape[2]
        layer.keys[:, :, :tokens].copy_(key_states)
        layer.values[:, :, :tokens].copy_(value_states)
        layer.keys[:, :, tokens:].zero_()  # a masked NaN of an earlier text would still give NaN
        layer.values[:, :, tokens:].zero_()
        return key_states, value_states


def prompt_logits(hf_model: PreTrainedModel, cache: StaticCache, embeds: Tensor, length: Tensor) -> Tensor:
    """Run a prompt, and overwrite the cache with its keys and values; return the last token's logits.

    The embeddings (batch, tokens, hidden size) are padded on the right, where causal attention hides them. The length,
    int64 (1,), is that of all rows without padding. The logits are (batch, 1, vocabulary).
    """
    positions = torch.arange(embeds.shape[1], device=embeds.device).unsqueeze(0)
    state = {CACHE_ARGUMENT: _PromptCache(cache), "use_cache": True, "logits_to_keep": length - 1}
    config = hf_model.config.get_text_config()
    with patch.dict(vars(config)):
        if config._attn_implementation == "sdpa":
            # During a capture transformers would make a causal mask, which flash attention does not take.
            config._attn_implementation = {"": _MASKLESS}  # of the text model, not of a tower
        logits: Tensor = hf_model(inputs_embeds=embeds, position_ids=positions, **state).logits
    set_length(cache, length[0])  # the padding's keys and values are overwritten before any use
    return logits


def step_logits(hf_model: PreTrainedModel, cache: StaticCache, tokens: Tensor) -> Tensor:
    """Run one more token of each row, int64 (batch, 1), and extend the cache by one: (batch, 1, vocabulary)."""
    position = cache.layers[0].cumulative_length.clone()  # the layers add to theirs
    slots = torch.arange(cache.layers[0].max_cache_len, device=tokens.device)
    mask = (slots <= position).expand(tokens.shape[0], 1, 1, -1)  # true where a slot is visible
    if hf_model.config.get_text_config()._attn_implementation != "sdpa":  # eager attention adds the mask to its scores
        mask = torch.zeros_like(mask, dtype=hf_model.dtype).masked_fill(~mask, torch.finfo(hf_model.dtype).min)
    positions = position.expand(tokens.shape[0], 1)
    state = {CACHE_ARGUMENT: cache, "use_cache": True}
    logits: Tensor = hf_model(input_ids=tokens, attention_mask=mask, position_ids=positions, **state).logits
    return logits


@contextmanager
def compiled_layers(hf_model: nn.Module, options: Mapping[str, Any]) -> Iterator[None]:
    """Run a network's repeated layers, also its towers', compiled in the block; nothing else may use the network then.

    Each kind of layer is compiled once. In one function, 32 decoder layers take 90 s to compile. One by one, each would
    be compiled separately, because code depends on a layer's number and the addresses of the cache. So each layer gets
    a cache of its own layer only, in which every layer is the first. With 4 layers each in tower and decoder,
    accelerate's `compile_regions` compiles 20 functions where 3 are enough. Raise ModelError for a hook inside a layer,
    which the compiled code would not call.
    """
    layers = [layer for layer in hf_model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    inside = [module for layer in layers for module in layer.modules() if module is not layer]
    for module in inside:
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            # transformers' own hooks record outputs that nothing here requests.
            if getattr(hook, "__module__", None) != "transformers.utils.output_capturing":
                raise ModelError(f"a compiled layer can't have hooks inside, got {hook} on a {type(module).__name__}")
    with ExitStack() as put_back:
        for module in (*layers, *inside):
            put_back.enter_context(patch.dict(vars(module)))
        for layer in layers:
            number = next((module.layer_idx for module in layer.modules() if hasattr(module, "layer_idx")), 0)
            layer.forward = _forward(layer, number, options)
        for module in inside:
            module._forward_hooks = OrderedDict()  # torch 2.11 can't compile the recorders
            if hasattr(module, "layer_idx"):
                module.layer_idx = 0
        yield


def _forward(layer: nn.Module, number: int, options: Mapping[str, Any]) -> Callable[..., Any]:
    compiled = torch.compile(layer.forward, fullgraph=True, dynamic=False, options=dict(options))

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = {name: value for name, value in kwargs.items() if isinstance(value, Cache)}
        if set(given) - {CACHE_ARGUMENT} or any(isinstance(value, Cache) for value in args):
            raise ModelError(f"a compiled layer must get its cache as {CACHE_ARGUMENT}, got another name")
        alone = {name: _alone(cache, number) for name, cache in given.items()}
        try:
            output = compiled(*args, **kwargs | alone)
        except torch._dynamo.exc.TorchDynamoException as error:
            why = str(error).partition("\n")[0]
            raise NotCapturableError(f"a {type(layer).__name__} can't be compiled: {why}") from error
        for name, cache in given.items():
            if isinstance(grown := cache.layers[number], DynamicLayer):  # it gets new tensors, not new contents
                vars(grown).update(vars(alone[name].layers[0]))
        return output

    return forward


def _alone(cache: Cache, number: int) -> Cache:
    """Return a cache with one layer of another, in the same memory."""
    layer = copy.copy(cache.layers[number])
    for name, each in vars(layer).items():
        if isinstance(each, Tensor):
            setattr(layer, name, each.detach())  # a new object, not marked as a fixed address
    alone = copy.copy(cache)
    alone.layers = [layer]
    return alone
