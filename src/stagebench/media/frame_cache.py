"""Keep decoded frames in a folder. The cache is off by default, and results state its use.

An entry's name is a digest of everything that determines its content: the clip, as the file system knows it, how frames
are chosen, and what decodes them. Processes may share a folder: a file is written under a temporary name and then
renamed. A damaged entry is read anew, and one that can't be written is not kept: both cost only time. Where the folder
grows too large, the least recently used files are removed.
"""

import errno
import functools
import hashlib
import json
import math
import os
import stat
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
import numpy as np
from numpy.typing import NDArray

from stagebench.core import meter
from stagebench.core.artifacts import Media
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media import sampling

MAX_BYTES = 4 * 2**30
_SUFFIX = ".frames"
_SETTLED = 2.0  # seconds after which a further change to a file certainly changes its times
_LONGEST_NOTE = 300, 25  # bytes of the header before the pixels, and more for each frame

Reader = Callable[[Path, int, LoadSettings], Media]


def read_cached(
    path: Path, count: int, loading: LoadSettings, folder: Path, read: Reader, max_bytes: int = MAX_BYTES
) -> Media:
    """Return frames from the cache (`cache_hits` 1), or read and keep them (0); raise MediaError without a folder."""
    try:
        clip = path.stat()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # with a full disk frames are not kept
            raise MediaError(f"{path.name}: can't be read through the cache {folder}: {error.strerror}") from error
    is_settled = time.time() - clip.st_ctime > _SETTLED  # else it may change again within one time stamp
    same = [clip.st_dev, clip.st_ino, clip.st_size, clip.st_mtime_ns, clip.st_ctime_ns, path.suffix.lower()]
    chosen = [sampling.evenly_spaced(total, count) for total in (count, count + 1, 97 * count)]
    rules = [loading.start, loading.duration, chosen, _code(), av.__version__, av.library_versions]
    entry = folder / f"{_digest(json.dumps([*same, *rules]).encode())}{_SUFFIX}"
    found = _read_entry(entry, count)
    if found is None:
        found = replace(read(path, count, loading), cache_hits=0)
        if is_settled and sum(image.nbytes for image in found.images) <= max_bytes:
            _keep(entry, found, max_bytes)
    return found


@functools.cache
def _code() -> str:
    """Return a digest of the code that chooses, decodes and converts frames: other code makes other entries."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return _digest(b"\0".join(file.read_bytes() for file in files))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=20).hexdigest()


def _read_entry(entry: Path, count: int) -> Media | None:
    """Read an entry's frames; return None if `_keep` would not have written it so."""
    with suppress(OSError, ValueError, TypeError, LookupError, MediaError):
        status = entry.lstat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would block
            return None
        with entry.open("rb") as file:
            said = json.loads(file.readline(_LONGEST_NOTE[0] + _LONGEST_NOTE[1] * count))
            frames = np.fromfile(file, np.uint8).reshape(said["shape"])
        meter.add("bytes_read", status.st_size)
        times = None if said["times"] is None else tuple(said["times"])
        known = times is None or (len(times) == count and all(0 <= each < math.inf for each in times))
        if said != _note(entry, frames, times) or not known or len(frames) != count:
            return None
        media = Media(tuple(frames), "frames", 0, status.st_size, times[-1] if times else None, times, cache_hits=1)
        meter.add("images_made", count)
        with suppress(OSError):  # removed by another process, or the disk is read-only
            os.utime(entry)  # marks it as used
        return media
    return None


def _note(entry: Path, frames: NDArray[np.uint8], times: Sequence[float] | None) -> dict[str, Any]:
    """Return an entry's header: shape, times, and a CRC-32 (a digest takes ten times longer)."""
    said = {"shape": list(frames.shape), "times": times and list(times)}
    pixels: Any = frames  # a buffer, as numpy's types declare from Python 3.12 on
    return said | {"checksum": zlib.crc32(pixels, zlib.crc32(json.dumps([entry.name, said]).encode()))}


def _keep(entry: Path, media: Media, max_bytes: int) -> None:
    """Write an entry, or leave none where that fails; then remove the least recently used files."""
    if len({image.shape for image in media.images}) > 1:
        return
    frames = np.stack(media.images)
    part = entry.with_name(f"{uuid4().hex}{_SUFFIX}")
    with suppress(OSError):
        try:
            with part.open("xb") as file:
                file.write(json.dumps(_note(entry, frames, media.times)).encode() + b"\n")
                file.write(frames.data)  # raises errors, unlike `tofile`
            part.replace(entry)
        finally:
            part.unlink(missing_ok=True)
        files = [(path, path.lstat()) for path in entry.parent.glob(f"*{_SUFFIX}")]
        excess = sum(status.st_size for _, status in files) - max_bytes
        for path, status in sorted(files, key=lambda file: file[1].st_mtime):
            if excess > 0:
                path.unlink(missing_ok=True)
                excess -= status.st_size
