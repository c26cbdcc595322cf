"""What was done so far in this process, counted by the code that does it: a remembered result adds nothing.

Always on, because what can be off may be off while it is timed; to add a number takes a tenth of a microsecond.
Importable without torch.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from stagebench.core.stages import STAGE

_TOGETHER = (("packets", "frames_decoded"), ("events_read", "events_drawn"))
"""Who does one of these has done the other; a file counts with its size, whatever is read of it."""

SYSTEM = ("bytes_from_files", "bytes_to_files")
"""Of `system_since`: a file that is read by whatever library, a log that is written."""

_PAGE = 4096
_done: Counter[str] = Counter()


def add(name: str, n: int = 1) -> None:
    """Add to a counter."""
    _done[name] += n


def so_far() -> Counter[str]:
    """Return all counters as they are now."""
    return _done.copy()


def since(before: Counter[str]) -> Counter[str]:
    """Return what was added to them; names of which nothing was added are left out."""
    return _done - before


def undone(stage: str, done: Mapping[str, int]) -> str | None:
    """Name what a stage can't have done without, where the meter did not count it; None where it has done all."""
    own = STAGE[stage]
    together = [name for pair in _TOGETHER if any(map(done.get, pair)) for name in pair]
    needed = [name for name in (*together, *own.needed) if name in own.metered]
    return next((f"{name} = 0" for name in needed if not done.get(name)), None)


def system() -> tuple[int, int, int] | None:
    """Look at the bytes that the process read and wrote, and return those that this look took, which the next one sees.

    By the kernel's count (`/proc/self/io`), in which what is mapped into memory is not; None outside of Linux.
    """
    try:
        text = Path("/proc/self/io").read_bytes()
    except OSError:
        return None
    numbers = dict(line.split(b": ") for line in text.splitlines())
    return int(numbers[b"rchar"]), int(numbers[b"wchar"]), len(text)


def system_since(before: tuple[int, int, int] | None) -> dict[str, int]:
    """Return what went through since then; reads in whole pages, because libraries look up a few bytes at times."""
    after = system()
    if before is None or after is None:
        return {}
    reads = after[0] - before[0] - before[2]  # to look is to read, too
    return dict(zip(SYSTEM, (reads // _PAGE * _PAGE, after[1] - before[1]), strict=True))
