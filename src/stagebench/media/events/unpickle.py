"""Dicts of arrays out of pickles, which can run any code when loaded; out of these, none."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.core.shown import plain
from stagebench.media.events.pickle_machine import SHOWN, Array, Dict, Machine, kind_of

# The numbers that an array may be made of. Anything else is named in an error, never built.
_PLAIN = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
_TIMES = ("f4", "f8")  # which may be told in seconds


def unpickle_arrays(name: str, file: BinaryIO, keys: Iterable[str]) -> dict[str, object]:
    """Read those keys of a pickled dict that it has, as `np.save(path, {...})` wrote it.

    Args:
        name: what an error calls the file.
        file: where the pickle begins, after the header of the `.npy` file; to its end.
        keys: of the dict.

    Returns:
        Arrays of integers or bools (or floating point, for `t`), read-only, as they were; None for all other keys.

    Raises:
        MediaError: the pickle is damaged, is no dict, takes more steps than its arrays need, asks for anything but
            numpy arrays, or is not all of the file; or a key has anything but a whole array of integers or bools.
    """
    machine = Machine(name, file)
    try:
        loaded = machine.run()
    except (pickle.UnpicklingError, LookupError, ValueError) as error:
        why = "it refers to what is not there" if isinstance(error, LookupError) else plain(str(error), SHOWN)
        raise MediaError(f"{name}: must be a whole pickled dict, got a damaged one ({why})") from error
    recording = loaded
    if isinstance(loaded, Array) and isinstance(loaded.data, list) and len(loaded.data) == 1:
        recording = loaded.data[0]
    if not isinstance(recording, Dict):
        raise MediaError(f"{name}: must hold a dict of arrays, got {kind_of(recording)}")
    if machine.file.left:
        raise MediaError(f"{name}: must hold one dict, got {machine.file.left} bytes behind it")
    columns: dict[str, object] = {}
    for key, value in zip(recording[::2], recording[1::2], strict=True):
        if not isinstance(key, str):
            raise MediaError(f"{name}: must hold a dict of arrays by name, got {kind_of(key)} for a name")
        columns[key] = value
    wanted = {key: _rebuilt(name, key, columns[key], file) for key in keys if key in columns}
    return wanted | {key: None for key in columns if key not in wanted}


def _rebuilt(name: str, key: str, value: object, file: BinaryIO) -> NDArray[Any]:
    if not isinstance(value, Array):
        raise MediaError(f"{name}: {key} must be an array of one dimension, got {kind_of(value)}")
    if value.type.code not in (*_PLAIN, *(_TIMES if key == "t" else ())) or isinstance(value.data, list):
        raise MediaError(f"{name}: {key} must be integers, got numpy's type '{plain(value.type.code)}'")
    if len(value.shape) != 1:
        raise MediaError(
            f"{name}: {key} must be an array of one dimension, got one of shape {plain(str(value.shape), SHOWN)}"
        )
    dtype = np.dtype(value.type.order + value.type.code)
    data = value.data.read(file, value.shape[0] * dtype.itemsize)
    if data is None:
        raise MediaError(f"{name}: {key} must hold {value.shape[0]} {dtype}, got {value.data.size} bytes")
    array: NDArray[Any] = np.frombuffer(data, dtype)
    return array
