"""The one table of options: `--NAME` of the commands, and `--stage-NAME` of pytest. Importable without torch."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

PREFIX = "--stage-"
"""Of pytest's options, because others' plugins have a `--profile` and a `--device` too."""


@dataclass(frozen=True, slots=True)
class Option:
    """Describe one option.

    Attributes:
        name: without dashes in front; "new-tokens" is called `new_tokens` where it is an argument.
        help: one clause, without the default.
        default: None where the help says what holds then.
        kind: what makes a value of the text; `bool` for a flag.
        choices: all values; empty for any.
        several: repeatable.
    """

    name: str
    help: str
    default: Any = None
    kind: Callable[[str], Any] = str
    choices: Iterable[str] = ()
    several: bool = False

    @property
    def argument(self) -> str:
        """Return its name in Python."""
        return self.name.replace("-", "_")

    @property
    def is_flag(self) -> bool:
        """Say whether it has no value."""
        return self.kind is bool

    @property
    def described(self) -> str:
        """Return the help, with the default."""
        unsaid = self.is_flag or self.default in (None, ())
        return self.help if unsaid else f"{self.help}; default: {self.default}"


BUILDING = (
    Option("model", "repeatable, or several with commas; default: all", (), several=True),
    Option("profile", "how large; default: tiny on a CPU, 7b on a GPU", choices=PROFILES),
    Option("weights", "checkpoint folder or hub id, for one model; default: random"),
    Option("pickled-weights", "read weights from .bin too, which is a pickle", False, bool),
    Option("device", "where models run, cpu or cuda; default: cuda where there is one"),
    Option("dtype", "of weights; default: float32 on a CPU, bfloat16 on a GPU", choices=DTYPES),
    Option("kernels", "of attention, on a GPU", "efficient", choices=KERNELS),
    Option("threads", "of torch on the CPU; default: 1 for tiny, else torch's own choice", kind=int),
    Option("seed", "of random weights", 0, int),
    Option("preprocess", "what makes pixels of images", "pil", choices=PREPROCESSORS),
    Option("backend", f"how stages run, of {', '.join(BACKENDS)}; default: eager", (), several=True),
)
"""Which models there are, and how they are built."""

GENERATION = (
    Option("new-tokens", "the limit of new tokens", 32, int),
    Option("natural-length", "let a model stop before the limit", False, bool),
)

TIME_UNIT = Option("time-unit", "of recordings that do not say it; default: us, if it can be", choices=TIME_UNITS)

LOADING = (
    Option("slices", "of events, of equal count or time", "count", choices=SLICES),
    TIME_UNIT,
    Option("image-size", "WIDTHxHEIGHT of event images; default: what their events reach"),
    Option("start", "seconds into the clip or recording", 0.0, float),
    Option("duration", "seconds to read; default: all", kind=float),
    Option("cache", "folder that keeps decoded frames; default: none", kind=Path),
    Option("media", "what all models get of the synthetic clip", "own", choices=MEDIA),
)
"""How media are read."""

QUESTION = Option("question", "about each sample that brings none", DEFAULT_QUESTION)
INPUT = Option("input", "clip, recording or folder; default: the synthetic clip", kind=Path)
ORDER_SEED = Option("order-seed", "shuffles the models; default: drawn, printed and stored", kind=int)
ROUNDS = Option("rounds", "timed ones of each benchmark", 10, int)
BASELINES = Option("baselines", "folder of the stored ones", Path("baselines"), Path)
ALLOW_CHANGED = Option(
    "allow-changed", "a stage whose other content or count passes; repeatable", (), choices=STAGE_NAMES, several=True
)

SETTINGS = (*BUILDING, *GENERATION, *LOADING, QUESTION, INPUT)
"""What `settings.resolve` takes."""

SUITE = (
    Option("scale", "also time by images, batch, context, and length and size of clips: minutes", False, bool),
    Option("timed-gc", "let Python collect garbage in timed rounds", False, bool),
    Option("gate", "with --benchmark-compare: verdicts, and the exit status of `stagebench gate`", False, bool),
    Option("times-only", "no proof, no counters: this very code was proven before", False, bool),
)
"""What pytest alone has."""

PYTEST = (*SETTINGS, ORDER_SEED, ROUNDS, BASELINES, ALLOW_CHANGED, *SUITE)
