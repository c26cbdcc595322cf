"""Frames that were decoded before, kept in a folder: off unless asked for, and a run that used it says so.

An entry is a plain `.npy` of all frames, which `np.load` reads, and behind the array a line of JSON and a checksum of
both. Its name is a digest of everything that decides what is in it: the clip's content, how frames are chosen, and what
decodes them. Processes may share a folder: a file is written under another name and then renamed. What is not exactly
an entry of that name is none, and one that can't be written is not kept: neither costs more than its time. The entries
used longest ago go first where the folder grows too large.

To digest a clip costs about a millisecond a megabyte, so digests are kept too, by what the file system says of a file
(see `_content_of`).
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import json
import math
import os
import re
import stat
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import numpy as np
from numpy.typing import NDArray

from stagebench.core import meter
from stagebench.core.artifacts import Media
from stagebench.core.environment import decoder_version
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media import sampling
from stagebench.media.files import MAX_PIXELS

MAX_BYTES = 4 * 2**30
_SETTLED = 2.0  # seconds after which a further change to a file is sure to change its times
_STALE = 3600.0  # seconds after which an unfinished file is one that a killed process left
_NOTE = 300  # bytes behind the array, at most
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SHAPE = re.compile(
    rb"\x93NUMPY.{4}\{'descr': '\|u1', .*'shape': \((\d{1,9}), (\d{1,9}), (\d{1,9}), 3\), \} *\n", re.DOTALL
)

Reader = Callable[[Path, int, LoadSettings], Media]


def read_cached(
    path: Path, count: int, loading: LoadSettings, folder: Path, read: Reader, max_bytes: int = MAX_BYTES
) -> Media:
    """Return the frames of a clip from the cache, or read and keep them.

    Args:
        path: the clip.
        count: how many frames.
        loading: how it is read.
        folder: of the cache; made where it is missing.
        read: reads it where there is no entry, or a damaged one.
        max_bytes: to which the folder is cut down after writing; nothing larger is an entry.

    Returns:
        What `read` returns, with `cache_hits` 0; or with 1, and no frames decoded, where they come from the cache.

    Raises:
        MediaError: what `read` raises; or the clip can't be read, or there is no such folder and none can be made.
    """
    try:
        _make(folder)
        entry = folder / f"{_key(path, count, loading, folder)}.npy"
    except OSError as error:
        raise MediaError(f"{path.name}: can't be read through the cache {folder}: {error.strerror}") from error
    found = _read_entry(entry, count, max_bytes)
    if found is None:
        found = replace(read(path, count, loading), cache_hits=0)
        _keep(entry, found, max_bytes)
    return found


def _make(folder: Path) -> None:
    """Make the folder, but for a full disk: that costs what would be kept in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in _FULL:
            raise


def _key(path: Path, count: int, loading: LoadSettings, folder: Path) -> str:
    """A digest of what decides which frames there are: the clip, the rules, the window, and what decodes."""
    chosen = [sampling.evenly_spaced(total, count) for total in (count, count + 1, 97 * count)]
    clip = (_content_of(path, folder), path.suffix.lower(), count, loading.start, loading.duration)
    return _digest([*clip, chosen, _code(), av.__version__, av.library_versions, decoder_version(loading.decoder)])


@functools.cache
def _code() -> str:
    """A digest of the code that chooses, decodes, colours and turns frames: with another, entries are others."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.blake2b(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _digest(parts: list[Any]) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=20).hexdigest()


def _content_of(path: Path, folder: Path) -> str:
    """A digest of a file's bytes; one that was taken before, where device, inode, size and both times are the same.

    A file that was changed a moment ago may change again within one tick of the file system's clock: its digest is not
    kept. Beside it stands one of both, by which one that was damaged or belongs to another file is known.
    """
    status = path.stat()
    same = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    memo = folder / f"{_digest(same)}.id"
    with suppress(OSError, ValueError):
        known, _, proof = (memo.read_text("ascii") if 0 < _size(memo) <= _NOTE else "").partition(" ")
        if known and proof == _digest([*same, known]):
            return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()
    if time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED:
        _write(memo, f"{digest} {_digest([*same, digest])}".encode())
    return digest


def _size(path: Path) -> int:
    """The size of a file; 0 where there is anything else of that name, or nothing."""
    with suppress(OSError):
        status = path.lstat()
        return status.st_size if stat.S_ISREG(status.st_mode) else 0
    return 0


def _read_entry(entry: Path, count: int, max_bytes: int) -> Media | None:
    """An entry's frames; None where there is nothing that `_keep` would have written under that name."""
    size = _size(entry)
    if not 0 < size <= max_bytes + 2 * _NOTE:
        return None
    with suppress(OSError, ValueError, TypeError, KeyError), entry.open("rb") as file:
        frames = _read_frames(file, size, count)
        note = file.read()
        meter.add("bytes_read", size)
        span = json.loads(note.partition(b"\n")[0])["span"]
        known = span is None or (type(span) is float and 0 <= span < math.inf)
        if not known or note != _note(frames, entry.stem, span):
            return None
        meter.add("images_made", count)
        with suppress(OSError):  # another process may have removed it, or the disk can't be written to
            os.utime(entry)  # used last
        return Media(tuple(frames), "frames", frames_decoded=0, bytes_read=size, span=span, cache_hits=1)
    return None


def _read_frames(file: BinaryIO, size: int, count: int) -> NDArray[np.uint8]:
    """Read the array at the beginning of a file of so many bytes.

    Raises:
        ValueError: it is no array of `count` frames, or the file is longer or shorter than one.
    """
    said = _SHAPE.match(file.read(_NOTE))
    shape = (*map(int, said.groups()), 3) if said else (0,)
    head, pixels = _header(shape), math.prod(shape)
    if shape[0] != count or not 0 < pixels <= 3 * count * MAX_PIXELS or not 0 < size - len(head) - pixels <= _NOTE:
        raise ValueError(shape)
    file.seek(0)
    frames: Any = np.empty(shape, np.uint8)  # a buffer, which numpy's types say from Python 3.12 on
    if file.read(len(head)) != head or file.readinto(frames) != pixels:  # type: ignore[attr-defined]  # io's types lack it
        raise ValueError(shape)
    return cast("NDArray[np.uint8]", frames)


def _header(shape: tuple[int, ...]) -> bytes:
    """What numpy writes before the bytes of such an array."""
    file = io.BytesIO()
    said = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, said)
    return file.getvalue()


def _note(frames: NDArray[np.uint8], key: str, span: float | None) -> bytes:
    """A line of JSON, and the CRC-32 of the pixels, their shape and that line: a digest costs ten times more."""
    line = json.dumps({"key": key, "span": span}).encode()
    pixels: Any = frames  # a buffer, which numpy's types say from Python 3.12 on
    return line + b"\n%08x" % zlib.crc32(f"{frames.shape}".encode() + line, zlib.crc32(pixels))


def _keep(entry: Path, media: Media, max_bytes: int) -> None:
    """Write an entry, then remove those used longest ago; frames of several sizes are not kept."""
    if len({image.shape for image in media.images}) > 1 or sum(image.nbytes for image in media.images) > max_bytes:
        return
    frames = np.stack(media.images)
    _write(entry, _header(frames.shape), frames, _note(frames, entry.stem, media.span))
    with suppress(OSError):
        _shrink(entry.parent, max_bytes)


def _write(path: Path, *parts: Any) -> None:
    """Write buffers to a file, or leave none: where the disk is full or can't be written to, nothing is kept."""
    part = None
    with suppress(OSError):
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
                part = Path(file.name)
                for data in parts:
                    file.write(data)
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            part.replace(path)
        finally:
            if part is not None:
                part.unlink(missing_ok=True)


def _shrink(folder: Path, max_bytes: int) -> None:
    files: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with suppress(OSError):  # another process removes too, and renames
            status = path.lstat()
            if path.suffix in (".npy", ".id"):
                files.append((status.st_mtime, status.st_size, path))
            elif path.suffix == ".part" and time.time() - status.st_mtime > _STALE:
                path.unlink()
    excess = sum(size for _, size, _ in files) - max_bytes
    for _, size, path in sorted(files):
        if excess <= 0:
            break
        with suppress(OSError):  # a folder of such a name, or one that may not be written to
            path.unlink(missing_ok=True)
            excess -= size
