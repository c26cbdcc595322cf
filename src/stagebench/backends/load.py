"""A model with a backend, by their names. To add a backend: write its file beside this one, and name it here."""

from dataclasses import replace

import torch

from stagebench.backends.graph import RECIPES, GraphBackend
from stagebench.backends.static_cache import require_static
from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings
from stagebench.models.protocol import Family, VisionLanguageModel
from stagebench.models.registry import build_model


def load_model(name: str, settings: ModelSettings) -> VisionLanguageModel:
    """Build a model by its name, with the settings' backend; raise ModelError as the two functions that do it."""
    return with_backend(build_model(name, settings), settings.backend)


def with_backend(model: VisionLanguageModel, name: str) -> VisionLanguageModel:
    """Return the same model, run by a backend ("eager" is none); refuse one that it or its device can't have."""
    plain, device = replace(model, backend=None), model.hf_model.device.type
    if name == "eager":
        return plain
    if name not in RECIPES:
        raise ModelError(f"backend must be one of eager, {', '.join(RECIPES)}, got {name!r}")
    if not isinstance(plain, Family):
        raise ModelError(f"{plain.name} runs by the backend eager alone, got {name!r}")
    if device != "cuda":
        raise ModelError(f"the backend {name} needs a CUDA device, got {device}")
    require_static(plain.hf_model)
    return replace(model, backend=GraphBackend(plain, name, RECIPES[name], torch.cuda.graph_pool_handle()))
