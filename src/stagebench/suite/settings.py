"""Settings out of what a person typed: defaults that fit the machine, and contradictions refused before any work."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from stagebench.core.artifacts import Sample
from stagebench.core.environment import cores
from stagebench.core.errors import MediaError, ModelError
from stagebench.core.settings import BACKENDS, LoadSettings, ModelSettings
from stagebench.media.files import name_of
from stagebench.models.registry import MODELS
from stagebench.pipeline.load import load

ON_CPU = ("eager",)
"""Backends that need no GPU."""
THREADS_A_CORE = 4  # more only wait for each other, and so many that none can be started end the process


def resolve_models(names: Iterable[str]) -> tuple[str, ...]:
    """The named models, each once, in the order given.

    Raises:
        ModelError: for an unknown name, or none at all.
    """
    models = tuple(dict.fromkeys(names))
    unknown = [name for name in models if name not in MODELS]
    if unknown or not models:
        raise ModelError(f"models must be of {', '.join(MODELS)}, got {', '.join(unknown) or 'none'}")
    return models


def resolve_settings(
    models: tuple[str, ...],
    profile: str | None,
    weights: str | None,
    device: str | None,
    dtype: str | None,
    kernels: str,
    threads: int | None,
    seed: int,
    preprocess: str,
    backend: str = "eager",
    pickled_weights: bool = False,
) -> ModelSettings:
    """Fill in what was not given.

    The device is a GPU where there is one. On a GPU the profile is 7b in bfloat16, on a CPU tiny in float32 with one
    thread: layers so narrow gain nothing from more, and wait for each other where another process takes a core.

    Raises:
        ModelError: for a device that is not there, more threads than the cores can serve, weights for several models,
            or a contradiction.
    """
    device = _resolve_device(device)
    check_backends((backend,), device)
    on_gpu = device.startswith("cuda")
    if weights is not None and len(models) > 1:
        raise ModelError(f"weights are those of one model, got {len(models)} models: {', '.join(models)}")
    if threads is not None and threads > (limit := THREADS_A_CORE * cores()):
        raise ModelError(f"threads must be at most {limit} on {cores()} cores, got {threads}")
    profile = profile or ("pretrained" if weights else "7b" if on_gpu else "tiny")
    if threads is None:
        threads = 1 if profile == "tiny" else torch.get_num_threads()
    return ModelSettings(
        profile=profile,
        weights=weights,
        device=device,
        dtype=dtype or ("bfloat16" if on_gpu else "float32"),
        kernels=kernels,
        threads=threads,
        seed=seed,
        preprocess=preprocess,
        backend=backend,
        pickled_weights=pickled_weights,
    )


def check_backends(names: tuple[str, ...], device: str) -> None:
    """Refuse backends that a device does not have, before any model is built for them.

    Raises:
        ModelError: for an unknown name, none at all, or a CPU and what needs a GPU.
    """
    has = BACKENDS if device.startswith("cuda") else ON_CPU
    unknown = [name for name in names if name not in has]
    if unknown or not names:
        where = "a GPU" if device.startswith("cuda") else "a CPU"
        raise ModelError(f"backends on {where} are {', '.join(has)}, got {', '.join(unknown) or 'none'}")


def check_input(path: Path, loading: LoadSettings) -> None:
    """Read a given path once, before any model is built for it.

    Raises:
        MediaError: where it can't be read, a medium of the synthetic clip was chosen too, or a frame cache for what is
            no video.
    """
    if loading.media != "own":
        raise MediaError(f"media chooses what is shown of the synthetic clip, got {loading.media} and {path.name} too")
    media = load(Sample(path, loading=loading), images=1)
    if loading.cache is not None and media.cache_hits is None:
        raise MediaError(f"{name_of(path)}: only frames of a video are cached, got a cache for {media.kind}")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Read "640x480" as (640, 480); None stays None.

    Raises:
        MediaError: for anything else.
    """
    if text is None:
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise MediaError(f"image size must be WIDTHxHEIGHT, got {text!r}")
    return int(width), int(height)


def _resolve_device(device: str | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    available = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    available += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if device not in available:
        raise ModelError(f"device must be one of {', '.join(available)}, got {device!r}")
    return device
