"""The frame cache gives what the reader gave, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stagebench.errors import MediaError
from stagebench.media.cache import read_cached
from stagebench.stages.load import load
from stagebench.types import LoadSettings, Media, Sample

CONTENT = b"a clip"


class Reader:
    """Makes frames of a file's first byte, and counts its calls."""

    def __init__(self, sizes: tuple[int, ...] = (4,)) -> None:
        self.calls = 0
        self.sizes = sizes

    def __call__(self, path: Path, count: int, loading: LoadSettings) -> Media:
        self.calls += 1
        value = path.read_bytes()[0]
        sizes = [self.sizes[i % len(self.sizes)] for i in range(count)]
        frames = tuple(np.full((size, 6, 3), value + i, np.uint8) for i, size in enumerate(sizes))
        return Media(frames, "frames", frames_decoded=9, bytes_read=7, span=0.5)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(CONTENT)
    settle(path)
    return path


def settle(path: Path) -> None:
    """Let a file look as if it was written long ago, as far as one may say so: its digest is kept then."""
    os.utime(path, (1e9, 1e9))


def read(path: Path, reader: Reader, count: int = 3, loading: LoadSettings | None = None, **how: int) -> Media:
    return read_cached(path, count, loading or LoadSettings(), path.parent / "cache", reader, **how)


def entries(path: Path) -> list[Path]:
    return sorted((path.parent / "cache").glob("*.npy"))


def test_a_hit_gives_the_frames_that_were_read(clip: Path) -> None:
    reader = Reader()
    first, second = read(clip, reader), read(clip, reader)

    assert [image.tobytes() for image in first.images] == [image.tobytes() for image in second.images]
    assert (1, first.span) == (reader.calls, second.span)


def test_work_tells_a_miss_from_a_hit(clip: Path) -> None:
    reader = Reader()
    first, second = read(clip, reader), read(clip, reader)

    assert [(w["frames_decoded"], w["cache_hits"]) for w in (first.work(), second.work())] == [(9, 0), (0, 1)]


def test_work_without_a_cache_does_not_speak_of_one(clip: Path) -> None:
    assert "cache_hits" not in Reader()(clip, 1, LoadSettings()).work()


def test_an_entry_is_a_plain_array(clip: Path) -> None:
    media = read(clip, Reader())

    assert np.stack(media.images).tobytes() == np.load(entries(clip)[0]).tobytes()


@pytest.mark.parametrize("change", [{"start": 0.5}, {"duration": 2.0}, {"decoder": "opencv"}])
def test_what_is_read_otherwise_is_another_entry(clip: Path, change: dict[str, float]) -> None:
    reader = Reader()
    read(clip, reader)
    read(clip, reader, loading=LoadSettings(**change))

    assert reader.calls == 2


def test_another_count_is_another_entry(clip: Path) -> None:
    assert [len(read(clip, Reader(), count=count).images) for count in (2, 3)] == [2, 3]


def test_a_clip_of_the_same_size_and_time_but_other_content_is_another(clip: Path) -> None:
    reader = Reader()
    read(clip, reader)
    clip.write_bytes(CONTENT[::-1])
    settle(clip)

    assert read(clip, reader).images[0][0, 0, 0] == CONTENT[-1]


def test_a_copy_of_a_clip_is_the_same(clip: Path) -> None:
    reader = Reader()
    read(clip, reader)
    copy = clip.with_name("copy.mp4")
    copy.write_bytes(CONTENT)
    read(copy, reader)

    assert reader.calls == 1


def cut(data: bytes) -> bytes:
    return data[:-40]


def flip(data: bytes) -> bytes:
    return data[:150] + bytes([data[150] ^ 1]) + data[151:]


def another_shape(data: bytes) -> bytes:
    return data.replace(b"(3, 4, 6, 3)", b"(3, 6, 4, 3)")


DAMAGE = [cut, flip, another_shape, lambda data: b"", lambda data: b"nonsense", lambda data: data + b"0"]


@pytest.mark.parametrize("damage", DAMAGE, ids=["cut", "flipped", "other shape", "empty", "nonsense", "longer"])
def test_a_damaged_entry_is_read_and_written_anew(clip: Path, damage: Callable[[bytes], bytes]) -> None:
    reader = Reader()
    expected = read(clip, reader).images
    entry = entries(clip)[0]
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))

    media = read(clip, reader)

    assert [image.tobytes() for image in expected] == [image.tobytes() for image in media.images]
    assert (2, whole) == (reader.calls, entry.read_bytes())


def test_a_damaged_digest_is_taken_anew(clip: Path) -> None:
    reader = Reader()
    read(clip, reader)
    for memo in (clip.parent / "cache").glob("*.id"):
        memo.write_text("nonsense")

    read(clip, reader)

    assert reader.calls == 1


def test_the_entries_used_longest_ago_go_first(clip: Path) -> None:
    reader = Reader()
    for count, age in ((1, 10), (2, 20), (3, 5)):
        before = set(entries(clip))
        read(clip, reader, count=count)
        (new,) = set(entries(clip)) - before
        os.utime(new, (time.time() - age,) * 2)
    oldest = read(clip, reader, count=2)  # used now

    read(clip, reader, count=4, max_bytes=1300)

    assert (oldest.cache_hits, [2, 3, 4]) == (1, sorted(len(np.load(entry)) for entry in entries(clip)))


def test_frames_larger_than_the_cache_are_not_kept(clip: Path) -> None:
    read(clip, Reader(), max_bytes=100)

    assert entries(clip) == []


def test_frames_of_several_sizes_are_not_kept(clip: Path) -> None:
    assert len(read(clip, Reader(sizes=(4, 5))).images) == 3
    assert entries(clip) == []


def test_what_a_killed_process_left_is_removed_after_an_hour(clip: Path) -> None:
    read(clip, Reader())
    old, new = (clip.parent / "cache" / name for name in ("old.part", "new.part"))
    old.touch()
    new.touch()
    os.utime(old, (1e9, 1e9))

    read(clip, Reader(), count=2)

    assert [old.exists(), new.exists()] == [False, True]


def test_a_folder_that_can_not_be_made_is_refused(clip: Path) -> None:
    with pytest.raises(MediaError, match=r"^clip\.mp4: can't be read through the cache .*clip\.mp4: File exists$"):
        read_cached(clip, 1, LoadSettings(), clip, Reader())


def test_an_error_of_the_reader_is_not_kept(clip: Path) -> None:
    for _ in range(2):
        with pytest.raises(MediaError, match="must be a whole video"):
            load(Sample(clip, loading=LoadSettings(cache=clip.parent / "cache")), 1)

    assert entries(clip) == []


def test_no_wrong_frame_where_processes_race_and_one_is_killed(tmp_path: Path) -> None:
    """The small version of `tests/race_cache.py`."""
    command = [sys.executable, Path(__file__).with_name("race_cache.py"), "--clips", "12", "--kills", "3"]
    result = subprocess.run([*command, "--folder", tmp_path], capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")
