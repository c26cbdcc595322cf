"""Draw synthetic clips of which everything is known: what there is, of which colour and size, and how it moves.

A clip has one to three objects, each of another shape, before a background that a camera pans over. All of it follows
from a seed. `rendering` shows clips as frames and as event images, `synthetic_clip` writes one as files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 640, 480
FRAMES, RATE = 36, 30
SECONDS = FRAMES / RATE
SHAPES = ("ball", "box", "sign")
COLOURS = {
    "red": (0.95, 0.12, 0.1),
    "green": (0.05, 0.5, 0.1),
    "blue": (0.2, 0.25, 1.0),
    "yellow": (1.0, 0.95, 0.2),
    "white": (1.0, 1.0, 1.0),
    "black": (0.02, 0.02, 0.02),
}
SIZES = {"small": (46, 54), "big": (76, 88)}  # pixels from the middle to the edge
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SPEEDS = {"slowly": (80, 110), "fast": (220, 270)}  # pixels in the whole of a clip
# When it begins and ends to move, as parts of the clip; who turns moves on in another direction to the clip's end.
ENDINGS = {"moves": (0.0, 1.0), "turns": (0.0, 0.5), "stops": (0.0, 0.5), "appears": (0.4, 1.0)}
CONTRAST = 0.3  # an event for each change of the natural logarithm by this much, as common sensors are set
DARK = 0.02  # intensity added before the logarithm: a sensor's dark current
NOISE = 0.04  # events a pixel and second of nothing, as sensors have them
BACKGROUNDS = {"dark": (0.08, 0.11), "light": (0.54, 0.6)}  # whatever the colour, its log intensity differs from theirs
_FADE = 0.1  # seconds in which what appears does so
_PAN = 50.0  # pixels in a clip, at most
_WAVES, _LENGTHS = 6, (40.0, 300.0)  # of the background, pixels
RELIEF = 0.12 / _WAVES**0.5  # of each of them, a part of the background's brightness
_TRIES = 8  # places, of which the one with the objects farthest apart is taken
_EDGE = 0.6  # of an object stays in the middle square, which is all that a model with a crop sees

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Clips:
    """So many clips. Arrays are (clips,), or (clips, 3) with a column for each of `SHAPES`; words are indices."""

    present: Array  # bool (clips, 3)
    colour: Array
    size: Array
    direction: Array
    speed: Array
    ending: Array
    turn: Array  # the direction after a turn
    background: Array  # (clips,)
    radius: Array  # pixels
    travel: Array  # pixels, were it to move all of the time
    place: Array  # (clips, 3, 2), the middle of its path in pixels
    brightness: Array  # (clips,)
    waves: Array  # (clips, waves, 3): radians a pixel across and down, and a phase
    pan: Array  # (clips, 2), pixels in the whole of a clip

    def __len__(self) -> int:
        return len(self.background)


def draw_clips(seed: int | tuple[int, ...], number: int) -> Clips:
    """Draw so many clips at random; the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    each = (number, len(SHAPES))

    def between(ranges: Mapping[str, tuple[float, float]], index: Array) -> Array:
        limits = np.array([*ranges.values()])[index]
        return rng.uniform(limits[..., 0], limits[..., 1])

    count = rng.choice((1, 2, 3), number, p=(0.4, 0.35, 0.25))
    direction, size, speed = (rng.integers(len(words), size=each) for words in (DIRECTIONS, SIZES, SPEEDS))
    background = rng.integers(len(BACKGROUNDS), size=number)
    length = _LENGTHS[0] * (_LENGTHS[1] / _LENGTHS[0]) ** rng.uniform(size=(number, _WAVES))
    angle, phase = rng.uniform(0, 2 * np.pi, (2, number, _WAVES))
    waves = np.stack([np.cos(angle) / length * 2 * np.pi, np.sin(angle) / length * 2 * np.pi, phase], axis=-1)
    clips = Clips(
        present=rng.permuted(np.arange(len(SHAPES)) < count[:, None], axis=1),
        colour=rng.permuted(np.tile(np.arange(len(COLOURS)), (number, 1)), axis=1)[:, : len(SHAPES)],
        size=size,
        direction=direction,
        speed=speed,
        ending=rng.integers(len(ENDINGS), size=each),
        turn=(2 - direction // 2 * 2) + rng.integers(2, size=each),  # up or down after left or right, and the other way
        background=background,
        radius=between(SIZES, size),
        travel=between(SPEEDS, speed),
        place=np.zeros((*each, 2)),
        brightness=between(BACKGROUNDS, background),
        waves=waves,
        pan=rng.uniform(-_PAN, _PAN, (number, 2)) * rng.integers(2, size=(number, 1)),
    )
    return replace(clips, place=_places(clips, rng))


def centres(clips: Clips, time: float) -> Array:
    """Return where the middles of objects are at a time in seconds, seen or not, in pixels: (clips, 3, 2)."""
    return np.asarray(clips.place + _offset(clips, time / SECONDS))


def opacity(clips: Clips, time: float) -> Array:
    """Say how much of each object there is at a time in seconds, from 0 to 1: (clips, 3)."""
    late = clips.ending == [*ENDINGS].index("appears")
    faded = np.clip((time - ENDINGS["appears"][0] * SECONDS) / _FADE, 0, 1)
    return np.asarray(clips.present * np.where(late, faded, 1.0))


def _places(clips: Clips, rng: np.random.Generator) -> Array:
    """Draw where the paths of the objects have their middle, so that they stay in view and rarely meet."""
    parts = np.linspace(0, 1, 6)
    paths = np.stack([_offset(clips, part) for part in parts])  # (parts, clips, 3, 2)
    room = HEIGHT / 2 - np.abs(paths).max(axis=0) - _EDGE * clips.radius[..., None]
    tried = np.array([WIDTH, HEIGHT]) / 2 + rng.uniform(-1, 1, (_TRIES, *room.shape)) * np.maximum(room, 0)
    distance = np.full((_TRIES, len(clips)), np.inf)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        between = (tried[..., i, :] - tried[..., j, :]) + (paths[..., i, :] - paths[..., j, :])[:, None]
        apart = np.linalg.norm(between, axis=-1)
        both = clips.present[:, i] & clips.present[:, j]
        distance = np.minimum(distance, np.where(both, apart.min(axis=0), np.inf))
    best: Array = tried[distance.argmax(axis=0), np.arange(len(clips))]
    return best


def _offset(clips: Clips, part: float) -> Array:
    """Return where objects are from the middle of their path, at a part of the clip from 0 to 1: (clips, 3, 2)."""
    steps = np.array([*DIRECTIONS.values()])
    begin, end = np.array([*ENDINGS.values()])[clips.ending].transpose(2, 0, 1)
    along = np.clip(part, begin, end) - (begin + end) / 2
    turns = clips.ending == [*ENDINGS].index("turns")
    across = np.where(turns, max(part - 0.5, 0.0) - 0.25, 0.0)
    moved = steps[clips.direction] * along[..., None] + steps[clips.turn] * across[..., None]
    return np.asarray(moved * clips.travel[..., None])
