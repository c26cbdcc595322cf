"""Times of events in other units: noticed where no camera gives such microseconds, read where the unit is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stagebench.analysis.experiments.dataset import Dataset, Entry
from stagebench.analysis.experiments.design import cut, seconds_of
from stagebench.cli import main
from stagebench.cli.commands import SettingsCommand
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.events.event_arrays import in_microseconds
from stagebench.media.events.recordings import load_event_arrays, read_events
from stagebench.suite.settings import Settings

h5py = pytest.importorskip("h5py")
COUNT = 20_000
US = np.sort(np.random.default_rng(2).integers(1_000_000, 1_050_000, COUNT))  # 0.4 million events a second
DOUBT = r": t must be microseconds, got 20000 events in .*, which no camera records; --time-unit sets another unit"


def columns(t: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {
        "x": np.arange(len(t), dtype=np.uint16) % 640,
        "y": np.zeros(len(t), np.uint16),
        "t": t,
        "p": np.ones(len(t), np.uint8),
    }


def write_npy(path: Path, t: NDArray[Any]) -> None:
    np.save(path, np.array(columns(t), dtype=object))


def write_structured(path: Path, t: NDArray[Any]) -> None:
    made = columns(t)
    events = np.zeros(len(t), [(key, values.dtype) for key, values in made.items()])
    for key, values in made.items():
        events[key] = values
    np.save(path, events)


def write_folder(path: Path, t: NDArray[Any]) -> None:
    path.mkdir()
    for key, values in columns(t).items():
        np.save(path / f"{key}.npy", values)


def write_hdf5(path: Path, t: NDArray[Any]) -> None:
    with h5py.File(path, "w") as file:
        for key, values in columns(t).items():
            file[f"events/{key}"] = values


WRITERS: dict[str, Callable[[Path, NDArray[Any]], None]] = {
    "dict.npy": write_npy,
    "structured.npy": write_structured,
    "arrays.npz": lambda path, t: np.savez(path, **columns(t)),
    "columns.events": write_folder,
    "plain.h5": write_hdf5,
}
UNITS: dict[str, tuple[str, NDArray[Any]]] = {
    "nanoseconds": ("ns", US * 1000),
    "nanoseconds of a finer clock": ("ns", US * 1000 + np.arange(COUNT) % 999),
    "nanoseconds since 1970": ("ns", US * 1000 + 1_700_000_000 * 10**9),
    "seconds in floating point": ("s", US / 1e6),
    "milliseconds in floating point": ("ms", US / 1e3),
    "microseconds in floating point": ("us", US.astype(np.float64)),
    "seconds in single precision": ("s", ((US - 1_000_000) / 1e6).astype(np.float32)),
}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", WRITERS)
def test_another_unit_is_refused_until_it_is_given(tmp_path: Path, name: str, unit: str) -> None:
    WRITERS[name](tmp_path / name, UNITS[unit][1])

    doubt = rf"{DOUBT}|: t must be integers, got float(32|64); --time-unit sets its unit$"
    with pytest.raises(MediaError, match=doubt):
        load_event_arrays(tmp_path / name)
    t = load_event_arrays(tmp_path / name, LoadSettings(time_unit=UNITS[unit][0])).t
    assert (t - t[0]).tolist() == (US - US[0]).tolist()


@pytest.mark.parametrize("per_unit", [1000, 1_000_000])
def test_whole_milliseconds_and_seconds_are_noticed(tmp_path: Path, per_unit: int) -> None:
    write_structured(tmp_path / "a.npy", np.repeat(US, 4) // per_unit)

    with pytest.raises(MediaError, match=r"which no camera records"):
        load_event_arrays(tmp_path / "a.npy")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("start", "duration"), [(0.0101, 0.0299), (0, 0.001), (0.0405, None)])
def test_a_window_is_the_same_in_any_unit(tmp_path: Path, name: str, start: float, duration: float | None) -> None:
    inside = (US - US[0] >= round(start * 1e6)) & (
        US - US[0] < (np.inf if duration is None else start + duration) * 1e6
    )

    for number, (unit, t) in enumerate(UNITS.values()):
        path = tmp_path / f"{number}-{name}"
        WRITERS[name](path, t)
        found = load_event_arrays(path, LoadSettings(start=start, duration=duration, time_unit=unit)).x
        assert found.tolist() == columns(US)["x"][inside].tolist()


@pytest.mark.parametrize(
    "t",
    [
        US,
        US + 1_700_000_000 * 10**6,
        np.arange(1334) * 30_000,  # 33 events a second for 40 s
        np.arange(3000) * 1000,  # a simulation's thousands
        np.repeat(np.arange(12_000), 100) * 1000,
        np.arange(600_000) * 97,
        np.array([0, 10**15]),
        np.zeros(900, np.int64),
    ],
    ids=["typical", "since 1970", "slow", "thousands", "many thousands", "a minute", "two", "at once"],
)
def test_microseconds_of_any_camera_are_read(tmp_path: Path, t: NDArray[Any]) -> None:
    write_structured(tmp_path / "a.npy", t)

    assert np.array_equal(load_event_arrays(tmp_path / "a.npy").t, t)


def test_a_rate_that_no_camera_has_is_believed_where_the_unit_is_given(tmp_path: Path) -> None:
    slow = np.arange(1000) * 1_000_000
    write_structured(tmp_path / "a.npy", slow)

    assert load_event_arrays(tmp_path / "a.npy", LoadSettings(time_unit="us")).t.tolist() == slow.tolist()


def test_a_converted_recording_is_believed_to_count_microseconds(tmp_path: Path) -> None:
    write_structured(tmp_path / "a.npy", np.arange(1000) * 10**9)

    result = CliRunner().invoke(
        main, ["convert", str(tmp_path / "a.npy"), str(tmp_path / "a.events"), "--time-unit", "ns"]
    )

    assert result.exit_code == 0, result.output
    assert load_event_arrays(tmp_path / "a.events").t.tolist() == [i * 1_000_000 for i in range(1000)]
    with pytest.raises(MediaError, match=r"^a\.events: counts microseconds by definition, got --time-unit ns$"):
        load_event_arrays(tmp_path / "a.events", LoadSettings(time_unit="ns"))


def test_the_unit_reaches_images_and_lengths(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_npy(path, US / 1e6)

    media = read_events(path, 5, LoadSettings(time_unit="s", slices="time", start=0.01, duration=0.02))
    assert media.span == pytest.approx(0.02, abs=1e-4)
    assert seconds_of(path, "s") == pytest.approx((US[-1] - US[0]) / 1e6)
    whole = Dataset((Entry("a", "a", "?", {"events": path}),))
    assert (len(cut(whole, 0.01, "s").entries), len(cut(whole, 0.01).broken)) == (4, 1)


def test_the_index_of_milliseconds_is_of_microseconds_alone(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "a.h5", US * 1000)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["ms_to_idx"] = np.zeros(60, np.uint64)
        file["t_offset"] = 7_000_000

    found = load_event_arrays(tmp_path / "a.h5", LoadSettings(start=0.01, duration=0.01, time_unit="ns")).t
    assert found.tolist() == (US[(US - US[0] >= 10_000) & (US - US[0] < 20_000)] + 7000).tolist()


@pytest.mark.parametrize(
    ("t", "unit", "message"),
    [
        ([0.1, np.nan, 0.3], "s", "t is out of range, must be finite and of some century, got nan"),
        ([0.1, 0.2, np.inf], "s", "t is out of range, must be finite and of some century, got inf"),
        ([0.1, 0.2, 1e300], "s", "t is out of range, must be finite and of some century, got 1e+300"),
        ([1.7e9, 1.7e9, 1.7e9], "s", "t must tell milliseconds apart, got float32 in steps of 128"),
        ([0.3, 0.2, 0.1], "s", "t must ascend, got 200000 after 300000 at index 1"),
        ([0, 1, 2**62], "ms", f"t is out of range, must be below {2**62} microseconds, got {2**62} ms"),
    ],
)
def test_times_that_are_none_are_refused_in_any_unit(tmp_path: Path, t: list[float], unit: str, message: str) -> None:
    dtype = np.int64 if unit == "ms" else np.float32 if t[0] > 1 else np.float64
    for name, write in WRITERS.items():
        write(tmp_path / name, np.array(t, dtype))
        with pytest.raises(MediaError) as refused:
            load_event_arrays(tmp_path / name, LoadSettings(time_unit=unit))
        assert str(refused.value) == f"{name}: {message}"


@given(
    st.lists(st.integers(-(2**40), 2**40), min_size=1),
    st.sampled_from(["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f8", ">i8", ">f8"]),
)
def test_units_are_multiples_of_one_another(values: list[int], dtype: str) -> None:
    t = np.array([abs(value) if "u" in dtype else value for value in values]).astype(dtype)
    exact = [round(float(value) * 1e6) if "f" in dtype else int(value) * 10**6 for value in t]

    assert in_microseconds("a", t, "s").tolist() == exact
    if "f" not in dtype:
        assert in_microseconds("a", t, "ms").tolist() == [int(value) * 1000 for value in t]
        assert in_microseconds("a", t, "us").tolist() == t.tolist()
        assert in_microseconds("a", t, "ns").tolist() == [int(value) // 1000 for value in t]


def test_another_unit_is_part_of_the_identity_and_the_default_is_as_it_was() -> None:
    before = "pyav; slices of equal count, own size; all from 0 s"

    found = [LoadSettings(time_unit=unit).describe() for unit in (None, "us", "ns")]

    assert found == [before, before, f"{before}, times in ns"]


def test_the_commands_that_load_take_the_unit() -> None:
    @click.command(cls=SettingsCommand)
    def show(settings: Settings) -> None:
        click.echo(settings.loading.time_unit)

    assert CliRunner().invoke(show, ["--time-unit", "ms"]).output == "ms\n"


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(MediaError, match=r"^time_unit must be one of s, ms, us, ns, got 'min'$"):
        LoadSettings(time_unit="min")


@pytest.mark.parametrize("name", ["a.raw", "a.aedat4"])
def test_a_format_that_says_its_unit_takes_no_other(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"% evt 3.0\n" if name == "a.raw" else b"#!AER-DAT4.0\r\n")

    with pytest.raises(MediaError, match=rf"^{name}: counts microseconds by definition, got --time-unit ns$"):
        load_event_arrays(tmp_path / name, LoadSettings(time_unit="ns"))
