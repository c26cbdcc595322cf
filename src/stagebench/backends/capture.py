"""A function of tensors as one CUDA graph a shape: launched once instead of once a kernel."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.cuda import _POOL_HANDLE  # the type of what `graph_pool_handle` gives, which has no public name

from stagebench.core.artifacts import Work
from stagebench.core.errors import ModelError
from stagebench.models.tape import tensors_of
from stagebench.pipeline.counters import ADDITIVE, count_work
from stagebench.pipeline.timing import synchronize, without_collection

Function = Callable[..., Any]  # of tensors, by their names; what it gives may hold tensors in any structure
Pool = _POOL_HANDLE | None  # of the memory of graphs; a CPU has none
WARM_UPS = 2  # calls before the capture: in their first ones libraries choose kernels and allocate workspaces


class NotCapturableError(ModelError):
    """A function that reads values back to the host, which a graph would not do again."""


class Captured:
    """A function at one shape; whoever calls it fills its `inputs`. A CPU, which has no graphs, calls the function.

    `plain`, as its model has it, is called once to count its work, the forwards of `modules` too; `fast`, which gives
    the same, is what is captured. Examples of its arguments become the buffers. Functions that share a pool of memory
    never run at the same time. Raise NotCapturableError for one that waits for a value.
    """

    def __init__(
        self, plain: Function, fast: Function, inputs: dict[str, Tensor], modules: Mapping[str, nn.Module], pool: Pool
    ) -> None:
        device = next(iter(inputs.values())).device
        synchronize(device)
        before, start = _reserved(device), time.perf_counter()
        self.inputs, self.calls = inputs, 0
        self.work: Work = {}  # what one call does that no counter sees
        self._function = fast  # kept, because a graph goes on using the buffers that it owns
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
        self.output = output  # one buffer, written over and over
        self.seconds = time.perf_counter() - start  # that all of this took
        self.nbytes = max(0, _reserved(device) - before)  # until it is released; of a step also its KV cache

    def __call__(self) -> Any:
        """Run it on what is in the inputs; the output is good until the next call."""
        self.calls += 1
        self._replay()
        return self.output

    def release(self) -> None:
        """Free the graph and its buffers; how long it took and what it did stays known."""
        self.nbytes = 0
        self.inputs.clear()
        self.output = None
        del self._replay, self._function


def _copy(source: Any, target: Any) -> None:
    for mine, theirs in zip(tensors_of(target), tensors_of(source), strict=True):
        mine.copy_(theirs)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Let torch raise where the host would wait for the device, which would break a capture for good."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")  # as a test may make an error
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
    # Garbage is collected before: a graph of another model that went meanwhile would break the capture.
    with without_collection(), torch.cuda.graph(graph, pool=pool):
        output = function()
    return output, graph.replay


def _reserved(device: torch.device) -> int:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0
