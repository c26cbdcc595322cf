"""Families of transformers, one file each: the shapes of a checkpoint, and the settings of its processor."""

from typing import Any


def layers(width: int, inner_width: int, number: int, heads: int, **further: Any) -> dict[str, Any]:
    """Return the config of a stack of transformer layers; `inner_width` is that of the feed-forward network."""
    sizes = {"hidden_size": width, "intermediate_size": inner_width, "num_hidden_layers": number}
    return sizes | {"num_attention_heads": heads} | further
