"""A model with a backend, by their names. To add a backend: write its file beside this one, and name it here."""

from dataclasses import replace

from stagebench.backends.graph import RECIPES, GraphBackend
from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.registry import build_model


def load_model(name: str, settings: ModelSettings) -> VisionLanguageModel:
    """Build a model by its name, with the settings' backend; raise ModelError as the two functions that do it."""
    return with_backend(build_model(name, settings), settings.backend)


def with_backend(model: VisionLanguageModel, name: str) -> VisionLanguageModel:
    """Return the same model, its stages run by a backend; "eager" is none.

    Raise ModelError for an unknown name, or a backend that the model's device does not have.
    """
    plain = replace(model, backend=None)
    if name == "eager":
        return plain
    if name not in RECIPES:
        raise ModelError(f"backend must be one of eager, {', '.join(RECIPES)}, got {name!r}")
    return replace(model, backend=GraphBackend.on_gpu(plain, name))
