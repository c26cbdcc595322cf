"""Read DSEC's recordings in HDF5: `events/{x,y,t,p}`, blosc-compressed, and `t_offset`; times are bisected."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.media.events.event_arrays import KEYS, LARGEST, EventArrays, but_others, cut_events, in_microseconds
from stagebench.media.files import KNOWN, require_plausible, whole

_HARD_LINK = 0  # HDF5's type of a link within the file


def read_hdf5(path: Path, loading: LoadSettings) -> EventArrays:
    """Read the events in a window, with times of the camera's clock: `t_offset` is added where there is one."""
    try:
        import h5py
        import hdf5plugin  # noqa: F401 # its import makes blosc known to h5py
    except ImportError as error:
        raise MediaError(f"{path.name}: HDF5 needs h5py and hdf5plugin: pip install 'stagebench[events]'") from error
    with whole(path.name, "HDF5 file"), h5py.File(path, "r") as file:
        events = cut_events(path.name, {key: _dataset(path, file, f"events/{key}") for key in KEYS}, loading)
        offset = _dataset(path, file, "t_offset")[()] if _link(file, "t_offset") is not None else np.int64(0)
    t = events.t
    if not isinstance(offset, np.integer) or abs(int(offset)) > LARGEST:
        raise MediaError(f"{path.name}: t_offset must be a number of microseconds, got {offset!r}")
    if max(abs(int(t.min())), abs(int(t.max()))) > LARGEST:
        raise MediaError(f"{path.name}: t is out of range, must be {-LARGEST} to {LARGEST}, got {t.min()} to {t.max()}")
    shift = int(in_microseconds(path.name, np.asarray([offset]), loading.time_unit)[0])
    return events._replace(t=t.astype(np.int64) + shift)


def _dataset(path: Path, file: Any, name: str) -> Any:
    """Return the dataset of a name; refuse data in another file, or of implausible size."""
    found, rest = _follow(file, name)
    got = None
    if rest and not isinstance(found, Mapping):
        got = f"a {type(found).__name__.lower()} named {found.name.strip('/')}"
    elif rest:
        got = "a link to elsewhere" if _link(found, rest[0]) is not None else _instead(file)
    elif not hasattr(found, "chunks"):
        got = f"a {type(found).__name__.lower()}"
    elif found.external or found.is_virtual:
        got = "data elsewhere"
    if got:
        raise MediaError(f"{path.name}: must have the dataset {name}, got {got}")
    chunk = math.prod(found.chunks or (1,))
    require_plausible(path, max(found.size or 0, chunk) * found.dtype.itemsize, path.stat().st_size)
    return found


def _follow(file: Any, name: str) -> tuple[Any, list[str]]:
    """Return the last object on a name's path within the file, and the rest of the path."""
    found, rest = file, name.split("/")
    while rest and isinstance(found, Mapping) and _link(found, rest[0]) == _HARD_LINK:
        found = found[rest.pop(0)]
    return found, rest


def _instead(file: Any) -> str:
    """Return the layout that the file has instead; else the names in the group `events`, or without it in the file."""
    for name, layout in KNOWN["layouts"].items():
        if not _follow(file, name)[1]:
            return f"{name}, as {layout} has it"
    return f"none{but_others(_follow(file, 'events')[0])}"


def _link(group: Any, name: str) -> int | None:
    """Return the type of a link without following it, which could block on a pipe; None if the link does not exist."""
    links = group.id.links
    return links.get_info(name.encode()).type if links.exists(name.encode()) else None
