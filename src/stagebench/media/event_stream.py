"""Recordings in iniVation's AEDAT4, decoded by faery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stagebench.errors import MediaError
from stagebench.media.aedat4 import check_sizes
from stagebench.media.columns import Columns, Window, cut_columns
from stagebench.media.files import require_plausible, size_of


def read_stream(path: Path, window: Window) -> Columns:
    """Decode a stream from its beginning to the end of the window, the only way there is.

    Raises:
        MediaError: the file is missing, damaged, unpacks to more than is plausible, or has no events in the window;
            or faery is not installed.
    """
    size = size_of(path)
    try:
        import faery
    except ImportError as error:
        raise MediaError(f"{path.name}: {path.suffix} needs faery: pip install 'stagebench[events]'") from error
    check_sizes(path)
    packets: list[NDArray[Any]] = []
    held, end = 0, None
    try:
        for packet in faery.events_stream_from_file(path, file_type="aedat"):
            held += packet.nbytes
            require_plausible(path, held, size)
            packets.append(packet)
            end = window.limits(int(packets[0]["t"][0]))[1]
            if end is not None and packet["t"][-1] >= end:
                break
    except MediaError:
        raise
    except BaseException as error:  # faery raises plain Exception, and a panic in its Rust is not even that
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        why = " ".join(str(error).split()) or type(error).__name__
        raise MediaError(f"{path.name}: must be a whole {path.suffix} file, got: {why}") from error
    if not packets:
        raise MediaError(f"{path.name}: must have at least one event, got none")
    events = np.concatenate(packets)
    return cut_columns(path.name, {"x": events["x"], "y": events["y"], "t": events["t"], "p": events["on"]}, window)
