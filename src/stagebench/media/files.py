"""Check a file before it is read: whether it exists, is of the expected kind, whole, and of plausible size."""

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stagebench.core.errors import MediaError
from stagebench.core.json_files import table_beside
from stagebench.core.shown import plain

MAX_RATIO = 100  # unpacked bytes per byte on disk; recordings have 2 to 10, zip bombs 1000 and more
MAX_PIXELS = 2**26  # of an image, 8192 x 8192: a header with more is damaged, or meant to fill the memory
MAX_TOTAL = 2**28  # pixels of all images that are kept: eight of 8K
CLIPS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".gif")  # a file of an unknown suffix may be a video too
KNOWN = table_beside(__file__)
_SMALL = 1 << 20  # bytes, up to which no ratio is checked
_SHOWN = 200  # characters of a library's message
_BEGINNING = 1024  # bytes


def name_of(path: Path) -> str:
    """Return the name of a path in errors: its last part, or the path where it has none (".", "/")."""
    return path.name or str(path)


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; refuse a folder, a device, and a missing, empty or unreadable file."""
    with _readable(path):
        status = path.stat()
        if stat.S_ISREG(status.st_mode):  # opening a pipe would block
            path.open("rb").close()
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "device"
        raise MediaError(f"{name_of(path)}: must be a file, got a {kind}")
    if status.st_size == 0:
        raise MediaError(f"{name_of(path)}: must hold data, got an empty file")
    return status.st_size


def kind_of(path: Path) -> str | None:
    """Return the kind of a file by its first bytes; None for a kind not listed here, such as a video."""
    size_of(path)
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    return next((kind or None for begins, kind in KNOWN["kinds"] if re.match(begins.encode(), beginning)), None)


def require_kind(path: Path) -> None:
    """Refuse a file with the first bytes of another kind than its suffix names, and one that `size_of` refuses."""
    expected = KNOWN["expected"].get(path.suffix.lower())
    if expected is not None and (kind := kind_of(path)) not in (expected, None):
        raise MediaError(f"{path.name}: must be {expected}, got {kind}")


def is_folder(path: Path) -> bool:
    """Return whether `path` is a folder; refuse one in an unreadable folder."""
    with _readable(path):
        return path.is_dir()


def files_in(folder: Path) -> list[Path]:
    """Return the entries of a folder, in no order; refuse an unreadable one."""
    with _readable(folder):
        return list(folder.iterdir())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: not a possible name
        raise MediaError(f"{name_of(path)}: can't be read: {getattr(error, 'strerror', error)}") from error


@contextmanager
def whole(name: str, what: str, got: str | None = None) -> Iterator[None]:
    """Turn any error of a library into a MediaError: must be a whole `what`, got `got` or the library's message."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:  # damage makes numpy, h5py, zipfile and Pillow raise errors of any type
        said = f" {got}" if got else f": {plain(str(error), _SHOWN) or type(error).__name__}"
        raise MediaError(f"{name}: must be a whole {what}, got{said}") from error


def require_plausible(path: Path, unpacked: int, size: int) -> None:
    """Refuse a file of `size` bytes that unpacks to more than `MAX_RATIO` times as many."""
    if unpacked > max(MAX_RATIO * size, _SMALL):
        raise MediaError(f"{path.name}: must unpack to at most {MAX_RATIO} times its {size} bytes, got {unpacked}")


def require_pixels(path: Path, width: int, height: int, images: int, most: int = MAX_TOTAL) -> None:
    """Refuse images of more than `MAX_PIXELS` each or `most` in all before they are decoded; `path` names the file."""
    if width * height > MAX_PIXELS or width * height * images > most:
        limit = f"at most {MAX_PIXELS} pixels per image and {most} in all"
        raise MediaError(f"{name_of(path)}: must have {limit}, got {images} of {width} x {height}")
