"""Visual features into the prompt: a placeholder for each of them, and the one line that puts them there."""

from __future__ import annotations

from torch import Tensor, nn

from stagebench.core.errors import StageError


def repeat_placeholder(ids: list[int], placeholder: int, visual_tokens: int) -> list[int]:
    """The ids of a prompt that was tokenised with one mark, as if the mark had stood there for each visual token.

    A tokeniser takes milliseconds to find two thousand marks in a text.

    Args:
        ids: of the prompt.
        placeholder: the mark's id.
        visual_tokens: how many of it there shall be for each that there is.
    """
    return [each for token in ids for each in ([token] * visual_tokens if token == placeholder else [token])]


def embed_with_features(embedding: nn.Module, input_ids: Tensor, placeholder: int, features: Tensor) -> Tensor:
    """Embed a prompt and put the visual features where its placeholders are.

    Args:
        embedding: the language model's token embedding.
        input_ids: int64 (batch, tokens), with one placeholder id for each visual token.
        placeholder: that id.
        features: (batch, visual tokens, hidden size).

    Returns:
        (batch, tokens, hidden size), in the embedding's dtype.

    Raises:
        StageError: where placeholders and features differ in number.
    """
    embeds: Tensor = embedding(input_ids)
    mask = input_ids == placeholder
    expected, got = features.shape[0] * features.shape[1], int(mask.sum())
    if expected != got:
        raise StageError(f"the prompt must hold one placeholder for each of {expected} visual tokens, got {got}")
    return embeds.masked_scatter(mask.unsqueeze(-1), features.to(embeds.dtype))
