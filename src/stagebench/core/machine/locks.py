"""Allow one measurement at a time, by locks on the machine and on folders. However a process ends, it releases them."""

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from stagebench.core.errors import BusyError, StagebenchError

# Environment variables: the folder of the machine's lock, by default one that all users share; and its holder, because
# the processes that it starts belong to its measurement.
FOLDER, WITHIN = "STAGEBENCH_LOCKS", "STAGEBENCH_MEASUREMENT"

SCRATCH = "stagebench-scratch-"

# Seconds until a lock counts as held: `beside` takes it briefly, and so may a process that a killed one was starting.
PATIENCE = 0.5


@contextmanager
def measurement(say: Callable[[str], object]) -> Iterator[None]:
    """Hold the machine's lock during the block; raise BusyError beside another one, or `say` why it can't be locked."""
    if WITHIN in os.environ:
        yield
        return
    path, me = _machine(), f"process {os.getpid()} (stagebench {' '.join(sys.argv[1:])})"
    with ExitStack() as stack:
        try:
            file = stack.enter_context(os.fdopen(_opened(path), "rb+", buffering=0))
            free = _taken(file.fileno(), PATIENCE)
        except OSError as error:
            say(f"can't tell whether another measurement is running, {path} can't be locked: {error.strerror}")
        else:
            if not free:
                raise BusyError(f"one measurement at a time may run here, got a second beside {_holder(file)}")
            stack.callback(file.truncate, 0)
            file.truncate(0)
            file.write(me.encode(errors="surrogateescape"))
            stack.callback(os.environ.pop, WITHIN)
            os.environ[WITHIN] = me
        yield


def beside() -> str | None:
    """Return the holder of the machine's lock; None if nobody holds it, or this process is part of its measurement."""
    with suppress(OSError):
        if WITHIN not in os.environ:
            with _machine().open("rb") as file:
                return None if _taken(file.fileno()) else _holder(file)
    return None


def _machine() -> Path:
    shared = Path("/tmp")  # noqa: S108 # with TMPDIR, each job would have its own lock
    return Path(os.environ.get(FOLDER) or (shared if shared.is_dir() else tempfile.gettempdir()), "stagebench.lock")


def _opened(path: Path) -> int:
    """Open a file that any user may lock. An existing one is not created again, which /tmp forbids for other users."""
    with suppress(FileExistsError):
        made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.fchmod(made, 0o666)
        os.close(made)
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW)


def _taken(descriptor: int, patience: float = 0.0) -> bool:
    """Take a lock; return False where another process holds it for all of `patience` seconds."""
    until = time.monotonic() + patience
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(0.02)


def _holder(file: BinaryIO) -> str:
    """Return the line that the holder of the lock wrote about itself."""
    noted = file.read(200).decode(errors="replace")
    return "".join(c if c.isprintable() else "?" for c in noted) or "another process"


@contextmanager
def _held(folder: Path, patience: float = 0.0) -> Iterator[bool | None]:
    """Yield whether this process holds the folder during the block; None on a file system without locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        taken = None
        with suppress(OSError):
            taken = _taken(descriptor, patience)
        yield taken
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path, refusal: str | None = None, sure: bool = False) -> Iterator[Path]:
    """Lock a folder for this process; create it if it is missing, and remove it if it is left empty.

    Where another process holds it, wait, or with a `refusal` raise BusyError that begins with it. Raise StagebenchError
    where the folder can't be created. Where its file system has no locks, raise it if `sure`, else run without a lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StagebenchError(f"can't write to {folder}: {error.strerror}") from error
    with _held(folder, PATIENCE if refusal else float("inf")) as free:
        if free is False:
            raise BusyError(f"{refusal}, got {folder}")
        if free is None and sure:
            raise StagebenchError(f"a folder must be on a file system that has locks, got {folder}")
        try:
            yield folder
        finally:
            with suppress(OSError):  # not empty
                folder.rmdir()


@contextmanager
def scratch_folder(home: Path | None = None) -> Iterator[Path]:
    """Create a temporary folder, remove it at the end, and remove now those that killed processes left."""
    home = home or Path(tempfile.gettempdir())
    for left in home.glob(f"{SCRATCH}*"):
        with suppress(OSError), _held(left) as free:  # another user's, or removed meanwhile
            if free:
                shutil.rmtree(left, ignore_errors=True)
    with ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=home))
            with suppress(FileNotFoundError):  # another process took it for a leftover
                if stack.enter_context(_held(folder)) is not False and folder.exists():
                    break
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder
