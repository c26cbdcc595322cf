"""Is there something to read at a path? The first check of every reader."""

from __future__ import annotations

from pathlib import Path

from stagebench.errors import MediaError


def size_of(path: Path) -> int:
    """Return the size in bytes of the regular file at `path`.

    Raises:
        MediaError: there is no such file, it is a folder or device, it is empty, or may not be read.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise MediaError(f"{path.name}: can't be read: {error.strerror}") from error
    if not path.is_file():
        raise MediaError(f"{path.name}: must be a file, got a {'folder' if path.is_dir() else 'device'}")
    if size == 0:
        raise MediaError(f"{path.name}: must hold data, got an empty file")
    return size
