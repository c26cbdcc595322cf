"""EVT2 and EVT3 word by word: the clock over wraps, gaps and steps back, and headers that name something else."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from stagebench.cli import main
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.events import evt
from stagebench.media.events.recordings import load_event_arrays, read_events

Event = tuple[int, int, int, int]  # t, x, y, p
HEADER = "% evt {0}.0\n% format EVT{0};height=480;width=640\n% geometry 640x480\n% end\n"


@dataclass(frozen=True)
class Version:
    number: int
    high_bits: int
    low_bits: int
    encode: Callable[[list[Event], bool], list[int]]

    @property
    def range(self) -> int:
        return 1 << self.high_bits + self.low_bits

    def write(self, path: Path, words: list[int], header: str = HEADER) -> Path:
        code = "I" if self.number == 2 else "H"
        path.write_bytes(header.format(self.number).encode() + struct.pack(f"<{len(words)}{code}", *words))
        return path

    def is_high(self, word: int) -> bool:
        return word >> (28 if self.number == 2 else 12) == 8


def encode_evt2(events: list[Event], spare: bool) -> list[int]:
    words, high = [], -1
    for t, x, y, p in events:
        if not spare or t >> 6 != high:
            high = t >> 6
            words.append(8 << 28 | high % 2**28)
        words.append(p << 28 | t % 64 << 22 | x << 11 | y)
    return words


def encode_evt3(events: list[Event], spare: bool) -> list[int]:
    """Leave out what did not change, if `spare`, and join events of one row and time into vectors."""
    words: list[int] = []
    state = {8: -1, 6: -1, 0: -1}
    for i, (t, x, y, p) in enumerate(events):
        for kind, value in ((8, t >> 12), (6, t % 4096), (0, y)):
            if not spare or state[kind] != value:
                state[kind] = value
                state[6] = -1 if kind == 8 else state[6]  # a new high part makes the low one 0
                words.append(kind << 12 | value % 4096)
        if spare and i % 3 == 0:
            left = max(x - 13, 0)
            words += [3 << 12 | p << 11 | left, 4 << 12 | (1 << x - left if x - left < 12 else 0)]
            words += [5 << 12 | 0xF00 | (1 << x - left - 12 if x - left >= 12 else 0)]
        else:
            words.append(2 << 12 | p << 11 | x)
        if i % 5 == 0:
            words += [0xA001, 0xE123, 0x7000, 0xF456]  # a trigger, a count of the camera's own
    return words


EVT2, EVT3 = Version(2, 28, 6, encode_evt2), Version(3, 12, 12, encode_evt3)
VERSIONS = pytest.mark.parametrize("version", [EVT2, EVT3], ids=["evt2", "evt3"])


def decoded(path: Path, block: int = 1 << 15) -> list[Event]:
    with mock.patch.object(evt, "_BLOCK", block):
        x, y, t, p = evt.read_evt(path, LoadSettings())
    return list(zip(*(values.tolist() for values in (t, x, y, p)), strict=True))


@st.composite
def recordings(draw: st.DrawFn, version: Version) -> list[Event]:
    """Events of ascending times, of which the first may lie just before a wrap, with pauses of up to half a range."""
    t = draw(st.integers(0, version.range - 1) | st.integers(version.range - 9000, version.range - 1))
    pauses = st.integers(0, 9000) | st.integers(0, 3) | st.integers(0, version.range // 2 - (1 << version.low_bits))
    events = []
    for pause, place in draw(st.lists(st.tuples(pauses, st.integers(0, 2**20 - 1)), min_size=1, max_size=30)):
        events.append((t, place % 640, place // 640 % 480, place & 1))
        t += pause
    return events


@VERSIONS
class TestClock:
    @given(st.data(), st.booleans(), st.sampled_from([1, 2, 7, 1 << 15]))
    def test_events_come_back_as_they_were_written_over_any_number_of_wraps(
        self,
        version: Version,
        tmp_path_factory: pytest.TempPathFactory,
        data: st.DataObject,
        spare: bool,
        block: int,
    ) -> None:
        events = data.draw(recordings(version))
        words = version.encode(events, spare)

        path = version.write(tmp_path_factory.getbasetemp() / "a.raw", words)

        assert events == decoded(path, block)

    @given(st.data())
    def test_words_of_the_time_that_were_lost_cost_no_later_time(
        self, version: Version, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        events = data.draw(recordings(version))
        words = version.encode(events, False)
        highs = [i for i, word in enumerate(words) if version.is_high(word)]
        lost = data.draw(st.sets(st.sampled_from(highs[1:-1] or [-1])))
        path = version.write(
            tmp_path_factory.getbasetemp() / "a.raw", [word for i, word in enumerate(words) if i not in lost]
        )

        # Without its own, an event is dated by the TIME_HIGH before; the next one that is left must not fall behind.
        expected, known = [], 0
        for i, (t, *rest) in zip(highs, events, strict=True):
            known = known if i in lost else t >> version.low_bits
            expected.append(((known << version.low_bits) + t % (1 << version.low_bits), *rest))
        jumps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(expected)]
        if all(0 <= jump < version.range // 2 - (1 << version.low_bits) for jump in jumps):
            assert expected == decoded(path)
        elif any(-8000 < jump < 0 for jump in jumps):
            with pytest.raises(MediaError, match=r"^a\.raw: t must ascend, got \d+ after \d+ at index \d+$"):
                decoded(path)

    @pytest.mark.parametrize("start", [0, 1, 110, -1, -2, -300])  # of a clock's range, near its wrap
    @pytest.mark.parametrize("back", [1, 2, 100])
    def test_a_step_back_is_refused_wherever_it_is(
        self, version: Version, tmp_path: Path, start: int, back: int
    ) -> None:
        unit = 1 << version.low_bits
        first = start % (1 << version.high_bits) * unit
        events = [(first + i * unit, 1, 1, 1) for i in (0, 1, 1 - back, 2)]
        path = version.write(tmp_path / "a.raw", version.encode(events, False))

        got = f"got {events[2][0]} after {events[1][0]} at index 2"
        with pytest.raises(MediaError, match=rf"^a\.raw: t must ascend, {got}$"):
            load_event_arrays(path)

    def test_a_step_back_of_the_low_part_alone_is_refused(self, version: Version, tmp_path: Path) -> None:
        path = version.write(tmp_path / "a.raw", version.encode([(70, 1, 1, 1), (68, 2, 2, 0)], True))

        with pytest.raises(MediaError, match=r"^a\.raw: t must ascend, got 68 after 70 at index 1$"):
            load_event_arrays(path)

    def test_a_step_back_before_a_window_is_refused_too(self, version: Version, tmp_path: Path) -> None:
        events = [(t, 1, 1, 1) for t in (1000, 900, 2000, 3000)]
        path = version.write(tmp_path / "a.raw", version.encode(events, False))

        with pytest.raises(MediaError, match=r"^a\.raw: t must ascend, got 900 after 1000 at index 1$"):
            load_event_arrays(path, LoadSettings(start=0.001, duration=0.002))

    def test_a_window_over_a_wrap_holds_the_events_of_its_time(self, version: Version, tmp_path: Path) -> None:
        events = [(version.range - 5000 + 1000 * i, 1, i, 1) for i in range(10)]
        path = version.write(tmp_path / "a.raw", version.encode(events, False))

        assert load_event_arrays(path, LoadSettings(start=0.003, duration=0.004)).y.tolist() == [3, 4, 5, 6]

    def test_what_comes_before_the_first_time_is_left_out(self, version: Version, tmp_path: Path) -> None:
        words = version.encode([(700_000, 1, 1, 1), (700_001, 2, 1, 0)], True)

        assert decoded(version.write(tmp_path / "a.raw", words[1:] + words)) == [(700_000, 1, 1, 1), (700_001, 2, 1, 0)]

    def test_a_recording_without_any_time_is_refused(self, version: Version, tmp_path: Path) -> None:
        words = version.encode([(5, 1, 1, 1)], True)[1:]

        with pytest.raises(MediaError, match=r"^a\.raw: must have at least one event with a time, got none$"):
            load_event_arrays(version.write(tmp_path / "a.raw", words))

    def test_faery_reads_the_same_where_no_word_is_missing(self, version: Version, tmp_path: Path) -> None:
        faery = pytest.importorskip("faery")
        generator = np.random.default_rng(5)
        events = np.zeros(5000, faery.EVENTS_DTYPE)
        events["t"] = np.sort(generator.integers(1_000_000, 9_000_000, 5000))
        events["x"], events["y"] = generator.integers(0, 640, 5000), generator.integers(0, 480, 5000)
        events["on"] = generator.integers(0, 2, 5000)
        path = tmp_path / "a.raw"
        faery.events_stream_from_array(events, (640, 480)).to_file(path, version=f"evt{version.number}")

        expected = list(zip(*(events[key].tolist() for key in ("t", "x", "y", "on")), strict=True))
        assert expected == decoded(path)


class TestWords:
    def test_vectors_follow_one_another_to_the_right(self, tmp_path: Path) -> None:
        words = [0x8000, 0x6009, 0x0003, 0x3864, 0x4801, 0x4002, 0x5081, 0x2007]

        expected = [(9, x, 3, p) for x, p in ((100, 1), (111, 1), (113, 1), (124, 1), (131, 1), (7, 0))]
        assert expected == decoded(EVT3.write(tmp_path / "a.raw", words))

    def test_events_of_no_row_and_rows_of_other_events_are_left_out(self, tmp_path: Path) -> None:
        words = [0x8000, 0x2001, 0x1005, 0x2002, 0x0005, 0x2003, 0x1007, 0x2004]

        assert decoded(EVT3.write(tmp_path / "a.raw", words)) == [(0, 3, 5, 0)]

    def test_a_vector_without_a_beginning_is_left_out(self, tmp_path: Path) -> None:
        words = [0x8000, 0x0005, 0x4001, 0x2003]

        assert decoded(EVT3.write(tmp_path / "a.raw", words)) == [(0, 3, 5, 0)]

    @pytest.mark.parametrize(("version", "left"), [(EVT2, 1), (EVT2, 3), (EVT3, 1)])
    def test_a_recording_that_ends_within_a_word_is_refused(self, tmp_path: Path, version: Version, left: int) -> None:
        path = version.write(tmp_path / "a.raw", version.encode([(5, 1, 1, 1)], True))
        path.write_bytes(path.read_bytes() + bytes(left))

        size = 4 if version is EVT2 else 2
        with pytest.raises(MediaError, match=rf"^a\.raw: must hold whole words of {size} bytes, got \d bytes more$"):
            load_event_arrays(path)

    @pytest.mark.parametrize("block", [1, 1 << 15])
    def test_the_low_part_of_the_time_is_0_where_the_high_one_changes(self, tmp_path: Path, block: int) -> None:
        words = [0x6009, 0x800A, 0x0005, 0x2001, 0x6FA0, 0x2002, 0x800A, 0x2003, 0x800B, 0x2004, 0x6003, 0x2005]

        times = [10 << 12, (10 << 12) + 0xFA0, (10 << 12) + 0xFA0, 11 << 12, (11 << 12) + 3]
        assert times == [t for t, *_ in decoded(EVT3.write(tmp_path / "a.raw", words), block)]


class TestHeaders:
    @pytest.mark.parametrize(
        "header",
        [
            "% evt {0}.0\n",
            "% format EVT{0};height=480;width=640\n",
            "% Format EVT{0}\r\n% end\r\n",
            "% camera_integrator_name Prophesee\n% evt {0}.0\n% date 2024-01-01 10:00:00\n%  \n% end\n",
            "% evt {0}.0\n%\n% place\tZ\u00fcrich\n%end\n% end \n",
        ],
    )
    @VERSIONS
    def test_one_line_that_names_the_version_is_enough(self, tmp_path: Path, version: Version, header: str) -> None:
        path = version.write(tmp_path / "a.raw", version.encode([(5, 1, 2, 1)], True), header)

        assert decoded(path) == [(5, 1, 2, 1)]

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ("% evt 2.1\n% end\n", "must be EVT2 or EVT3, got EVT2.1"),
            ("% format EVT21;height=320;width=320\n% end\n", "must be EVT2 or EVT3, got EVT2.1"),
            ("% evt 4.0\n% format EVT4\n% end\n", "must be EVT2 or EVT3, got EVT4"),
            ("% evt 1.0\n", "must be EVT2 or EVT3, got EVT1"),
            ("% evt 3.0\n% format EVT2\n% end\n", "must be EVT2 or EVT3, got EVT3 and EVT2"),
            ("% evt 3.0\n% endianness big\n% end\n", "must be little-endian, got 'big'"),
            ("% evt 3.0\n% endianness little\n% end\n", None),
            ("% geometry 640x480\n% end\n", "must be EVT2 or EVT3, got a header that names none"),
            ("", "must name EVT2 or EVT3 in a header, got none"),
            ("% evt 3.0\n% geometry 640\n% end\n", None),
            ("% evt 3.0\n% geometry axb\n% end\n", "must have whole numbers in its header, got 'a'"),
            ("% evt 3.0\n% t0 -1\n% end\n", "must have whole numbers in its header, got '-1'"),
            (f"% evt 3.0\n% t0 {10**30}\n% end\n", f"must have whole numbers in its header, got '{10**30}'"),
            (
                "% evt 3.0\n% format EVT3;height=480;width=640\n% geometry 1280x480\n% end\n",
                "must have one sensor size, got 640 and 1280",
            ),
            ("% evt 3.0\n% geometry 5x480\n% end\n", "x must be below the 5 of its header, got 9"),
            ("% evt 3.0\n% format EVT3;width=640;height=3\n% end\n", "y must be below the 3 of its header, got 8"),
        ],
    )
    def test_another_header_is_named_in_one_line(self, tmp_path: Path, header: str, message: str | None) -> None:
        path = EVT3.write(tmp_path / "a.raw", encode_evt3([(5, 9, 8, 1)], True), header)

        if message is None:
            assert decoded(path) == [(5, 9, 8, 1)]
        else:
            with pytest.raises(MediaError) as refused:
                load_event_arrays(path)
            assert f"a.raw: {message}" == str(refused.value)

    def test_a_header_may_say_when_the_first_event_was(self, tmp_path: Path) -> None:
        path = EVT3.write(tmp_path / "a.raw", encode_evt3([(5, 9, 8, 1)], True), "% evt 3.0\n% t0 1000\n")

        assert decoded(path) == [(1005, 9, 8, 1)]


class TestCases:
    def test_a_lost_word_after_a_wrap_loses_no_time(self, cases: Path) -> None:
        t = load_event_arrays(cases / "evt3_wrap" / "evt3_wrap_lost_word.raw").t

        assert (t[-1] - t[0], len(np.unique(t))) == (323_584, 79)

    def test_a_sparse_recording_of_many_wraps_is_as_long_as_it_was(self, cases: Path) -> None:
        path = cases / "evt3_wrap" / "sparse_evt3.raw"

        t = load_event_arrays(path).t
        assert (t[-1] - t[0], len(np.unique(t))) == (39_990_000, 1334)
        assert len(read_events(path, 5, LoadSettings(slices="time", start=20, duration=5)).images) == 5

    def test_a_step_back_is_no_wrap(self, cases: Path) -> None:
        with pytest.raises(MediaError, match=r": t must ascend, got 64060 after 64069 at index 2$"):
            load_event_arrays(cases / "evt2_step_back" / "evt2_step_back.raw")

    @pytest.mark.parametrize("name", ["evt21.raw", "evt21_nofmt.raw"])
    def test_another_version_is_named(self, cases: Path, tmp_path: Path, name: str) -> None:
        result = CliRunner().invoke(main, ["convert", str(cases / "evt21" / name), str(tmp_path / "a.events")])

        assert (2, f"stagebench: {name}: must be EVT2 or EVT3, got EVT2.1\n") == (result.exit_code, result.output)
