"""Recordings that numpy wrote: `.npy` with a dict or a structured array, `.npz` with four arrays or one such."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.media.events.event_arrays import KEYS, Columns, Window, cut_columns
from stagebench.media.events.npy import as_array, brief, map_array, read_header
from stagebench.media.events.unpickle import unpickle_arrays
from stagebench.media.files import require_plausible, size_of

_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError, ValueError)


def read_npy(path: Path, window: Window) -> Columns:
    """Read a recording that `np.save` wrote: a dict of arrays (a pickle), or a structured array.

    Of a structured array, only the events in the window are read.

    Raises:
        MediaError: the file is missing, damaged, of another layout, or has no events in the window.
    """
    size_of(path)
    with path.open("rb") as file:
        dtype, shape = read_header(path.name, file)
        if dtype.str == "|O" and shape == ():
            return cut_columns(path.name, unpickle_arrays(path.name, file, KEYS), window)
    if dtype.names is None:
        raise MediaError(
            f"{path.name}: must hold a dict or fields x, y, t and p, got {dtype.str!r} of shape {brief(shape)}"
        )
    return cut_columns(path.name, _fields(map_array(path)), window)


def read_npz(path: Path, window: Window) -> Columns:
    """Read a recording that `np.savez` wrote: arrays named x, y, t and p, or one structured array of any name.

    Raises:
        MediaError: the file is missing, damaged, of another layout, unpacks to more than is plausible, or has no
            events in the window.
    """
    size = size_of(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            require_plausible(path, sum(entry.file_size for entry in entries), size)
            if any(entry.compress_size > size for entry in entries):
                raise MediaError(
                    f"{path.name}: must be a whole .npz file, got entries larger than the {size} bytes of it"
                )
            chosen = [entry for entry in entries if Path(entry.filename).stem in KEYS] or entries[:1]
            arrays = {Path(entry.filename).stem: _unpack(path.name, archive, entry) for entry in chosen}
    except _ZIP_ERRORS as error:
        why = brief(str(error) or type(error).__name__)
        raise MediaError(f"{path.name}: must be a whole .npz file, got: {why}") from error
    if len(arrays) < len(chosen):
        raise MediaError(f"{path.name}: must hold each array once, got {len(chosen)} of {len(arrays)} names")
    only = next(iter(arrays.values())) if len(arrays) == 1 else None
    if only is not None and only.dtype.names is None:
        arrays |= {Path(entry.filename).stem: only for entry in entries}  # so that an error names them all
    columns = arrays if only is None or only.dtype.names is None else _fields(only)
    return cut_columns(path.name, columns, window)


def _unpack(name: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise MediaError(f"{name}: must be stored or deflated, got method {entry.compress_type} of zip")
    with archive.open(entry) as file:
        dtype, shape = read_header(name, file)
        if dtype.hasobject:
            raise MediaError(f"{name}: {brief(entry.filename)} must hold numbers, got {brief(dtype)}")
        return as_array(name, shape, dtype, file.read())


def _fields(events: NDArray[Any]) -> Mapping[str, Any]:
    return {key: events[key] for key in events.dtype.names or ()}
