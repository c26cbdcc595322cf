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

PREFIX = "--stage-"  # of pytest's options, because other plugins have a `--profile` and a `--device`


def option(name: str, text: str, default: Any = None, kind: Any = None, **more: Any) -> click.Option:
    """Make an option: a flag if `default` is False, repeatable if it is a tuple.

    The text ends with any other default, unless that is None or "": the text then says what it means. `more` are
    arguments of `click.Option`, and `dest`, the name of the parameter where it differs from the option's.
    """
    is_plain = not isinstance(default, bool | tuple) and default not in (None, "")
    dest = more.pop("dest", f"{name}_" if iskeyword(name) else None)
    return click.Option(
        [f"--{name}", *([dest] if dest else [])],
        type=click.Choice(kind) if isinstance(kind, tuple) else kind,
        is_flag=default is False,
        multiple=isinstance(default, tuple),
        help=f"{text} Default: {str(default).rstrip('.')}." if is_plain else text,
        **({} if more.get("required") else {"default": default}),  # with a default, None too, none is ever missing
        **more,
    )


PATH, POSITIVE, PLACE = click.Path(path_type=Path), click.IntRange(min=1), click.types.FuncParamType(place_of)
PLACE.name = "place"
_DEFAULT_MODELS = ", ".join(settings.DEFAULT_MODELS)
_DEFAULT_PROFILES = "tiny on a CPU, random (or 7b) on a GPU, pretrained of a checkpoint"

BUILDING = (  # models and how they are built
    option("model", f"Run this model: a NAME, several with commas, or one hf:FOLDER. Default: {_DEFAULT_MODELS}.", ()),
    option("profile", f"Build models of this size. Default: {_DEFAULT_PROFILES}.", kind=settings.PROFILES),
    option("weights", "Read one model's weights from this checkpoint folder or hub id. Default: random weights."),
    option("pickled-weights", "Also read weights from .bin files, which are pickles.", default=False),
    option("trust-remote-code", "Run the Python files of a checkpoint (hf:).", default=False),
    option("device", "Run models on cpu, or on the accelerator that torch names. Default: the accelerator, if any."),
    option("dtype", "Hold weights in this type. Default: float32 on a CPU, bfloat16 on a GPU.", kind=settings.DTYPES),
    option("kernels", "Use these attention kernels on a GPU.", "efficient", settings.KERNELS),
    option("threads", "Use this many CPU threads. Default: 1 for tiny, else torch's own choice.", kind=int),
    option("seed", "Draw random weights with this seed.", 0),
    option("frames", "Show this many frames of a clip to models that take any number.", 8),
    option("as", "Show these frames as several images or as one video.", "images", settings.SHOWN_AS),
    option("preprocess", "Make pixels with this library.", "pil", tuple(settings.PREPROCESSORS)),
    option("backend", f"Run stages with these backends, of {', '.join(settings.BACKENDS)}. Default: eager.", ()),
)
SERVING = (  # what serves models, and what it gets beside their settings
    option("engine", f"Serve an hf: model by these, of {', '.join(settings.ENGINES)}. Default: transformers.", ()),
    option("tensor-parallel", "Let vLLM split each layer over this many GPUs.", 1),
    option("pipeline-parallel", "Let vLLM split the layers over this many GPUs.", 1),
    option("data-parallel", "Let vLLM run this many copies of the model.", 1),
    option("quantization", "Let vLLM quantise the weights by this method. Default: as the checkpoint says."),
    option("url", "Ask the OpenAI-compatible server at this address, for the engine openai. Default: none."),
    option("engine-args", "Also give vLLM (or each request) this NAME=VALUE, such as seed=1. Default: none.", ()),
)
TIME_UNIT = option(
    "time-unit", "Set the unit of recordings without one. Default: us, if plausible.", kind=settings.TIME_UNITS
)
LOADING = (  # how media are read
    option("slices", "Cut events into slices of equal count or equal time.", "count", settings.SLICES),
    TIME_UNIT,
    option("image-size", "Draw event images of WIDTHxHEIGHT pixels. Default: the extent of their events."),
    option("start", "Start to read this many seconds into the clip or recording.", 0.0),
    option("duration", "Read this many seconds. Default: all.", kind=float),
    option("cache", "Keep decoded frames in this folder. Default: none.", kind=PATH),
    option("media", "Show the synthetic clip in each model's own form, or to all in this one.", "own", settings.MEDIA),
)
SETTINGS = (
    *BUILDING,
    *SERVING,
    option("new-tokens", "Generate this many new tokens.", 32),
    option("natural-length", "Let texts end before that many tokens, where the model stops.", default=False),
    *LOADING,
    option("question", "Ask this about each sample without its own question.", settings.DEFAULT_QUESTION),
)
ORDER_SEED = option("order-seed", "Shuffle the models with this seed. Default: drawn, printed and stored.", kind=int)
ROUNDS = option("rounds", "Time each benchmark in this many rounds.", 10, POSITIVE)
BASELINES = option("baselines", "Keep stored baselines in this folder or URL.", "baselines", PLACE)
ALLOW_CHANGED = option("allow-changed", "Let this stage's content and requested work change.", (), STAGE_NAMES)
PYTEST = (
    *SETTINGS,
    option("input", "Read this clip, recording or folder. Default: the synthetic clip.", kind=PATH),
    ORDER_SEED,
    ROUNDS,
    BASELINES,
    ALLOW_CHANGED,
    option("scale", "Also time several images, batches, contexts, lengths and sizes, for minutes.", default=False),
    option("timed-gc", "Let Python collect garbage in timed rounds.", default=False),
    option("gate", "Judge what --benchmark-compare names, and exit as `stagebench gate` does.", default=False),
    option("times-only", "Skip verification and counters, because this code was verified before.", default=False),
)


def add_to_pytest(parser: pytest.Parser) -> None:
    """Add the options of pytest, once; those not given are None."""
    group = parser.getgroup("stagebench")
    for option in () if group.options else PYTEST:
        action = "store_true" if option.is_flag else "append" if option.multiple else "store"
        names = {"dest": f"stage_{option.name}", "help": option.help}
        group.addoption(option.opts[0].replace("--", PREFIX), action=action, default=None, **names)
