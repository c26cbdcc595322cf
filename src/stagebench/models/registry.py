"""Which models there are. To add one: write its file beside this one, and name it here."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings

if TYPE_CHECKING:
    from stagebench.models.protocol import VisionLanguageModel

# Imported when a model is built: whoever lists them needs no torch.
MODELS = {"eventgpt": "eventgpt:EventGPT", "llava-1.5": "llava:Llava", "video-llava": "video_llava:VideoLlava"}


def build_model(name: str, settings: ModelSettings) -> VisionLanguageModel:
    """Build a model by its name, without a backend; raise ModelError for a name that is not in `MODELS`."""
    if name not in MODELS:
        raise ModelError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    from stagebench.models.assembly import assemble

    family: type[VisionLanguageModel] = resolve_name(f"stagebench.models.{MODELS[name]}")
    return assemble(family, settings)
