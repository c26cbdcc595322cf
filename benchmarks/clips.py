"""Clips to time decoders with: a camera pans over a texture, with noise, in ordinary H.264."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

RATE, SHORT_RATE = 30, 60
"""Frames a second, of clips of a second and more and of shorter ones, which would not have the 8 that a model takes."""


@dataclass(frozen=True)
class Clip:
    """What a clip is like: seconds, pixels, and frames from one key frame to the next."""

    seconds: float
    width: int = 640
    height: int = 480
    keys: int = 250

    @property
    def name(self) -> str:
        """What a person reads."""
        return f"{self.width}x{self.height} {self.seconds:g} s, key frame every {self.keys}"

    @property
    def rate(self) -> int:
        """Frames a second."""
        return RATE if self.seconds >= 1 else SHORT_RATE

    def write(self, folder: Path) -> Path:
        """Encode it, or find it where it was encoded before."""
        path = folder / f"{self.width}x{self.height}-{self.seconds:g}s-{self.keys}.mp4"
        if not path.is_file():
            unfinished = path.with_suffix(".part.mp4")
            self._encode(unfinished)
            unfinished.rename(path)
        return path

    def _encode(self, path: Path) -> None:
        with av.open(path, "w") as container:
            stream = container.add_stream("libx264", rate=self.rate, options={"g": str(self.keys), "crf": "23"})
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
            stream.thread_type = "FRAME"  # PyAV's default is sliced pictures, which flatter decoding by slices
            for picture in self._pictures():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
            container.mux(stream.encode(None))

    def _pictures(self):
        """Luma only (a decoder's work on colour is that of grey): a texture of soft blobs, four pixels a frame."""
        count = max(1, round(self.seconds * self.rate))
        draw = np.random.default_rng(0)
        coarse = draw.normal(0, 60, (self.height // 8 + 2, (self.width + 4 * count) // 8 + 2))
        texture = np.kron(coarse, np.ones((8, 8)))
        noise = draw.normal(0, 6, texture.shape)
        for i in range(count):
            where = np.s_[: self.height, 4 * i : 4 * i + self.width]
            shift = np.s_[: self.height, 2 * i : 2 * i + self.width]
            yield np.clip(texture[where] + noise[shift] + 128, 0, 255).astype(np.uint8)
