"""Show synthetic clips as frames and as event images, any number of them at once, at any size, on any device.

What a model is trained on is so what it gets of a video or an event recording of the same clips.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stagebench.media.clips import COLOURS, HEIGHT, SECONDS, SHAPES, WIDTH, Clip

CONTRAST = 0.3  # an event for each change of the natural logarithm by this much, as common sensors are set
DARK = 0.02  # intensity added before the logarithm: a sensor's dark current
NOISE = 0.04  # events a pixel and second of nothing, as sensors have them
GRAIN = 0.01  # of frames, as a camera's and a codec's, in standard deviations
LUMA = np.array((0.2126, 0.7152, 0.0722))  # of red, green and blue: BT.709
EVENT_TIMES = [i / 24 * SECONDS for i in range(25)]  # between which `render_events` looks for events


def scenes_of(clips: Sequence[Clip], times: Sequence[float], *, gray: bool = False) -> Tensor:
    """Put clips at times in seconds in numbers: float32 (clips, times, 1 + shapes, 4 + channels).

    These are x, y, opacity, radius, and the colour, or the light alone, of the background and of each of `SHAPES`.
    """
    colours = np.array([*COLOURS.values()])
    table = dict(zip(COLOURS, colours @ LUMA[:, None] if gray else colours, strict=True))
    scenes = np.zeros((len(clips), len(times), 1 + len(SHAPES), 5 if gray else 7), np.float32)
    for scene, clip in zip(scenes, clips, strict=True):
        scene[:, 0, 4:] = clip.brightness
        for thing, place in zip(clip.things, clip.places, strict=True):
            seen = scene[:, 1 + SHAPES.index(thing.shape)]
            seen[:, :3] = thing.path(np.array(times) / SECONDS)
            seen[:, :2] += place
            seen[:, 3], seen[:, 4:] = thing.radius, table[thing.color]
    return torch.from_numpy(scenes)


def render(scenes: Tensor, height: int, width: int, box: tuple[slice, slice] = (slice(None), slice(None))) -> Tensor:
    """Render a box of scenes scaled to a size: float32 (clips, times, channels, rows, columns), from 0 to 1."""
    pixel = WIDTH / width
    x = ((torch.arange(width, device=scenes.device) + 0.5) * pixel - 0.5)[box[1]]
    y = ((torch.arange(height, device=scenes.device) + 0.5) * (HEIGHT / height) - 0.5)[box[0]]
    background, *things = scenes[..., None, None].unbind(2)
    image = background[:, :, 4:].repeat(1, 1, 1, len(y), len(x))
    for shape, thing in zip(SHAPES, things, strict=True):
        left, top, shown, radius = thing[:, :, :4].unbind(2)
        inside = _inside(shape, x - left, y[:, None] - top, radius)
        cover = ((inside / pixel + 0.5).clamp_(0, 1) * shown).unsqueeze(2)
        image.lerp_(thing[:, :, 4:].expand_as(image), cover.expand_as(image))
    return image


def box_of(scenes: Tensor) -> tuple[slice, slice]:
    """Return the rows and columns outside of which scenes show nothing but their background, by even numbers."""
    seen = scenes[..., 1:, :4].flatten(0, -2).numpy()
    x, y, _, radius = seen[seen[:, 2] > 0].T
    reach = 1.2 * radius + 2  # a triangle is wider than its radius, and edges are soft
    sides = [[(at - reach).min(), (at + reach).max()] if len(at) else [0, 0] for at in (y, x)]
    ends = np.clip(2 * np.floor(np.array(sides) / 2), 0, [[HEIGHT], [WIDTH]]).astype(int)
    return slice(*ends[0]), slice(*ends[1])


@cache
def on(device: str, draw: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of this module, on a GPU compiled to one kernel in place of forty."""
    return torch.compile(draw, dynamic=False) if device == "cuda" else draw


def _inside(shape: str, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Return how many pixels within its edge a place is that lies so far from an object's middle."""
    if shape == "ball":
        return radius - torch.hypot(dx, dy)
    if shape == "door":
        return torch.minimum(0.6 * radius - dx.abs(), radius - dy.abs())
    return torch.minimum(0.8 * radius - dy, ((dy + radius) * 0.62 - dx.abs()) / 1.18)  # a triangle that points up


def render_events(scenes: Tensor, images: int, generator: torch.Generator) -> Tensor:
    """Draw gray scenes at `EVENT_TIMES` as event images: bool (clips, images, 3, 480, 640), as of a recording.

    It is `synthetic_clip`'s event model in steps, each of which falls whole into one of the slices of equal count; the
    generator, on their device, draws the noise.
    """
    device, steps = scenes.device, len(EVENT_TIMES) - 1
    reference, signs, counts = _logs(scenes[:, 0]), [], []
    noise = len(scenes), round(NOISE * WIDTH * HEIGHT * SECONDS / steps)
    for at in scenes.unbind(1)[1:]:
        reference, crossings = on(device.type, _crossed)(at, reference)
        where = torch.randint(WIDTH * HEIGHT, noise, device=device, generator=generator)
        sign = torch.randint(2, noise, device=device, generator=generator).to(torch.int8) * 2 - 1
        signs.append(crossings.flatten(1).scatter_(1, where, sign).unflatten(1, (HEIGHT, WIDTH)))
        counts.append(signs[-1].abs().sum((1, 2)))
    total = torch.stack(counts)
    slices = ((total.cumsum(0) - total / 2) / total.sum(0) * images).long().clamp_(0, images - 1)
    last = torch.zeros((len(scenes), images, HEIGHT, WIDTH), dtype=torch.int8, device=device)
    rows = torch.arange(len(last), device=device)
    for sign, slice_ in zip(signs, slices, strict=True):
        last[rows, slice_] = torch.where(sign == 0, last[rows, slice_], sign)
    return torch.stack([last >= 0, last == 0, last <= 0], 2)  # red, white or blue


def _logs(scenes: Tensor) -> Tensor:
    return (render(scenes[:, None], HEIGHT, WIDTH)[:, 0, 0] + DARK).log()


def _crossed(scenes: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the log intensities are compared with from now on, and how often they crossed a threshold: int8."""
    crossings = ((_logs(scenes) - reference) / CONTRAST).trunc()  # towards zero
    return reference + CONTRAST * crossings, crossings.to(torch.int8)
