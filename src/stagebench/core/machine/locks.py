"""Keeps to one measurement at a time, by locks on the machine and on folders; however one ends, it lets go of them."""

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

# Of the environment: the folder of the machine's lock, by default the one that all users of a system share; and who
# holds that lock, because what it starts belongs to its measurement.
FOLDER, WITHIN = "STAGEBENCH_LOCKS", "STAGEBENCH_MEASUREMENT"

SCRATCH = "stagebench-scratch-"

# Seconds until a lock counts as held: `beside` may just be looking, or one that was killed was starting a process.
PATIENCE = 0.5


@contextmanager
def measurement(say: Callable[[str], object]) -> Iterator[None]:
    """Be the only measurement on this machine during the block, or a part of it; raise BusyError beside another one.

    Where the lock can't be had at all, `say` gets a line about it, and the block runs.
    """
    if WITHIN in os.environ:
        yield
        return
    path, me = _machine(), f"process {os.getpid()} (stagebench {' '.join(sys.argv[1:])})"
    with ExitStack() as stack:
        try:
            file = stack.enter_context(os.fdopen(_opened(path), "rb+", buffering=0))
            free = _taken(file.fileno(), PATIENCE)
        except OSError as error:
            say(f"what else measures at the same time is not known, {path} can't be locked: {error.strerror}")
        else:
            if not free:
                raise BusyError(f"one measurement at a time on this machine, got a second beside {_holder(file)}")
            stack.callback(file.truncate, 0)
            file.truncate(0)
            file.write(me.encode(errors="surrogateescape"))
            stack.callback(os.environ.pop, WITHIN)
            os.environ[WITHIN] = me
        yield


def beside() -> str | None:
    """Return who measures on this machine beside this process, which is part of no measurement that holds its lock."""
    with suppress(OSError):
        if WITHIN not in os.environ:
            with _machine().open("rb") as file:
                return None if _taken(file.fileno()) else _holder(file)
    return None


def _machine() -> Path:
    shared = Path("/tmp")  # noqa: S108 # by TMPDIR, each job would have a lock of its own
    return Path(os.environ.get(FOLDER) or (shared if shared.is_dir() else tempfile.gettempdir()), "stagebench.lock")


def _opened(path: Path) -> int:
    """Open a file that any user may lock; what is there is not made again, which /tmp forbids for another's file."""
    with suppress(FileExistsError):
        made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.fchmod(made, 0o666)
        os.close(made)
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW)


def _taken(descriptor: int, patience: float = 0.0) -> bool:
    """Take a lock, unless somebody else has it for that many seconds."""
    until = time.monotonic() + patience
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(0.02)


def _holder(file: BinaryIO) -> str:
    """Return what the one who holds the lock noted of itself, in a line."""
    noted = file.read(200).decode(errors="replace")
    return "".join(c if c.isprintable() else "?" for c in noted) or "another one"


@contextmanager
def _held(folder: Path, patience: float = 0.0) -> Iterator[bool | None]:
    """Say whether the folder is this process's for the block; None on a file system without such locks."""
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
    """Hold a folder for this process alone; it is made if it is missing, and goes again if it is left empty.

    Where another process holds it, wait, or raise BusyError that begins with a refusal; raise StagebenchError where it
    can't be made, and, to be `sure`, where its file system has no locks: elsewhere the block then runs without.
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
            with suppress(OSError):  # where something is in it
                folder.rmdir()


@contextmanager
def scratch_folder(home: Path | None = None) -> Iterator[Path]:
    """Make a temporary folder, by default where the system has them; it goes at the end, what killed ones left now."""
    home = home or Path(tempfile.gettempdir())
    for left in home.glob(f"{SCRATCH}*"):
        with suppress(OSError), _held(left) as free:  # another user's, or gone meanwhile
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
