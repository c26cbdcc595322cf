"""The machine's highest rates, with which the work of a stage is compared (MFU and MBU)."""

from __future__ import annotations

import pytest
import torch

from stagebench.analysis.experiments.measured_roofline import copy_workload, matmul_workload
from stagebench.pipeline.timing import pinned_runtime, synchronize
from stagebench.suite import plugin


@pytest.mark.parametrize("ceiling", ["bandwidth", "flops"])
def test_ceiling(benchmark, ceiling, stage_rounds, pytestconfig):
    benchmark.group = "ceilings"
    settings = plugin.settings(pytestconfig).model
    device = torch.device(settings.device)
    workload, amount = (
        copy_workload(device) if ceiling == "bandwidth" else matmul_workload(device, getattr(torch, settings.dtype))
    )

    def run() -> None:
        workload()
        synchronize(device)

    with pinned_runtime(settings):
        benchmark.pedantic(run, setup=lambda: synchronize(device), rounds=stage_rounds, warmup_rounds=2)
    benchmark.extra_info |= {"ceiling": ceiling, "work": {"amount": amount}}
