"""Count work in this process, in the code that does it, always: a cached result adds nothing. Needs no torch."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from stagebench.core.stages import STAGE

_TOGETHER = (("packets", "frames_decoded"), ("events_read", "events_drawn"))
"""Pairs of counters that always go together. A file counts with its whole size, however much of it is read."""

SYSTEM = ("bytes_from_files", "bytes_to_files")
"""The counters of `system_since`: files read by any library, and files written, such as logs."""

_PAGE = 4096
_done: Counter[str] = Counter()


def add(name: str, n: int = 1) -> None:
    """Add to a counter."""
    _done[name] += n


def so_far() -> Counter[str]:
    """Return a copy of all counters."""
    return _done.copy()


def since(before: Counter[str]) -> Counter[str]:
    """Return what was added to the counters since `before`; unchanged names are left out."""
    return _done - before


def undone(stage: str, done: Mapping[str, int]) -> str | None:
    """Return the first counter that a stage needs and that is 0, as `name = 0`; None where all were counted."""
    own = STAGE[stage]
    together = [name for pair in _TOGETHER if any(map(done.get, pair)) for name in pair]
    needed = [name for name in (*together, *own.needed) if name in own.metered]
    return next((f"{name} = 0" for name in needed if not done.get(name)), None)


def system() -> tuple[int, int, int] | None:
    """Return bytes read and written by this process, and by this reading (`/proc/self/io`); None outside Linux."""
    try:
        text = Path("/proc/self/io").read_bytes()
    except OSError:
        return None
    numbers = dict(line.split(b": ") for line in text.splitlines())
    return int(numbers[b"rchar"]), int(numbers[b"wchar"]), len(text)


def system_since(before: tuple[int, int, int] | None) -> dict[str, int]:
    """Return the bytes read and written since `before`; reads in whole pages, because libraries read a few at times."""
    after = system()
    if before is None or after is None:
        return {}
    reads = after[0] - before[0] - before[2]  # the reading itself
    return dict(zip(SYSTEM, (reads // _PAGE * _PAGE, after[1] - before[1]), strict=True))
