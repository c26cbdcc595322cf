"""Lets two processes that are compared take turns, round by round: what slows the machine slows both.

A turn is a byte in a pipe. Where the other process ends, however it ends, the system closes its pipes and this one goes
on alone; a worker that the other forked, and that outlives it, holds them open. Importable without torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Of the environment: `Ends`, with commas; absent where a process runs alone. Its number is that of the protocol: a
# revision with another one finds no ends, runs alone, and is refused.
VARIABLE = "STAGEBENCH_TURNS_2"

# File descriptors, read from the other and written to the other; and the place, 0 for who has the first turn, or 1.
Ends = tuple[int, int, int]


class Lockstep:
    """This process's side; `turns` is how many the other process has given it."""

    def __init__(self, ends: Ends | None) -> None:
        """Take the ends, None for a process that runs alone."""
        self._ends, self.turns = ends, 0

    @classmethod
    def of_environment(cls) -> Lockstep:
        """Take the ends that `VARIABLE` names."""
        if not (given := os.environ.get(VARIABLE)):
            return cls(None)
        from_other, to_other, place = map(int, given.split(","))
        return cls((from_other, to_other, place))

    @property
    def alone(self) -> bool:
        """Whether there is no other process, or no more."""
        return self._ends is None

    def begin(self) -> None:
        """Wait for the first turn, which comes when both are ready: nothing is timed beside somebody's start."""
        if self._ends is not None and self._ends[2] == 1:
            self.pass_on()
        else:
            self._wait()

    def pass_on(self) -> None:
        """Let the other run until it passes on itself, or ends."""
        if self._ends is not None:
            with suppress(BrokenPipeError):  # then nobody is found by waiting either
                os.write(self._ends[1], b".")
            self._wait()

    def _wait(self) -> None:
        if self._ends is None:
            return
        if os.read(self._ends[0], 1):
            self.turns += 1
        else:
            self._ends = None  # the other is no more


@contextmanager
def pipes() -> Iterator[tuple[Ends, Ends]]:
    """Make the ends of two processes; those of this process close at the end."""
    there, back = os.pipe(), os.pipe()
    try:
        yield (back[0], there[1], 0), (there[0], back[1], 1)
    finally:
        for end in (*there, *back):
            os.close(end)
