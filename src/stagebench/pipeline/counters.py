"""Count the work of each stage in a separate pass, never while timing, and digest its output.

A digest shows a change of content that counts do not. Frames, pixels, prompts and tokens have a hash: 16 hex digits of
the SHA-256 over type, shape and bytes. Features have a sketch, because other kernels round differently.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor, _tensor_str, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from stagebench.core import meter
from stagebench.core.artifacts import Features, Generation, Inputs, Media, Prefilled, Sample, Work
from stagebench.core.errors import StageError
from stagebench.core.stages import DECODE, LOAD, STAGE, STAGES
from stagebench.models.protocol import Backend, VisionLanguageModel
from stagebench.pipeline.run_stages import Options, run_stages

Content = dict[str, str | list[float]]
Result = Media | Inputs | Features | Prefilled | Generation  # the output of a stage
SKETCHED = 15  # numbers of a sketch after the first

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", bound=Result)

_OWNED = tuple(dict.fromkeys(name for stage in STAGES for name in stage.own))  # not any stage may change them

ADDITIVE = (*dict.fromkeys(name for stage in STAGES if stage.in_generate for name in stage.counters), "flops")
"""Counters with a sum over the stages that equals the count of one `generate()`."""

_HOST_READS = ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.is_nonzero.default")
"""Operators that read a value on the host, which waits for the device."""


@contextmanager
def counted_forwards(modules: Mapping[str, nn.Module]) -> Iterator[Work]:
    """Count the forwards of the named modules, and the tower's images, in the block."""
    counts: Work = {f"{role}_forwards": 0 for role in modules} | {"images_encoded": 0}

    def count(role: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        counts[f"{role}_forwards"] += 1
        if role == "tower":
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            # Where the patches of several images are concatenated, the grids have one row per image.
            grids = [tensor for tensor in tensors if tensor.ndim == 2 and not tensor.is_floating_point()]
            counts["images_encoded"] += (grids or tensors)[0].shape[0]

    with ExitStack() as hooks:
        for role, module in modules.items():
            hooks.enter_context(module.register_forward_pre_hook(partial(count, role), with_kwargs=True))
        yield counts


@contextmanager
def counted_calls() -> Iterator[Work]:
    """Count the pixels that Pillow makes by resizing, and the tensors formatted as text, in the block."""
    counts: Work = {"resized_pixels": 0, "tensors_formatted": 0}
    plain, to_text = Image.Image.resize, cast(Callable[..., str], _tensor_str._str)

    def resize(image: Image.Image, size: tuple[int, int], *args: Any, **kwargs: Any) -> Image.Image:
        if tuple(size) != image.size or args[1:] or kwargs.get("box"):
            counts["resized_pixels"] += math.prod(size)
        return plain(image, size, *args, **kwargs)

    def text(*args: Any, **kwargs: Any) -> str:
        counts["tensors_formatted"] += 1
        return to_text(*args, **kwargs)

    # Formatting a tensor hides its reads from dispatch modes.
    with patch.object(Image.Image, "resize", resize), patch.object(_tensor_str, "_str", text):
        yield counts


class OperatorCounter(TorchDispatchMode):
    """Counts ATen operators by name, bytes copied from the host to a device, and pixels made by resizing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # unannotated in torch, and super() names no module
        self.operators: Counter[str] = Counter()
        self.host_to_device_bytes = 0
        self.resized_pixels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operators[str(func)] += 1
        copied = [a for a in args[:2] if isinstance(a, Tensor)]  # copy_ has its source second
        if isinstance(result, Tensor) and result.is_cuda and copied and not copied[-1].is_cuda:
            self.host_to_device_bytes += copied[-1].nbytes
        if "upsample_" in str(func) and result.ndim == 4 and result.shape[1] == 3:  # images, not position embeddings
            self.resized_pixels += result.numel() // 3
        return result


def count_work(function: Callable[[], T], modules: Mapping[str, nn.Module] | None = None) -> tuple[T, Work]:
    """Call a function; return its result, and counters of the work of modules and of torch.

    On a GPU they include `host_to_device_bytes` and `peak_bytes`. FLOPs are those that `FlopCounterMode` knows: matrix
    products, convolutions, and the attention kernels of a GPU.
    """
    operators, flops = OperatorCounter(), FlopCounterMode(display=False)
    on_gpu = torch.cuda.is_initialized()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with counted_forwards(modules or {}) as forwards, flops, operators:
        result = function()
    work = forwards | {
        "aten_operators": operators.operators.total(),
        "flops": int(flops.get_total_flops()),
        "host_reads": sum(operators.operators[name] for name in _HOST_READS),
        "resized_pixels": operators.resized_pixels,
    }
    if on_gpu:
        work["host_to_device_bytes"] = operators.host_to_device_bytes
        work["peak_bytes"] = torch.cuda.max_memory_allocated()
    return result, work


class WorkCounter:
    """Counts each stage's work in a pass, replays by the backend's count, and digests outputs, as a `Stopwatch`."""

    def __init__(self, modules: Mapping[str, nn.Module], backend: Backend | None = None) -> None:
        self.modules = modules
        self.replayed = dict[str, int] if backend is None else backend.replayed
        self.work: dict[str, Work] = {}
        self.content: dict[str, Content] = {}

    def __call__(self, stage: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function`, and record its work."""
        replayed, metered = self.replayed(), meter.so_far()
        with counted_calls() as calls:
            system = meter.system()
            result, work = count_work(lambda: function(*args, **kwargs), self.modules)
            of_files = meter.system_since(system)
        seen, done = Counter(work), meter.since(metered)
        for counts in (calls, self.replayed()):
            seen.update(counts)
        seen.subtract(replayed)
        own = {name: done[name] for name in STAGE[stage].metered}
        self.work[stage] = result.work() | own | done | seen | of_files
        self.content[stage] = content_of(result)
        return result


def counted_run(model: VisionLanguageModel, sample: Sample, options: Options) -> tuple[Generation, WorkCounter]:
    """Run the path as a warm-up, and count the work of each stage; refuse work that belongs to another stage."""
    counter = WorkCounter(model.counted_modules, model.backend)
    generation: Generation = run_stages(model, sample, options, counter)[DECODE.name]
    check_work(counter.work)
    return generation, counter


def additive(*counts: Work) -> Work:
    """Return the sums of the counters that add up over stages."""
    return {name: sum(each.get(name, 0) for each in counts) for name in ADDITIVE}


def check_work(work: Mapping[str, Work]) -> None:
    """Refuse a pass in which a stage is missing, did no work, or did that of another stage."""
    for stage in STAGES:
        if stage.name not in work:
            raise StageError(f"every stage must run, got no {stage.name}")
        done = work[stage.name]
        lacking = [f"{name} = 0" for name in stage.needed if done.get(name) == 0]  # not every network has a projector
        if still := meter.undone(stage.name, done) or next(iter(lacking), None):
            raise StageError(f"{stage.name} must do work, got {still}")
        if n := done.get("tensors_formatted"):
            raise StageError(f"{stage.name} must not write tensors as text, got tensors_formatted = {n}")
        for counter in _OWNED:
            if counter not in stage.own and (n := done.get(counter)):
                raise StageError(f"{stage.name} must not do another stage's work, got {counter} = {n}")
    images, made = work[LOAD.name]["images"], work[LOAD.name]["images_made"]
    if made < images:
        raise StageError(f"load must make each of its {images} images, got images_made = {made}")
    steps, forwards = work[DECODE.name]["steps"], work[DECODE.name]["language_model_forwards"]
    if steps + work[DECODE.name].get("wasted_steps", 0) != forwards:
        raise StageError(f"decode must run the language model once per step, got {forwards} times in {steps} steps")


def content_of(result: Result) -> Content:
    """Return the digests of a stage's output."""
    rows: Iterable[Iterable[int]]
    match result:
        case Media():
            return {"frames": _digest(result.images)}
        case Inputs():
            pixels = {id(tensor) for tensor in result.pixels}
            further = (tensor for _, tensor in sorted(result.given.items()) if id(tensor) not in pixels)
            prompt = _digest(map(_as_bytes, (result.input_ids, result.attention_mask, *further)))
            return {"pixels": _digest(map(_as_bytes, result.pixels)), "prompt": prompt}
        case Features():
            return {"features": sketch(result.tokens)}
        case Prefilled():
            rows = result.sequences[:, result.prompt_tokens :].tolist()
        case Generation():
            rows = result.token_ids
    return {"tokens": _digest(np.array(list(row), np.int64) for row in rows)}


def _digest(arrays: Iterable[Any]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:16]


def _as_bytes(tensor: Tensor) -> Any:
    """Return a tensor of any dtype as uint8 on the host; the length of the last axis depends on the dtype."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy()


def sketch(features: Tensor) -> list[float]:
    """Return a summary of floats that is sensitive to content and hardly to rounding; refuse non-finite numbers.

    It is the root mean square, then for each of `SKETCHED` equal parts the sum of its n numbers with fixed random
    signs, over the root of n. Where two tensors differ by d, relative to their norm, these numbers differ by about d of
    the first one. That holds wherever the difference lies, also for repeated, swapped or missing content.
    """
    numbers = features.detach().cpu().float().numpy().ravel()
    signs = np.random.RandomState(0).randint(2, size=numbers.size, dtype=np.int8) * 2.0 - 1  # never changes
    parts = np.array_split(numbers * signs, SKETCHED)
    size = float(np.sqrt(np.mean(np.square(numbers, dtype=np.float64))))
    if not np.isfinite(size):
        raise StageError(f"features must be finite, got {np.count_nonzero(~np.isfinite(numbers))} that are not")
    return [size, *(float(part.sum() / max(len(part), 1) ** 0.5) for part in parts)]
