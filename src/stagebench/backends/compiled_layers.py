"""The repeated layers of a network run compiled: each kind of them is compiled once, however many there are.

Compiled as one function, 32 decoder layers take the compiler a minute and a half. One by one they would be compiled as
often as there are layers, because each knows its own number, and the cache's tensors by their addresses; so a layer is
given a cache of its own layer only, in which every layer is the first. accelerate's `compile_regions` does not do that:
with 4 layers each in tower and decoder it compiles 20 functions where 3 are enough, and most of 7B's 32 one by one.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from stagebench.backends.static_cache import CACHE_ARGUMENT
from stagebench.core.errors import ModelError

_RECORDERS = "transformers.utils.output_capturing"  # its hooks record what nobody asks for here


@contextmanager
def compiled_layers(hf_model: nn.Module, options: Mapping[str, Any]) -> Iterator[None]:
    """Let a network's repeated layers, of its towers too, run compiled inside the block; nothing else may use it then.

    They are transformers' `GradientCheckpointingLayer`s; the options are the compiler's. Raise ModelError for a hook
    inside a layer, which the code compiled for all of them would not have.
    """
    layers = [layer for layer in hf_model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    inside = [module for layer in layers for module in layer.modules() if module is not layer]
    for module in inside:
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            if getattr(hook, "__module__", None) != _RECORDERS:
                raise ModelError(f"a compiled layer takes no hooks inside, got {hook} on a {type(module).__name__}")
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
            raise ModelError(f"a compiled layer takes its cache as {CACHE_ARGUMENT}, got it under another name")
        return compiled(*args, **kwargs | {name: _alone(cache, number) for name, cache in given.items()})

    return forward


def _alone(cache: Cache, number: int) -> Cache:
    """Return a cache that holds one layer of another, in the same memory."""
    layer = copy.copy(cache.layers[number])
    for name in (
        "keys",
        "values",
        "cumulative_length",
    ):  # new tensor objects, because transformers has marked the others as fixed addresses
        setattr(layer, name, getattr(layer, name).detach())
    alone = copy.copy(cache)
    alone.layers = [layer]
    return alone
