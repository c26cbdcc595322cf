"""A model with a backend, by their names. To add a backend: write its file beside this one, and name it here."""

from dataclasses import replace
from typing import cast

import torch

from stagebench.backends.any_graph import AnyGraphBackend
from stagebench.backends.fixed_cache import why_not_fixed
from stagebench.backends.graph import RECIPES, GraphBackend
from stagebench.backends.static_cache import why_not_static
from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings
from stagebench.models.huggingface import HuggingFaceModel
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
    if why := refusal(plain, name):
        raise ModelError(why)
    if device != "cuda":
        raise ModelError(f"the backend {name} needs a CUDA device, got {device}")
    pool = torch.cuda.graph_pool_handle()
    if isinstance(plain, Family):
        return replace(model, backend=GraphBackend(plain, name, pool, RECIPES[name]))
    return replace(model, backend=AnyGraphBackend(cast(HuggingFaceModel, plain), name, pool))


def refusal(model: VisionLanguageModel, name: str) -> str | None:
    """Say in one line why a network can't have a backend, as far as its config tells; None where it may, on a GPU.

    That a step gives other logits than the plain one, or reads values on the host, shows when it is set up.
    """
    if name == "eager":
        return None
    if isinstance(model, Family):
        why = why_not_static(model.hf_model)
    elif name == "graph":
        why = why_not_fixed(model.hf_model)
    else:
        why = "a model whose prompt is embedded here"
    return why and f"the backend {name} needs {why}"
