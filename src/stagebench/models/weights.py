"""Build networks from a config (random weights) or from a checkpoint, which must be whole and of the stated size."""

import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from safetensors import safe_open
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.quantizers import AutoHfQuantizer
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from stagebench.core.errors import CheckpointError, StagebenchError
from stagebench.core.settings import ModelSettings
from stagebench.core.shown import one_line

TRAINED = Path(__file__).with_name("tiny") / "weights"  # by model, the checkpoint of its profile "tiny"
KEYS_NAMED = 3  # a 7B checkpoint may have hundreds of wrong keys

_PATIENCE = 5.0  # seconds for the hub's answer
_MANY = 2  # ratio to the content of the files; below it the wrong keys are named
_SMALLEST = 1000  # bytes of a pickle per layer, at least
_FEW = 1 << 24  # values that are always allowed: 64 MiB


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn foreign errors into a CheckpointError of one line, and keep transformers from printing."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    except StagebenchError:
        raise
    except Exception as error:  # not narrower: tokenizers, safetensors and huggingface_hub have their own base classes
        raise CheckpointError(f"can't read {what}: {one_line(error)}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def located(settings: ModelSettings) -> ModelSettings:
    """Return settings with the checkpoint's folder, its id if the hub answers, or its folder in the hub's cache.

    Call it within `reading`; raise CheckpointError if it is not there. It asks the hub once; transformers would ask
    six times per file.
    """
    source = str(settings.weights)
    if Path(source).is_dir():
        return settings
    cached = None
    try:
        cached = try_to_load_from_cache(source, CONFIG_NAME)
        get_hf_file_metadata(hf_hub_url(source, CONFIG_NAME), timeout=_PATIENCE)
    except Exception as error:  # not narrower: errors of hub and network depend on the client
        if isinstance(cached, str):
            return replace(settings, weights=str(Path(cached).parent))
        where = f"{source} must be a folder, in the hub's cache, or on a hub that can be reached"
        raise CheckpointError(f"{where}, got {one_line(error)}") from error
    return settings


def read_config(what: str, cls: type[PretrainedConfig], source: str, *also: str) -> PretrainedConfig:
    """Read a config; refuse another `model_type` than the class's or those in `also`.

    transformers would fill missing keys of another model's config with the defaults of a 7B.
    """
    with reading(what):
        found, allowed = cls.get_config_dict(source)[0].get("model_type"), (cls.model_type, *also)
        if found not in allowed:
            raise CheckpointError(f"{what} must have model_type {' or '.join(allowed)}, got {found}")
        return cls.from_pretrained(source)


def from_config(
    cls: type[PreTrainedModel], config: PretrainedConfig, settings: ModelSettings, device: str
) -> PreTrainedModel:
    """Build a network from a copy of the config, in the settings' dtype and attention, random by the seed alone."""
    given = {"dtype": getattr(torch, settings.dtype), "attn_implementation": settings.attention}
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(settings.seed)
        return cls._from_config(deepcopy(config), **given).eval()


def skeleton(cls: type[PreTrainedModel], config: PretrainedConfig, settings: ModelSettings) -> PreTrainedModel:
    """Build a network without memory; refuse weight files that can't be read, or are too small to fill it."""
    weights = str(settings.weights)
    files = _weight_files(weights, settings.pickled_weights)
    if settings.pickled_weights:  # their content is unknown, but bounded by their size
        stored = sum(file.stat().st_size for file in files)
        tensors = stored // _SMALLEST
    else:
        shapes = [shape for file in files for shape in _stored_shapes(weights, file)]
        stored, tensors = sum(map(torch.Size.numel, shapes)), len(shapes)
    parts = config.get_text_config(), getattr(config, "vision_config", None)
    layers = sum(getattr(part, "num_hidden_layers", 0) for part in parts)
    if layers > tensors:
        raise CheckpointError(f"the config of {weights} asks for {layers} layers, its files hold {tensors} tensors")
    hf_model = from_config(cls, config, settings, "meta")
    hf_model.tie_weights()
    asked = sum(parameter.numel() for parameter in hf_model.parameters())
    if asked > _FEW + _MANY * stored:
        raise CheckpointError(f"the config of {weights} asks for {asked} numbers, its files hold {stored}")
    return hf_model


def quantised_by(config: PretrainedConfig) -> str | None:
    """Return the method of a checkpoint's quantised weights; None if they are not quantised.

    Raise CheckpointError for an unknown method, which transformers would read as plain weights.
    """
    parts = (config, config.get_text_config())
    said = next((part.quantization_config for part in parts if getattr(part, "quantization_config", None)), None)
    if said is None:
        return None
    how = dict(said) if isinstance(said, Mapping) else said.to_dict() if hasattr(said, "to_dict") else {}
    of_bits = any(how.get(key) for key in ("load_in_4bit", "load_in_8bit"))  # in older checkpoints
    method = str(how.get("quant_method") or ("bitsandbytes" if of_bits else "no method"))
    if not AutoHfQuantizer.supports_quant_method(how):
        raise CheckpointError(f"weights must be quantised by a method of transformers, got {method}")
    return method


def _weight_files(weights: str, pickled: bool) -> list[Path]:
    """Return the files of the weights: one, or those of an index."""
    whole, index = (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if pickled else (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    if (single := file_of(weights, whole)) is not None:
        return [single]
    if (found := file_of(weights, index)) is not None:
        names = sorted(set(json.loads(found.read_text())["weight_map"].values()))
        return [file for name in names if (file := file_of(weights, name)) is not None]
    others = [name for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if file_of(weights, name) is not None]
    but = f"only {others[0]}: pickles are read with --pickled-weights" if others else "none"
    raise CheckpointError(f"the checkpoint {weights} must hold weights in {whole}, got {but}")


def _stored_shapes(weights: str, file: Path) -> Iterator[torch.Size]:
    """Yield the shapes of all tensors from the header of a safetensors file."""
    with safe_open(file, "pt") as opened:
        for key in opened.keys():  # noqa: SIM118 - no dict
            tensor = opened.get_slice(key)
            if key.endswith(("weight", "bias")) and "F" not in (kind := tensor.get_dtype()):
                raise CheckpointError(f"the checkpoint {weights} must hold floating point, got {kind} for {key}")
            yield torch.Size(tensor.get_shape())


def file_of(weights: str, name: str) -> Path | None:
    """Return a file of a checkpoint, in its folder or the hub's cache; None if it has no such file."""
    found: Any = cached_file(weights, name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def read_weights(cls: type[PreTrainedModel], config: PretrainedConfig, settings: ModelSettings) -> PreTrainedModel:
    """Read a checkpoint, within `reading`; refuse wrong keys and shapes, and non-finite numbers.

    In quantised weights refuse only what transformers itself refuses.
    """
    quantised = quantised_by(config)
    hf_model, report = cls.from_pretrained(
        settings.weights,
        config=config,
        dtype=getattr(torch, settings.dtype),
        attn_implementation=settings.attention,
        device_map=settings.device,
        use_safetensors=not settings.pickled_weights,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # else transformers refuses a wrong shape without naming its key
    )
    if quantised:
        require_exact_keys(settings.weights, {"mismatched_keys": report["mismatched_keys"]})
        return hf_model.eval()
    require_exact_keys(settings.weights, report)
    for name, values in hf_model.named_parameters():
        if not torch.stack(torch.aminmax(values.detach())).isfinite().all():
            raise CheckpointError(f"the checkpoint {settings.weights} must hold finite numbers, got others in {name}")
    return hf_model.eval()


def require_exact_keys(checkpoint: Any, report: Mapping[str, Any]) -> None:
    """Refuse missing or unexpected keys, and wrong shapes, by the report of `from_pretrained`."""
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(map(_describe_key, report.get(problem, ()))):
            more = f" and {len(keys) - KEYS_NAMED} more" if len(keys) > KEYS_NAMED else ""
            got = f"{problem.replace('_', ' ')}: {', '.join(keys[:KEYS_NAMED])}{more}"
            raise CheckpointError(f"the checkpoint {checkpoint} must hold exactly the model's keys, got {got}")


def _describe_key(key: Any) -> str:
    # A mismatched one is the key, its shape, and the model's shape.
    return f"{key[0]} {tuple(key[1])} for {tuple(key[2])}" if isinstance(key, tuple) else str(key)


def only_special_tokens(hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Drop a checkpoint's own sampling defaults, so that all models generate in one way; check its stop tokens."""
    own = getattr(hf_model.generation_config, "eos_token_id", None)
    eos = tokenizer.eos_token_id if own is None else own
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": eos, "pad_token_id": pad}
    size = hf_model.config.get_text_config().vocab_size
    for name, ids in special.items():
        for token in ids if isinstance(ids, list) else [ids]:
            if token is not None and not (type(token) is int and 0 <= token < size):
                raise CheckpointError(f"{name} must be one of the {size} tokens, got {token!r}")
    hf_model.generation_config = GenerationConfig(**special)


def release() -> None:
    """Free the memory of a dropped network before the next one is built."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
