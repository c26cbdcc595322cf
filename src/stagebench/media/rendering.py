"""Show synthetic clips as frames and as event images, any number of them at once, at any size, on any device.

What a model is trained on is so what it gets of a video or an event recording of the same clips.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stagebench.media.clips import (
    COLOURS,
    CONTRAST,
    DARK,
    FRAMES,
    HEIGHT,
    NOISE,
    RELIEF,
    SECONDS,
    SHAPES,
    WIDTH,
    Clips,
    centres,
    opacity,
)

LUMA = np.array((0.2126, 0.7152, 0.0722))  # of red, green and blue: BT.709
_STEPS = 2 * FRAMES  # of the event model, where many clips are drawn: half of what a recording has


def render(
    clips: Clips, time: float, height: int, width: int, device: str | torch.device = "cpu", *, gray: bool = False
) -> Tensor:
    """Render clips at a time in seconds, scaled to a size: float32 (clips, 3, height, width), RGB from 0 to 1.

    Of gray ones there is the light alone: (clips, 1, height, width).
    """

    def on_device(values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.float32), device=device)

    pixel = WIDTH / width
    x = (torch.arange(width, device=device) + 0.5) * pixel - 0.5
    y = (torch.arange(height, device=device) + 0.5) * (HEIGHT / height) - 0.5
    waves, pan = on_device(clips.waves), on_device(clips.pan * time / SECONDS)
    a = waves[:, :, :1] * (x + pan[:, None, :1]) + waves[:, :, 2:]
    b = waves[:, :, 1:2] * (y + pan[:, None, 1:])
    # sin(a + b) by outer products: a hundred times fewer sines than pixels
    relief = torch.cat([b.cos(), b.sin()], 1).transpose(1, 2) @ torch.cat([a.sin(), a.cos()], 1)
    image: Tensor = (on_device(clips.brightness)[:, None, None] * (1 + RELIEF * relief))[:, None]
    table = np.array([*COLOURS.values()])
    colours = on_device((table @ LUMA[:, None] if gray else table)[clips.colour])
    image = image.repeat(1, colours.shape[-1], 1, 1)
    centre, radius, shown = (on_device(of) for of in (centres(clips, time), clips.radius, opacity(clips, time)))
    for i, shape in enumerate(SHAPES):
        dx, dy = (x - centre[:, i, :1])[:, None, :], (y - centre[:, i, 1:])[:, :, None]
        cover = (_inside(shape, dx, dy, radius[:, i, None, None]) / pixel + 0.5).clamp_(0, 1)
        cover = (cover * shown[:, i, None, None])[:, None]
        image += cover * (colours[:, i, :, None, None] - image)
    return image.clamp_(0, 1)


def render_events(clips: Clips, images: int, generator: torch.Generator) -> Tensor:
    """Draw clips as event images, on the generator's device: uint8 (clips, images, 3, 480, 640), as of a recording.

    It is `synthetic_clip`'s event model in steps, each of which falls whole into one of the slices of equal count; the
    generator draws the noise.
    """
    device, height, width = generator.device, HEIGHT, WIDTH
    likely = NOISE * SECONDS / _STEPS / 2  # that noise makes a pixel brighter in a step, and darker as well
    lights = (render(clips, i * SECONDS / _STEPS, height, width, device, gray=True)[:, 0] for i in range(_STEPS + 1))
    logs = ((light + DARK).log_() for light in lights)
    signs, counts, reference = [], [], next(logs)
    for now in logs:
        crossings = ((now - reference) / CONTRAST).trunc_()  # towards zero
        reference += CONTRAST * crossings
        noise = torch.rand(now.shape, device=device, generator=generator)
        crossings += (noise < likely).float() - (noise > 1 - likely).float()
        signs.append(crossings.sign().to(torch.int8))
        counts.append(crossings.abs().sum((1, 2)))
    total = torch.stack(counts)
    middle = (total.cumsum(0) - total / 2) / total.sum(0)
    slices, rows = (middle * images).long().clamp_(0, images - 1), torch.arange(len(clips), device=device)
    last = torch.zeros((len(clips), images, height, width), dtype=torch.int8, device=device)
    for sign, slice_ in zip(signs, slices, strict=True):
        last[rows, slice_] = torch.where(sign == 0, last[rows, slice_], sign)
    return torch.stack([last >= 0, last == 0, last <= 0], 2).to(torch.uint8) * 255  # red, white or blue


def _inside(shape: str, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Return how many pixels within its edge a place is that lies so far from an object's middle."""
    if shape == "ball":
        return radius - torch.hypot(dx, dy)
    if shape == "box":
        return 0.88 * radius - torch.maximum(dx.abs(), dy.abs())
    return torch.minimum(0.8 * radius - dy, ((dy + radius) * 0.62 - dx.abs()) / 1.18)  # a triangle that points up
