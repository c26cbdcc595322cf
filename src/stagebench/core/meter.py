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
"""Of `SystemMeter`: a file that is read by whatever library, a log that is written."""

_PAGE = 4096
_done: Counter[str] = Counter()


def add(name: str, n: int = 1) -> None:
    """Add to a counter."""
    _done[name] += n


def add_file(path: Path) -> None:
    """Add a file that is opened to be read, by its size."""
    add("bytes_read", path.stat().st_size)


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


class SystemMeter:
    """Counts the bytes that the process reads and writes, by the kernel's count (`/proc/self/io`), from here on.

    What is mapped into memory is not among them. Without such a file, as outside of Linux, nothing is counted.
    """

    def __init__(self) -> None:
        self._before = _system()

    def read(self) -> dict[str, int]:
        """Return what went through since; reads in whole pages, because libraries look up a few bytes at times."""
        after = _system()
        if self._before is None or after is None:
            return {}
        reads = after[0] - self._before[0] - self._before[2]  # to look is to read, too
        return dict(zip(SYSTEM, (reads // _PAGE * _PAGE, after[1] - self._before[1]), strict=True))


def _system() -> tuple[int, int, int] | None:
    """Return bytes read, bytes written, and those that this look took, which the next one sees."""
    try:
        text = Path("/proc/self/io").read_bytes()
    except OSError:
        return None
    numbers = dict(line.split(b": ") for line in text.splitlines())
    return int(numbers[b"rchar"]), int(numbers[b"wchar"]), len(text)
