"""Recordings cut into slices and windows, and recordings that must be refused."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.events import unpickle
from stagebench.media.events.recordings import (
    draw_events,
    load_event_arrays,
    read_events,
    slices_of_equal_count,
    slices_of_equal_time,
)

Recording = dict[str, Any]


def recording(count: int = 40) -> Recording:
    generator = np.random.default_rng(3)
    return {
        "x": generator.integers(0, 20, count).astype(np.uint16),
        "y": generator.integers(0, 10, count).astype(np.uint16),
        "t": np.sort(generator.integers(0, 50_000, count)).astype(np.uint16),
        "p": generator.integers(0, 2, count).astype(np.uint8),
    }


def save(path: Path, content: object) -> Path:
    array = np.empty((), dtype=object)
    array[()] = content
    np.save(path, array)
    return path


def save_pickle(path: Path, pickled: bytes) -> Path:
    """Write a pickle behind the header of a 0-dimensional object array."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(header.getvalue() + pickled)
    return path


def outcome(path: Path) -> str:
    """Return why a recording is refused, or "" where it is read; let any other error through."""
    try:
        load_event_arrays(path)
    except MediaError as error:
        return str(error)
    return ""


class TestSlices:
    @given(st.integers(1, 30), st.integers(0, 1000))
    def test_slices_follow_one_another_to_the_end(self, count: int, extra: int) -> None:
        slices = slices_of_equal_count(count + extra, count)

        assert list(range(count + extra)) == [i for part in slices for i in range(count + extra)[part]]

    def test_the_remainder_goes_to_the_last(self) -> None:
        assert [slice(0, 3), slice(3, 6), slice(6, 11)] == slices_of_equal_count(11, 3)

    @pytest.mark.parametrize("count", [0, 12])
    def test_an_impossible_number_of_slices_is_refused(self, count: int) -> None:
        with pytest.raises(MediaError, match=f"must have 1 to 11 slices of at least one event, got {count}"):
            slices_of_equal_count(11, count)

    @given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 50), min_size=1), st.integers(1, 20))
    def test_slices_of_equal_time_hold_each_event_once(self, times: list[int], count: int) -> None:
        t = np.array(sorted(times), np.int64)

        slices = slices_of_equal_time(t, count)

        assert (count, list(range(len(t)))) == (len(slices), [i for part in slices for i in range(len(t))[part]])

    @given(st.lists(st.integers(0, 100), min_size=1), st.integers(1, 20))
    def test_slices_of_equal_time_are_cut_at_equal_times(self, times: list[int], count: int) -> None:
        t = np.array(sorted(times), np.int64)
        begins = [t[0] + i * (t[-1] + 1 - t[0]) // count for i in range(count)]

        expected = [sum(begin <= time for begin in begins) - 1 for time in t]
        slices = slices_of_equal_time(t, count)
        assert expected == [i for i, part in enumerate(slices) for _ in t[part]]

    def test_no_slice_of_time_is_refused(self) -> None:
        with pytest.raises(MediaError, match="must have at least 1 slice, got 0"):
            slices_of_equal_time(np.zeros(3, np.int64), 0)


class TestReading:
    def test_each_image_shows_its_own_slice(self, tmp_path: Path) -> None:
        made = recording()

        media = read_events(save(tmp_path / "a.npy", made), 3)

        expected = [
            draw_events(made["x"][part], made["y"][part], made["p"][part]).tobytes()
            for part in (slice(0, 13), slice(13, 26), slice(26, 40))
        ]
        assert expected == [image.tobytes() for image in media.images]

    def test_a_slice_of_time_without_events_is_white_and_as_large_as_all_events_reach(self, tmp_path: Path) -> None:
        made = recording(2) | {"x": np.array([9, 0]), "y": np.array([0, 4]), "t": np.array([0, 99])}

        images = read_events(save(tmp_path / "a.npy", made), 3, LoadSettings(slices="time")).images

        assert [image.shape for image in images] == [(1, 10, 3), (5, 10, 3), (5, 1, 3)]
        assert {255} == set(images[1].ravel().tolist())

    @pytest.mark.parametrize("slices", ["count", "time"])
    def test_all_images_have_the_size_that_was_asked_for(self, tmp_path: Path, slices: str) -> None:
        loading = LoadSettings(slices=slices, image_size=(30, 20))

        images = read_events(save(tmp_path / "a.npy", recording()), 3, loading).images

        assert [image.shape for image in images] == [(20, 30, 3)] * 3

    def test_an_event_outside_of_that_size_is_refused(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.npy", recording())

        with pytest.raises(MediaError, match=r"^a\.npy: events must lie within an image of 5 x 20, got some that need"):
            read_events(path, 1, LoadSettings(image_size=(5, 20)))

    def test_nothing_is_decoded(self, tmp_path: Path) -> None:
        media = read_events(save(tmp_path / "a.npy", recording()), 5)

        assert (media.kind, media.frames_decoded) == ("events", 0)

    @pytest.mark.parametrize(("dtype", "origin"), [(np.uint16, 0), (np.int64, 51_835_949_776), (np.uint64, 0)])
    def test_relative_and_absolute_times_give_the_same_span(
        self, tmp_path: Path, dtype: type[np.integer[Any]], origin: int
    ) -> None:
        made = recording() | {"t": (np.arange(40) * 1000 + origin).astype(dtype)}

        assert pytest.approx(0.039) == read_events(save(tmp_path / "a.npy", made), 5).span

    def test_the_span_of_all_the_times_there_are_is_exact(self, tmp_path: Path) -> None:
        made = recording(2) | {"t": np.array([-(2**63), 2**63 - 1])}

        expected = (2**64 - 1) / 1e6
        assert expected == read_events(save(tmp_path / "a.npy", made), 2).span

    @pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
    def test_recordings_of_numpy_1_and_2_are_read(self, tmp_path: Path, module: bytes) -> None:
        pickled = pickle.dumps(recording(), protocol=3)
        for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
            pickled = pickled.replace(b"c" + name + b"\n", b"c" + module + b"\n")
        assert module in pickled

        events = load_event_arrays(save_pickle(tmp_path / "a.npy", pickled))

        assert recording()["x"].tolist() == events.x.tolist()

    def test_bool_polarities_are_read(self, tmp_path: Path) -> None:
        made = recording()
        path = save(tmp_path / "a.npy", made | {"p": made["p"].astype(bool)})

        assert made["p"].tolist() == load_event_arrays(path).p.tolist()

    def test_times_are_int64_and_polarities_uint8(self, tmp_path: Path) -> None:
        events = load_event_arrays(save(tmp_path / "a.npy", recording()))

        assert (np.dtype(np.int64), np.dtype(np.uint8)) == (events.t.dtype, events.p.dtype)


class TestWindows:
    @given(
        st.lists(st.integers(0, 60), min_size=1, max_size=40),
        st.integers(0, 60),
        st.none() | st.integers(1, 60),
        st.sampled_from([0, 51_835_949_776]),
    )
    def test_a_window_holds_the_events_of_its_time(
        self, tmp_path_factory: pytest.TempPathFactory, times: list[int], start: int, length: int | None, origin: int
    ) -> None:
        t = np.array(sorted(times)) + origin
        end = np.inf if length is None else start + length
        expected = [int(time) for time in t if start <= time - t[0] < end]
        made = {"x": np.zeros(len(t), int), "y": np.zeros(len(t), int), "t": t, "p": np.zeros(len(t), int)}
        path = save(tmp_path_factory.getbasetemp() / "window.npy", made)
        window = LoadSettings(start=start / 1e6, duration=None if length is None else length / 1e6)

        if expected:
            assert expected == load_event_arrays(path, window).t.tolist()
        else:
            with pytest.raises(MediaError, match=r"^window\.npy: must have events in .*, got none; the last one is at"):
                load_event_arrays(path, window)

    def test_the_load_settings_say_which_window(self, tmp_path: Path) -> None:
        made = recording(4) | {"t": np.array([10_000, 11_000, 12_500, 13_000])}

        media = read_events(save(tmp_path / "a.npy", made), 1, LoadSettings(start=0.001, duration=0.002))

        assert media.span == 0.0015

    def test_what_lies_outside_of_a_window_is_not_checked(self, tmp_path: Path) -> None:
        made = with_one("x", 39, -1) | {"t": np.arange(40) * 1000}

        events = load_event_arrays(save(tmp_path / "a.npy", made), LoadSettings(start=0, duration=0.02))

        assert len(events.x) == 20


class RunsCommand:
    """Unpickles to a call, as an attack does."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call


class TestPickles:
    @pytest.mark.parametrize("function", [os.system, os.mkdir, subprocess.call])
    def test_a_pickle_that_runs_a_command_is_refused(self, tmp_path: Path, function: Any) -> None:
        victim = tmp_path / "victim"
        command = f"touch {victim}" if function is os.system else victim
        path = save(tmp_path / "evil.npy", recording() | {"x": RunsCommand(function, str(command))})

        name = "call" if function is subprocess.call else function.__name__
        with pytest.raises(MediaError, match=rf"^evil\.npy: .* refused '\w+\.{name}'$"):
            load_event_arrays(path)

        assert not victim.exists()

    @pytest.mark.parametrize(
        ("function", "name"),
        [(eval, "builtins.eval"), (getattr, "builtins.getattr"), (np.load, "numpy.load"), (np.save, "numpy.save")],
    )
    def test_any_other_name_is_refused(self, tmp_path: Path, function: Any, name: str) -> None:
        path = save(tmp_path / "evil.npy", RunsCommand(function, "1"))

        with pytest.raises(MediaError, match=f"refused '{name}'$"):
            load_event_arrays(path)

    def test_an_attribute_of_an_allowed_name_is_refused(self, tmp_path: Path) -> None:
        pickled = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."

        with pytest.raises(MediaError, match=r"refused 'numpy\.ndarray\.tofile'$"):
            load_event_arrays(save_pickle(tmp_path / "evil.npy", pickled))

    @pytest.mark.filterwarnings("ignore")  # numpy's and the compiler's, about what the damage spells
    @given(st.integers(0, 10**6), st.integers(0, 255))
    def test_a_damaged_pickle_is_read_or_refused(
        self, tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
    ) -> None:
        path = save(tmp_path_factory.getbasetemp() / "damaged.npy", recording(5))
        data = bytearray(path.read_bytes())
        data[at % len(data)] = byte
        path.write_bytes(data)

        assert "\n" not in outcome(path)

    def test_a_type_with_a_made_up_state_never_reaches_numpy(self, tmp_path: Path) -> None:
        state = pickle.dumps((3, "<", None, None, None, -1, -1, 255), protocol=2)[2:-1]
        pickled = b"\x80\x02cnumpy\ndtype\n(X\x02\x00\x00\x00u2\x89\x88tR" + state + b"b."

        with pytest.raises(MediaError, match=r"^evil\.npy: must hold a dict"):
            load_event_arrays(save_pickle(tmp_path / "evil.npy", pickled))

        assert (np.dtype(np.uint16).flags, np.zeros(3, np.uint16).max()) == (0, 0)

    def test_a_pickle_whose_memo_would_take_all_memory_takes_none(self, tmp_path: Path) -> None:
        pickled = b"\x80\x02}r\xff\xff\xff\x7f."

        with pytest.raises(MediaError, match=r"must have the arrays x, y, t and p, got none named x, y, t, p$"):
            load_event_arrays(save_pickle(tmp_path / "evil.npy", pickled))

    def test_a_pickle_of_endless_steps_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unpickle, "MAX_OPCODES", 1000)
        path = save_pickle(tmp_path / "evil.npy", b"\x80\x04" + b"N\x94" * 600 + b".")

        with pytest.raises(MediaError, match=r"^evil\.npy: .*more than 1000 steps"):
            load_event_arrays(path)

    def test_single_numbers_of_numpy_beside_the_arrays_are_ignored(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.npy", recording() | {"height": np.int64(480), "name": "street"})

        assert len(load_event_arrays(path).x) == 40

    def test_an_array_that_is_shorter_than_it_says_is_refused(self, tmp_path: Path) -> None:
        whole, short = b"C\x0a" + bytes(10), b"C\x09" + bytes(9)
        made = recording(5) | {"x": np.zeros(5, np.uint16)}
        pickled = pickle.dumps(made, protocol=3)
        assert whole in pickled

        with pytest.raises(MediaError, match=r"^short\.npy: x must hold 5 uint16, got 9 bytes$"):
            load_event_arrays(save_pickle(tmp_path / "short.npy", pickled.replace(whole, short)))

    def test_big_endian_arrays_are_read(self, tmp_path: Path) -> None:
        made = recording()
        path = save(tmp_path / "a.npy", made | {"x": made["x"].astype(">u2")})

        assert load_event_arrays(path).x.tolist() == made["x"].tolist()

    @pytest.mark.parametrize("protocol", [3, 4])
    def test_every_protocol_that_numpy_wrote_is_read(self, tmp_path: Path, protocol: int) -> None:
        long = {key: np.repeat(values, 50) for key, values in recording(100).items()}
        rest = {"name": "x" * 5000, "seen": ["left", 3], "scale": 0.5, "nested": {(1, 2): [None, True]}, "many": 2**63}
        path = save_pickle(tmp_path / "a.npy", pickle.dumps(rest | long, protocol))

        events = load_event_arrays(path)

        assert [values.tolist() for values in long.values()] == [getattr(events, key).tolist() for key in long]

    @pytest.mark.parametrize(("protocol", "name"), [(2, "_codecs.encode"), (5, r"numpy\._?core\.numeric\._frombuffer")])
    def test_a_protocol_that_numpy_does_not_write_is_refused(self, tmp_path: Path, protocol: int, name: str) -> None:
        path = save_pickle(tmp_path / "a.npy", pickle.dumps(recording(), protocol))

        with pytest.raises(MediaError, match=rf"^a\.npy: a pickle may load numpy arrays only, refused '{name}'$"):
            load_event_arrays(path)

    @pytest.mark.parametrize("left", [0.3, 0.6, 0.99])
    def test_a_truncated_recording_is_refused(self, tmp_path: Path, left: float) -> None:
        path = save(tmp_path / "cut.npy", recording())
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])

        with pytest.raises(MediaError, match=r"^cut\.npy: must be a whole pickled dict, got: "):
            load_event_arrays(path)


def changed(key: str, value: Any) -> Recording:
    return recording() | {key: np.asarray(value)}


def with_one(key: str, index: int, value: int, dtype: type[np.generic] = np.int64) -> Recording:
    array = recording()[key].astype(dtype)
    array[index] = value
    return recording() | {key: array}


class TestValidation:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"x": np.arange(3), "y": np.arange(3)}, "must have the arrays x, y, t and p, got none named t, p"),
            (changed("y", np.arange(39)), "x, y, t and p must be equally long, got x 40, y 39, t 40, p 40"),
            ({key: np.zeros(0, np.uint16) for key in "xytp"}, "must have at least one event, got none"),
            (changed("x", np.full(40, np.nan)), "x must be integers, got float64"),
            (changed("t", np.arange(40.0)), "t must be integers, got float64; --time-unit sets its unit"),
            (changed("x", np.zeros(40, bool)), "x must be integers, got bool"),
            (changed("x", np.zeros(40, object)), "x must be integers, got numpy's type 'O8'"),
            (changed("x", np.zeros((40, 1), int)), r"x must be an array of one dimension, got .*\(40, 1\)"),
            (recording() | {"x": [1, 2]}, "x must be an array of one dimension, got a list"),
            (with_one("x", 7, -1), "x is out of range, must be 0 to 8191, got -1"),
            (with_one("y", 7, 8192), "y is out of range, must be 0 to 8191, got 8192"),
            (with_one("p", 7, -1), "p is out of range, must be 0 to 1, got -1"),
            (with_one("p", 7, 2), "p is out of range, must be 0 to 1, got 2"),
            (changed("t", np.full(40, 2**63, np.uint64)), "t is out of range, .* got 9223372036854775808"),
            (changed("t", [*range(20), 3, *range(20, 39)]), "t must ascend, got 3 after 19 at index 20"),
            ([1, 2, 3], "must hold a dict of arrays, got a list"),
        ],
    )
    def test_a_recording_that_breaks_a_limit_is_refused(self, tmp_path: Path, content: object, message: str) -> None:
        with pytest.raises(MediaError, match=rf"^bad\.npy: {message}"):
            load_event_arrays(save(tmp_path / "bad.npy", content))

    def test_a_plain_array_is_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "plain.npy", np.zeros((3, 4)))

        with pytest.raises(MediaError, match=r"^plain\.npy: must hold a dict .*, got '<f8' of shape \(3, 4\)$"):
            load_event_arrays(tmp_path / "plain.npy")

    def test_a_text_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "text.npy").write_text("x,y,t,p\n")

        with pytest.raises(MediaError, match=r"^text\.npy: must be a \.npy file"):
            load_event_arrays(tmp_path / "text.npy")

    def test_fewer_events_than_images_are_refused(self, tmp_path: Path) -> None:
        path = save(tmp_path / "few.npy", recording(4))

        with pytest.raises(MediaError, match=r"^few\.npy: must have 1 to 4 slices of at least one event, got 5$"):
            read_events(path, 5)

    def test_a_missing_recording_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MediaError, match=r"^none\.npy: can't be read"):
            read_events(tmp_path / "none.npy", 5)
