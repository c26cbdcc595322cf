"""Frames that were decoded before, kept in a folder: off unless asked for, and a run that used it says so.

An entry is a plain `.npy` of all frames, which `np.load` reads, and behind the array a line of JSON and a checksum of
both. Its name is a digest of everything that decides what is in it: the clip's content, how frames are chosen, and what
decodes them. Processes may share a folder: a file is written under another name and then renamed, and one that is
damaged is no entry. The entries used longest ago go first where the folder grows too large.

To digest a clip costs about a millisecond a megabyte, so digests are kept too, by what the file system says of a file
(see `_content_of`).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from stagebench import meter
from stagebench.environment import decoder_version
from stagebench.errors import MediaError
from stagebench.types import LoadSettings, Media

RULES = 2  # to be raised with every change to how frames are chosen, coloured or turned
MAX_BYTES = 4 * 2**30
_SETTLED = 2.0  # seconds after which a further change to a file is sure to change its times
_STALE = 3600.0  # seconds after which an unfinished file is one that a killed process left

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
        max_bytes: to which the folder is cut down after writing.

    Returns:
        What `read` returns, with `cache_hits` 0; or with 1, and no frames decoded, where they come from the cache.

    Raises:
        MediaError: what `read` raises; or the folder can't be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entry = folder / f"{_key(path, count, loading, folder)}.npy"
        found = _read_entry(entry, count)
        if found is None:
            found = read(path, count, loading)
            _keep(entry, found, max_bytes)
            found = replace(found, cache_hits=0)
    except OSError as error:
        raise MediaError(f"{path.name}: can't be read through the cache {folder}: {error.strerror}") from error
    return found


def _key(path: Path, count: int, loading: LoadSettings, folder: Path) -> str:
    what = (_content_of(path, folder), count, loading.start, loading.duration)
    return _digest([RULES, *what, decoder_version(loading.decoder)])


def _digest(parts: list[Any]) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=20).hexdigest()


def _content_of(path: Path, folder: Path) -> str:
    """A digest of a file's bytes; one that was taken before, where device, inode, size and both times are the same.

    A file that was changed a moment ago may change again within one tick of the file system's clock: its digest is not
    kept.
    """
    status = path.stat()
    same = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    memo = folder / f"{_digest(same)}.id"
    with suppress(FileNotFoundError):
        known = memo.read_text()
        if len(known) == 2 * hashlib.blake2b().digest_size:
            return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()
    if time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED:
        _write(memo, digest.encode())
    return digest


def _read_entry(entry: Path, count: int) -> Media | None:
    """An entry's frames; None where there is none, or a damaged one."""
    try:
        with entry.open("rb") as file:
            frames: NDArray[np.uint8] = np.lib.format.read_array(file, allow_pickle=False)
            note, _, checksum = file.read().partition(b"\n")
            size = file.tell()
            meter.add("bytes_read", size)
        whole = checksum == _checksum(frames, note) and frames.shape[0] == count
    except (FileNotFoundError, ValueError, EOFError):
        return None
    if not whole:
        return None
    with suppress(FileNotFoundError):  # another process may have removed it
        os.utime(entry)  # used last
    span = cast("float | None", json.loads(note)["span"])
    return Media(tuple(frames), "frames", frames_decoded=0, bytes_read=size, span=span, cache_hits=1)


def _checksum(frames: NDArray[np.uint8], note: bytes) -> bytes:
    """CRC-32 of the pixels, their layout and the note, as text: to find damage; a digest costs ten times more."""
    pixels: Any = np.ascontiguousarray(frames)  # a buffer, which numpy's types say from Python 3.12 on
    return b"%08x" % zlib.crc32(f"{frames.shape} {frames.dtype}".encode() + note, zlib.crc32(pixels))


def _keep(entry: Path, media: Media, max_bytes: int) -> None:
    """Write an entry, then remove those used longest ago; frames of several sizes are not kept."""
    if len({image.shape for image in media.images}) > 1 or sum(image.nbytes for image in media.images) > max_bytes:
        return
    frames = np.stack(media.images)
    note = json.dumps({"span": media.span}).encode()
    _write(entry, frames, note + b"\n" + _checksum(frames, note))
    _shrink(entry.parent, max_bytes)


def _write(path: Path, *parts: bytes | NDArray[np.uint8]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        for part in parts:
            if isinstance(part, bytes):
                file.write(part)
            else:
                np.save(file, part)
    Path(file.name).replace(path)


def _shrink(folder: Path, max_bytes: int) -> None:
    files: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process removes too, and renames
            status = path.stat()
            if path.suffix in (".npy", ".id"):
                files.append((status.st_mtime, status.st_size, path))
            elif path.suffix == ".part" and time.time() - status.st_mtime > _STALE:
                path.unlink()
    excess = sum(size for _, size, _ in files) - max_bytes
    for _, size, path in sorted(files):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size
