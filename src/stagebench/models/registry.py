"""Which models there are. To add one: write its file beside this one, and name it here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings

if TYPE_CHECKING:
    from stagebench.models.protocol import VisionLanguageModel

MODELS = {"eventgpt": "eventgpt", "llava-1.5": "llava", "video-llava": "video_llava"}
"""The module of each, which has its `build`. Imported when a model is built: whoever lists them needs no torch."""


def build_model(name: str, settings: ModelSettings) -> VisionLanguageModel:
    """Build a model by its name, without a backend.

    Raises:
        ModelError: for a name that is not in `MODELS`.
    """
    if name not in MODELS:
        raise ModelError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    model: VisionLanguageModel = import_module(f"stagebench.models.{MODELS[name]}").build(settings)
    return model
