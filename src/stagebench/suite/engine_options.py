"""What the options of engines mean, and which of them contradict each other."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from stagebench.core.errors import ModelError
from stagebench.core.settings import ENGINES, EngineSettings
from stagebench.models.registry import ANY


def require_served(engines: Sequence[str], own: EngineSettings, models: Sequence[str], backends: Sequence[str]) -> None:
    """Refuse unknown engines, models that they can't have, and settings of an engine that is not named."""
    named, others = ", ".join(engines), [name for name in engines if name != ENGINES[0]]
    if unknown := [name for name in engines if name not in ENGINES]:
        raise ModelError(f"engines must be among {', '.join(ENGINES)}, got {', '.join(unknown)}")
    if own.arguments and len({"vllm", "openai"} & {*engines}) != 1:
        raise ModelError(f"{', '.join(own.arguments)} must be for one engine, vllm or openai, got {named}")
    of_vllm = [name for name in own.arguments if name == "quantization" or name.endswith("_parallel_size")]
    if of_vllm and own.url:
        raise ModelError(f"{', '.join(of_vllm)} must be for the engine vllm, got {named}")
    if (own.url is None) == ("openai" in engines):
        raise ModelError(f"the engine openai, and no other, must have a url, got {named} and the url {own.url}")
    if others == [*engines] and [*backends] != ["eager"]:
        got = f"the backends {', '.join(backends)}"
        raise ModelError(f"{named} must run the stages without a backend of transformers, got {got}")
    if others and [*engines] != ["openai"] and not models[0].startswith(ANY):
        raise ModelError(f"{', '.join(others)} must serve a checkpoint ({ANY}FOLDER), got {', '.join(models)}")


def arguments_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return vLLM's arguments by their names: of our options that are not the default, and NAME=VALUE with JSON."""
    sizes = {f"{kind}_parallel_size": given[f"{kind}_parallel"] for kind in ("tensor", "pipeline", "data")}
    found = {name: size for name, size in sizes.items() if size != 1}
    found |= {"quantization": given["quantization"]} if given["quantization"] else {}
    for text in given["engine_args"]:
        name, equals, value = text.partition("=")
        if not equals or not (name := name.replace("-", "_")).isidentifier():
            raise ModelError(f"engine-args must be NAME=VALUE, got {text!r}")
        found[name] = value
        with suppress(ValueError):  # a text
            found[name] = json.loads(value)
    return found
