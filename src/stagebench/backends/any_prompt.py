"""The call of any network's language model for a whole prompt, within `generate()`, each shape as one CUDA graph.

What `generate()` and the network do around that call is not captured: positions and masks that are read on the host,
inserting the features, the last token's logits.
"""

import copy
from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree  # with which transformers registers its outputs; it has no public name
from transformers import Cache, DynamicCache, masking_utils

from stagebench.backends.fixed_cache import tensors_of_cache

_PLAIN = (type(None), bool, int, float, str)  # arguments that are equal for all prompts of a shape


class _KnownPlaces(TorchFunctionMode):
    """Replaces a mask as an index by its known true places, because finding them makes the host wait."""

    def __init__(self, places: Mapping[int, tuple[Tensor, ...]]) -> None:
        super().__init__()
        self._places = places  # by the mask's `id`

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            tensor, index, *value = args
            parts = index if isinstance(index, tuple) else (index,)
            if any(id(part) in self._places for part in parts):
                known = tuple(place for part in parts for place in self._places.get(id(part), (part,)))
                args = (tensor, known, *value)
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True)
class PromptCall:
    """A language model's call for a prompt: the constant arguments of a graph, and the tensors of each prompt."""

    forward: Callable[..., Any]
    structure: pytree.TreeSpec  # of its arguments
    leaves: tuple[Any, ...]  # of these, None in place of each tensor and the cache
    cache_at: int  # index of the cache among them
    cache: DynamicCache  # empty when the call is made
    tensors: Mapping[str, Tensor]  # by index, and the true places in masks of tokens

    @classmethod
    def of(cls, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> "PromptCall | str":
        """Analyse a call; return the reason in a few words where it can't be captured."""
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2:
            if not mask.all():  # as `generate()` checks too
                return "rows of the prompt are padded"
            kwargs = kwargs | {"attention_mask": None}  # equivalent
        leaves, structure = pytree.tree_flatten((args, kwargs), is_leaf=_is_cache)
        caches = [i for i, leaf in enumerate(leaves) if _is_cache(leaf)]
        if len(caches) != 1 or not isinstance(leaves[caches[0]], DynamicCache) or leaves[caches[0]].get_seq_length():
            return "it must start with one empty DynamicCache"
        rest = tuple(None if isinstance(leaf, Tensor | Cache) else leaf for leaf in leaves)
        if other := [leaf for leaf in rest if not isinstance(leaf, _PLAIN)]:
            return f"its language model takes a {type(other[0]).__name__}"
        tensors = {str(i): leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        masks = [(name, tensor) for name, tensor in tensors.items() if tensor.dtype is torch.bool and tensor.ndim <= 2]
        for name, tensor in masks:
            tensors |= {f"{name}.{axis}": places for axis, places in enumerate(tensor.nonzero(as_tuple=True))}
        return cls(forward, structure, rest, caches[0], leaves[caches[0]], tensors)

    def kept(self) -> "PromptCall":
        """Return the call for a graph, with its own cache, which stays empty."""
        cache, device = copy.deepcopy(self.cache), next(iter(self.tensors.values())).device
        for layer in cache.layers:  # its host tensors would be copied in each run
            on_device = {name: each.to(device) for name, each in vars(layer).items() if isinstance(each, Tensor)}
            vars(layer).update(on_device)
        return replace(self, cache=cache)

    def key(self) -> Hashable:
        """Return everything in which graphs of prompts may differ."""
        shapes = [(name, tensor.shape, tensor.dtype) for name, tensor in self.tensors.items()]
        return repr((self.structure, self.leaves, shapes))

    def run(self, **tensors: Tensor) -> tuple[Any, DynamicCache, list[Tensor]]:
        """Call the language model with these tensors; return its output, the filled cache, and the cache's tensors."""
        cache, leaves = copy.deepcopy(self.cache), list(self.leaves)
        places: dict[int, tuple[Tensor, ...]] = {}
        for name, tensor in tensors.items():
            if "." not in name:
                leaves[int(name)] = tensor
                axes = [tensors[f"{name}.{axis}"] for axis in range(tensor.ndim) if f"{name}.{axis}" in tensors]
                places |= {id(tensor): tuple(axes)} if axes else {}
        leaves[self.cache_at] = cache
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        # During a capture transformers would make a mask that it omits elsewhere.
        known = _KnownPlaces(places) if places else nullcontext()  # torch.compile can't follow its `id`
        with known, patch.object(masking_utils, "is_tracing", lambda *_: False):
            output = self.forward(*args, **kwargs)
        return output, cache, tensors_of_cache(cache)

    def answered(self, output: Any, filled: DynamicCache) -> Any:
        """Return the output with the caller's own cache in it, filled with the same layers."""
        self.cache.layers = [_with_same_tensors(layer) for layer in filled.layers]
        return pytree.tree_map(lambda leaf: self.cache if leaf is filled else leaf, output, is_leaf=_is_cache)


def _is_cache(leaf: Any) -> bool:
    return isinstance(leaf, Cache)


def _with_same_tensors(layer: Any) -> Any:
    """Copy a layer without its tensors, so that a step that replaces them keeps the graph's."""
    held = [each for part in vars(layer).values() for each in (part.values() if isinstance(part, dict) else [part])]
    return copy.deepcopy(layer, {id(tensor): tensor for tensor in held if isinstance(tensor, Tensor)})
