"""Do the parts of a checkpoint fit each other? Its config, tokenizer and file headers say so before it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from transformers.utils.hub import cached_file

from stagebench.errors import CheckpointError
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.weights import one_line
from stagebench.types import Inputs, ModelSettings

N = TypeVar("N", bound=PreTrainedModel)

_MANY = 2  # times what the files hold: where less is missing or too much, the keys are named
_FEW = 1 << 24  # values for which nothing is refused: 64 MiB


def skeleton(cls: type[N], config: PretrainedConfig, settings: ModelSettings) -> N:
    """Build a network of shapes alone, which takes no memory, where its weight files can fill it.

    Raises:
        CheckpointError: where the weights are pickled and were not asked for, or are far fewer than the config says.
    """
    weights = str(settings.weights)
    shapes = None if settings.pickled_weights else _stored_shapes(weights)
    layers = config.get_text_config().num_hidden_layers + config.vision_config.num_hidden_layers
    if shapes is not None and layers > len(shapes):
        raise CheckpointError(f"the config of {weights} asks for {layers} layers, its files hold {len(shapes)} tensors")
    with torch.device("meta"):
        network: N = cls._from_config(
            deepcopy(config), dtype=getattr(torch, settings.dtype), attn_implementation=settings.attention
        )
    network.eval()
    network.tie_weights()
    asked = sum(parameter.numel() for parameter in network.parameters())
    if shapes is not None and asked > _FEW + _MANY * (stored := sum(map(torch.Size.numel, shapes.values()))):
        raise CheckpointError(f"the config of {weights} asks for {asked} numbers, its files hold {stored}")
    return network


def rehearse(model: VisionLanguageModel, weights: str, side: int) -> None:
    """Let a skeleton encode one image and read it as a prompt: only shapes are computed.

    Raises:
        CheckpointError: where the sizes in its config do not fit each other.
    """
    network, tokens = model.network, model.visual_tokens(1)
    text = network.config.get_text_config()
    ids = torch.empty(1, 1, dtype=torch.long, device="meta")
    pixels = torch.empty(1, 1, 3, side, side, dtype=network.dtype, device="meta")
    try:
        with torch.no_grad():
            features = model.encode(Inputs(ids, ids, pixels))
            network(inputs_embeds=features)
    except Exception as error:  # no narrower: whatever torch and transformers raise of sizes
        raise CheckpointError(f"the config of {weights} must fit itself, got {one_line(error)}") from error
    if features.shape != (1, tokens, text.hidden_size):
        raise CheckpointError(
            f"the config of {weights} must give an image {tokens} features of {text.hidden_size} numbers, "
            f"got {tuple(features.shape[1:])}"
        )


def check_tokens(
    weights: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, ids: Mapping[str, int]
) -> None:
    """Refuse a tokenizer with other marks than the config's, or more tokens than the network embeds.

    Args:
        weights: the checkpoint.
        config: of the network.
        tokenizer: of the checkpoint.
        ids: the config's, by mark ("<image>").

    Raises:
        CheckpointError: naming both numbers.
    """
    embedded = config.get_text_config().vocab_size
    highest = max(tokenizer.get_vocab().values())
    if highest >= embedded:
        raise CheckpointError(
            f"the checkpoint {weights} must embed all {highest + 1} tokens of its tokenizer, got vocab_size {embedded}"
        )
    for mark, expected in ids.items():
        if tokenizer(mark).input_ids.count(expected) != 1:
            got = tokenizer.convert_tokens_to_ids(mark)
            raise CheckpointError(
                f"the tokenizer of {weights} must have id {expected} for {mark}, as its config, got {got}"
            )


def _stored_shapes(weights: str) -> dict[str, torch.Size]:
    """The shapes of all tensors, by key, out of the headers of the safetensors files."""
    if (single := _file_of(weights, SAFE_WEIGHTS_NAME)) is not None:
        files = [single]
    elif (index := _file_of(weights, SAFE_WEIGHTS_INDEX_NAME)) is not None:
        names = sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
        files = [found for name in names if (found := _file_of(weights, name)) is not None]
    else:
        pickled = [name for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if _file_of(weights, name) is not None]
        but = f"only {pickled[0]}: pickles are read with --pickled-weights" if pickled else "none"
        raise CheckpointError(f"the checkpoint {weights} must hold weights in {SAFE_WEIGHTS_NAME}, got {but}")
    shapes: dict[str, torch.Size] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            shapes |= {key: torch.Size(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118 - no dict
    return shapes


def _file_of(weights: str, name: str) -> str | None:
    found: Any = cached_file(weights, name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else str(found)
