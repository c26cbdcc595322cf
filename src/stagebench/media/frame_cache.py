"""Keep decoded frames in a folder: off unless asked for, and a run that used it says so.

An entry is a plain `.npy` of all frames, which `np.load` reads, and behind the array a line of JSON and a checksum. Its
name is a digest of everything that decides what is in it: the clip's content, how frames are chosen, and what decodes
them. Processes may share a folder: a file is written under another name and then renamed. What is not exactly an entry
of that name is read anew, and one that can't be written is not kept: neither costs more than its time. The entries used
longest ago go first where the folder grows too large.

To digest a clip costs about a millisecond a megabyte, so digests are kept too, by what the file system says of a file
(see `_content_of`).
"""

import errno
import functools
import hashlib
import io
import json
import math
import os
import stat
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from stagebench.core import meter
from stagebench.core.artifacts import Media
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media import sampling

MAX_BYTES = 4 * 2**30
_SETTLED = 2.0  # seconds after which a further change to a file is sure to change its times
_STALE = 3600.0  # seconds after which an unfinished file is one that a killed process left
_NOTE = 300  # bytes behind the array, at most
_FULL = (errno.ENOSPC, errno.EDQUOT)

Reader = Callable[[Path, int, LoadSettings], Media]


def read_cached(
    path: Path, count: int, loading: LoadSettings, folder: Path, read: Reader, max_bytes: int = MAX_BYTES
) -> Media:
    """Return the frames of a clip from the cache, or read and keep them.

    Args:
        path: the clip.
        count: how many frames.
        loading: how it is read.
        folder: of the cache; made if missing.
        read: reads it without an entry, or with a damaged one.
        max_bytes: to which the folder is cut down after writing; nothing larger is an entry.

    Returns:
        What `read` returns, with `cache_hits` 0; or with 1, and no frames decoded, where they come from the cache.

    Raises:
        MediaError: what `read` raises; or the clip can't be read, or there is no such folder and none can be made.
    """
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in _FULL:  # a full disk costs only what would be kept
                raise
        entry = folder / f"{_key(path, count, loading, folder)}.npy"
    except OSError as error:
        raise MediaError(f"{path.name}: can't be read through the cache {folder}: {error.strerror}") from error
    found = _read_entry(entry, count, max_bytes)
    if found is None:
        found = replace(read(path, count, loading), cache_hits=0)
        _keep(entry, found, max_bytes)
    return found


def _key(path: Path, count: int, loading: LoadSettings, folder: Path) -> str:
    """Digest what decides which frames there are: the clip, the rules, the window, and what decodes."""
    chosen = [sampling.evenly_spaced(total, count) for total in (count, count + 1, 97 * count)]
    clip = (_content_of(path, folder), path.suffix.lower(), count, loading.start, loading.duration)
    return _digest([*clip, chosen, _code(), av.__version__, av.library_versions])


@functools.cache
def _code() -> str:
    """Digest the code that chooses, decodes, colours and turns frames: with another, entries are others."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.blake2b(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _digest(parts: list[Any]) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=20).hexdigest()


def _content_of(path: Path, folder: Path) -> str:
    """Digest a file's bytes, or return a digest kept where device, inode, size and both times were the same.

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
    """Return the size of a file; 0 where there is anything else of that name, or nothing."""
    with suppress(OSError):
        status = path.lstat()
        return status.st_size if stat.S_ISREG(status.st_mode) else 0
    return 0


def _read_entry(entry: Path, count: int, max_bytes: int) -> Media | None:
    """Read an entry's frames; None if it is not what `_keep` would have written under that name."""
    if not 0 < (size := _size(entry)) <= max_bytes + 2 * _NOTE:
        return None
    with suppress(OSError, ValueError, TypeError, LookupError), entry.open("rb") as file:
        data: NDArray[np.uint8] = np.fromfile(file, np.uint8)
        meter.add("bytes_read", size)
        said = json.loads(data[-_NOTE:].tobytes().split(b"\n")[-2])
        span, pixels = said["span"], math.prod(said["shape"])
        begin = len(_parts(np.zeros(0), "", None)[0])
        frames = data[begin : begin + pixels].reshape(said["shape"])
        head, _, note = _parts(frames, entry.stem, span)
        known = span is None or (type(span) is float and 0 <= span < math.inf)
        whole = data[:begin].tobytes() == head and data[begin + pixels :].tobytes() == note
        if not (known and whole and pixels and frames.ndim == 4 and (len(frames), frames.shape[3]) == (count, 3)):
            return None
        meter.add("images_made", count)
        with suppress(OSError):  # another process may have removed it, or the disk can't be written to
            os.utime(entry)  # used last
        return Media(tuple(frames), "frames", frames_decoded=0, bytes_read=size, span=span, cache_hits=1)
    return None


def _parts(frames: NDArray[Any], key: str, span: float | None) -> tuple[bytes, Any, bytes]:
    """Return what an entry is made of: the array, as numpy writes it, what is said of it, and a CRC-32 of all that."""
    head = io.BytesIO()
    said = {"descr": "|u1", "fortran_order": False, "shape": frames.shape}
    np.lib.format.write_array_header_1_0(head, said)
    note = b"\n" + json.dumps({"key": key, "shape": frames.shape, "span": span}).encode() + b"\n"
    pixels: Any = frames  # a buffer, which numpy's types say from Python 3.12 on
    checksum = zlib.crc32(note, zlib.crc32(pixels, zlib.crc32(head.getvalue())))  # a digest costs ten times more
    return head.getvalue(), pixels, note + b"%08x" % checksum


def _keep(entry: Path, media: Media, max_bytes: int) -> None:
    """Write an entry, then remove those used longest ago; frames of several sizes are not kept."""
    if len({image.shape for image in media.images}) > 1 or sum(image.nbytes for image in media.images) > max_bytes:
        return
    _write(entry, *_parts(np.stack(media.images), entry.stem, media.span))
    with suppress(OSError):
        _shrink(entry.parent, max_bytes)


def _write(path: Path, *parts: Any) -> None:
    """Write buffers to a file, or leave none: where the disk is full or can't be written to, nothing is kept."""
    part = None
    with suppress(OSError):
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
                part = Path(file.name)
                file.writelines(parts)
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
