"""The repeated layers of a network run compiled: each kind of them is compiled once, however many there are.

Compiled as one function, 32 decoder layers take the compiler a minute and a half. One by one they would be compiled as
often as there are layers, because each knows its own number, and the cache's tensors by their addresses; so a layer is
given a cache of its own layer only, in which every layer is the first.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from stagebench.backends.static import CACHE_ARGUMENT

_NUMBER = "layer_idx"
_HELD = ("keys", "values", "cumulative_length")


@contextmanager
def compiled_layers(network: nn.Module, options: Mapping[str, Any]) -> Iterator[None]:
    """Let a network's repeated layers, of its towers too, run compiled inside the block.

    Args:
        network: as transformers builds it: a repeated layer is a `GradientCheckpointingLayer` there.
        options: of the compiler.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, GradientCheckpointingLayer)]
    numbered = {module: module.layer_idx for layer in layers for module in layer.modules() if hasattr(module, _NUMBER)}
    hooked = {module: module._forward_hooks for layer in layers for module in layer.modules() if module is not layer}
    try:
        for layer in layers:
            number = next((numbered[module] for module in layer.modules() if module in numbered), 0)
            layer.forward = _forward(layer, number, options)
        for module in numbered:
            module.layer_idx = 0
        for module in hooked:  # transformers' record what nobody asks for here, in a way that torch 2.11 can't compile
            module._forward_hooks = OrderedDict()
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)  # the class's own again
        for module, number in numbered.items():
            module.layer_idx = number
        for module, hooks in hooked.items():
            module._forward_hooks = hooks


def _forward(layer: nn.Module, number: int, options: Mapping[str, Any]) -> Callable[..., Any]:
    compiled = torch.compile(layer.forward, fullgraph=True, dynamic=False, options=dict(options))

    def forward(*args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get(CACHE_ARGUMENT)
        return compiled(*args, **kwargs | ({} if cache is None else {CACHE_ARGUMENT: _alone(cache, number)}))

    return forward


def _alone(cache: Cache, number: int) -> Cache:
    """A cache that holds one layer of another, in the same memory."""
    layer = copy.copy(cache.layers[number])
    for name in _HELD:  # new tensor objects, because transformers has marked the others as fixed addresses
        setattr(layer, name, getattr(layer, name).detach())
    alone = copy.copy(cache)
    alone.layers = [layer]
    return alone
