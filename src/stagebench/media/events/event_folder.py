"""Read and write the fast layout of a recording: a folder `NAME.events`, each column a `.npy` mapped into memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from stagebench.core.errors import MediaError
from stagebench.media.events.event_arrays import KEYS, TYPES, Columns, Window, cut_columns
from stagebench.media.events.npy import map_array
from stagebench.media.files import files_in, is_folder, name_of
from stagebench.media.kinds import kind_of

SUFFIX = ".events"
_UNIT = "unit.txt"  # says of a recording that was converted that its times are microseconds, however they look


def column_files(folder: Path) -> list[Path]:
    """Return the files that a recording in the fast layout is made of."""
    return [folder / f"{key}.npy" for key in KEYS]


def read_folder(path: Path, window: Window) -> Columns:
    """Read the events in a window; the others stay on disk.

    Raises:
        MediaError: the path is no folder, a file in it is missing, damaged or no column, or there are no events in
            the window.
    """
    got = None
    if not is_folder(path):
        got = (kind_of(path) or "a file") if path.is_file() else "none"
    elif missing := [file.name for file in column_files(path) if file not in files_in(path)]:
        got = f"no {', '.join(missing)}"
    if got:
        raise MediaError(f"{name_of(path)}: must be a folder of x.npy, y.npy, t.npy and p.npy, got {got}")
    if path / _UNIT in files_in(path):
        window = window.of_own_clock(path.name)
    return cut_columns(path.name, dict(zip(KEYS, map(map_array, column_files(path)), strict=True)), window)


def require_free(path: Path) -> None:
    """Refuse a path that a recording may not be written to: of another suffix than `.events`, or taken."""
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
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
            partial = Path(folder, path.name)
            partial.mkdir()
            for file, key in zip(column_files(partial), KEYS, strict=True):
                np.save(file, columns[key].astype(TYPES[key], copy=False), allow_pickle=False)
            (partial / _UNIT).write_text("us\n")
            partial.rename(path)
    except OSError as error:
        raise MediaError(f"{path.name}: can't be written: {error.strerror}") from error
