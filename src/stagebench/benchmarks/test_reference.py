"""A workload that no change of ours touches: what it gains or loses between two runs is the machine's doing."""

from __future__ import annotations

import torch

from stagebench.pipeline.timing import pinned_runtime
from stagebench.suite import plugin


def test_reference(benchmark, stage_rounds, pytestconfig):
    benchmark.group = "reference"
    settings = plugin.settings(pytestconfig).model
    matrix = torch.eye(512, device=settings.device)

    def reference() -> float:
        """Some 10 ms on a CPU: half in the interpreter, half in matrix products, as our stages are."""
        product = matrix
        for _ in range(4):
            product = product @ matrix
        return float(product.sum()) + sum(i & 1 for i in range(80_000))  # reading the sum waits for the device

    with pinned_runtime(settings):
        result = benchmark.pedantic(reference, rounds=stage_rounds, warmup_rounds=2)

    assert result == 512 + 40_000
