"""A function of tensors as one CUDA graph per shape: one launch instead of one per kernel."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.cuda import _POOL_HANDLE  # the type of `graph_pool_handle()`, without a public name

from stagebench.core.artifacts import Work
from stagebench.core.errors import ModelError
from stagebench.models.tape import tensors_of
from stagebench.pipeline.counters import ADDITIVE, count_work
from stagebench.pipeline.timing import synchronize, without_collection

Function = Callable[..., Any]  # of tensors by name; its output may hold tensors in any structure
Pool = _POOL_HANDLE | None  # memory of graphs; None on a CPU
WARM_UPS = 2  # calls before the capture, in which libraries choose kernels and allocate workspaces


class NotCapturableError(ModelError):
    """A function that reads values on the host, which a graph would not repeat, or that can't be compiled."""


class Captured:
    """A function at one shape, as a graph on a GPU and a plain call on a CPU; the caller fills its `inputs`.

    `plain`, the model's own code, is called once to count its work and the forwards of `modules`. `fast`, with equal
    outputs, is captured. The example arguments become its buffers. Functions that share a memory pool must never run at
    the same time. Raise NotCapturableError for a function that waits for a value.
    """

    def __init__(
        self, plain: Function, fast: Function, inputs: dict[str, Tensor], modules: Mapping[str, nn.Module], pool: Pool
    ) -> None:
        device = next(iter(inputs.values())).device
        synchronize(device)
        before, start = _reserved(device), time.perf_counter()
        self.inputs, self.calls = inputs, 0
        self.work: Work = {}  # of one call, which no counter sees
        self._function = fast  # keeps the buffers that the graph uses
        with torch.no_grad():
            output, counted = count_work(lambda: plain(**inputs), modules)
            if n := counted["host_reads"]:
                raise NotCapturableError(f"it reads {'a value' if n == 1 else f'{n} values'} on the host")
            if device.type == "cuda":
                self.work = {name: n for name, n in counted.items() if name in ADDITIVE}
                output, self._replay = _as_graph(lambda: fast(**inputs), pool)
            else:
                self._replay = lambda: _copy(fast(**inputs), output)
        synchronize(device)
        self.output = output  # one buffer, overwritten by each call
        self.seconds = time.perf_counter() - start  # of the whole set-up
        self.nbytes = max(0, _reserved(device) - before)  # until it is released; a step's include its KV cache

    def __call__(self) -> Any:
        """Run it on the current `inputs`; the output is valid until the next call."""
        self.calls += 1
        self._replay()
        return self.output

    def release(self) -> None:
        """Free the graph and its buffers; keep its set-up time and its work."""
        self.nbytes = 0
        self.inputs.clear()
        self.output = None
        del self._replay, self._function


def _copy(source: Any, target: Any) -> None:
    for mine, theirs in zip(tensors_of(target), tensors_of(source), strict=True):
        mine.copy_(theirs)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Raise where the host would wait for the device, which would break a capture beyond recovery."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Synchronization debug mode is a prototype"
        )  # tests turn warnings into errors
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        raise NotCapturableError("it waits for the device") from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _as_graph(function: Callable[[], Any], pool: Pool) -> tuple[Any, Callable[[], object]]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for i in range(WARM_UPS):
            with _no_waiting() if i else nullcontext():
                function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Without collection: destroying another model's graph meanwhile would break the capture.
    with without_collection(), torch.cuda.graph(graph, pool=pool):
        output = function()
    return output, graph.replay


def _reserved(device: torch.device) -> int:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0
