"""Make settings from options: defaults that fit the machine, and contradictions refused before any work."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch

from stagebench.core.artifacts import Sample
from stagebench.core.errors import MediaError, ModelError
from stagebench.core.machine import environment
from stagebench.core.machine.locks import scratch_folder
from stagebench.core.settings import (
    BACKENDS,
    DEFAULT_MODELS,
    ENGINES,
    VLLM,
    EngineSettings,
    GenerationSettings,
    LoadSettings,
    ModelSettings,
)
from stagebench.engines.engine import Engine
from stagebench.media.files import name_of
from stagebench.media.synthetic_clip import SyntheticClip, write_synthetic_clip
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.registry import ANY, is_family, trained
from stagebench.models.weights import TRAINED
from stagebench.pipeline.load import load
from stagebench.suite.engine_options import arguments_of, require_served
from stagebench.suite.options import BUILDING, LOADING, SETTINGS

WITHOUT_CUDA = ("eager",)  # backends without a GPU
_UNSEEN = ("profile", "weights", "seed", "dtype", "attention", "preprocess", "threads")
_OF_CLIENT = ("model", "device", "threads", "frames")  # options of models that a server's client has too
_OWN_PROCESSOR = {"real_shapes": "random", "narrow": "tiny-random", "preprocess": "checkpoint"}
THREADS_A_CORE = 4  # more threads only wait for each other, and too many end the process


class Column(NamedTuple):
    """A model, and what runs its stages."""

    model: str
    engine: str
    backend: str  # of transformers; "" for other engines


@dataclass(frozen=True, slots=True)
class Settings:
    """The models that run, and how."""

    models: tuple[str, ...]  # names, each once
    backends: tuple[str, ...]
    model: ModelSettings  # how models are built, for any backend
    generation: GenerationSettings
    loading: LoadSettings
    question: str
    input: Path | None  # None for the synthetic clip
    engines: tuple[str, ...] = ("transformers",)
    engine: EngineSettings = field(default_factory=EngineSettings)  # what the others of them get

    @property
    def columns(self) -> dict[str, Column]:
        """Return each model with each backend and each other engine, by the name that its times have."""
        found = {}
        for model, engine in product(self.models, self.engines):
            for backend in self.backends if engine == ENGINES[0] else ("",):
                plain = engine == ENGINES[0] and (backend == "eager" or len(self.backends) == 1)
                name = model if plain else f"{model} {backend or engine}".strip()
                found[name] = Column(model, engine, backend)
        return found

    def build_with(self, backend: str) -> "Settings":
        """Return the settings with one of the backends."""
        return replace(self, backends=(backend,), model=replace(self.model, backend=backend))

    def require_one_backend(self) -> "Settings":
        """Return the settings; refuse several backends."""
        if len(self.backends) > 1:
            raise ModelError(f"one backend must run the stages here, got {', '.join(self.backends)}")
        return self

    def describe(self) -> str:
        """Return one line for the head of a table."""
        if self.engines == ("openai",):
            return f"{', '.join(self.models) or 'the model'} of {self.engine.url}; {self.generation.describe()}"
        model = self.model
        threads = f", {model.threads} threads" if model.device == "cpu" else ""
        backend = "" if self.backends == ("eager",) else f", {' and '.join(self.backends)} backend"
        engines = "" if self.engines == ("transformers",) else f", by {' and '.join(self.engines)}"
        code = ", code of the checkpoint" if model.trust_remote_code else ""
        known = model.device == "cpu" or (model.device.startswith("cuda") and torch.version.hip is None)
        device = model.device if known else f"{model.device} (stagebench is not tested on such a device)"
        weights = {"tiny": "weights of its own", "pretrained": f"weights of {model.weights}"}
        of = f"{model.profile.removesuffix('-random')} profile, {weights.get(model.profile, 'random weights')}"
        built = f"{of}, {model.dtype} on {device}{threads}{backend}{engines}{code}"
        return f"{built}; {model.preprocess} preprocessing; {self.generation.describe()}"

    def identity(self, timed_gc: bool = False) -> dict[str, str]:
        """Return the identity of measurements with these settings; see `environment.identity`."""
        found = environment.identity(self.model, self.generation, self.question, self.input, self.loading, timed_gc)
        if self.engines != ENGINES[:1]:
            found["engine"] = " and ".join(self.engines) + self.engine.describe()
        if "vllm" in self.engines:
            found["vllm"] = environment.version_of(*VLLM)
        if self.engines == ("openai",):  # how a server runs its model can't be seen
            return found | dict.fromkeys(_UNSEEN, "none") | {"frames": str(self.model.frames)}
        if self.model.profile == "tiny":
            found["weights"] = f"stagebench's own, {environment.fingerprint(TRAINED, '*/*.safetensors', '*/*.json')}"
            found |= {} if self.input else {"input": f"clip, {self.loading.media}"}
        return found

    @property
    def known(self) -> bool:
        """Return whether models see the whole of a clip that they were trained to describe, as they were shown it."""
        return self.model.profile == "tiny" and self.input is None and self.loading == LoadSettings()

    def write_clip(self, folder: Path) -> SyntheticClip:
        """Write the synthetic clip that the model knows, if it was trained on such clips; else the scene."""
        return write_synthetic_clip(folder, "clip" if self.model.profile == "tiny" else "scene")

    @contextmanager
    def samples(self) -> Iterator[Callable[[VisionLanguageModel | Engine], Sample]]:
        """Yield a function from a model or its engine to its sample; a path is read once before, as a check."""
        if (given := self.input) is not None:
            check_input(given, self.loading)
            yield lambda model: Sample(given, self.question, self.loading)
            return
        with scratch_folder() as folder:
            clip = self.write_clip(folder)
            yield lambda model: Sample(clip.shown(self.loading.media, model.input_kind), self.question, self.loading)


def settings_of(**options: Any) -> Settings:
    """Make settings from options by their names on the command line, with underscores.

    >>> stagebench.settings_of(model=["eventgpt", "llava-1.5"], input="clip.mp4", natural_length=True).models
    ('eventgpt', 'llava-1.5')
    """
    known = {option.name: option.default for option in SETTINGS} | {"input": None}
    if unknown := options.keys() - known.keys():
        raise ModelError(f"options must be among {', '.join(known)}, got {', '.join(sorted(unknown))}")
    for option in SETTINGS:
        _require_kind(option, (known | options)[option.name])
    settings = resolve(known | options)
    return settings if len(settings.backends) > 1 else settings.build_with(settings.backends[0])


def _require_kind(option: click.Option, value: Any) -> None:
    """Refuse a value of a type that the command line can't give, such as a text for a flag."""
    kinds: dict[str, tuple[type, ...]] = {"integer": (int,), "float": (int, float), "boolean": (bool,)}
    name = option.type.name if option.type.name in kinds else "text"
    expected = kinds.get(name, (str, PathLike))
    for each in value if option.multiple and isinstance(value, Iterable) and not isinstance(value, str) else [value]:
        left_out = each is None and (option.default is None or option.multiple)
        if not left_out and (not isinstance(each, expected) or isinstance(each, bool) != (bool in expected)):
            raise ModelError(f"{option.name} must be of the kind {name}, got {each!r}")


def resolve(given: Mapping[str, Any]) -> Settings:
    """Return settings, with defaults for missing `SETTINGS` and `input`; raise StagebenchError for invalid ones.

    The default device is the accelerator that torch names, if any. On it shapes are real and the dtype is bfloat16. On
    a CPU models are tiny, in float32 with one thread: narrow layers gain nothing from more threads, and wait where
    another process takes a core.
    """
    loading = {option.name: given[option.name] for option in LOADING}
    engines, backends = _names(given["engine"], ENGINES[:1]), _names(given["backend"], WITHOUT_CUDA)
    asked = engines == ("openai",)
    models = _names(given["model"], [""] if asked else DEFAULT_MODELS)
    # A server alone knows its models, but what is also a checkpoint here.
    named = asked and not models[0].startswith(ANY)
    of_server = [option for option in BUILDING if option.name not in _OF_CLIENT] if named else []
    if idle := [each.name.strip("_") for each in of_server if given[each.name] not in (None, [], each.default)]:
        raise ModelError(f"a server's model is as the server built it, got {', '.join(idle)} for the engine openai")
    given = {**given, **(_OWN_PROCESSOR if named else _of_models(models, given))}
    if unknown := [name for name in backends if name not in BACKENDS]:
        raise ModelError(f"backends must be among {', '.join(BACKENDS)}, got {', '.join(unknown)}")
    settings = Settings(
        models=models,
        backends=backends,
        model=_model_settings(given),
        generation=GenerationSettings(given["new_tokens"], fixed_length=not given["natural_length"]),
        loading=LoadSettings(**loading | {"image_size": _parse_size(given["image_size"])}),
        question=given["question"],
        input=None if given["input"] is None else Path(given["input"]),
        engines=engines,
        engine=EngineSettings(arguments_of(given), given["url"]),
    )
    require_served(settings.engines, settings.engine, settings.models, settings.backends)
    if settings.model.weights is not None and len(models) > 1:
        raise ModelError(f"weights must be those of one model, got {len(models)} models: {', '.join(models)}")
    if (others := set(settings.backends) - set(WITHOUT_CUDA)) and not settings.model.device.startswith("cuda"):
        where = "a CPU" if settings.model.device == "cpu" else settings.model.device
        raise ModelError(f"backends on {where} are {', '.join(WITHOUT_CUDA)}, got {', '.join(sorted(others))}")
    return settings


def _of_models(models: tuple[str, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that models with their own processor, and "hf:", imply; refuse unknown models.

    The profiles "random" and "7b" both mean real shapes with random weights. The stored baselines of the default models
    call it "7b".
    """
    named, own = ", ".join(models), ", ".join(name for name in models if not is_family(name))
    if given["trust_remote_code"] and ANY not in named:
        raise ModelError(f"trust_remote_code needs a checkpoint with its own code ({ANY}FOLDER), got {named}")
    if not own and given["as_"] == "video":
        raise ModelError(f"as video needs a model with its own processor, got {named}")
    if not own:
        return {"real_shapes": "7b", "narrow": "tiny" if all(map(trained, models)) else "tiny-random"}
    if given["preprocess"] == "torch":
        raise ModelError(f"preprocess must be pil for a model with its own processor, got torch for {own}")
    of_checkpoint = _of_checkpoint(models, given) if any(name.startswith(ANY) for name in models) else {}
    if given["weights"] and given["profile"] not in (None, "pretrained"):
        raise ModelError(f"the profile 'pretrained', and no other, takes weights, got {given['profile']}")
    return _OWN_PROCESSOR | of_checkpoint


def _of_checkpoint(models: tuple[str, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    profile, weights, named = given["profile"], given["weights"], ", ".join(models)
    source = _source_of(named)
    if not source or (source[0] in "./~" and not Path(source).is_dir()):
        raise ModelError(f"{ANY} must be followed by an existing folder or a hub id, got {source!r}")
    if models[1:] or weights:
        got = f"the models {named}" if models[1:] else f"weights {weights} too"
        raise ModelError(f"{ANY} must name the only model and its weights, got {got}")
    if profile not in (None, "pretrained") and given["pickled_weights"]:
        raise ModelError(f"pickled weights need the profile pretrained, got {profile} for {named}")
    return {"profile": profile or "pretrained", "weights": source}


def _names(given: str | Iterable[str], default: Iterable[str]) -> tuple[str, ...]:
    """Return the given names, each once, or the default; "none" for an empty list, which is then refused."""
    asked = [given] if isinstance(given, str) else given
    return tuple(split(asked) if asked else default) or ("none",)


def _is_folder(name: str) -> bool:
    return name.startswith(ANY) and Path(_source_of(name)).is_dir()


def _source_of(name: str) -> str:
    """Return the folder or id in a model's name; expand ~, which shells don't expand after a colon."""
    source = name.removeprefix(ANY)
    with suppress(RuntimeError):  # an unknown user
        return str(Path(source).expanduser()) if source.startswith("~") else source
    return source


def split(texts: Iterable[str]) -> dict[str, None]:
    """Return the parts of texts between commas, each once, in order; a text that names a folder stays whole."""
    parts = (part.strip() for text in texts for part in ([text] if _is_folder(text) else text.split(",")))
    return dict.fromkeys(filter(None, parts))


def _model_settings(given: Mapping[str, Any]) -> ModelSettings:
    found = torch.accelerator.current_accelerator(check_available=True)
    each = [f"{found.type}:{i}" for i in range(torch.accelerator.device_count())] if found else []
    available = ["cpu", *([found.type, *each] if found else [])]
    device, threads, cores = given["device"] or (found.type if found else "cpu"), given["threads"], environment.cores()
    if device not in available:
        raise ModelError(f"device must be one of {', '.join(available)}, got {device!r}")
    if threads is not None and threads > (limit := THREADS_A_CORE * cores):
        raise ModelError(f"threads must be at most {limit} on {cores} cores, got {threads}")
    profile = given["profile"] or ("pretrained" if given["weights"] else "tiny" if device == "cpu" else "random")
    profile = {"7b": given["real_shapes"], "random": given["real_shapes"], "tiny": given["narrow"]}.get(
        profile, profile
    )
    return ModelSettings(
        profile=profile,
        device=device,
        dtype=given["dtype"] or ("float32" if device == "cpu" else "bfloat16"),
        threads=threads if threads is not None else 1 if profile.startswith("tiny") else torch.get_num_threads(),
        **{name: given[name] for name in ("weights", "kernels", "seed", "preprocess", "pickled_weights", "frames")},
        **{name: given[name] for name in ("trust_remote_code", "as_")},
    )


def check_input(path: Path, loading: LoadSettings) -> None:
    """Refuse an unreadable path, a path together with `media`, or a frame cache for anything but a video."""
    if loading.media != "own":
        raise MediaError(f"media must be own for a given input, got {loading.media} and {path.name}")
    media = load(Sample(path, loading=loading), images=1)
    if loading.cache is not None and media.cache_hits is None:
        raise MediaError(f"{name_of(path)}: a cache needs a video, got {media.kind}")


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """Return "640x480" as (640, 480), and None as None."""
    if text is None:
        return None
    if not (found := re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)):
        raise MediaError(f"image size must be WIDTHxHEIGHT, got {text!r}")
    return int(found[1]), int(found[2])
