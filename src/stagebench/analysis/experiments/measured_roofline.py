"""Measure both sides of a roofline: this machine's highest rates, and the bytes that a stage must read."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from stagebench.analysis.samples import Ceilings
from stagebench.core.artifacts import Generation, Prefilled
from stagebench.core.settings import ModelSettings
from stagebench.core.stages import DECODE
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.decode import cache_of
from stagebench.pipeline.timing import Stopwatch

P = ParamSpec("P")
R = TypeVar("R")

ROUNDS = 7
COPY_BYTES = 2**28, 2**30  # on a CPU and elsewhere: far more than any cache
MATMUL_SIDE = 1024, 8192  # on a CPU and elsewhere: large enough to keep all units busy


def measure_ceilings(settings: ModelSettings) -> Ceilings:
    """Return the best rates of a copy and a matrix product, in the models' dtype, within `pinned_runtime`."""
    device = torch.device(settings.device)
    multiply, flops = matmul_workload(device, getattr(torch, settings.dtype))
    rate = flops / _fastest(multiply, device)
    copy, nbytes = copy_workload(device)
    return Ceilings(flops=rate, bandwidth=nbytes / _fastest(copy, device), bandwidth_kind="copy")


def copy_workload(device: torch.device) -> tuple[Callable[[], object], int]:
    """Return a copy within the device's memory, and its bytes read and written."""
    size = COPY_BYTES[device.type != "cpu"]
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)  # zeros may move faster
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * size


def matmul_workload(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """Return a product of two square matrices, and its FLOPs."""
    side = MATMUL_SIDE[device.type != "cpu"]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    return lambda: torch.matmul(a, b, out=product), 2 * side**3


def _fastest(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest round after a warm-up."""
    watch, times = Stopwatch(device), []
    for _ in range(ROUNDS + 1):
        watch("round", function)
        times.append(watch.seconds["round"])
    return min(times[1:])


class BytesMoved:
    """Counts the bytes of one pass by stage: weights once per forward, and in decode the KV cache once per step.

    It is called like a `Stopwatch`. Step k reads the cache of the prompt and of k tokens. Activations are left out, and
    so are embedding tables, of which a token reads one row.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        self._parts = [each for each in model.hf_model.modules() if not isinstance(each, nn.Embedding)]
        self.weight_bytes: dict[str, int] = {}
        self.kv_bytes = 0
        self._prompt, self._position = 0, 0

    def __call__(self, stage: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function`, and count the weights that it uses."""
        self.weight_bytes[stage] = 0

        def hook(module: nn.Module, _: Any) -> None:
            self.weight_bytes[stage] += sum(p.nbytes for p in module.parameters(recurse=False))

        with ExitStack() as stack:
            for part in self._parts:
                stack.enter_context(part.register_forward_pre_hook(hook))
            result = function(*args, **kwargs)
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
