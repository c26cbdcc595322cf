"""Find whether a clip is damaged, with the same outcome every time.

With frame threads FFmpeg loses the flags of damaged H.264 frames in a race, and with slice threads it never notices a
missing slice. One thread notices both, but is slow; so all are used until FFmpeg's log tells of anything wrong, which
it does before the decoder has given its last frame.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Literal, TypeVar

from av import logging as log

from stagebench.core.errors import MediaError

T = TypeVar("T")
Threads = Literal["AUTO", "NONE"]
_log_in_use = Lock()


def settled(read: Callable[[Threads], T]) -> T:
    """Read by all cores, and anew by one where that fails or FFmpeg logs a sign of damage: then this decides.

    FFmpeg has one log: what is read in another thread meanwhile is read by one core.

    Args:
        read: decodes to the end by the threads it is given, or not at all.
    """
    if _log_in_use.acquire(blocking=False):
        try:
            with _heard() as said, suppress(MediaError):
                result = read("AUTO")
                if not any(level <= log.ERROR or "concealing" in message for level, _, message in said):
                    return result
        finally:
            _log_in_use.release()
    return read("NONE")


@contextmanager
def _heard() -> Iterator[list[tuple[int, str, str]]]:
    """Collect what FFmpeg logs: level, name and message; a damaged frame that is concealed is mere information."""
    level, skipping = log.get_level(), log.get_skip_repeated()
    log.set_skip_repeated(False)  # by which it would miss what was said last by an earlier clip
    log.set_level(log.INFO)
    try:
        with log.Capture(local=False) as said:
            yield said
    finally:
        log.set_level(level)
        log.set_skip_repeated(skipping)
