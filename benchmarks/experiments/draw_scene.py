"""Draw the clips, and the event recordings of the same, that the package has stored: `draw_scene.py FOLDER`.

"clip" is one of the family that tiny models are trained on. In "scene" two discs cross a textured background that a
camera pans over. Clip and events come from the same `luma(t)`, the events by the usual model of an event camera: one
each time that a pixel's log intensity has moved by a threshold. Everything is computed from fixed numbers: two calls
write the same bytes, but for another version of the codec's library.
"""

import io
import lzma
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from stagebench.media.clips import KNOWN
from stagebench.media.events.event_arrays import TYPES
from stagebench.media.synthetic_clip import write_clip

WIDTH, HEIGHT = 640, 480
FRAMES, RATE = 36, 30
STEPS_PER_FRAME = 4  # of the event model: nothing moves by much more than two pixels in a step
CONTRAST = 0.3  # an event for each change of the natural logarithm by this much, as common sensors are set
DARK = 0.02  # intensity added before the logarithm: a sensor's dark current
SEED = 20240613

Plane = NDArray[np.float32]


class _Disc(NamedTuple):
    """A textured disc on a straight path: pixels, and pixels a second."""

    x: float
    y: float
    vx: float
    vy: float
    radius: float
    colour: tuple[float, float]  # its differences of blue and red

    def centre(self, time: float) -> tuple[float, float]:
        return self.x + self.vx * time, self.y + self.vy * time


_PAN = (45.0, 8.0)  # of the background, pixels a second
_BACKGROUND_COLOUR = (-0.05, 0.03)
_DISCS = (
    _Disc(x=110, y=170, vx=260, vy=60, radius=62, colour=(-0.18, 0.26)),
    _Disc(x=520, y=330, vx=-190, vy=-40, radius=44, colour=(0.28, -0.12)),
)


def main(folder: Path) -> None:
    """Write all files, compressed as the package has them."""
    known = write_clip(folder, KNOWN)
    contents = {
        "scene.mp4": content_of(write_video),
        "scene.npy": content_of(write_events),
        "clip.mp4": known.video.read_bytes(),
        "clip.npy": known.events.read_bytes(),
    }
    for name, content in contents.items():
        with lzma.open(folder / f"{name}.xz", "wb", preset=9 | lzma.PRESET_EXTREME) as file:
            file.write(content)


def content_of(write: Callable[[BinaryIO], None]) -> bytes:
    """Return what is written to a file."""
    write(file := io.BytesIO())
    return file.getvalue()


def luma(time: float) -> Plane:
    """Return the light at a time in seconds: float32 (480, 640), 0 black to 1 white."""
    background, texture = _textures()
    image = _cut(background, _PAN[0] * time, _PAN[1] * time, HEIGHT, WIDTH)
    for disc in _DISCS:
        rows, columns, cover = _cover(disc, time, 1)
        x, y = disc.centre(time)
        # The texture moves with its disc: its middle stays on the disc's centre.
        left, top = columns.start - x + texture.shape[1] // 2, rows.start - y + texture.shape[0] // 2
        patch = image[rows, columns]
        patch += cover * (_cut(texture, left, top, *patch.shape) - patch)
    return image


def chroma(time: float) -> tuple[Plane, Plane]:
    """Return the colour differences (Cb, Cr) at a time in seconds: float32 (240, 320), -0.5 to 0.5."""
    planes = [np.full((HEIGHT // 2, WIDTH // 2), value, dtype=np.float32) for value in _BACKGROUND_COLOUR]
    for disc in _DISCS:
        rows, columns, cover = _cover(disc, time, 2)
        for plane, value in zip(planes, disc.colour, strict=True):
            patch = plane[rows, columns]
            patch += cover * (np.float32(value) - patch)
    return planes[0], planes[1]


def write_events(file: BinaryIO) -> None:
    """Watch all of it with a simulated event camera: a dict of x, y, t and p as `EventArrays` has them, from 0 on.

    A pixel holds a reference, at first its log intensity at time 0. Each time that the log intensity reaches the
    reference plus or minus `CONTRAST`, there is an event, and the reference moves there. Within a step, the log
    intensity is taken to change evenly.
    """
    steps: list[tuple[NDArray[Any], ...]] = []  # x, y, microseconds and polarity, ascending in time
    micros = 1e6 / (RATE * STEPS_PER_FRAME)
    lights = (luma(step * micros / 1e6) for step in range(FRAMES * STEPS_PER_FRAME + 1))
    logs = (np.log(light + np.float32(DARK)).ravel().astype(np.float64) for light in lights)
    reference = before = next(logs)
    for step, now in enumerate(logs):
        crossings = ((now - reference) / CONTRAST).astype(np.int32)  # towards zero
        moved = np.flatnonzero(crossings)
        times = np.abs(crossings[moved])
        pixel = np.repeat(moved, times)
        nth = np.arange(1, len(pixel) + 1) - np.repeat(np.cumsum(times) - times, times)
        sign = np.sign(crossings[pixel])
        change = now[pixel] - before[pixel]
        part = (reference[pixel] + CONTRAST * sign * nth - before[pixel]) / np.where(change == 0, 1, change)
        t = ((step + np.clip(part, 0, 1)) * micros).astype(np.int64)
        order = np.argsort(t, kind="stable")
        steps.append((pixel[order] % WIDTH, pixel[order] // WIDTH, t[order], sign[order] > 0))
        reference = reference + np.float32(CONTRAST) * crossings
        before = now
    columns = zip(TYPES, zip(*steps, strict=True), strict=True)
    recording = {key: np.concatenate(parts).astype(TYPES[key]) for key, parts in columns}
    np.save(file, np.array(recording, dtype=object))


def write_video(file: BinaryIO) -> None:
    """Encode the frames in one thread, so that the same frames give the same bytes."""
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        context = stream.codec_context
        context.thread_count, context.gop_size = 1, 12
        # Limited range and BT.709 throughout, by their numbers in FFmpeg (H.273).
        context.color_range = context.colorspace = context.color_trc = context.color_primaries = 1
        for i in range(FRAMES):
            cb, cr = (128 + 224 * plane.reshape(-1, WIDTH) for plane in chroma(i / RATE))
            planes = np.rint(np.concatenate([16 + 219 * luma(i / RATE), cb, cr])).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))


def _cover(disc: _Disc, time: float, scale: int) -> tuple[slice, slice, Plane]:
    """Return where a disc lies in a plane 1 / scale as large, and how much of each pixel there it covers."""
    x, y = disc.centre(time)
    reach = disc.radius + 2 * scale
    across, down = (
        slice(max(0, int((at - reach) / scale)), min(size // scale, int((at + reach) / scale)))
        for at, size in ((x, WIDTH), (y, HEIGHT))
    )
    rows, columns = np.ogrid[down, across]
    middle = (scale - 1) / 2
    distance = np.hypot(rows * scale + middle - y, columns * scale + middle - x)
    return down, across, np.clip((disc.radius - distance) / scale + 0.5, 0, 1).astype(np.float32)


def _cut(texture: Plane, left: float, top: float, height: int, width: int) -> Plane:
    """Cut (height, width) out of a texture at a position between pixels, by linear interpolation."""
    x, y = int(left), int(top)
    across, down = np.float32(left - x), np.float32(top - y)
    block = texture[y : y + height + 1, x : x + width + 1]
    wide = block[:, :-1] + across * (block[:, 1:] - block[:, :-1])
    return wide[:-1] + down * (wide[1:] - wide[:-1])


@cache
def _textures() -> tuple[Plane, Plane]:
    """Return the background's and the discs' textures, larger than what is ever seen of them at once."""
    seen = FRAMES / RATE
    pan = [int(speed * seen) + 2 for speed in _PAN]
    generator = np.random.default_rng(SEED)
    background = _waves(generator, HEIGHT + pan[1], WIDTH + pan[0], shortest=14, longest=220)
    size = 2 * int(max(disc.radius for disc in _DISCS)) + 12
    return 0.42 + 0.30 * background, 0.55 + 0.35 * _waves(generator, size, size, shortest=10, longest=60)


def _waves(generator: np.random.Generator, height: int, width: int, *, shortest: float, longest: float) -> Plane:
    """Sum 16 plane waves of random direction, wavelength and phase: float32, -1 to 1."""
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    total: NDArray[np.float64] = np.zeros((height, width))
    for _ in range(16):
        turn, phase = generator.uniform(0, 2 * np.pi, 2)
        length = shortest * (longest / shortest) ** generator.uniform()
        rate = 2 * np.pi / length
        # sin(a + b) by outer products: a hundred times fewer sines than pixels
        a, b = rate * np.cos(turn) * x + phase, rate * np.sin(turn) * y
        total += np.sin(a) * np.cos(b) + np.cos(a) * np.sin(b)
    total /= np.abs(total).max()
    return total.astype(np.float32)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
