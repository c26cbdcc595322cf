"""Check a file before it is read: whether it exists, is of the expected kind, whole, and of plausible size."""

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stagebench.core.errors import MediaError
from stagebench.core.shown import plain

MAX_RATIO = 100  # unpacked bytes per byte on disk; recordings have 2 to 10, zip bombs 1000 and more
MAX_PIXELS = 2**26  # of an image, 8192 x 8192: a header with more is damaged, or meant to fill the memory
MAX_TOTAL = 2**28  # pixels of all images that are kept: eight of 8K
CLIPS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".gif")  # a file of an unknown suffix may be a video too
_SMALL = 1 << 20  # bytes, up to which no ratio is checked
_SHOWN = 200  # characters of a library's message
_BEGINNING = 1024  # bytes
_NPY, _ZIP, _HDF5, _RAW = "a .npy file", "a zip or .npz file", "HDF5", "Prophesee's EVT2 or EVT3"
_AEDAT4, _PNG = "AEDAT4", "a PNG image"
_EXPECTED = {".npy": _NPY, ".npz": _ZIP, ".h5": _HDF5, ".hdf5": _HDF5, ".raw": _RAW, ".aedat4": _AEDAT4, ".png": _PNG}
_KINDS = (
    (rb"\x93NUMPY", _NPY),
    (rb"\x89PNG\r\n\x1a\n", _PNG),
    (rb"PK[\3\5][\4\6]", _ZIP),
    (rb"(?s)(.{512})?\x89HDF\r\n\x1a\n", _HDF5),  # possibly after a user block
    (rb"#!AER-DAT4", _AEDAT4),
    (rb"#!AER-DAT[123]", "AEDAT 1, 2 or 3"),
    (rb"% (.*\n% )*(Data file|Version )", "Prophesee's DAT"),
    (rb"% .*\n", _RAW),
    (rb"Event Stream", "an Event Stream (.es)"),
    (rb"#ROSBAG", "a ROS bag"),
    (rb"SQLite format 3", "an SQLite file, as bags of ROS 2 are"),
    (rb"\x89MCAP0", "MCAP"),
    (rb"MATLAB 5", "a MATLAB file"),
    (rb"\x1f\x8b|BZh[1-9]|\xfd7zXZ|\x28\xb5\x2f\xfd", "a gzip, bzip2, xz or Zstandard file"),
    (rb"7z\xbc\xaf\x27\x1c|Rar!|(?s:.{257}ustar)", "an archive (7z, RAR or tar)"),
    (rb"\x80[\2-\5][}\x95\x8a(c\]]", "a pickle"),
    (rb"(\xef\xbb\xbf)?(#EXTM3U|ffconcat version)|(?i:\[(playlist|reference)\])", "a playlist"),
    (rb"(?i)(rtsp|https?|mms)://|rtsptext", "an address"),
    (rb"v=0\r?\n", "a description of a remote stream (SDP)"),
    (rb"(\xef\xbb\xbf)?\s*<[?!a-zA-Z]", "XML, as DASH, IMF and other playlists are, or HTML"),
    (rb"YUV4MPEG2 ", None),
    (rb"([^\0-\x08\x0e-\x1f\x7f-\xff]*\n)?[ \t]*[-+]?[\d.]([-+.\de]*[ ,;\t]+[-+]?[\d.]){3}", "a text of numbers"),
    (rb"[^\0-\x08\x0e-\x1f\x7f-\xff]*\Z", "text"),
)


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
    return next((kind for begins, kind in _KINDS if re.match(begins, beginning)), None)


def require_kind(path: Path) -> None:
    """Refuse a file with the first bytes of another kind than its suffix names, and one that `size_of` refuses."""
    expected = _EXPECTED.get(path.suffix.lower())
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
