"""Check that there is something to read at a path, whole, and no more of it than any memory is meant for."""

import pickle
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stagebench.core.errors import MediaError
from stagebench.core.shown import plain

MAX_RATIO = 100  # bytes unpacked for one on disk; recordings have 2 to 10, a bomb a thousand and more
MAX_PIXELS = 2**26  # of an image, 8192 x 8192: what says more is damaged, or meant to fill the memory
MAX_TOTAL = 2**28  # of all images that are kept: eight of 8K
_SMALL = 1 << 20  # bytes that no ratio matters for
_SHOWN = 200  # characters of what a library says
# All that numpy, h5py, zipfile, Pillow and what unpacks raise on damaged files.
_DAMAGE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError),
    *(SystemError, TypeError, ValueError, pickle.UnpicklingError, struct.error, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)


def name_of(path: Path) -> str:
    """Return what an error calls a path: its last part, or all of one that has none (".", "/")."""
    return path.name or str(path)


def size_of(path: Path) -> int:
    """Return the size in bytes of the regular file at `path`.

    Raises:
        MediaError: there is no such file, it is a folder or device, it is empty, or may not be read.
    """
    with _readable(path):
        status = path.stat()
        if stat.S_ISREG(status.st_mode):  # to open a pipe would wait for its other end
            path.open("rb").close()
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "device"
        raise MediaError(f"{name_of(path)}: must be a file, got a {kind}")
    if status.st_size == 0:
        raise MediaError(f"{name_of(path)}: must hold data, got an empty file")
    return status.st_size


def is_folder(path: Path) -> bool:
    """Return whether there is a folder at `path`; refuse where the folder that it lies in may not be read."""
    with _readable(path):
        return path.is_dir()


def files_in(folder: Path) -> list[Path]:
    """Return what lies in a folder, in no order; refuse one that may not be read."""
    with _readable(folder):
        return list(folder.iterdir())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a ValueError: the name holds what no name may
        raise MediaError(f"{name_of(path)}: can't be read: {getattr(error, 'strerror', error)}") from error


@contextmanager
def whole(name: str, what: str, got: str | None = None) -> Iterator[None]:
    """Say in one line that a file is damaged, in place of what a library raises.

    Args:
        name: of the file.
        what: it must be.
        got: instead; by default what the library says.

    Raises:
        MediaError: in place of it.
    """
    try:
        yield
    except _DAMAGE as error:
        said = f" {got}" if got else f": {plain(str(error), _SHOWN) or type(error).__name__}"
        raise MediaError(f"{name}: must be a whole {what}, got{said}") from error


def require_plausible(path: Path, unpacked: int, size: int) -> None:
    """Refuse a compressed file of so many bytes that says it holds more than `MAX_RATIO` times as many."""
    if unpacked > max(MAX_RATIO * size, _SMALL):
        raise MediaError(f"{path.name}: must unpack to at most {MAX_RATIO} times its {size} bytes, got {unpacked}")


def require_pixels(path: Path, width: int, height: int, images: int, most: int = MAX_TOTAL) -> None:
    """Refuse images that say they are larger than any memory is meant for, before they are decoded.

    Each may have `MAX_PIXELS`, all of them `most`; `path` is the file, or the first of several.
    """
    if width * height > MAX_PIXELS or width * height * images > most:
        limit = f"at most {MAX_PIXELS} pixels an image and {most} in all"
        raise MediaError(f"{name_of(path)}: must have {limit}, got {images} of {width} x {height}")
