"""Write synthetic clips as a video and an event recording of the same, for both kinds of model.

Two clips are stored in this folder, so that they are the same bytes everywhere. They time models with no data at hand:

- "scene" has two discs that cross a textured background, over which a camera pans.
- "clip" is `clips.KNOWN`: trained tiny models say what happens in it.

`benchmarks/experiments/draw_scene.py` drew both. Any other clip is drawn on demand.
"""

import io
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from stagebench.core.json_files import write_bytes
from stagebench.media.clips import FRAMES, HEIGHT, RATE, WIDTH, Clip
from stagebench.media.events.event_arrays import TYPES

STEPS_PER_FRAME = 4  # of the event model: nothing moves by much more than two pixels in a step


@dataclass(frozen=True, slots=True)
class SyntheticClip:
    """Where a synthetic clip was written."""

    video: Path  # H.264 in MP4, 640x480, 30 frames a second, BT.709 and limited range, tagged so
    events: Path  # a `.npy` recording of the same

    def shown(self, media: str, own: str) -> Path:
        """Return what a model whose own kind is "video" or "events" gets, by one of `core.settings.MEDIA`."""
        paths = {"video": self.video, "frames": self.video, "events": self.events}
        return paths[own if media == "own" else media]


def write_synthetic_clip(folder: Path, stored: str = "scene") -> SyntheticClip:
    """Write a stored clip as `scene.mp4` and `scene.npy` to a folder, made if missing; no reader sees half a file."""
    files = (Path(__file__).with_name(f"{stored}.{kind}.xz") for kind in ("mp4", "npy"))
    return _write(folder, *(lzma.decompress(file.read_bytes()) for file in files))


def write_clip(folder: Path, clip: Clip, rate: int = RATE) -> SyntheticClip:
    """Write any clip in the same way, shown at so many frames a second; the same one gives the same bytes."""
    return _write(folder, _encoded(clip, rate), _recorded(clip, rate))


def _write(folder: Path, video: bytes, events: bytes) -> SyntheticClip:
    written = SyntheticClip(folder / "scene.mp4", folder / "scene.npy")
    write_bytes(written.video, video)
    write_bytes(written.events, events)
    return written


def _recorded(clip: Clip, rate: int) -> bytes:
    """Watch all of it with a simulated event camera: a dict of x, y, t and p as `EventArrays` has them, from 0 on.

    A pixel holds a reference, at first its log intensity at time 0. Each time that the log intensity is away from it by
    `CONTRAST`, there is an event, at some time within a step, and the reference follows. To these comes noise.
    """
    # Here, because whoever writes the default clip needs no torch.
    from stagebench.media.rendering import CONTRAST, DARK, NOISE, box_of, render, scenes_of

    steps: list[tuple[NDArray[Any], ...]] = []  # x, y, microseconds and polarity
    rng, times = np.random.default_rng(0), [i / (RATE * STEPS_PER_FRAME) for i in range(FRAMES * STEPS_PER_FRAME + 1)]
    scenes = scenes_of([clip], times, gray=True)

    def logs(at: int, box: tuple[slice, slice]) -> NDArray[Any]:
        light = render(scenes[:, at : at + 1], HEIGHT, WIDTH, box)[0, 0, 0]
        return (light.double() + DARK).log().numpy()

    reference = logs(0, (slice(None), slice(None)))
    for step in range(len(times) - 1):
        box = box_of(scenes[:, step : step + 2])  # all else is as it was
        crossings = ((logs(step + 1, box) - reference[box]) / CONTRAST).astype(np.int32)  # towards zero
        y, x = (np.repeat(where, np.abs(crossings[crossings != 0])) for where in crossings.nonzero())
        t = (step + rng.random(len(x))) / (rate * STEPS_PER_FRAME) * 1e6
        steps.append((x + box[1].start, y + box[0].start, t, crossings[y, x] > 0))
        reference[box] += CONTRAST * crossings
    limits = (WIDTH, HEIGHT, round(FRAMES / rate * 1e6), 2)
    steps.append(tuple(rng.integers(limit, size=round(NOISE * WIDTH * HEIGHT * FRAMES / rate)) for limit in limits))
    columns = [np.concatenate(parts) for parts in zip(*steps, strict=True)]
    order = np.argsort(columns[2], kind="stable")
    recording = {key: column[order].astype(dtype) for (key, dtype), column in zip(TYPES.items(), columns, strict=True)}
    np.save(file := io.BytesIO(), np.array(recording, dtype=object))
    return file.getvalue()


def _encoded(clip: Clip, rate: int) -> bytes:
    """Encode the frames in one thread, so that the same frames give the same bytes."""
    from stagebench.media.rendering import GRAIN, LUMA, box_of, render, scenes_of

    with av.open(file := io.BytesIO(), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        context = stream.codec_context
        context.thread_count, context.gop_size = 1, 12
        # Limited range and BT.709 throughout, by their numbers in FFmpeg (H.273).
        context.color_range = context.colorspace = context.color_trc = context.color_primaries = 1
        rng = np.random.default_rng(0)
        for scene in scenes_of([clip], [i / RATE for i in range(FRAMES)]).unbind(1):
            image, half = (np.full((3, HEIGHT // n, WIDTH // n), clip.brightness, np.float32) for n in (1, 2))
            rows, columns = box_of(scene)
            for n, drawn in ((1, image), (2, half)):
                y, x = (slice(side.start // n, side.stop // n) for side in (rows, columns))
                drawn[:, y, x] = render(scene[:, None], HEIGHT // n, WIDTH // n, (y, x))[0, 0]
            luma, grey = np.tensordot(LUMA, image, 1), np.tensordot(LUMA, half, 1)
            luma = np.clip(luma + GRAIN * rng.standard_normal(luma.shape), 0, 1)  # a codec has work with it, as ever
            cb, cr = (half[2] - grey) / 1.8556, (half[0] - grey) / 1.5748  # of BT.709
            planes = [16 + 219 * luma, *((128 + 224 * plane).reshape(-1, WIDTH) for plane in (cb, cr))]
            frame = av.VideoFrame.from_ndarray(np.rint(np.concatenate(planes)).astype(np.uint8), format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
