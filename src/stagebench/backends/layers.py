"""The repeated layers of a network run compiled: each kind of them is compiled once, however many there are.

Compiled as one function, 32 decoder layers take the compiler a minute and a half. One by one they would be compiled as
often as there are layers, because each knows its own number, and the cache's tensors by their addresses; so a layer is
given a cache of its own layer only, in which every layer is the first.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from stagebench.backends.static import CACHE_ARGUMENT
from stagebench.core.errors import ModelError

_RECORDERS = "transformers.utils.output_capturing"
_NUMBER = "layer_idx"
_HELD = ("keys", "values", "cumulative_length")


@contextmanager
def compiled_layers(hf_model: nn.Module, options: Mapping[str, Any]) -> Iterator[None]:
    """Let a network's repeated layers, of its towers too, run compiled inside the block; nothing else may use it then.

    Args:
        hf_model: as transformers builds it: a repeated layer is a `GradientCheckpointingLayer` there.
        options: of the compiler.

    Raises:
        ModelError: for a hook inside a layer, which the code compiled for all of them would not have.
    """
    layers = [layer for layer in hf_model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    own = {layer: vars(layer)["forward"] for layer in layers if "forward" in vars(layer)}
    numbered = {module: module.layer_idx for layer in layers for module in layer.modules() if hasattr(module, _NUMBER)}
    hooked = {module: module._forward_hooks for layer in layers for module in layer.modules() if module is not layer}
    for module, hooks in hooked.items():
        _refuse_hooks(module, [*hooks.values(), *module._forward_pre_hooks.values()])
    try:
        for layer in layers:
            number = next((numbered[module] for module in layer.modules() if module in numbered), 0)
            layer.forward = _forward(layer, number, options)
        for module in numbered:
            module.layer_idx = 0
        for module in hooked:  # torch 2.11 can't compile the recorders
            module._forward_hooks = OrderedDict()
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)  # the class's own again
            vars(layer).update({"forward": own[layer]} if layer in own else {})
        for module, number in numbered.items():
            module.layer_idx = number
        for module, hooks in hooked.items():
            module._forward_hooks = hooks


def _refuse_hooks(module: nn.Module, hooks: Sequence[Callable[..., Any]]) -> None:
    """Only transformers' own may be there, which record what nobody asks for here."""
    for hook in hooks:
        if getattr(hook, "__module__", None) != _RECORDERS:
            raise ModelError(f"a compiled layer takes no hooks inside, got {hook} on a {type(module).__name__}")


def _forward(layer: nn.Module, number: int, options: Mapping[str, Any]) -> Callable[..., Any]:
    compiled = torch.compile(layer.forward, fullgraph=True, dynamic=False, options=dict(options))

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = {name: value for name, value in kwargs.items() if isinstance(value, Cache)}
        if set(given) - {CACHE_ARGUMENT} or any(isinstance(value, Cache) for value in args):
            raise ModelError(f"a compiled layer takes its cache as {CACHE_ARGUMENT}, got it under another name")
        return compiled(*args, **kwargs | {name: _alone(cache, number) for name, cache in given.items()})

    return forward


def _alone(cache: Cache, number: int) -> Cache:
    """A cache that holds one layer of another, in the same memory."""
    layer = copy.copy(cache.layers[number])
    for name in _HELD:  # new tensor objects, because transformers has marked the others as fixed addresses
        setattr(layer, name, getattr(layer, name).detach())
    alone = copy.copy(cache)
    alone.layers = [layer]
    return alone
