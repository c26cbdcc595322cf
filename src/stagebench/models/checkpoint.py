"""Do the parts of a checkpoint fit each other? Its config, tokenizer and file headers say so before it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from transformers.utils.hub import cached_file

from stagebench.core.artifacts import Inputs
from stagebench.core.errors import CheckpointError
from stagebench.core.settings import ModelSettings
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.weights import from_config, one_line

N = TypeVar("N", bound=PreTrainedModel)

_MANY = 2  # times what the files hold: where less is missing or too much, the keys are named
_SMALLEST = 1000  # bytes of a pickle that a layer takes, at least
_FEW = 1 << 24  # values for which nothing is refused: 64 MiB


def skeleton(cls: type[N], config: PretrainedConfig, settings: ModelSettings) -> N:
    """Build a network of shapes alone, which takes no memory, where its weight files can fill it.

    Raises:
        CheckpointError: where the weights are pickled and were not asked for, or are far fewer than the config says.
    """
    weights = str(settings.weights)
    files = _weight_files(weights, settings.pickled_weights)
    if settings.pickled_weights:  # what is in them, only reading tells: no more tensors and numbers than fit in so much
        stored = sum(file.stat().st_size for file in files)
        tensors = stored // _SMALLEST
    else:
        shapes = _stored_shapes(weights, files)
        stored, tensors = sum(map(torch.Size.numel, shapes.values())), len(shapes)
    layers = config.get_text_config().num_hidden_layers + config.vision_config.num_hidden_layers
    if layers > tensors:
        raise CheckpointError(f"the config of {weights} asks for {layers} layers, its files hold {tensors} tensors")
    with torch.device("meta"):
        hf_model = from_config(cls, config, settings)
    hf_model.tie_weights()
    asked = sum(parameter.numel() for parameter in hf_model.parameters())
    if asked > _FEW + _MANY * stored:
        raise CheckpointError(f"the config of {weights} asks for {asked} numbers, its files hold {stored}")
    return hf_model


def rehearse(model: VisionLanguageModel, weights: str, side: int) -> None:
    """Let a skeleton encode one image and read it as a prompt: only shapes are computed.

    Raises:
        CheckpointError: where the sizes in its config do not fit each other.
    """
    hf_model, tokens = model.hf_model, model.visual_tokens(1)
    text = hf_model.config.get_text_config()
    ids = torch.empty(1, 1, dtype=torch.long, device="meta")
    pixels = torch.empty(1, 1, 3, side, side, dtype=hf_model.dtype, device="meta")
    try:
        with torch.no_grad():
            features = model.encode(Inputs(ids, ids, pixels))
            hf_model(inputs_embeds=features)
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


def _weight_files(weights: str, pickled: bool) -> list[Path]:
    """The files that hold the weights: one, or those of an index."""
    whole, index = (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if pickled else (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    if (single := _file_of(weights, whole)) is not None:
        return [single]
    if (found := _file_of(weights, index)) is not None:
        names = sorted(set(json.loads(found.read_text())["weight_map"].values()))
        return [file for name in names if (file := _file_of(weights, name)) is not None]
    others = [name for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if _file_of(weights, name) is not None]
    but = f"only {others[0]}: pickles are read with --pickled-weights" if others else "none"
    raise CheckpointError(f"the checkpoint {weights} must hold weights in {whole}, got {but}")


def _stored_shapes(weights: str, files: Sequence[Path]) -> dict[str, torch.Size]:
    """The shapes of all tensors, by key, out of the headers of the safetensors files."""
    shapes: dict[str, torch.Size] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            found = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 - no dict
            shapes |= {key: torch.Size(tensor.get_shape()) for key, tensor in found.items()}
        for key, tensor in found.items():
            if key.endswith(("weight", "bias")) and "F" not in (kind := tensor.get_dtype()):
                raise CheckpointError(f"the checkpoint {weights} must hold floating point, got {kind} for {key}")
    return shapes


def _file_of(weights: str, name: str) -> Path | None:
    found: Any = cached_file(weights, name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)
