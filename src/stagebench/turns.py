"""Two processes that are held against each other take turns, round by round: what slows the machine slows both.

A turn is a byte in a pipe. Where the other process ends, however it ends, the system closes its pipes and this one goes
on alone, so nothing waits for ever. Importable without torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

VARIABLE = "STAGEBENCH_TURNS"
"""Of the environment: the ends of the pipes, "from the other,to the other", and a core if both are to use one; absent
where a process runs alone."""

Ends = tuple[int, int]
"""File descriptors: read from the other, written to the other."""


def variables(ends: Ends, cpu: int | None = None) -> dict[str, str]:
    """What the environment of a process must hold for it to take turns, on a core of its own choice or on this one."""
    if cpu is None:
        return {VARIABLE: f"{ends[0]},{ends[1]}"}
    return {VARIABLE: f"{ends[0]},{ends[1]},{cpu}", "OMP_NUM_THREADS": "1"}  # a second thread would wait for the core


class Turns:
    """This process's side.

    Attributes:
        taken: how many turns the other process has given it.
    """

    def __init__(self, ends: Ends | None, cpu: int | None = None) -> None:
        """Take the ends; None for a process that runs alone and never waits.

        Args:
            ends: of this process.
            cpu: the core that this thread keeps to from its first turn on; until then, two start side by side.
        """
        self._ends = ends
        self._cpu = cpu
        self.taken = 0

    @classmethod
    def of_environment(cls) -> Turns:
        """Take the ends that `VARIABLE` names."""
        given = os.environ.get(VARIABLE)
        if given is None:
            return cls(None)
        from_other, to_other, *cpu = map(int, given.split(","))
        return cls((from_other, to_other), *cpu)

    @property
    def alone(self) -> bool:
        """Whether there is no other process, or no more."""
        return self._ends is None

    def wait(self) -> None:
        """Wait for one's turn."""
        if self._cpu is not None:
            os.sched_setaffinity(0, {self._cpu})
            self._cpu = None
        if self._ends is None:
            return
        if os.read(self._ends[0], 1):
            self.taken += 1
        else:
            self._ends = None  # the other is no more

    def pass_on(self) -> None:
        """Let the other run until it passes on itself, or ends."""
        if self._ends is not None:
            with suppress(BrokenPipeError):  # then `wait` finds nobody either
                os.write(self._ends[1], b".")
            self.wait()


@contextmanager
def pipes() -> Iterator[tuple[Ends, Ends]]:
    """Make the ends of two processes, of which the first has the first turn; those of this process close at the end."""
    with ExitStack() as stack:
        there, back = os.pipe(), os.pipe()
        for end in (*there, *back):
            stack.callback(os.close, end)
        os.write(back[1], b".")
        yield (back[0], there[1]), (there[0], back[1])
