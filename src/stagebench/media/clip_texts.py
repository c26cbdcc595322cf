"""Say what happens in a synthetic clip: a caption, short or long, and questions with their one right answer.

What a text says is what the images show. Event images show no colour, no background, and nothing of what stands still.
"""

from collections.abc import Callable
from dataclasses import dataclass

from stagebench.core.settings import DEFAULT_QUESTION
from stagebench.media.clips import BACKGROUNDS, COLOURS, DIRECTIONS, ENDINGS, SHAPES, SIZES, SPEEDS, Clips

_COUNTS = ("no", "one", "two", "three")
FURTHER_WORDS = ("box", "three", "stops")  # that are in no vocabulary of the profiles


@dataclass(frozen=True, slots=True)
class Told:
    """One clip in words; of each object by its shape."""

    background: str
    objects: dict[str, dict[str, str]]  # "color", "size", "direction", "speed", "ending" and "turn"


Answer = Callable[[Told, str], str]  # of a clip and the shape that the question is about


def told(clips: Clips, index: int) -> Told:
    """Put one of the clips in words."""
    objects = {}
    for column, shape in enumerate(SHAPES):
        if clips.present[index, column]:
            objects[shape] = {
                "color": [*COLOURS][clips.colour[index, column]],
                "size": [*SIZES][clips.size[index, column]],
                "direction": [*DIRECTIONS][clips.direction[index, column]],
                "speed": [*SPEEDS][clips.speed[index, column]],
                "ending": [*ENDINGS][clips.ending[index, column]],
                "turn": [*DIRECTIONS][clips.turn[index, column]],
            }
    return Told([*BACKGROUNDS][clips.background[index]], objects)


def long_caption(clip: Told, shape: str) -> str:
    """Describe all of a clip as frames show it, whatever the shape."""
    number = f"{_COUNTS[len(clip.objects)]} object{'s' if len(clip.objects) > 1 else ''}"
    each = [f"a {x['size']} {x['color']} {name} {_motion(x, frames=True)}" for name, x in clip.objects.items()]
    return f"the {clip.background} scene shows {number} : {' and '.join(each)}"


def short_caption(clip: Told, shape: str) -> str:
    """Describe all that moves as event images show it, whatever the shape."""
    return " and ".join(f"{name} {_motion(x, frames=False)}" for name, x in clip.objects.items())


def _motion(each: dict[str, str], *, frames: bool) -> str:
    moves = f"moves {each['direction']} {each['speed']}"
    how = {"turns": f"{moves} and turns {each['turn']}", "appears": f"appears and {moves}"}
    return (how | {"stops": f"{moves} and stops"} if frames else how).get(each["ending"], moves)


def _of(name: str) -> Answer:
    return lambda clip, shape: clip.objects[shape][name]


_BOTH: dict[str, tuple[str, Answer]] = {
    "count": ("How many objects are there?", lambda clip, shape: _COUNTS[len(clip.objects)]),
    "shape": ("What moves?", lambda clip, shape: " and ".join(clip.objects)),
    "size": ("What size has the {}?", _of("size")),
    "direction": ("In what direction does the {} move?", _of("direction")),
    "speed": ("How fast does the {} move?", _of("speed")),
}
FRAMES: dict[str, tuple[str, Answer]] = {
    "caption": (DEFAULT_QUESTION, long_caption),
    **_BOTH,
    "color": ("What color is the {}?", _of("color")),
    "ending": ("What does the {} do?", _of("ending")),
    "background": ("What is the background?", lambda clip, shape: clip.background),
}
"""By what each is about, the questions that frames answer, the name of a shape in place of {}, and their answers."""
EVENTS: dict[str, tuple[str, Answer]] = {
    "caption": (DEFAULT_QUESTION, short_caption),
    **_BOTH,
    "ending": (
        "What does the {} do?",
        lambda clip, shape: clip.objects[shape]["ending"].replace("stops", "moves"),
    ),
}
"""The same of event images, in which what stops is what is no longer seen."""
