"""How long every way to read eight frames of a clip takes, relative to ours, with all frames checked to be equal.

    PYTHONPATH=benchmarks python benchmarks/experiments/compare_decoders.py

Clips are generated once, and kept in the folder that `--clips` names.
In every round each way reads the clip once, in an order drawn afresh; medians are compared.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from clips import Clip
from readers import READERS, Reader
from rich.console import Console
from rich.table import Table

from stagebench.core.artifacts import Sample
from stagebench.core.settings import LoadSettings
from stagebench.pipeline.load import load

COUNT = 8
SIZES, SECONDS, KEYS = ((640, 480), (1440, 1080)), (1, 5, 20), (12, 250)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=Path, default=Path(tempfile.gettempdir()) / "stagebench-clips")
    parser.add_argument("--seconds", type=float, default=6.0, help="to spend on a clip, three rounds at least")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    given = parser.parse_args()
    given.clips.mkdir(parents=True, exist_ok=True)
    ways = READERS | {"cached": from_cache(Path(tempfile.mkdtemp()))}
    table = Table("clip", "ms", *ways, "equal", box=None, header_style="bold")
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for name, path in rows(given.clips):
        if given.only not in name:
            continue
        times, different = measure(path, ways, given.seconds)
        medians = {reader: statistics.median(times[reader]) for reader in times}
        for reader, median in medians.items():
            ratios[reader].append(median / medians["keyed"])
        cells = [f"{ratios[reader][-1]:.2f}" if reader in medians else "-" for reader in ways]
        equal = "all" if not different else f"not {', '.join(different)}"
        table.add_row(name, f"{medians['keyed'] * 1e3:.1f}", *cells, equal)
    means = [f"{math.exp(statistics.fmean(map(math.log, of))):.2f}" if of else "-" for of in ratios.values()]
    table.add_row("geometric mean", "", *means, "")
    Console(width=150).print(table)


def rows(folder: Path) -> list[tuple[str, Path]]:
    """Generated clips, and the real ones where there are some."""
    clips = [Clip(seconds, *size, keys=keys) for size in SIZES for seconds in SECONDS for keys in KEYS]
    real = sorted((Path(os.environ["STAGEBENCH_DATA"]) / "video").iterdir()) if "STAGEBENCH_DATA" in os.environ else []
    return [(clip.name, clip.write(folder)) for clip in clips] + [(path.name, path) for path in real]


def from_cache(folder: Path) -> Reader:
    """The frame cache; the first read, which fills it, is not timed."""
    loading = LoadSettings(cache=folder)
    return lambda path, count: list(load(Sample(path, loading=loading), count).images)


def measure(path: Path, ways: dict[str, Reader], seconds: float) -> tuple[dict[str, list[float]], list[str]]:
    """Times of every way, and which ways give other frames than the reference (or none)."""
    expected = [image.tobytes() for image in READERS["in order"](path, COUNT)]
    times: dict[str, list[float]] = {}
    different = []
    for name, reader in ways.items():
        try:
            images = reader(path, COUNT)
        except (ImportError, RuntimeError):  # torchcodec without FFmpeg's libraries raises the latter
            continue
        times[name] = []
        if [image.tobytes() for image in images] != expected:
            different.append(name)
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times["keyed"]) < 3:
        for name in random.sample(sorted(times), len(times)):
            start = time.perf_counter()
            ways[name](path, COUNT)
            times[name].append(time.perf_counter() - start)
    return times, different


if __name__ == "__main__":
    main()
