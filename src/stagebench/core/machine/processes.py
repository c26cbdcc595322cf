"""Start processes that end, with all their descendants, as soon as the starting process ends, however it ends."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stagebench.core.machine import supervisor


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command, with options of `Popen`, beside the block; end it when the block or this process ends.

    The command has its own session: a signal from the terminal reaches this process alone, which passes it on by
    ending. The yielded process exits with the command's status, 128 plus the number of the signal that ended it, or
    `CANNOT_RUN`.
    """
    line = [sys.executable, "-I", "-S", supervisor.__file__, *command]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, start_new_session=True, **options)  # noqa: S603 # our own file
    try:
        yield process
    finally:
        if process.stdin:
            process.stdin.close()
        process.wait()


def run(command: Sequence[str], **options: Any) -> tuple[int, bytes, bytes]:
    """Run a command to its end; return its exit status, standard output and standard error."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with started(command, stdout=out, stderr=err, **options) as process:
            status = process.wait()
        out.seek(0)
        err.seek(0)
        return status, out.read(), err.read()
