"""Damages JSON in the ways in which files are damaged, or made to deceive: by a seed, so that a failure comes again."""

import json
import random

NUMBERS = (0, -1, 1, 0.5, -0.0, 1e-320, 1e308, 1e-12, 10**18, 10**29, 2**63, True, False)
TEXTS = ("", "x", "[/x]", "\x1b[31m", "\u202e", "a\nb", "0.1", "nan", "{}", "$x", "/" * 300, "x" * 200_001)
OTHERS = (None, [], {}, [[]], [None], {"": {}}, [1, "a"], {"a": [1]})
RAW = (
    "NaN",
    "-Infinity",
    "1e999",
    "1" + "0" * 400,
    "1" + "0" * 5000,
    '"\\ud800"',
    "[" * 200 + "]" * 200,
    "{",
    "01",
    "'x'",
)
PLACE = "\ue000"
"""Stands where raw JSON goes, that no writer makes."""


def places(data, here=()):
    """The paths to everything in it."""
    yield here
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inside:
        yield from places(value, (*here, key))


def mutated(data, draw):
    """A copy with one place changed, as JSON text."""
    everywhere = list(places(data))
    path = draw.choice(everywhere)
    kind = draw.choice(("delete", "number", "text", "other", "raw", "scale", "swap", "twice", "key"))
    if kind == "raw":
        return json.dumps(_replaced(data, path, lambda _: PLACE)).replace(json.dumps(PLACE), draw.choice(RAW))
    if kind == "twice" and path and isinstance(path[-1], str):  # a key twice in one object
        text = json.dumps(_replaced(data, path, lambda _: PLACE))
        value = json.dumps(_at(data, path))
        return text.replace(json.dumps(PLACE), f"{value}, {json.dumps(path[-1])}: {value}")
    return json.dumps(_changed(data, path, kind, everywhere, draw))


def _changed(data, path, kind, everywhere, draw):
    if kind == "delete" and path:
        return _replaced(data, path[:-1], lambda parent: _without(parent, path[-1]))
    if kind == "key" and path and isinstance(path[-1], str):
        new = draw.choice(TEXTS[:-1])
        return _replaced(data, path[:-1], lambda parent: {new if k == path[-1] else k: v for k, v in parent.items()})
    if kind == "twice" and path and isinstance(path[-1], int):
        return _replaced(data, path[:-1], lambda parent: [*parent, parent[path[-1]]])
    if kind == "scale":
        factor = draw.choice((-1, 1e-9, 0.5, 2, 1000, 1e9))
        return _replaced(data, path, lambda v: v * factor if isinstance(v, int | float) else [v])
    if kind == "swap":
        other = _at(data, draw.choice(everywhere))
        return _replaced(data, path, lambda _: other)
    values = {"text": TEXTS, "other": OTHERS}.get(kind, NUMBERS)
    return _replaced(data, path, lambda _: draw.choice(values))


def damaged(text, draw):
    """The bytes of a text with some of them lost, flipped or in another encoding."""
    data = bytearray(text.encode())
    kind = draw.choice(("cut", "flip", "drop", "insert", "utf-16", "latin-1", "bom", "twice", "empty", "zeros"))
    at = draw.randrange(len(data))
    if kind == "cut":
        return bytes(data[:at])
    if kind == "flip":
        data[at] ^= 1 << draw.randrange(8)
    elif kind == "drop":
        del data[at : at + draw.randrange(1, 50)]
    elif kind == "insert":
        data[at:at] = draw.randbytes(draw.randrange(1, 9))
    others = {"utf-16": text.encode("utf-16"), "latin-1": text.replace("a", "ä").encode("latin-1"), "empty": b""}
    others |= {"bom": b"\xef\xbb\xbf" + bytes(data), "twice": bytes(data) * 2, "zeros": bytes(len(data))}
    return others.get(kind, bytes(data))


def mutants(data, seed, count):
    """So many damaged files out of one whole: mostly single values, else bytes."""
    draw = random.Random(seed)
    for _ in range(count):
        text = mutated(data, draw)
        yield damaged(json.dumps(data), draw) if draw.random() < 0.2 else text.encode()


def _at(data, path):
    for key in path:
        data = data[key]
    return data


def _replaced(data, path, make):
    if not path:
        return make(data)
    copy = data.copy()
    copy[path[0]] = _replaced(data[path[0]], path[1:], make)
    return copy


def _without(parent, key):
    return (
        {k: v for k, v in parent.items() if k != key} if isinstance(parent, dict) else parent[:key] + parent[key + 1 :]
    )
