"""The one table of options: `--NAME` of the commands, and `--stage-NAME` of pytest. Importable without torch."""

from __future__ import annotations

from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stagebench.core import settings
from stagebench.core.places import place_of
from stagebench.core.stages import STAGE_NAMES

if TYPE_CHECKING:
    import pytest

PREFIX = "--stage-"  # of pytest's options, because others' plugins have a `--profile` and a `--device` too


def _option(name: str, clause: str, default: Any = None, kind: Any = None) -> click.Option:
    """Make one: a flag where `default` is False, repeatable where it is (), and where it is None the clause says it."""
    shown = clause if isinstance(default, bool | tuple | None) else f"{clause}; default: {default}"
    return click.Option(
        [f"--{name}", *([f"{name}_"] if iskeyword(name) else [])],
        type=click.Choice(kind) if isinstance(kind, tuple) else kind,
        default=default,
        is_flag=default is False,
        multiple=default == (),
        help=f"{shown[0].upper()}{shown[1:]}",
    )


_PATH, PLACE = click.Path(path_type=Path), click.types.FuncParamType(place_of)
PLACE.name = "place"
_DEFAULT_MODELS = ", ".join(settings.DEFAULT_MODELS)
_DEFAULT_PROFILES = "tiny on a CPU, random (or 7b) on a GPU, pretrained of a checkpoint"

BUILDING = (  # which models there are, and how they are built
    _option("model", f"repeatable, or several with commas, or one hf:FOLDER; default: {_DEFAULT_MODELS}", ()),
    _option("profile", f"size; default: {_DEFAULT_PROFILES}", kind=settings.PROFILES),
    _option("weights", "checkpoint folder or hub id, for one model; default: random"),
    _option("pickled-weights", "read weights from .bin too, which is a pickle", default=False),
    _option("trust-remote-code", "run Python files that a checkpoint (hf:) brings", default=False),
    _option("device", "where models run, cpu or the accelerator that torch names; default: that one, if any"),
    _option("dtype", "of weights; default: float32 on a CPU, bfloat16 on a GPU", kind=settings.DTYPES),
    _option("kernels", "of attention, on a GPU", "efficient", settings.KERNELS),
    _option("threads", "of torch on the CPU; default: 1 for tiny, else torch's own choice", kind=int),
    _option("seed", "of random weights", 0),
    _option("frames", "of a clip, of a model that takes any number", 8),
    _option("as", "what these frames are to it: several images, or one video", "images", settings.SHOWN_AS),
    _option("preprocess", "what makes pixels of images", "pil", tuple(settings.PREPROCESSORS)),
    _option("backend", f"how stages run, of {', '.join(settings.BACKENDS)}; default: eager", ()),
)
TIME_UNIT = _option("time-unit", "of recordings that do not say; default: us, if it can be", kind=settings.TIME_UNITS)
LOADING = (  # how media are read
    _option("slices", "of events, of equal count or time", "count", settings.SLICES),
    TIME_UNIT,
    _option("image-size", "WIDTHxHEIGHT of event images; default: what their events reach"),
    _option("start", "seconds into the clip or recording", 0.0),
    _option("duration", "seconds to read; default: all", kind=float),
    _option("cache", "folder that keeps decoded frames; default: none", kind=_PATH),
    _option("media", "what all models get of the synthetic clip", "own", settings.MEDIA),
)
SETTINGS = (
    *BUILDING,
    _option("new-tokens", "the limit of new tokens", 32),
    _option("natural-length", "let a model stop before the limit", default=False),
    *LOADING,
    _option("question", "about each sample that brings none", settings.DEFAULT_QUESTION),
)
ORDER_SEED = _option("order-seed", "shuffles the models; default: drawn, printed and stored", kind=int)
ROUNDS = _option("rounds", "timed rounds of each benchmark", 10, click.IntRange(min=1))
BASELINES = _option("baselines", "folder, or URL, of the stored ones", "baselines", PLACE)
ALLOW_CHANGED = _option("allow-changed", "a stage whose other content or count passes; repeatable", (), STAGE_NAMES)
PYTEST = (
    *SETTINGS,
    _option("input", "clip, recording or folder; default: the synthetic clip", kind=_PATH),
    ORDER_SEED,
    ROUNDS,
    BASELINES,
    ALLOW_CHANGED,
    _option("scale", "also time by images, batch, context, and length and size of clips: minutes", default=False),
    _option("timed-gc", "let Python collect garbage in timed rounds", default=False),
    _option("gate", "with --benchmark-compare: verdicts, and the exit status of `stagebench gate`", default=False),
    _option("times-only", "no proof, no counters: this very code was proven before", default=False),
)


def add_to_pytest(parser: pytest.Parser) -> None:
    """Add those of pytest, once; None is what was not given."""
    group = parser.getgroup("stagebench")
    for option in () if group.options else PYTEST:
        action = "store_true" if option.is_flag else "append" if option.multiple else "store"
        names = {"dest": f"stage_{option.name}", "help": option.help}
        group.addoption(option.opts[0].replace("--", PREFIX), action=action, default=None, **names)
