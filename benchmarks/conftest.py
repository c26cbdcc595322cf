"""Fixtures and hooks of the package for the benchmarks of this folder too, and what its clips add to the summary."""

from __future__ import annotations

import numpy as np
import pytest

from stagebench.benchmarks.conftest import *


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print how the time to read a clip grows with its length: least squares through the medians."""
    points: dict[str, list[tuple[float, float]]] = {}
    session = getattr(config, "_benchmarksession", None)  # pytest-benchmark puts it there, if it is loaded
    for benchmark in session.benchmarks if session else ():
        if "way" in benchmark.extra_info:
            point = (benchmark.extra_info["seconds"], benchmark.stats.median)
            points.setdefault(benchmark.extra_info["way"], []).append(point)
    for way, of in sorted(points.items()):
        if len(of) > 2:
            slope, intercept = np.polyfit(*zip(*of, strict=True), 1) * 1e3
            terminalreporter.write_line(f"{way}: {intercept:.1f} ms + {slope:.2f} ms a second of the clip")
