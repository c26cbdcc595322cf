"""Find models: built in, from installed packages, and from the working folder. Needs no torch."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings
from stagebench.core.shown import one_line
from stagebench.models.registration import Registration, imported

if TYPE_CHECKING:
    from stagebench.models.protocol import VisionLanguageModel

ANY = "hf:"  # prefix of a folder or hub id: transformers' own class and processor
ENTRY_POINTS = "stagebench.models"  # each maps a model's name to "module:OBJECT" of its registration

_FAMILIES = {"eventgpt": "eventgpt:EventGPT", "llava-1.5": "llava:Llava", "video-llava": "video_llava:VideoLlava"}
_CARDS = ("qwen2.5-vl", "qwen3-vl", "qwen3.5", "internvl", "gemma3", "smolvlm", "llava-onevision")
_BUILT_IN: dict[str, Registration | str] = {
    **{name: Registration(name=name, network=f"{__package__}.{place}") for name, place in _FAMILIES.items()},
    **{name: f"{__package__}.cards.{re.sub('[.-]', '_', name)}:CARD" for name in _CARDS},
}
_REGISTERED: dict[str, Registration] = {}  # by `register_model`


def register_model(registration: Registration) -> None:
    """Register a model by its name in this process; raise ModelError for a taken name, or another type.

    >>> shapes = {"text_config": {"hidden_size": 1024, "num_hidden_layers": 8}}
    >>> stagebench.register_model(stagebench.Registration(name="mine", network="mymodel:MyModel", config=shapes))
    """
    if not isinstance(registration, Registration):
        raise ModelError(f"a model must be registered by a Registration, got {type(registration).__name__}")
    if (name := registration.name) in _BUILT_IN or name in _REGISTERED:
        raise ModelError(f"a model must be registered once, got {name} again")
    _REGISTERED[name] = registration


def origins() -> dict[str, str]:
    """Return the origin of each model by its name, without importing any."""
    return {
        **dict.fromkeys(_BUILT_IN, "built in"),
        **{name: f"entry point {' and '.join(places)}" for name, places in _installed().items()},
        **dict.fromkeys(_REGISTERED, "register_model"),
    }


def registration_of(name: str) -> Registration:
    """Return a model's registration, at last from the working folder; raise ModelError for an unknown name."""
    if not (places := _places(name)):
        import_conftest()
        places = _places(name)
    if not places:
        raise ModelError(f"a model must be one of {', '.join(origins())} or {ANY}FOLDER, got {name}")
    if len(places) > 1:
        raise ModelError(f"a model must be registered once, got {name} again by the entry point {places[-1]}")
    found = imported(places[0], f"the model {name}") if isinstance(places[0], str) else places[0]
    if not isinstance(found, Registration) or found.name != name:
        got = f"that of {found.name}" if isinstance(found, Registration) else type(found).__name__
        raise ModelError(f"{places[0]} must be the Registration of {name}, got {got}")
    return found


def _places(name: str) -> list[Registration | str]:
    return [table[name] for table in (_BUILT_IN, _REGISTERED) if name in table] + [*_installed().get(name, ())]


def _installed() -> dict[str, list[str]]:
    """Return places by name; a name has several where installed packages disagree."""
    points = sorted({(point.name, point.value) for point in entry_points(group=ENTRY_POINTS)})
    return {name: [value for _, value in each] for name, each in groupby(points, itemgetter(0))}


def is_family(name: str) -> bool:
    """Return whether a model embeds its prompt here; any other has its own processor of images and prompt."""
    return not name.startswith(ANY) and registration_of(name).config is None


def import_conftest() -> None:
    """Import the working folder's `conftest.py` unless pytest has; raise ModelError if that fails."""
    path = Path("conftest.py").resolve()
    loaded = [str(vars(module).get("__file__")) for name, module in [*sys.modules.items()] if "conftest" in name]
    if not path.is_file() or path in [Path(file).resolve() for file in loaded]:
        return
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)  # as pytest does, for its own imports
    spec = spec_from_file_location(str(path), path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[spec.name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ModelError(f"can't import {path}: {one_line(error)}") from error


def trained(name: str) -> bool:
    """Return whether the package has a narrow model of that name with trained weights."""
    return name in _FAMILIES


def build_model(name: str, settings: ModelSettings) -> VisionLanguageModel:
    """Build a model by its name, without a backend; raise ModelError where that fails."""
    # Imported here, because listing models needs no torch.
    from stagebench.models import assembly, from_registration, huggingface

    if settings.profile == "tiny" and not trained(name):
        settings = replace(settings, profile="tiny-random")
    if name.startswith(ANY):
        return huggingface.build(name, settings)
    registration = registration_of(name)
    if registration.config is not None:
        return from_registration.build(registration, settings)
    if settings.profile == "random":  # families call it 7b, as the stored baselines do
        settings = replace(settings, profile="7b")
    family = registration.resolve("network")
    if getattr(family, "name", None) != name:
        got = getattr(family, "__name__", repr(family))
        raise ModelError(f"without a config the network of {name} must be a Family of that name, got {got}")
    return assembly.assemble(family, settings)
