"""Let two compared processes take turns, round by round, so that a slow machine slows both.

A turn is a byte in a pipe. When the other process ends, the system closes its pipes and this one continues alone. It
cannot while a worker that the other process forked holds the pipes open. Importable without torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Environment variable: `Ends`, with commas; absent where a process runs alone. Its number is the protocol's version: a
# revision with another version finds no ends, runs alone, and is refused.
VARIABLE = "STAGEBENCH_TURNS_2"

# File descriptors for reading from and writing to the other process; and 0 for the process with the first turn, else 1.
Ends = tuple[int, int, int]


class Lockstep:
    """This process's side; `turns` counts those received from the other process."""

    def __init__(self, ends: Ends | None) -> None:
        """Keep the ends; None for a process that runs alone."""
        self._ends, self.turns = ends, 0

    @classmethod
    def of_environment(cls) -> Lockstep:
        """Create the side from the ends in `VARIABLE`."""
        if not (given := os.environ.get(VARIABLE)):
            return cls(None)
        from_other, to_other, place = map(int, given.split(","))
        return cls((from_other, to_other, place))

    @property
    def alone(self) -> bool:
        """Whether there is no other process, or it has ended."""
        return self._ends is None

    def begin(self) -> None:
        """Wait for the first turn, which comes when both are ready, so that nothing is timed beside a start."""
        if self._ends is not None and self._ends[2] == 1:
            self.pass_on()
        else:
            self._wait()

    def pass_on(self) -> None:
        """Let the other process run until it passes the turn back or ends."""
        if self._ends is not None:
            with suppress(BrokenPipeError):  # then `_wait` notices the end too
                os.write(self._ends[1], b".")
            self._wait()

    def _wait(self) -> None:
        if self._ends is None:
            return
        if os.read(self._ends[0], 1):
            self.turns += 1
        else:
            self._ends = None  # the other process has ended


@contextmanager
def pipes() -> Iterator[tuple[Ends, Ends]]:
    """Yield the ends for two processes, and close this process's copies at the end."""
    there, back = os.pipe(), os.pipe()
    try:
        yield (back[0], there[1], 0), (there[0], back[1], 1)
    finally:
        for end in (*there, *back):
            os.close(end)
