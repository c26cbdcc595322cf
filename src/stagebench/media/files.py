"""Check what there is at a path before it is read: a file, of which kind, whole, and not larger than any is meant."""

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stagebench.core.errors import MediaError
from stagebench.core.shown import plain

MAX_RATIO = 100  # bytes unpacked for one on disk; recordings have 2 to 10, a bomb a thousand and more
MAX_PIXELS = 2**26  # of an image, 8192 x 8192: what says more is damaged, or meant to fill the memory
MAX_TOTAL = 2**28  # of all images that are kept: eight of 8K
CLIPS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".gif")  # a file of a suffix that nobody has may be a video too
_SMALL = 1 << 20  # bytes that no ratio matters for
_SHOWN = 200  # characters of what a library says
_BEGINNING = 1024  # bytes
_NPY, _ZIP, _HDF5, _RAW = "a .npy file", "a zip or .npz file", "HDF5", "Prophesee's EVT2 or EVT3"
_AEDAT4, _PNG = "AEDAT4", "a PNG image"
_EXPECTED = {".npy": _NPY, ".npz": _ZIP, ".h5": _HDF5, ".hdf5": _HDF5, ".raw": _RAW, ".aedat4": _AEDAT4, ".png": _PNG}
_KINDS = (
    (rb"\x93NUMPY", _NPY),
    (rb"\x89PNG\r\n\x1a\n", _PNG),
    (rb"PK[\3\5][\4\6]", _ZIP),
    (rb"(?s)(.{512})?\x89HDF\r\n\x1a\n", _HDF5),  # behind a block of a user's own, at times
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
    (rb"v=0\r?\n", "a description of a stream elsewhere (SDP)"),
    (rb"(\xef\xbb\xbf)?\s*<[?!a-zA-Z]", "XML, as DASH, IMF and other playlists are, or HTML"),
    (rb"YUV4MPEG2 ", None),
    (rb"([^\0-\x08\x0e-\x1f\x7f-\xff]*\n)?[ \t]*[-+]?[\d.]([-+.\de]*[ ,;\t]+[-+]?[\d.]){3}", "a text of numbers"),
    (rb"[^\0-\x08\x0e-\x1f\x7f-\xff]*\Z", "text"),
)


def name_of(path: Path) -> str:
    """Return what an error calls a path: its last part, or all of one that has none (".", "/")."""
    return path.name or str(path)


def size_of(path: Path) -> int:
    """Return the size in bytes of a file; refuse a folder, a device, and what is missing, empty or can't be read."""
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


def kind_of(path: Path) -> str | None:
    """Return what a file begins as, whatever its suffix says; None for what is not known here, such as a video."""
    size_of(path)
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    return next((kind for begins, kind in _KINDS if re.match(begins, beginning)), None)


def require_kind(path: Path) -> None:
    """Refuse a file that begins as something else than its suffix says, and a file that `size_of` refuses."""
    expected = _EXPECTED.get(path.suffix.lower())
    if expected is not None and (kind := kind_of(path)) not in (expected, None):
        raise MediaError(f"{path.name}: must be {expected}, got {kind}")


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
    """Raise a MediaError in place of what a library raises: the file must be a whole `what`, got what it says."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:  # numpy, h5py, zipfile and Pillow raise whatever the damage leads to
        said = f" {got}" if got else f": {plain(str(error), _SHOWN) or type(error).__name__}"
        raise MediaError(f"{name}: must be a whole {what}, got{said}") from error


def require_plausible(path: Path, unpacked: int, size: int) -> None:
    """Refuse a compressed file of so many bytes that says it holds more than `MAX_RATIO` times as many."""
    if unpacked > max(MAX_RATIO * size, _SMALL):
        raise MediaError(f"{path.name}: must unpack to at most {MAX_RATIO} times its {size} bytes, got {unpacked}")


def require_pixels(path: Path, width: int, height: int, images: int, most: int = MAX_TOTAL) -> None:
    """Refuse images of more than `MAX_PIXELS` each or `most` in all before they are decoded; `path` names the file."""
    if width * height > MAX_PIXELS or width * height * images > most:
        limit = f"at most {MAX_PIXELS} pixels an image and {most} in all"
        raise MediaError(f"{name_of(path)}: must have {limit}, got {images} of {width} x {height}")
