"""Networks out of a config (random weights) or out of a checkpoint (strict about its keys)."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeVar, cast

import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from stagebench.core.errors import CheckpointError, StagebenchError
from stagebench.core.settings import ModelSettings
from stagebench.core.shown import plain

N = TypeVar("N", bound=PreTrainedModel)

LONGEST = 300  # characters of an error of somebody else's; some quote the whole file
KEYS_NAMED = 3  # of a 7B checkpoint hundreds may be wrong, and the first ones tell what it is


def from_config(cls: type[N], config: PretrainedConfig, settings: ModelSettings) -> N:
    """Build a network on torch's current device, from a copy of the config, in the settings' dtype and attention."""
    given = {"dtype": getattr(torch, settings.dtype), "attn_implementation": settings.attention}
    return cast(N, cls._from_config(deepcopy(config), **given).eval())


def random_hf_model(cls: type[N], config: PretrainedConfig, settings: ModelSettings) -> N:
    """Build a network with random weights, made directly on the device in its own dtype.

    The same settings give the same weights; the global random state is left as it was.
    """
    devices = [torch.device(settings.device)] if settings.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices), torch.device(settings.device):
        torch.manual_seed(settings.seed)
        return from_config(cls, config, settings)


def pretrained_hf_model(cls: type[N], config: PretrainedConfig, settings: ModelSettings) -> N:
    """Read a checkpoint through `from_pretrained`; call it within `reading`.

    Raises:
        CheckpointError: where its keys or shapes are not exactly the model's.
    """
    hf_model, report = cls.from_pretrained(
        settings.weights,
        config=config,
        dtype=getattr(torch, settings.dtype),
        attn_implementation=settings.attention,
        device_map=settings.device,
        use_safetensors=not settings.pickled_weights,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # or transformers refuses a wrong shape before it says which key has it
    )
    require_exact_keys(settings.weights, report)
    for name, values in hf_model.named_parameters():
        if not torch.stack(torch.aminmax(values.detach())).isfinite().all():
            raise CheckpointError(f"the checkpoint {settings.weights} must hold finite numbers, got others in {name}")
    return cast(N, hf_model.eval())


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever is raised about a file into one line, and keep transformers from printing meanwhile.

    Raises:
        CheckpointError: naming `what` is being read, for any error but one of ours, which passes.
    """
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    except StagebenchError:
        raise
    except Exception as error:  # no narrower: tokenizers, safetensors and huggingface_hub have bases of their own
        raise CheckpointError(f"can't read {what}: {one_line(error)}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def one_line(error: Exception) -> str:
    """Say which error it was, in one line that is not too long."""
    return plain(f"{type(error).__name__}: {error}", LONGEST)


def check_model_type(what: str, config: Mapping[str, Any], *allowed: str) -> None:
    """Refuse another model's config, and the empty one that transformers makes of a folder without any.

    Raises:
        CheckpointError: naming what it is ("the config of /models/llava"), and its `model_type`.
    """
    if (found := config.get("model_type")) not in allowed:
        raise CheckpointError(f"{what} must have model_type {' or '.join(allowed)}, got {found}")


def require_exact_keys(checkpoint: Any, report: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that lacks a key, has one too many, or one of another shape, by `from_pretrained`'s report.

    Raises:
        CheckpointError: naming the first `KEYS_NAMED` keys and the number of the others.
    """
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(map(_describe_key, report.get(problem, ()))):
            more = f" and {len(keys) - KEYS_NAMED} more" if len(keys) > KEYS_NAMED else ""
            got = f"{problem.replace('_', ' ')}: {', '.join(keys[:KEYS_NAMED])}{more}"
            raise CheckpointError(f"the checkpoint {checkpoint} must hold exactly the model's keys, got {got}")


def only_special_tokens(hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Drop a checkpoint's own sampling defaults, so that all models of a run generate alike; stop tokens stay.

    Raises:
        CheckpointError: where a stop token, or another special one, is not in the vocabulary.
    """
    own = getattr(hf_model.generation_config, "eos_token_id", None)
    eos = tokenizer.eos_token_id if own is None else own
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": eos, "pad_token_id": pad}
    size = hf_model.config.get_text_config().vocab_size
    for name, ids in special.items():
        for token in ids if isinstance(ids, list) else [ids]:
            if token is not None and not (type(token) is int and 0 <= token < size):
                raise CheckpointError(f"{name} must be of the {size} tokens, got {token!r}")
    hf_model.generation_config = GenerationConfig(**special)


def release() -> None:
    """Give the memory of a dropped network back before the next one is built."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _describe_key(key: Any) -> str:
    # Of a mismatched one: the key, its shape, the model's shape.
    return f"{key[0]} {tuple(key[1])} for {tuple(key[2])}" if isinstance(key, tuple) else str(key)
