"""Makes a file cold: the next read of it goes to the disk. On Linux."""

import os
from pathlib import Path


def drop_from_page_cache(path: Path) -> str | None:
    """Ask the kernel to drop a file, or all files of a folder, from its page cache, and look whether it did.

    Returns:
        None where nothing of the files is left in the cache, else why that can't be had.
    """
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
    try:
        return next((kept for kept in map(_drop, files) if kept), None)
    except (OSError, AttributeError) as error:  # an AttributeError: not on this system
        return f"the page cache can't be controlled here: {error}"


def _drop(file: Path) -> str | None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # what is not yet written can't be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:  # it would have to wait for the disk
            return None
        return "the page cache keeps files of this file system"
    finally:
        os.close(descriptor)
