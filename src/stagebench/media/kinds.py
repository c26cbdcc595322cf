"""Name what a file is by its first bytes, whatever its suffix says: near misses, not how it is read."""

import re
from pathlib import Path

from stagebench.core.errors import MediaError
from stagebench.media.files import size_of

CLIPS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".gif")
"""Suffixes of videos; a file of any other that no reader of ours has may be one too."""

_BEGINNING = 1024  # bytes
_NPY, _ZIP, _HDF5, _RAW = "a .npy file", "a zip or .npz file", "HDF5", "Prophesee's EVT2 or EVT3"
EXPECTED = {".npy": _NPY, ".npz": _ZIP, ".h5": _HDF5, ".hdf5": _HDF5, ".raw": _RAW}
"""What a recording is by its suffix."""
_KINDS = (
    (rb"\x93NUMPY", _NPY),
    (rb"PK[\3\5][\4\6]", _ZIP),
    (rb"(?s)(.{512})?\x89HDF\r\n\x1a\n", _HDF5),  # behind a block of a user's own, at times
    (rb"#!AER-DAT", "iniVation's AEDAT"),
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


def kind_of(path: Path) -> str | None:
    """Return what a file begins as; None for what is not known here, such as a video.

    Raises:
        MediaError: there is no such file, it is empty, or may not be read.
    """
    size_of(path)
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    return next((kind for begins, kind in _KINDS if re.match(begins, beginning)), None)


def require_kind(path: Path) -> None:
    """Refuse a recording that begins as something else than its suffix says.

    Raises:
        MediaError: it does; or the file is missing, empty, or may not be read.
    """
    expected = EXPECTED.get(path.suffix.lower())
    if expected is not None and (kind := kind_of(path)) not in (expected, None):
        raise MediaError(f"{path.name}: must be {expected}, got {kind}")
