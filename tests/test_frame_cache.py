"""The frame cache gives what the reader gave, and nothing else."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from stagebench.core.artifacts import Media, Sample
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media import frame_cache
from stagebench.media.frame_cache import read_cached
from stagebench.pipeline.load import load

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
        return Media(
            frames, "frames", frames_decoded=9, bytes_read=7, span=0.5, times=tuple(i / 4 for i in range(count))
        )


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let frames of a file that was written a moment ago be kept."""
    monkeypatch.setattr(frame_cache, "_SETTLED", -1)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(CONTENT)
    return path


def read(path: Path, reader: Reader, count: int = 3, loading: LoadSettings | None = None, **how: int) -> Media:
    return read_cached(path, count, loading or LoadSettings(), path.parent / "cache", reader, **how)


def entries(path: Path) -> list[Path]:
    return sorted((path.parent / "cache").glob("*.frames"))


def test_a_hit_gives_the_frames_that_were_read(clip: Path) -> None:
    reader = Reader()
    first, second = read(clip, reader), read(clip, reader)

    assert [image.tobytes() for image in first.images] == [image.tobytes() for image in second.images]
    assert (1, first.span, first.times) == (reader.calls, second.span, second.times)


def test_work_tells_a_miss_from_a_hit(clip: Path) -> None:
    reader = Reader()
    first, second = read(clip, reader), read(clip, reader)

    assert [(w["frames_decoded"], w["cache_hits"]) for w in (first.work(), second.work())] == [(9, 0), (0, 1)]


def test_work_without_a_cache_does_not_speak_of_one(clip: Path) -> None:
    assert "cache_hits" not in Reader()(clip, 1, LoadSettings()).work()


@pytest.mark.parametrize("change", [{"start": 0.5}, {"duration": 2.0}])
def test_what_is_read_otherwise_is_another_entry(clip: Path, change: dict[str, float]) -> None:
    reader = Reader()
    read(clip, reader)
    read(clip, reader, loading=LoadSettings(**change))

    assert reader.calls == 2


def test_another_count_is_another_entry(clip: Path) -> None:
    assert [len(read(clip, Reader(), count=count).images) for count in (2, 3)] == [2, 3]


def test_a_clip_of_the_same_size_and_time_but_other_content_is_another(clip: Path) -> None:
    reader = Reader()
    os.utime(clip, (1e9, 1e9))
    read(clip, reader)
    time.sleep(0.02)  # longer than a tick of the file system's clock
    clip.write_bytes(CONTENT[::-1])
    os.utime(clip, (1e9, 1e9))

    assert read(clip, reader).images[0][0, 0, 0] == CONTENT[-1]


def test_frames_of_a_clip_that_was_changed_a_moment_ago_are_not_kept(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    os.utime(clip, (1e9, 1e9))

    assert (read(clip, Reader()).cache_hits, entries(clip)) == (0, [])


def cut(data: bytes) -> bytes:
    return data[:-40]


def flip(data: bytes) -> bytes:
    return data[:150] + bytes([data[150] ^ 1]) + data[151:]


def forged(pixels: bytes, shape: object = (3, 4, 6, 3), times: object = (0.0, 0.25, 0.5)) -> Callable[[Path], bytes]:
    """An entry with a checksum of its own: only what it says is wrong."""
    said = {"shape": shape, "times": times}

    def forge(entry: Path) -> bytes:
        checksum = zlib.crc32(pixels, zlib.crc32(json.dumps([entry.name, said]).encode()))
        return json.dumps(said | {"checksum": checksum}).encode() + b"\n" + pixels

    return forge


PIXELS = bytes(3 * 4 * 6 * 3)
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": cut,
    "flipped": flip,
    "other shape": lambda data: data.replace(b"[3, 4, 6, 3]", b"[3, 6, 4, 3]"),
    "other times": lambda data: data.replace(b"0.5", b"1.5"),
    "empty": lambda data: b"",
    "nonsense": lambda data: b"nonsense",
    "longer": lambda data: data + b"0",
    "only pixels": lambda data: PIXELS,
    "only a note": lambda data: data.partition(b"\n")[0],
    "zeros of its length": lambda data: bytes(len(data)),
    "a note of megabytes": lambda data: b" " * 2**20 + data,
    "a nested note": lambda data: b"[" * 60000 + data,
    "a note that is no JSON": lambda data: b"{\n" + PIXELS,
    "a note that is a list": lambda data: b"[1]\n" + PIXELS,
    "no checksum": lambda data: b'{"shape": [3, 4, 6, 3], "times": [0, 0.25, 0.5]}\n' + PIXELS,
}
FORGED = {
    "fewer frames": forged(PIXELS[:144], (2, 4, 6, 3)),
    "four channels": forged(bytes(288), (3, 4, 6, 4)),
    "no height": forged(b"", (3, 0, 6, 3)),
    "a negative size": forged(PIXELS, (3, -4, -6, 3)),
    "a size in words": forged(PIXELS, (3, "4", 6, 3)),
    "gigabytes": forged(PIXELS, (3, 999999999, 999999999, 3)),
    "a time that is no number": forged(PIXELS, times=[0.0, 0.25, math.nan]),
    "a time that is text": forged(PIXELS, times=[0.0, 0.25, "1"]),
    "a negative time": forged(PIXELS, times=[0.0, 0.25, -1.0]),
    "fewer times": forged(PIXELS, times=[0.0, 0.5]),
    "the checksum of another": lambda entry: forged(PIXELS)(entry.with_name("another")),
}


def test_what_is_forged_here_is_an_entry_but_for_what_is_wrong_with_it(clip: Path) -> None:
    read(clip, Reader())
    (entry,) = entries(clip)
    entry.write_bytes(forged(PIXELS)(entry))

    assert read(clip, Reader()).cache_hits == 1


@pytest.mark.parametrize("damage", [*DAMAGE, *FORGED])
def test_a_damaged_or_forged_entry_is_read_and_written_anew(clip: Path, damage: str) -> None:
    reader = Reader()
    expected = read(clip, reader).images
    entry = entries(clip)[0]
    whole = entry.read_bytes()
    entry.write_bytes(DAMAGE[damage](whole) if damage in DAMAGE else FORGED[damage](entry))

    media = read(clip, reader)

    assert [image.tobytes() for image in expected] == [image.tobytes() for image in media.images]
    assert (2, whole) == (reader.calls, entry.read_bytes())


def test_an_entry_under_the_name_of_another_is_none(clip: Path) -> None:
    other = clip.with_name("other.mp4")
    other.write_bytes(b"b" + CONTENT)
    read(clip, Reader())
    (entry,) = entries(clip)
    read(other, Reader())
    (foreign,) = set(entries(clip)) - {entry}
    entry.write_bytes(foreign.read_bytes())

    assert read(clip, Reader()).images[0][0, 0, 0] == CONTENT[0]


def replace_by_folder(entry: Path) -> None:
    entry.unlink()
    entry.mkdir()


def replace_by_full_folder(entry: Path) -> None:
    replace_by_folder(entry)
    (entry / "file").touch()


def replace_by_link(entry: Path) -> None:
    entry.rename(entry.with_suffix(".elsewhere"))
    entry.symlink_to(entry.with_suffix(".elsewhere"))


def replace_by_pipe(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


def replace_by_loop(entry: Path) -> None:
    entry.unlink()
    entry.symlink_to(entry.name)


@pytest.mark.parametrize(
    "other", [replace_by_folder, replace_by_full_folder, replace_by_link, replace_by_pipe, replace_by_loop]
)
def test_what_is_no_file_is_no_entry(clip: Path, other: Callable[[Path], None]) -> None:
    expected = read(clip, Reader()).images
    (path,) = entries(clip)
    other(path)

    media = read(clip, Reader())

    assert [image.tobytes() for image in expected] == [image.tobytes() for image in media.images]
    assert path.is_dir() or (path.is_file() and not path.is_symlink())
    assert entries(clip) == [path]


def test_an_entry_that_may_not_be_read_is_none(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    read(clip, reader)
    opened = Path.open

    def refuse(path: Path, *how: str, **more: str) -> object:
        if path.suffix == ".frames":
            raise PermissionError(errno.EACCES, "Permission denied")  # as the system does, but to root too
        return opened(path, *how, **more)

    monkeypatch.setattr(Path, "open", refuse)

    assert (read(clip, reader).cache_hits, reader.calls) == (0, 2)


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """As on a full disk, a write fails in the middle; a signal that says so too is ignored by Python."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 10, 60, 200, 270])
def test_a_disk_that_is_full_costs_the_entry_and_leaves_no_part(clip: Path, size: int) -> None:
    with no_file_longer_than(size):
        media = read(clip, Reader())

    assert (len(media.images), media.cache_hits, entries(clip)) == (3, 0, [])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["os.replace", "os.utime"])
def test_a_folder_that_can_not_be_written_to_costs_the_entry(
    clip: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    read(clip, Reader())
    kept = entries(clip)
    monkeypatch.setattr(call, fail)

    assert (len(read(clip, Reader()).images), len(read(clip, Reader(), count=2).images)) == (3, 2)
    assert call == "os.utime" or entries(clip) == kept


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_folder_that_a_full_disk_has_no_room_for_costs_the_entry(
    clip: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", fail)

    assert len(read(clip, Reader()).images) == 3


def test_another_rule_of_choosing_is_another_entry(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    read(clip, reader)
    monkeypatch.setattr("stagebench.media.sampling.evenly_spaced", lambda total, count: list(range(count)))
    read(clip, reader)

    assert reader.calls == 2


@pytest.mark.parametrize("changed", ["stagebench.media.frame_cache._code", "av.__version__"])
def test_other_code_or_another_decoder_is_another_entry(
    clip: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    reader = Reader()
    read(clip, reader)
    monkeypatch.setattr(changed, "0.0" if changed.endswith("__") else lambda *_: "0.0")
    read(clip, reader)

    assert reader.calls == 2


def test_the_code_in_a_key_is_that_of_the_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(Path(frame_cache.__file__).parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(frame_cache, "__file__", str(tmp_path / "cache.py"))
    before = frame_cache._code.__wrapped__()
    (tmp_path / "sampling.py").write_text("def evenly_spaced(total, count): return range(count)")

    assert before == frame_cache._code() != frame_cache._code.__wrapped__()


def test_a_clip_named_otherwise_may_be_read_otherwise(clip: Path) -> None:
    reader = Reader()
    read(clip, reader)
    read(clip.rename(clip.with_suffix(".gif")), reader, count=3)

    assert reader.calls == 2


def test_the_entries_used_longest_ago_go_first(clip: Path) -> None:
    reader = Reader()
    for count, age in ((1, 10), (2, 20), (3, 5)):
        before = set(entries(clip))
        read(clip, reader, count=count)
        (new,) = set(entries(clip)) - before
        os.utime(new, (time.time() - age,) * 2)
    oldest = read(clip, reader, count=2)  # used now

    read(clip, reader, count=4, max_bytes=900)

    hits = [read(clip, reader, count=count).cache_hits for count in (2, 3, 4, 1)]
    assert (oldest.cache_hits, hits) == (1, [1, 1, 1, 0])


def test_frames_larger_than_the_cache_are_not_kept(clip: Path) -> None:
    read(clip, Reader(), max_bytes=100)

    assert entries(clip) == []


def test_frames_of_several_sizes_are_not_kept(clip: Path) -> None:
    assert len(read(clip, Reader(sizes=(4, 5))).images) == 3
    assert entries(clip) == []


def test_what_a_killed_process_left_goes_as_the_others(clip: Path) -> None:
    (clip.parent / "cache").mkdir()
    left = clip.parent / "cache" / "left.frames"
    left.write_bytes(bytes(10_000))
    os.utime(left, (1e9, 1e9))

    read(clip, Reader(), max_bytes=10_000)

    assert (left.exists(), len(entries(clip))) == (False, 1)


def test_a_folder_that_can_not_be_made_is_refused(clip: Path) -> None:
    with pytest.raises(MediaError, match=r"^clip\.mp4: can't be read through the cache .*clip\.mp4: File exists$"):
        read_cached(clip, 1, LoadSettings(), clip, Reader())


def test_an_error_of_the_reader_is_not_kept(clip: Path) -> None:
    for _ in range(2):
        with pytest.raises(MediaError, match="must be a whole video"):
            load(Sample(clip, loading=LoadSettings(cache=clip.parent / "cache")), 1)

    assert entries(clip) == []


def test_no_wrong_frame_where_processes_race_and_one_is_killed(tmp_path: Path) -> None:
    """The small version of `tests/race_frame_cache.py`."""
    command = [sys.executable, Path(__file__).with_name("race_frame_cache.py"), "--clips", "12", "--kills", "3"]
    result = subprocess.run([*command, "--folder", tmp_path], capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")
