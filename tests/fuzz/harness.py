"""Feed a reader thousands of damaged inputs, each with limits on time and memory, and count how each one ends.

A format's script defines `make(index, folder)`, which writes input number `index` into a folder and returns its path,
and `read(path)`; and ends with `harness.main(make, read)`. Equal numbers give equal inputs, so that one which failed
can be made again: `--first 1234 --inputs 1`.

Inputs are read in worker processes, which write one line a finished input: its number, and how it ended. One that
says nothing for too long is killed and counted as a hang; one that dies is a crash; another takes its place.
"""

from __future__ import annotations

import argparse
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from click import echo

from stagebench.core.errors import MediaError

CANARY = "code-ran"  # an input that tries to run code tries to write this file, beside itself
START_LIMIT = 120.0  # seconds to import everything, on a busy machine

Make = Callable[[int, Path], Path]
Read = Callable[[Path], object]


def main(make: Make, read: Read) -> None:
    """Run as a script: exit with 0 where every input gave a result or a `MediaError`, with 1 where one did not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="limit of one input")
    parser.add_argument("--megabytes", type=int, default=4096, help="of addresses that reading may add to a process")
    parser.add_argument("--keep", type=Path, help="make the inputs there, read none")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        _work(make, read, given.worker, given.megabytes)
    elif given.keep:
        for index in range(given.first, given.first + given.inputs):
            make(index, given.keep)
    else:
        numbers = range(given.first, given.first + given.inputs)
        sys.exit(_run(numbers, given.workers, given.seconds, given.megabytes))


def _run(numbers: range, workers: int, seconds: float, megabytes: int) -> int:
    """Share the inputs out, print the counts and what failed; the exit code."""
    start = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        shares = [numbers[i::workers] for i in range(workers)]
        ends = dict(end for share in pool.map(lambda share: _drive(share, seconds, megabytes), shares) for end in share)
    for outcome, count in Counter(ends.values()).most_common():
        echo(f"{count:7}  {outcome}")
    failed = {index: outcome for index, outcome in ends.items() if not outcome.startswith(("read", "MediaError"))}
    echo(f"{len(ends)} inputs, {len(failed)} failed, in {time.monotonic() - start:.0f} s")
    for index, outcome in sorted(failed.items())[:20]:
        echo(f"input {index}: {outcome}")
    return 1 if failed or len(ends) < len(numbers) else 0


def _drive(numbers: range, seconds: float, megabytes: int) -> list[tuple[int, str]]:
    """Have worker processes read the inputs one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        return _read_all(numbers, seconds, [sys.argv[0], "--worker", folder, "--megabytes", str(megabytes)])


def _read_all(numbers: range, seconds: float, arguments: list[str]) -> list[tuple[int, str]]:
    ends: list[tuple[int, str]] = []
    worker = None
    for index in numbers:
        if worker is None:
            worker = subprocess.Popen(
                [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
            _answer(worker, START_LIMIT)
        assert worker.stdin is not None
        worker.stdin.write(f"{index}\n".encode())
        answer = _answer(worker, seconds)
        if answer is None:
            hung = worker.poll() is None
            worker.kill()
            answer = "hang" if hung else f"crash ({worker.wait()})"
            worker.wait()
            worker = None
        ends.append((index, answer))
    if worker is not None:
        worker.communicate()
    return ends


def _answer(worker: subprocess.Popen[bytes], seconds: float) -> str | None:
    """One line of a worker; None where it hangs or died."""
    assert worker.stdout is not None
    ready, _, _ = select.select([worker.stdout], [], [], seconds)
    line = worker.stdout.readline().decode().strip() if ready else ""
    if ready and not line:
        worker.wait(10)
    return line or None


def _work(make: Make, read: Read, folder: Path, megabytes: int) -> None:
    """Read the inputs whose numbers come in, one a line."""
    now = int(re.findall(r"VmSize:\s*(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * 2**20, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    echo("ready")
    for line in sys.stdin:
        path = make(int(line), folder)
        echo(_outcome(read, path))
        if path.is_file():
            path.unlink()


def _outcome(read: Read, path: Path) -> str:
    """How reading ends, in one line without what differs from input to input: names, numbers and quotations."""
    try:
        read(path)
        outcome = "read"
    except MediaError as error:
        outcome = f"MediaError: {error}"
    except BaseException as error:  # noqa: BLE001 # whatever else comes out is what is looked for
        outcome = f"{type(error).__name__}: {error}"
    if (path.parent / CANARY).exists():
        (path.parent / CANARY).unlink()
        outcome = "code ran"
    outcome = outcome.replace(f"{path.name}: ", "")
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", " ".join(outcome.split())))
