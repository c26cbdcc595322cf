"""Do the parts of a checkpoint fit each other? Its config, tokenizer and file headers say so before it is read."""

import json
from collections.abc import Iterator, Mapping
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
        shapes = [shape for file in files for shape in _stored_shapes(weights, file)]
        stored, tensors = sum(map(torch.Size.numel, shapes)), len(shapes)
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
    size = hf_model.config.get_text_config().hidden_size
    ids = torch.empty(1, 1, dtype=torch.long, device="meta")
    pixels = torch.empty(1, 1, 3, side, side, dtype=hf_model.dtype, device="meta")
    try:
        with torch.no_grad():
            features = model.encode(Inputs(ids, ids, pixels))
            hf_model(inputs_embeds=features)
    except Exception as error:  # no narrower: whatever torch and transformers raise of sizes
        raise CheckpointError(f"the config of {weights} must fit itself, got {one_line(error)}") from error
    if features.shape != (1, tokens, size):
        needs, got = f"{tokens} features of {size} numbers", tuple(features.shape[1:])
        raise CheckpointError(f"the config of {weights} must give an image {needs}, got {got}")


def check_tokens(
    weights: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, ids: Mapping[str, int]
) -> None:
    """Refuse a tokenizer with more tokens than the network embeds, or with other ids of the placeholders than given.

    Raises:
        CheckpointError: naming both numbers.
    """
    embedded, tokens = config.get_text_config().vocab_size, max(tokenizer.get_vocab().values()) + 1
    if tokens > embedded:
        needs = f"all {tokens} tokens of its tokenizer"
        raise CheckpointError(f"the checkpoint {weights} must embed {needs}, got vocab_size {embedded}")
    for token, expected in ids.items():
        if tokenizer(token).input_ids.count(expected) != 1:
            needs, got = f"id {expected} for {token}, as its config", tokenizer.convert_tokens_to_ids(token)
            raise CheckpointError(f"the tokenizer of {weights} must have {needs}, got {got}")


def _weight_files(weights: str, pickled: bool) -> list[Path]:
    """Find the files that hold the weights: one, or those of an index."""
    whole, index = (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if pickled else (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    if (single := _file_of(weights, whole)) is not None:
        return [single]
    if (found := _file_of(weights, index)) is not None:
        names = sorted(set(json.loads(found.read_text())["weight_map"].values()))
        return [file for name in names if (file := _file_of(weights, name)) is not None]
    others = [name for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if _file_of(weights, name) is not None]
    but = f"only {others[0]}: pickles are read with --pickled-weights" if others else "none"
    raise CheckpointError(f"the checkpoint {weights} must hold weights in {whole}, got {but}")


def _stored_shapes(weights: str, file: Path) -> Iterator[torch.Size]:
    """Yield the shapes of all tensors out of the header of a safetensors file."""
    with safe_open(file, "pt") as opened:
        for key in opened.keys():  # noqa: SIM118 - no dict
            tensor = opened.get_slice(key)
            if key.endswith(("weight", "bias")) and "F" not in (kind := tensor.get_dtype()):
                raise CheckpointError(f"the checkpoint {weights} must hold floating point, got {kind} for {key}")
            yield torch.Size(tensor.get_shape())


def _file_of(weights: str, name: str) -> Path | None:
    found: Any = cached_file(weights, name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)
