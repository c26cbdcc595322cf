"""Draw synthetic clips of which everything is known, and say what happens in them.

A clip has one or two objects of different shapes, each of which moves. `rendering` shows clips as frames and as event
images, `synthetic_clip` writes one as files.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stagebench.core.json_files import table_beside
from stagebench.core.settings import DEFAULT_QUESTION

WIDTH, HEIGHT = 640, 480
FRAMES, RATE = 36, 30
SECONDS = FRAMES / RATE
SHAPES = ("ball", "door", "sign")  # a disc, an upright rectangle, a triangle
COLOURS, SIZES, DIRECTIONS, SPEEDS, ENDINGS, BACKGROUNDS = table_beside(__file__).values()
_FADE = 0.1  # of the clip, in which what appears does so

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of a clip."""

    shape: str
    color: str
    size: str
    direction: str
    speed: str
    ending: str
    turn: str  # the direction after a turn
    radius: float  # pixels
    travel: float  # pixels, were it to move all of the time

    def path(self, part: Array) -> Array:
        """Return pixels x and y from the path's middle, and the opacity, at parts (0 to 1) of the clip: (parts, 3)."""
        begin, end = ENDINGS[self.ending]
        along = np.clip(part, begin, end) - (begin + end) / 2
        across = np.maximum(part - end, 0) - (1 - end) / 2 if self.ending == "turns" else 0 * part
        moved = np.outer(along, DIRECTIONS[self.direction]) + np.outer(across, DIRECTIONS[self.turn])
        shown = np.clip((part - begin) / _FADE, 0, 1) if self.ending == "appears" else part >= 0
        return np.column_stack([self.travel * moved, shown])

    def motion(self, ending: str) -> str:
        """Say how it moves, with an ending of its own or another."""
        moves = f"moves {self.direction} {self.speed}"
        how = {"turns": f"{moves} and turns {self.turn}", "stands still": f"{moves} and stands still"}
        return (how | {"appears": f"appears and {moves}"}).get(ending, moves)


@dataclass(frozen=True, slots=True)
class Clip:
    """What there is to see."""

    background: str
    brightness: float  # of the background, 0 to 1
    things: list[Thing]  # as `SHAPES` are ordered
    places: Array  # (things, 2), the middles of their paths in pixels


KNOWN = Clip(  # what is stored as "clip"
    background="dark",
    brightness=0.12,
    things=[
        Thing("door", "yellow", "small", "left", "fast", "moves", "down", radius=52, travel=270),
        Thing("sign", "white", "big", "down", "fast", "moves", "left", radius=86, travel=287),
    ],
    places=np.array([(264, 338), (478, 221)]),
)


def draw_clips(seed: int | tuple[int, ...], number: int, alone: float = 0.5) -> list[Clip]:
    """Draw so many clips at random, a share of them with one object; the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    return [_draw(rng, 1 if rng.random() < alone else 2) for _ in range(number)]


def _draw(rng: np.random.Generator, objects: int) -> Clip:
    def one_of(words: Iterable[str]) -> str:
        known = [*words]
        return known[rng.integers(len(known))]

    things, background = [], one_of(BACKGROUNDS)
    shapes = sorted(rng.permutation(len(SHAPES))[:objects])
    for shape, colour in zip(shapes, rng.permutation([*COLOURS]), strict=False):
        size, direction, speed = one_of(SIZES), one_of(DIRECTIONS), one_of(SPEEDS)
        turn = one_of(("up", "down") if direction in ("left", "right") else ("left", "right"))
        words = (SHAPES[shape], str(colour), size, direction, speed, one_of(ENDINGS), turn)
        things.append(Thing(*words, rng.uniform(*SIZES[size]), rng.uniform(*SPEEDS[speed])))
    # In the middle square, all that a model with a crop sees; of 16 places the one with the objects farthest apart. One
    # alone is near the middle: where it is seen first then hints at where it goes, from which a model learns to look.
    paths = np.stack([thing.path(np.linspace(0, 1, 6))[:, :2] for thing in things])
    room = HEIGHT / 2 - np.abs(paths).max(1) - 0.8 * np.array([[thing.radius] for thing in things])
    room = np.maximum(room, 0) * (0.4 if len(things) == 1 else 1)
    tried = np.array([WIDTH, HEIGHT]) / 2 + rng.uniform(-1, 1, (16, len(things), 2)) * room
    between = (tried[:, 0] - tried[:, -1])[:, None] + paths[0] - paths[-1]
    place = tried[np.linalg.norm(between, axis=-1).min(1).argmax()]
    return Clip(background, rng.uniform(*BACKGROUNDS[background]), things, place)


def _count(clip: Clip, thing: Thing) -> str:
    return "two objects" if len(clip.things) > 1 else "one object"


def _long_caption(clip: Clip, thing: Thing) -> str:
    each = (f"a {x.size} {x.color} {x.shape} {x.motion(x.ending)}" for x in clip.things)
    return f"the {clip.background} scene shows {_count(clip, thing)} : {' and '.join(each)}"


def _event_ending(thing: Thing) -> str:
    return "moves" if thing.ending == "stands still" else thing.ending  # what stands still is not seen


def _short_caption(clip: Clip, thing: Thing) -> str:
    return " and ".join(f"{x.shape} {x.motion(_event_ending(x))}" for x in clip.things)


def _squares(clip: Clip, thing: Thing, *parts: float) -> str:
    """Name the squares of a chessboard, laid over the middle square, where an object is at parts of the clip."""
    at = clip.places[clip.things.index(thing)] + thing.path(np.array(parts))[:, :2]
    across, down = np.clip((at - (WIDTH / 2, HEIGHT / 2)) / HEIGHT * 8 + 4, 0, 7).astype(int).T
    return " ".join(f"{'abcdefgh'[x]}{y + 1}" for x, y in zip(across, down, strict=True))


Asked = tuple[str, Callable[[Clip, Thing], str]]

_BOTH: dict[str, Asked] = {
    # Of events too, which show no colours: so far as they do, such a model can draft for one of frames.
    "full": ("Describe everything in the scene.", _long_caption),
    "count": ("How many objects are there?", _count),
    "shape": ("What moves?", lambda clip, thing: " and ".join(x.shape for x in clip.things)),
    "size": ("What size has the {}?", lambda clip, thing: thing.size),
    "direction": ("In what direction does the {} move?", lambda clip, thing: thing.direction),
    "speed": ("How fast does the {} move?", lambda clip, thing: thing.speed),
    # A model that knows where an object is learns sooner how it moves.
    "first square": ("Where is the {} at first?", lambda clip, thing: _squares(clip, thing, 0)),
    "last square": ("Where is the {} at last?", lambda clip, thing: _squares(clip, thing, 1)),
    "way": ("Which way does the {} go?", lambda clip, thing: _squares(clip, thing, 0, 0.25, 0.5, 0.75, 1)),
}
_ENDING = "What does the {} do?"
QUESTIONS: dict[str, dict[str, Asked]] = {
    "video": {
        "caption": (DEFAULT_QUESTION, _long_caption),
        **_BOTH,
        "ending": (_ENDING, lambda clip, thing: thing.ending),
        "color": ("What color is the {}?", lambda clip, thing: thing.color),
        "background": ("What is the background?", lambda clip, thing: clip.background),
    },
    "events": {
        "caption": (DEFAULT_QUESTION, _short_caption),
        **_BOTH,
        "ending": (_ENDING, lambda clip, thing: _event_ending(thing)),
    },
}
"""By what a model is shown and what is asked about: a question, the name of a shape in place of {}, and its answer."""
