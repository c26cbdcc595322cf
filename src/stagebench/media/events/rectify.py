"""DSEC's rectify maps: where each pixel of the sensor lies in an image without the lens's distortion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.media.events.event_arrays import KEYS, Columns
from stagebench.media.events.event_hdf5 import dataset, open_hdf5


def read_rectify_map(path: Path) -> NDArray[np.float32]:
    """Read where each pixel of the sensor lies in the rectified image: float32 (height, width, 2), x and y.

    Raises:
        MediaError: the file is missing, damaged, or has no such `rectify_map`; or h5py is not installed.
    """
    with open_hdf5(path) as file:
        found = dataset(path, file, "rectify_map")
        if len(found.shape) != 3 or found.shape[2] != 2 or found.dtype.kind != "f":
            raise MediaError(f"{path.name}: rectify_map must be floats (height, width, 2), got {found.shape}")
        return np.asarray(found[()], dtype=np.float32)


def rectified(name: str, columns: Columns, rectify_map: NDArray[np.float32]) -> Columns:
    """Move every event to the nearest pixel of the rectified image, and drop those that leave it.

    Args:
        name: what an error calls the recording.
        columns: checked events.
        rectify_map: as `read_rectify_map` returns it; the rectified image is as large as the sensor.

    Raises:
        MediaError: an event lies outside of the map, or none stays in the image.
    """
    height, width = rectify_map.shape[:2]
    x, y = columns["x"], columns["y"]
    if int(x.max()) >= width or int(y.max()) >= height:
        raise MediaError(f"{name}: must lie within a rectify map of {width} x {height}, got ({x.max()}, {y.max()})")
    moved = np.rint(rectify_map[y, x])
    stay = ((moved >= 0) & (moved < (width, height))).all(axis=1)  # a NaN is neither
    if not stay.any():
        raise MediaError(f"{name}: must have events within the rectified image, got none")
    kept = {key: columns[key][stay] for key in KEYS}
    new_x, new_y = moved[stay].astype(np.uint16).T
    return kept | {"x": new_x, "y": new_y}
