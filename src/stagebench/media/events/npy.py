"""Read recordings that numpy wrote: `.npy` with a dict or a structured array, `.npz` with four arrays or one.

Read also the fast layout, `NAME.events`: a folder with one memory-mapped `.npy` per column. Every reader refuses a file
that is damaged, of another layout, or implausibly large when unpacked, and a window without events.
"""

import mmap
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.core.shown import plain
from stagebench.media.events.event_arrays import KEYS, TYPES, EventArrays, cut_events, own_clock
from stagebench.media.events.unpickle import unpickle_arrays
from stagebench.media.files import files_in, is_folder, kind_of, name_of, require_plausible, size_of, whole

_HEADERS = {1: npy_format.read_array_header_1_0} | dict.fromkeys((2, 3), npy_format.read_array_header_2_0)
FOLDER = ".events"
_UNIT = "unit.txt"  # marks a converted folder: its times are microseconds, however implausible
_SHOWN = 120  # characters of a file's content


def read_npy(path: Path, loading: LoadSettings) -> EventArrays:
    """Read a recording that `np.save` wrote: a dict of arrays (a pickle), or the window of a structured array."""
    with path.open("rb") as file:
        dtype, shape = _read_header(path.name, file)
        if dtype.str == "|O" and shape == ():
            return cut_events(path.name, unpickle_arrays(path.name, file, KEYS), loading)
    if dtype.names is None:
        got = f"{dtype.str!r} of shape {_brief(shape)}"
        raise MediaError(f"{path.name}: must hold a dict or fields x, y, t and p, got {got}")
    return cut_events(path.name, _fields(_map_array(path)), loading)


def read_npz(path: Path, loading: LoadSettings) -> EventArrays:
    """Read a recording that `np.savez` wrote: arrays named x, y, t and p, or one structured array of any name."""
    size = path.stat().st_size
    with whole(path.name, ".npz file"), zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        require_plausible(path, sum(entry.file_size for entry in entries), size)
        if any(entry.compress_size > size for entry in entries):
            raise ValueError(f"entries larger than the {size} bytes of it")
        chosen = [entry for entry in entries if Path(entry.filename).stem in KEYS] or entries[:1]
        arrays = {Path(entry.filename).stem: _unpack(path.name, archive, entry) for entry in chosen}
    if len(arrays) < len(chosen):
        raise MediaError(f"{path.name}: must hold each array once, got {len(chosen)} of {len(arrays)} names")
    only = next(iter(arrays.values())) if len(arrays) == 1 else None
    if only is not None and only.dtype.names is not None:
        return cut_events(path.name, _fields(only), loading)
    others = dict.fromkeys((Path(entry.filename).stem for entry in entries), only)  # for an error that names all
    return cut_events(path.name, others | arrays, loading)


def column_files(folder: Path) -> list[Path]:
    """Return the files of a recording in the fast layout."""
    return [folder / f"{key}.npy" for key in KEYS]


def read_folder(path: Path, loading: LoadSettings) -> EventArrays:
    """Read the events in a window of a recording in the fast layout; other events stay on disk."""
    files = files_in(path) if is_folder(path) else []
    if missing := [file.name for file in column_files(path) if file not in files]:
        kind = (kind_of(path) or "a file") if path.is_file() else "none"
        got = f"no {', '.join(missing)}" if is_folder(path) else kind
        raise MediaError(f"{name_of(path)}: must be a folder of x.npy, y.npy, t.npy and p.npy, got {got}")
    if path / _UNIT in files:
        loading = own_clock(path.name, loading)
    return cut_events(path.name, dict(zip(KEYS, map(_map_array, column_files(path)), strict=True)), loading)


def require_free(path: Path) -> None:
    """Refuse a path to write a recording to that has another suffix than `.events`, or exists."""
    if path.suffix != FOLDER:
        raise MediaError(f"{name_of(path)}: must be named NAME{FOLDER}, got the suffix {path.suffix!r}")
    if path.exists():
        raise MediaError(f"{path.name}: must be new, but there is one already")


def write_folder(path: Path, events: EventArrays) -> None:
    """Write a checked recording in the fast layout atomically: to a temporary folder that is then renamed."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
            partial = Path(folder, path.name)
            partial.mkdir()
            for file, values, dtype in zip(column_files(partial), events, TYPES.values(), strict=True):
                np.save(file, values.astype(dtype, copy=False), allow_pickle=False)
            (partial / _UNIT).write_text("us\n")
            partial.rename(path)
    except OSError as error:
        raise MediaError(f"{path.name}: can't be written: {error.strerror}") from error


def _map_array(path: Path) -> NDArray[Any]:
    """Map the array of a `.npy` file into memory, so that only accessed parts are read."""
    size_of(path)
    with path.open("rb") as file:
        dtype, shape = _read_header(path.name, file)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _as_array(path.name, dtype, shape, mapped, file.tell())


def _unpack(name: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise MediaError(f"{name}: must be stored or deflated, got method {entry.compress_type} of zip")
    with archive.open(entry) as file:
        dtype, shape = _read_header(name, file)
        return _as_array(f"{name}: {_brief(entry.filename)}", dtype, shape, file.read())


def _read_header(name: str, file: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Read dtype and shape from the header of a `.npy` file, and leave the file at the data."""
    with whole(name, ".npy file", "one with a damaged header"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged headers
        shape, _, dtype = _HEADERS[npy_format.read_magic(file)[0]](file)
        if any(length < 0 for length in shape):
            raise ValueError(shape)
    return dtype, shape


def _as_array(
    name: str, dtype: np.dtype[Any], shape: tuple[int, ...], data: bytes | mmap.mmap, offset: int = 0
) -> NDArray[Any]:
    """Return bytes as an array of numbers in C order, without copying; refuse bytes left over."""
    if dtype.hasobject:
        raise MediaError(f"{name}: must hold numbers, got {_brief(dtype)}")
    with whole(name, "array", f"fewer bytes than {_brief(dtype)} of shape {_brief(shape)}"):
        array: NDArray[Any] = np.ndarray(shape, dtype, data, offset)
    if behind := len(data) - offset - array.nbytes:
        raise MediaError(f"{name}: must hold one array, got {behind} bytes behind it")
    return array


def _fields(events: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {key: events[key] for key in events.dtype.names or ()}


def _brief(value: object) -> str:
    return plain(str(value), _SHOWN)
