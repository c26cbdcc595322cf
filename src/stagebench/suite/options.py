"""The options of the suite on pytest's command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagebench.core.settings import (
    BACKENDS,
    DEFAULT_QUESTION,
    DTYPES,
    KERNELS,
    MEDIA,
    PREPROCESSORS,
    PROFILES,
    SLICES,
    TIME_UNITS,
)
from stagebench.core.stages import STAGE_NAMES
from stagebench.models.registry import MODELS


def add(group: pytest.OptionGroup) -> None:
    """Add all of them."""
    group.addoption("--models", default=",".join(MODELS), help="comma-separated; default: %(default)s")
    group.addoption("--device", help="cpu or cuda; default: cuda where there is one")
    group.addoption("--profile", choices=PROFILES, help="default: tiny on a CPU, 7b on a GPU")
    group.addoption("--weights", help="checkpoint folder or hub id, for one model")
    group.addoption("--pickled-weights", action="store_true", help="read weights from .bin too, which is a pickle")
    group.addoption("--dtype", choices=DTYPES, help="default: float32 on a CPU, bfloat16 on a GPU")
    group.addoption("--kernels", choices=KERNELS, default="efficient", help="attention kernels on a GPU")
    group.addoption("--threads", type=int, help="of torch on the CPU; default: 1 for tiny, else torch's own choice")
    group.addoption("--preprocess", choices=PREPROCESSORS, default="pil", help="images to pixels; default: %(default)s")
    group.addoption(
        "--backends", default="eager", help=f"comma-separated, of {', '.join(BACKENDS)}; default: %(default)s"
    )
    group.addoption("--new-tokens", type=int, default=32, help="limit of new tokens; default: %(default)s")
    group.addoption("--natural-length", action="store_true", help="let a model stop early; default: fixed length")
    group.addoption("--input", type=Path, help="clip, recording or folder; default: the synthetic clip")
    group.addoption("--slices", choices=SLICES, default="count", help="of events, equal count or time")
    group.addoption(
        "--time-unit", choices=TIME_UNITS, help="of recordings that do not say it; default: us, if it can be"
    )
    group.addoption("--image-size", metavar="WxH", help="of event images; default: what their events reach")
    group.addoption("--start", type=float, default=0.0, help="seconds into the clip or recording")
    group.addoption("--duration", type=float, help="seconds to read; default: all")
    group.addoption("--frame-cache", type=Path, help="keep decoded frames there; default: no cache")
    group.addoption(
        "--media", choices=MEDIA, default="own", help="what all models get of the synthetic clip; default: %(default)s"
    )
    group.addoption("--scale", action="store_true", help="also time stages by images, batch and context: minutes")
    group.addoption("--load-matrix", action="store_true", help="also time loading by length, size and decoder: minutes")
    group.addoption("--question", default=DEFAULT_QUESTION, help="default: %(default)s")
    group.addoption("--rounds", type=int, default=10, help="timed rounds a benchmark; default: %(default)s")
    group.addoption("--timed-gc", action="store_true", help="let Python collect garbage in timed rounds")
    group.addoption("--baselines", type=Path, default=Path("baselines"), help="default: %(default)s")
    group.addoption(
        "--gate",
        action="store_true",
        help="with --benchmark-compare: verdicts, and the exit status of `stagebench gate`, by the limits that are in "
        "this checkout's own pyproject.toml: there is no base to take them from",
    )
    group.addoption("--gate-time", action="store_true", help="likewise, and an inconclusive time sets exit status 3")
    group.addoption(
        "--allow-changed", action="append", default=[], choices=STAGE_NAMES, help="whose other content or count passes"
    )
    group.addoption("--times-only", action="store_true", help="no proof, no counters: this very code was proven before")
    group.addoption("--order-seed", type=int, help="shuffles the models; default: drawn, printed and stored")
