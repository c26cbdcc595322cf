"""The conditions under which models run: CPU threads and attention kernel, fixed because both change the times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from stagebench.core.settings import ModelSettings


@contextmanager
def conditions(settings: ModelSettings) -> Iterator[None]:
    """Run the block with the settings' threads and attention kernel; put the threads back afterwards.

    On a GPU "efficient" kernels mean torch's memory-efficient attention, because with torch's own choice even
    `generate()` does not repeat itself; the mathematical kernel stays allowed for what the efficient one can't do. On a
    CPU the kernels repeat themselves.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        if settings.device.startswith("cuda") and settings.kernels == "efficient":
            with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
                yield
        else:
            yield
    finally:
        torch.set_num_threads(before)
