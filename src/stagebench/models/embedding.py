"""Visual features into the prompt's embeddings: the one line that all three families share."""

from __future__ import annotations

from torch import Tensor, nn

from stagebench.errors import StageError


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
