"""One measurement at a time: a lock on the machine, locks on folders. The system lets go of them however one ends."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stagebench.core.errors import BusyError

FOLDER = "STAGEBENCH_LOCKS"
"""Of the environment: the folder of the machine's lock; by default the one that all users of a system share."""

WITHIN = "STAGEBENCH_MEASUREMENT"
"""Of the environment: who holds the machine's lock; what it starts belongs to its measurement."""

SCRATCH = "stagebench-scratch-"


@contextmanager
def measurement(say: Callable[[str], None]) -> Iterator[None]:
    """Be the only measurement on this machine during the block, or a part of it; no lock at all costs only a warning.

    Args:
        say: told of a lock that can't be had.

    Raises:
        BusyError: where there is another one.
    """
    if WITHIN in os.environ:
        yield
        return
    path = _machine()
    try:
        descriptor = _opened(path)
        if not (free := _taken(descriptor)):
            time.sleep(0.1)  # `beside` may just have been looking
            free = _taken(descriptor)
    except OSError as error:
        say(f"what else measures at the same time is not known, {path} can't be locked: {error.strerror}")
        yield
        return
    with os.fdopen(descriptor, "rb+", buffering=0) as file:
        if not free:
            raise BusyError(f"one measurement at a time on this machine, got a second beside {_holder(file.read(200))}")
        me = f"process {os.getpid()} (stagebench {' '.join(sys.argv[1:])})"
        os.ftruncate(descriptor, 0)
        file.write(me.encode(errors="surrogateescape"))
        os.environ[WITHIN] = me
        try:
            yield
        finally:
            del os.environ[WITHIN]
            os.ftruncate(descriptor, 0)


def beside() -> str | None:
    """Who measures on this machine beside this process, which is part of no measurement that holds its lock."""
    if WITHIN in os.environ:
        return None
    with suppress(OSError), _machine().open("rb") as file:
        if not _taken(file.fileno()):
            return _holder(file.read(200))
    return None


def _machine() -> Path:
    shared = Path("/tmp")  # noqa: S108 # by TMPDIR, each job would have a lock of its own
    return Path(os.environ.get(FOLDER) or (shared if shared.is_dir() else tempfile.gettempdir()), "stagebench.lock")


def _opened(path: Path) -> int:
    """Open a file that any user may lock; what is there is not made again, which /tmp forbids for another's file."""
    for _ in range(2):
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL)
            os.fchmod(descriptor, 0o666)
            return descriptor
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW)


def _taken(descriptor: int) -> bool:
    """Take a lock, unless somebody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(noted: bytes) -> str:
    """What the one who holds the lock noted of itself, in a line."""
    shown = "".join(c if c.isprintable() else "?" for c in noted.decode(errors="replace"))
    return shown or "another one"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock, waiting for it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def claimed(folder: Path, wanted: str) -> Iterator[Path]:
    """Hold a folder for this process alone. It is made where it is missing, and goes again if it is left empty.

    Args:
        folder: to be held.
        wanted: begins the refusal ("--out must be a folder that no other gate writes to").

    Raises:
        BusyError: where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, free = os.open(folder, os.O_RDONLY), True
    try:
        with suppress(OSError):  # a file system without such locks refuses nobody
            free = _taken(descriptor)
        if not free:
            raise BusyError(f"{wanted}, got {folder}")
        try:
            yield folder
        finally:
            with suppress(OSError):  # where something is in it
                folder.rmdir()
    finally:
        os.close(descriptor)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a temporary folder, which goes at the end; those that killed processes left go now."""
    home = Path(tempfile.gettempdir())
    for left in home.glob(f"{SCRATCH}*"):
        with suppress(OSError):  # another user's, or gone meanwhile
            descriptor = os.open(left, os.O_RDONLY)
            try:
                if _taken(descriptor):
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(descriptor)
    folder, descriptor = _new_scratch(home)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _new_scratch(home: Path) -> tuple[Path, int]:
    """A new folder, and the descriptor that holds it, unless another process took it for a leftover before that."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=home))
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # a file system without such locks sweeps nothing either
                _taken(descriptor)
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)
