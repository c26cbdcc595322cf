"""A copy of a network's KV cache at fixed addresses, with room for a text and any kind of layers.

The keys of a full window move up by one in each step, in the order of `generate()`. Where rows are padded, a window
layer gets all slots, and the network's own mask hides the others. Layers not known to compute the same are refused by
name.
"""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer, StaticLayer

from stagebench.backends.static_cache import set_length
from stagebench.core.errors import ModelError

# Of `layer_types`: layers with masks that depend on positions alone, or with states of one size.
_KNOWN = ("full_attention", "sliding_attention", "linear_attention", "conv")


class _CrossAttentionLayer(DynamicLayer):  # type: ignore[misc] # transformers' class is untyped
    """Cross-attention keys and values, which no step extends."""

    is_compileable = True  # so that masks are made as for a static cache


class _WindowLayer(StaticLayer):  # type: ignore[misc] # transformers' class is untyped
    """The keys and values of a window of last tokens; when it is full, they move up by one in each step."""

    is_sliding = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        full, slot, slots = self.cumulative_length >= self.max_cache_len, self.slot(), self.max_cache_len
        moved = (torch.arange(slots, device=slot.device) + full).clamp(max=slots - 1)
        for kept, new in ((self.keys, key_states), (self.values, value_states)):
            kept.copy_(kept.index_select(2, moved)).index_copy_(2, slot.view(1), new)
        self.cumulative_length.add_(1)
        return self.keys, self.values

    def slot(self) -> Tensor:
        """Return the slot of the next token: int64, no dimensions."""
        slot: Tensor = self.cumulative_length.clamp(max=self.max_cache_len - 1)
        return slot


class _FixedCache(Cache):  # type: ignore[misc] # transformers' class is untyped
    """A cache with masks by slot: in a full window the last slot counts as the last position."""

    def get_query_offset(self, layer_idx: int = 0) -> Tensor:
        layer = self.layers[layer_idx]
        return layer.slot() if isinstance(layer, _WindowLayer) else super().get_query_offset(layer_idx)


def why_not_fixed(hf_model: PreTrainedModel) -> str | None:
    """Return what a fixed cache needs and the config lacks; None where nothing is missing."""
    text = hf_model.config.get_text_config(decoder=True)
    if hf_model.config.is_encoder_decoder:
        return "a decoder alone, got one with an encoder of texts"
    if getattr(text, "attention_chunk_size", None):
        return f"attention in one piece, got chunks of {text.attention_chunk_size}"
    others = sorted(set(getattr(text, "layer_types", None) or ()) - set(_KNOWN))
    return f"layers of {', '.join(_KNOWN)}, got {', '.join(others)}" if others else None


def fixed(cache: Cache, slots: int, hf_model: PreTrainedModel, moves: bool) -> Cache:
    """Return an empty fixed cache with `slots`, or a window's own if it `moves`; refuse unknown layers by name."""
    across = cross_attention_layers(cache, hf_model)
    layers = [_fixed(layer, slots, layer in across, moves) for layer in cache.layers]
    if not any(isinstance(layer, StaticLayer) for layer in layers):
        raise ModelError("a graph needs layers that attend to tokens, got none")
    return _FixedCache(layers=layers)


def cross_attention_layers(cache: Cache, hf_model: PreTrainedModel) -> list[Any]:
    """Return the cross-attention layers, which no step extends."""
    numbers = getattr(hf_model.config.get_text_config(decoder=True), "cross_attention_layers", None) or ()
    return [cache.layers[i] for i in numbers]


def _fixed(layer: Any, slots: int, across: bool, moves: bool) -> Any:
    if type(layer) is LinearAttentionLayer:
        return copy.deepcopy(layer)  # its states have one size, and are updated in place
    if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) or not layer.is_initialized:
        raise ModelError(f"a graph needs layers that attend to tokens, got a {type(layer).__name__}")
    window = layer.sliding_window if moves and type(layer) is DynamicSlidingWindowLayer else slots
    window = slots if window == 1 else window  # transformers keeps all keys of such a window
    made = _CrossAttentionLayer() if across else _WindowLayer(window) if window < slots else StaticLayer(slots)
    made.lazy_initialization(layer.keys, layer.values)
    if across:
        made.keys, made.values = layer.keys.clone(), layer.values.clone()
    return made


def fill(into: Cache, cache: Cache, length: int) -> None:
    """Copy the cache of a prompt of `length` tokens, and zero all slots without a token."""
    targets, sources, empty = [], [], []
    for layer, source in zip(into.layers, cache.layers, strict=True):
        for mine, theirs in zip(_tensors(layer), _tensors(source), strict=True):
            if isinstance(layer, StaticLayer):
                end = min(length, mine.shape[2])
                start = end - theirs.shape[2]  # 0, or the start of a window
                empty += [mine[:, :, :start], mine[:, :, end:]]  # a masked NaN would still give NaN
                mine = mine[:, :, start:end]
            targets.append(mine)
            sources.append(theirs)
    torch._foreach_copy_(targets, sources)
    torch._foreach_zero_([part for part in empty if part.numel()])
    set_length(into, torch.tensor(length, device=targets[0].device))


def hides(cache: Cache, slots: int) -> bool:
    """Return whether a layer attends to fewer tokens than `slots`."""
    windows = [layer.sliding_window for layer in cache.layers if isinstance(layer, DynamicSlidingWindowLayer)]
    return any(window < slots for window in windows)


def forgets(cache: Cache) -> bool:
    """Return whether a step can't be undone: some layers keep one state for all tokens, or the last tokens alone."""
    return any(isinstance(layer, LinearAttentionLayer | _WindowLayer) for layer in cache.layers)


def tensors_of_cache(cache: Cache) -> list[Tensor]:
    """Return all tensors that a cache keeps between steps."""
    return [tensor for layer in cache.layers for tensor in _tensors(layer)]


def _tensors(layer: Any) -> list[Tensor]:
    if isinstance(layer, LinearAttentionLayer):
        states = (*layer.conv_states.values(), *layer.recurrent_states.values())
        return [state for state in states if state is not None]
    return [layer.keys, layer.values]
