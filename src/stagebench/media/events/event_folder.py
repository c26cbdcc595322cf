"""The fast layout of a recording: a folder `NAME.events` with each column as a `.npy` file, mapped into memory."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

from stagebench.core.errors import MediaError
from stagebench.media.events.event_arrays import KEYS, Columns, Window, cut_columns
from stagebench.media.events.npy import map_array
from stagebench.media.files import files_in, is_folder, name_of
from stagebench.media.kinds import kind_of

SUFFIX = ".events"
_UNIT = "unit.txt"
"""Says of a recording that was converted that its times are microseconds, however they look."""
_NAMES = "x.npy, y.npy, t.npy and p.npy"
TYPES = {"x": np.uint16, "y": np.uint16, "t": np.int64, "p": np.uint8}
"""As they are written, 13 bytes an event; any integers are read."""


def column_files(folder: Path) -> list[Path]:
    """The files that a recording in the fast layout is made of."""
    return [folder / f"{key}.npy" for key in KEYS]


def read_folder(path: Path, window: Window) -> Columns:
    """Read the events in a window; the others stay on disk.

    Raises:
        MediaError: the path is no folder, a file in it is missing, damaged or no column, or there are no events in
            the window.
    """
    if not is_folder(path):
        got = f"got {kind_of(path) or 'a file'}" if path.is_file() else "found none"
        raise MediaError(f"{name_of(path)}: must be a folder of {_NAMES}, {got}")
    found = files_in(path)
    if missing := [file.name for file in column_files(path) if file not in found]:
        raise MediaError(f"{name_of(path)}: must be a folder of {_NAMES}, got no {', '.join(missing)}")
    if path / _UNIT in found:
        window = window.of_own_clock(path.name)
    columns = dict(zip(KEYS, map(map_array, column_files(path)), strict=True))
    return cut_columns(path.name, columns, window)


def require_free(path: Path) -> None:
    """Refuse a path that a recording may not be written to.

    Raises:
        MediaError: the path has another suffix than `.events`, or is taken.
    """
    if path.suffix != SUFFIX:
        raise MediaError(f"{name_of(path)}: must be named NAME{SUFFIX}, got the suffix {path.suffix!r}")
    if path.exists():
        raise MediaError(f"{path.name}: must be new, but there is one already")


def write_folder(path: Path, columns: Columns) -> None:
    """Write a recording in the fast layout: to a folder of another name, renamed when it is whole.

    Args:
        path: a folder that is not there yet, as `require_free` wants it.
        columns: checked events, x, y, t and p, each (events,).

    Raises:
        MediaError: it is not, or can't be written.
    """
    require_free(path)
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=path.parent))
        try:
            for file, key in zip(column_files(partial), KEYS, strict=True):
                np.save(file, columns[key].astype(TYPES[key], copy=False), allow_pickle=False)
            (partial / _UNIT).write_text("us\n")
            partial.chmod(0o755)  # mkdtemp's is the owner's alone
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise MediaError(f"{path.name}: can't be written: {error.strerror}") from error
