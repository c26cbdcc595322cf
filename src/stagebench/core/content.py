"""Digest what a stage made to a few characters, which differ for equal counts of other content.

Digested after the timing and on the host, so no time shows it. Frames, pixels, prompts and tokens have a hash: 16 hex
digits of the SHA-256 over type, shape and bytes. Features have a sketch, because another kernel rounds otherwise.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stagebench.core.artifacts import Features, Generation, Inputs, Media, Prefilled
from stagebench.core.errors import StageError

Content = dict[str, str | list[float]]
Result = Media | Inputs | Features | Prefilled | Generation  # of a stage

SKETCHED = 15
"""Numbers of a sketch beside the first."""


def content_of(result: Result) -> Content:
    """Digest what a stage returned."""
    rows: Iterable[Iterable[int]]
    match result:
        case Media():
            return {"frames": _digest(result.images)}
        case Inputs():
            prompt = _digest(map(_as_bytes, (result.input_ids, result.attention_mask)))
            return {"pixels": _digest([_as_bytes(result.pixels)]), "prompt": prompt}
        case Features():
            return {"features": sketch(result.tokens)}
        case Prefilled():
            rows = result.sequences[:, result.prompt_tokens :].tolist()
        case Generation():
            rows = result.token_ids
    return {"tokens": _digest(np.array(list(row), np.int64) for row in rows)}


def _digest(arrays: Iterable[Any]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:16]


def _as_bytes(tensor: Tensor) -> Any:
    """View a tensor of any type as numpy's bytes, on the host, with its type in the length of the last axis."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy()


def sketch(features: Tensor) -> list[float]:
    """Summarise floats so that other content shows and other rounding hardly does; refuse what is not finite.

    These are the root mean square, and of each of `SKETCHED` equal parts, one after the other, the sum of its numbers
    with fixed random signs, over the root of how many they are: as large as the numbers themselves. Where d is the
    distance of two tensors over the norm of one, these move by about d of the first one, wherever the numbers lie:
    repeated, swapped or cut ones too.
    """
    numbers = features.detach().cpu().float().numpy().ravel()
    signs = np.random.RandomState(0).randint(2, size=numbers.size, dtype=np.int8) * 2.0 - 1  # numpy keeps its numbers
    parts = np.array_split(numbers * signs, SKETCHED)
    size = float(np.sqrt(np.mean(np.square(numbers, dtype=np.float64))))
    if not np.isfinite(size):
        raise StageError(f"features must be finite, got {np.count_nonzero(~np.isfinite(numbers))} that are not")
    return [size, *(float(part.sum() / max(len(part), 1) ** 0.5) for part in parts)]
