"""Which models there are. To add one: write its file beside this one, and name its `build` here."""

from __future__ import annotations

from collections.abc import Callable

from stagebench.backends.backend import with_backend
from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings
from stagebench.models import eventgpt, llava, video_llava
from stagebench.models.protocol import VisionLanguageModel

BUILDERS: dict[str, Callable[[ModelSettings], VisionLanguageModel]] = {
    "eventgpt": eventgpt.build,
    "llava-1.5": llava.build,
    "video-llava": video_llava.build,
}


def build_model(name: str, settings: ModelSettings) -> VisionLanguageModel:
    """Build a model by its name.

    Raises:
        ModelError: for a name that is not in `BUILDERS`, or a backend that the settings' device does not have.
    """
    if name not in BUILDERS:
        raise ModelError(f"model must be one of {', '.join(BUILDERS)}, got {name!r}")
    return with_backend(BUILDERS[name](settings), settings.backend)
