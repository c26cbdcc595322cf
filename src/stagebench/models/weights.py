"""Networks out of a config (random weights) or out of a checkpoint (strict about its keys)."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from stagebench.errors import CheckpointError
from stagebench.types import ModelSettings

N = TypeVar("N", bound=PreTrainedModel)


def random_network(cls: type[N], config: PretrainedConfig, settings: ModelSettings) -> N:
    """Build a network with random weights, made directly on the device in its own dtype.

    The same settings give the same weights; the global random state is left as it was.
    """
    devices = [torch.device(settings.device)] if settings.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices), torch.device(settings.device):
        torch.manual_seed(settings.seed)
        network: N = cls._from_config(
            config, dtype=getattr(torch, settings.dtype), attn_implementation=settings.attention
        )
    network.eval()
    return network


def pretrained_network(cls: type[N], settings: ModelSettings, **kwargs: Any) -> N:
    """Read a checkpoint through `from_pretrained`.

    Raises:
        CheckpointError: where the folder can't be read, or its keys or shapes are not exactly the model's.
    """
    network: N
    try:
        network, report = cls.from_pretrained(
            settings.weights,
            dtype=getattr(torch, settings.dtype),
            attn_implementation=settings.attention,
            device_map=settings.device,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # or transformers refuses a wrong shape before it says which key has it
            **kwargs,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"can't read the checkpoint {settings.weights}: {_one_line(error)}") from error
    require_exact_keys(settings.weights, report)
    network.eval()
    return network


def require_exact_keys(checkpoint: Any, report: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that lacks a key, has one too many, or one of another shape.

    Args:
        checkpoint: its name.
        report: the loading info of `from_pretrained`.

    Raises:
        CheckpointError: naming the keys.
    """
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := report.get(problem):
            raise CheckpointError(
                f"the checkpoint {checkpoint} must hold exactly the model's keys, "
                f"got {problem.replace('_', ' ')}: {', '.join(sorted(map(_describe_key, keys)))}"
            )


def only_special_tokens(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Drop a checkpoint's own sampling defaults, so that all models of a run generate alike; stop tokens stay."""
    own = network.generation_config
    eos = own.eos_token_id if own is not None and own.eos_token_id is not None else tokenizer.eos_token_id
    network.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )


def release() -> None:
    """Give the memory of a dropped network back before the next one is built."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _describe_key(key: Any) -> str:
    # Of a mismatched one: the key, its shape, the model's shape.
    return f"{key[0]} {tuple(key[1])} for {tuple(key[2])}" if isinstance(key, tuple) else str(key)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
