"""Pin the attention kernel on a GPU, because torch's own choice does not repeat itself (DESIGN, section 6)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def pinned(device: torch.device, kernels: str) -> Iterator[None]:
    """Run the block with the memory-efficient kernel ("efficient"), or with torch's choice ("default").

    The mathematical kernel stays allowed for what the efficient one can't do. On a CPU nothing changes: its kernels
    repeat themselves.
    """
    if device.type == "cuda" and kernels == "efficient":
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            yield
    else:
        yield
