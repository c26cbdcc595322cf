"""Headers of numpy's `.npy` files, and their arrays, left on disk until somebody looks at them."""

from __future__ import annotations

import mmap
import tokenize
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.core.shown import plain
from stagebench.media.files import size_of

_VERSIONS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
    (3, 0): npy_format.read_array_header_2_0,
}
_SHOWN = 120  # characters
# All that numpy raises on a damaged header.
_HEADER_ERRORS = (
    ArithmeticError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


def read_header(name: str, file: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Read the header of a `.npy` file: the type of its elements, and its shape. The data come next.

    Args:
        name: what an error calls the file.
        file: at its beginning.

    Raises:
        MediaError: that is no header, or a damaged one.
    """
    try:
        version = npy_format.read_magic(file)
    except ValueError as error:
        raise MediaError(f"{name}: must be a .npy file, got one that does not begin as such") from error
    if version not in _VERSIONS:
        raise MediaError(f"{name}: must be a .npy file of version 1 to 3, got {version[0]}.{version[1]}")
    try:
        with warnings.catch_warnings():  # about what the damage spells
            warnings.simplefilter("ignore")
            shape, _, dtype = _VERSIONS[version](file)
    except _HEADER_ERRORS as error:
        raise MediaError(f"{name}: must be a .npy file, got one with a damaged header") from error
    if any(length < 0 for length in shape):
        raise MediaError(f"{name}: must be a .npy file, got one of shape {brief(shape)}")
    return dtype, shape


def brief(value: object) -> str:
    """Show what came out of a file, however long it is made."""
    return plain(str(value), _SHOWN)


def map_array(path: Path) -> NDArray[Any]:
    """Map the array of a `.npy` file into memory, so that only what is looked at is read.

    Returns:
        A read-only array; one of several dimensions is in C order, whatever the file says.

    Raises:
        MediaError: the file is missing, damaged, shorter or longer than its header says, or holds objects.
    """
    size_of(path)
    with path.open("rb") as file:
        dtype, shape = read_header(path.name, file)
        offset = file.tell()
        if dtype.hasobject:
            raise MediaError(f"{path.name}: must hold numbers, got {brief(dtype)}")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return as_array(path.name, shape, dtype, mapped, offset)


def as_array(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], data: bytes | mmap.mmap, offset: int = 0
) -> NDArray[Any]:
    """Look at bytes as an array, in C order.

    Raises:
        MediaError: there are fewer or more bytes than that, or no array is like that.
    """
    try:
        array: NDArray[Any] = np.ndarray(shape, dtype, data, offset)
    except (TypeError, ValueError) as error:
        raise MediaError(f"{name}: must hold {brief(dtype)} of shape {brief(shape)}, got fewer bytes") from error
    if behind := len(data) - offset - array.nbytes:
        raise MediaError(f"{name}: must hold one array, got {behind} bytes behind it")
    return array
