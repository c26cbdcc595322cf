"""Build a model with a backend, by their names. To add a backend, write its file here and name it below."""

from dataclasses import replace
from typing import cast

import torch

from stagebench.backends.any_graph import AnyGraphBackend
from stagebench.backends.fixed_cache import why_not_fixed
from stagebench.backends.graph import RECIPES, GraphBackend
from stagebench.backends.llama_like import why_not_llama_like
from stagebench.backends.static_cache import why_not_static
from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings
from stagebench.models.huggingface import HuggingFaceModel
from stagebench.models.protocol import Family, VisionLanguageModel
from stagebench.models.registry import build_model


def load_model(name: str, settings: ModelSettings) -> VisionLanguageModel:
    """Build a model by its name, with the settings' backend; raise ModelError as `build_model` and `with_backend`."""
    return with_backend(build_model(name, settings), settings.backend)


def with_backend(model: VisionLanguageModel, name: str) -> VisionLanguageModel:
    """Return the model with a backend ("eager" is none); refuse one that the model or its device can't have."""
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
    return replace(model, backend=AnyGraphBackend(cast(HuggingFaceModel, plain), name, pool, RECIPES[name]))


def refusal(model: VisionLanguageModel, name: str) -> str | None:
    """Return in one line why a network's config rules out a backend; None where set-up on a GPU decides."""
    if name == "eager":
        return None
    why = (why_not_static if isinstance(model, Family) else why_not_fixed)(model.hf_model)
    if why is None and RECIPES[name].fused:
        why = why_not_llama_like(model.hf_model)
    return why and f"the backend {name} needs {why}"
