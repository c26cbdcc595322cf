"""Describe registered models without running them."""

from typing import Any

import numpy as np

from stagebench.backends.load import refusal
from stagebench.core.artifacts import Media
from stagebench.core.errors import StagebenchError
from stagebench.core.settings import BACKENDS, DEFAULT_QUESTION, ModelSettings
from stagebench.media.clips import HEIGHT, WIDTH
from stagebench.models.from_registration import config_of
from stagebench.models.registration import Registration
from stagebench.models.registry import build_model, origins, registration_of, trained
from stagebench.models.weights import from_config, reading


def described(name: str) -> dict[str, Any]:
    """Return a model's origin, input, parameters by profile, and refusals by backend, or its "error" in one line."""
    made: dict[str, Any] = {"model": name, "from": origins()[name]}
    try:
        registration = registration_of(name)
        real_shapes = "7b" if registration.config is None else "random"
        with reading(f"the model {name}"):
            profiles = (*(["tiny"] if trained(name) else []), "tiny-random", real_shapes)
            made["parameters"] = {profile: _parameters(registration, profile) for profile in profiles}
            model = build_model(name, ModelSettings("tiny"))
            images = (np.zeros((HEIGHT, WIDTH, 3), np.uint8),) * model.images_per_sample
            shown = Media(images, "frames", len(images), 0, None)
            made |= {"input": model.input_kind, "images": model.images_per_sample}
            made["prompt_tokens"] = model.preprocess(shown, DEFAULT_QUESTION).input_ids.shape[1]
            made["backends"] = {backend: refusal(model, backend) for backend in BACKENDS}
    except StagebenchError as error:
        made["error"] = str(error)
    return made


def _parameters(registration: Registration, profile: str) -> int:
    """Return the number of parameters, of random weights from a network without memory."""
    network = registration.resolve("network")
    if profile == "tiny":
        return int(build_model(registration.name, ModelSettings(profile)).hf_model.num_parameters())
    if registration.config is None:
        network, config = network.hf_class, network.random_config(profile.removesuffix("-random"))
    else:
        config = config_of(registration, network, profile)
    return int(from_config(network, config, ModelSettings(), "meta").num_parameters())
