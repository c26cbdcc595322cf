"""Which models there are. To add one: write its file beside this one, and name it here."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings

if TYPE_CHECKING:
    from stagebench.models.protocol import Family, VisionLanguageModel

# Imported when a model is built: whoever lists them needs no torch.
ANY = "hf:"  # and a folder or hub id: transformers' own class and processor
MODELS = {"eventgpt": "eventgpt:EventGPT", "llava-1.5": "llava:Llava", "video-llava": "video_llava:VideoLlava"}


def build_model(name: str, settings: ModelSettings) -> VisionLanguageModel:
    """Build a model by its name, without a backend; raise ModelError for a name that is not in `MODELS`."""
    if name.startswith(ANY):
        from stagebench.models.huggingface import build

        return build(name, settings)
    if name not in MODELS:
        raise ModelError(f"model must be one of {', '.join(MODELS)} or {ANY}FOLDER, got {name!r}")
    from stagebench.models.assembly import assemble

    family: type[Family] = resolve_name(f"stagebench.models.{MODELS[name]}")
    return assemble(family, settings)
