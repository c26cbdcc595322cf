"""The bytes that a stage can't do without: weights once a forward, and in decode the KV cache once a step."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch import nn

from stagebench.core.artifacts import Generation, Prefilled
from stagebench.core.stages import DECODE
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.decode import cache_of

P = ParamSpec("P")
R = TypeVar("R")


class BytesMoved:
    """Adds up the bytes of one pass, by stage; called like a `Stopwatch`.

    Activations are left out, and so is an embedding table, of which a token reads one row.

    Attributes:
        weight_bytes: by stage.
        kv_bytes: read back in decode: step k reads the cache of the prompt and of k tokens.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        self._parts = [each for each in model.hf_model.modules() if not isinstance(each, nn.Embedding)]
        self.weight_bytes: dict[str, int] = {}
        self.kv_bytes = 0
        self._prompt, self._position = 0, 0

    def __call__(self, stage: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function`, and note which weights it went through."""
        self.weight_bytes[stage] = 0

        def hook(module: nn.Module, _: Any) -> None:
            self.weight_bytes[stage] += sum(p.nbytes for p in module.parameters(recurse=False))

        handles = [part.register_forward_pre_hook(hook) for part in self._parts]
        try:
            result = function(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        if isinstance(result, Prefilled):
            cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache_of(result.state).layers)
            self._prompt, self._position = result.prompt_tokens, cache // result.prompt_tokens
        elif isinstance(result, Generation):
            self.kv_bytes = sum(self._position * (self._prompt + k) for k in range(1, result.steps + 1))
        return result

    def as_json(self) -> dict[str, dict[str, int]]:
        """Return bytes by stage, under the names "weights" and, in decode, "kv"."""
        both = {stage: {"weights": count} for stage, count in self.weight_bytes.items() if count}
        return both | {DECODE.name: {"weights": self.weight_bytes[DECODE.name], "kv": self.kv_bytes}}
