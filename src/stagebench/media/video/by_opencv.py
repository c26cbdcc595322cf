"""Frames of a clip by OpenCV, chosen by their number in display order."""

from __future__ import annotations

from pathlib import Path

import cv2

from stagebench.core.artifacts import Image

ERRORS = (cv2.error, ValueError)


def read_frames(path: Path, indices: list[int]) -> tuple[list[Image], list[float]]:
    """Return frames as uint8 (height, width, 3), RGB, and their times in seconds.

    Frames are grabbed in order from the first on, because seeking by number in OpenCV assumes a frame rate.
    """
    images: list[Image] = []
    times: list[float] = []
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    try:
        for number in range(indices[-1] + 1):
            if not capture.grab():
                raise ValueError(f"no frame {number}")
            if number in indices:
                times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
                images.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    finally:
        capture.release()
    return images, times
