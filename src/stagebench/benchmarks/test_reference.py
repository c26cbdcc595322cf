"""A workload that runs nothing of ours: its change between two runs shows the machine's drift."""

from __future__ import annotations

import torch

from stagebench.pipeline.timing import pinned_runtime
from stagebench.suite import plugin


def test_reference(benchmark, stage_rounds, pytestconfig):
    benchmark.group = "reference"
    settings = plugin.settings(pytestconfig).model
    matrix = torch.eye(512, device=settings.device)

    def reference() -> float:
        """Take about 10 ms on a CPU: half in the interpreter, half in matrix products, like our stages."""
        product = matrix
        for _ in range(4):
            product = product @ matrix
        return float(product.sum()) + sum(i & 1 for i in range(80_000))  # reading the sum waits for the device

    with pinned_runtime(settings):
        result = benchmark.pedantic(reference, rounds=stage_rounds, warmup_rounds=2)

    assert result == 512 + 40_000
