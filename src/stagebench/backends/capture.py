"""A function of tensors as one CUDA graph a shape: launched once instead of once a kernel."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.cuda import _POOL_HANDLE  # the type of what `graph_pool_handle` gives, which has no public name

from stagebench.core.artifacts import Work
from stagebench.pipeline.counters import ADDITIVE, count_work
from stagebench.pipeline.timing import synchronize

WARM_UPS = 2  # calls before the capture: in their first ones libraries choose kernels and allocate workspaces


@dataclass(slots=True, eq=False)
class Captured:
    """A function at one shape."""

    inputs: dict[str, Tensor]  # the buffers that it reads, by name; whoever calls it fills them
    output: Tensor  # the buffer that it writes, over and over
    work: (
        Work  # what one call does that no counter sees, counted on the plain function; empty where it is called itself
    )
    seconds: float  # that all of this took
    nbytes: int  # by which the device's memory grew, until it is released; of a step also its KV cache
    _replay: Callable[[], object]
    _function: Callable[..., Tensor]  # kept, because a graph goes on using the buffers that it owns
    calls: int = 0

    def __call__(self) -> Tensor:
        """Run it on what is in the inputs; the output is good until the next call."""
        self.calls += 1
        self._replay()
        return self.output

    def release(self) -> None:
        """Free the graph and its buffers; how long it took and what it did stays known."""
        self.nbytes = 0
        self.inputs.clear()
        self.output = self.output.new_empty(0)
        del self._replay, self._function


def capture(
    plain: Callable[..., Tensor],
    fast: Callable[..., Tensor],
    inputs: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    pool: _POOL_HANDLE | None,
) -> Captured:
    """Prepare a function for one shape. On a CPU, which has no graphs, calling it calls the function.

    `plain`, as its model has it, is called once to count its work, the forwards of `modules` too; `fast`, which gives
    the same, is what is captured. The examples of its arguments in `inputs` become the buffers. Functions that share a
    pool of memory never run at the same time.
    """
    device = next(iter(inputs.values())).device
    synchronize(device)
    before, start = _reserved(device), time.perf_counter()
    work: Work = {}
    with torch.no_grad():
        output, counted, _ = count_work(lambda: plain(**inputs), modules)
        if device.type == "cuda":
            work = {name: n for name, n in counted.items() if name in ADDITIVE}
            output, replay = _as_graph(lambda: fast(**inputs), pool)
        else:
            replay = _as_call(lambda: fast(**inputs), output)
    synchronize(device)
    seconds, nbytes = time.perf_counter() - start, max(0, _reserved(device) - before)
    return Captured(dict(inputs), output, work, seconds, nbytes, replay, fast)


def _as_graph(function: Callable[[], Tensor], pool: _POOL_HANDLE | None) -> tuple[Tensor, Callable[[], object]]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        output = function()
    return output, graph.replay


def _as_call(function: Callable[[], Tensor], output: Tensor) -> Callable[[], object]:
    """Write each result into one buffer, as a graph does."""
    return lambda: output.copy_(function())


def _reserved(device: torch.device) -> int:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0
