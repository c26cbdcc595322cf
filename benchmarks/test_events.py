"""Event recordings: drawing them, against the loop over events that their models' authors use, and reading each format.

Small by default; `--stage-scale` adds the sizes that real recordings have.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metered import metered

from stagebench.core.settings import LoadSettings
from stagebench.media.events.event_arrays import EventArrays
from stagebench.media.events.npy import write_folder
from stagebench.media.events.recordings import draw_events, load_event_arrays, read_events, size_of_recording

WIDTH, HEIGHT = 640, 480
SIZES = (100_000, 1_000_000, 10_000_000)
SLICES = 5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "count" in metafunc.fixturenames:
        big = metafunc.config.getoption("--stage-scale", default=False)
        metafunc.parametrize("count", SIZES if big else SIZES[:1], scope="session")


@pytest.fixture(scope="session")
def recording(count: int) -> dict[str, Any]:
    """Events all over the sensor, 50 ms of them: the hardest to draw, because no two lie side by side."""
    generator = np.random.default_rng(count)
    return {
        "x": generator.integers(0, WIDTH, count).astype(np.uint16),
        "y": generator.integers(0, HEIGHT, count).astype(np.uint16),
        "t": np.sort(generator.integers(0, 50_000, count)),
        "p": generator.integers(0, 2, count).astype(np.uint8),
    }


def draw_by_loop(x: Any, y: Any, p: Any) -> Any:
    """One event after the other, an array made for each, as EventGPT's authors do."""
    image = np.full((y.max() + 1, x.max() + 1, 3), 255, dtype=np.uint8)
    for column, row, polarity in zip(x, y, p, strict=True):
        image[row, column] = np.array([0, 0, 255] if polarity == 0 else [255, 0, 0])
    return image


def touch(x: Any, y: Any, p: Any) -> Any:
    """Look at every event once: no drawing is faster."""
    return x.max(), y.max(), p.max()


@pytest.mark.parametrize("how", [draw_by_loop, draw_events, touch], ids=["loop", "ours", "touch"])
def test_draw(benchmark, recording, count, how, stage_rounds):
    benchmark.group = f"draw {count} events"
    columns = [recording[key] for key in "xyp"]
    few = how is draw_by_loop and count > SIZES[0]  # seconds each
    drawn = benchmark.pedantic(
        how, args=columns, rounds=min(stage_rounds, 3) if few else stage_rounds, warmup_rounds=not few
    )

    if how is not touch:
        np.testing.assert_array_equal(draw_events(*columns), drawn)
    benchmark.extra_info |= {"work": {"events": count}, "unit": "events", "units": count}


def write_dict(path: Path, made: dict[str, Any]) -> None:
    np.save(path, np.array(made, dtype=object), allow_pickle=True)


def structured(made: dict[str, Any]) -> Any:
    events = np.zeros(len(made["t"]), [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])
    for key, values in made.items():
        events[key] = values
    return events


def write_hdf5(path: Path, made: dict[str, Any]) -> None:
    """As DSEC has them."""
    h5py, hdf5plugin = (pytest.importorskip(name) for name in ("h5py", "hdf5plugin"))
    with h5py.File(path, "w") as file:
        for key, values in made.items():
            file.create_dataset(f"events/{key}", data=values, chunks=True, **hdf5plugin.Blosc(cname="zstd", clevel=1))
        file["ms_to_idx"] = np.searchsorted(made["t"], np.arange(51) * 1000).astype(np.uint64)


def write_camera(path: Path, made: dict[str, Any]) -> None:
    faery = pytest.importorskip("faery")
    events = np.zeros(len(made["t"]), faery.EVENTS_DTYPE)
    for key, field in zip("xytp", ("x", "y", "t", "on"), strict=True):
        events[field] = made[key]
    faery.events_stream_from_array(events, (WIDTH, HEIGHT)).to_file(path)


WRITERS: dict[str, Callable[[Path, dict[str, Any]], object]] = {
    "dict.npy": write_dict,
    "structured.npy": lambda path, made: np.save(path, structured(made)),
    "arrays.npz": lambda path, made: np.savez(path, **made),
    "compressed.npz": lambda path, made: np.savez_compressed(path, **made),
    "columns.events": lambda path, made: write_folder(path, EventArrays(**made)),
    "dsec.h5": write_hdf5,
    "evt3.raw": write_camera,
    "lz4.aedat4": write_camera,
}


@pytest.fixture(scope="session", params=WRITERS)
def path(request: pytest.FixtureRequest, recording: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("events") / request.param
    WRITERS[request.param](path, recording)
    return path


def test_read(benchmark, path, count, stage_rounds):
    """A recording off the disk, checked."""
    benchmark.group = f"read {count} events"
    events = benchmark.pedantic(load_event_arrays, args=(path,), rounds=stage_rounds, warmup_rounds=1)

    assert len(events.t) == count
    benchmark.extra_info |= {"work": {"bytes_read": size_of_recording(path)}, "unit": "events", "units": count}


def test_read_and_draw(benchmark, path, count, stage_rounds):
    """What the load stage does with a recording: off the disk, checked, cut, drawn."""
    benchmark.group = f"read and draw {count} events"
    media = metered(benchmark, read_events, (path, SLICES), stage_rounds)

    assert len(media.images) == SLICES
    benchmark.extra_info |= {"unit": "events", "units": count}


def test_window(benchmark, path, count, stage_rounds):
    """A tenth of a recording."""
    benchmark.group = f"read and draw a tenth of {count} events"
    loading = LoadSettings(start=0.02, duration=0.005)
    media = metered(benchmark, read_events, (path, SLICES, loading), stage_rounds)

    assert len(media.images) == SLICES
    benchmark.extra_info |= {"unit": "events", "units": count // 10}
