"""Runs a command, and ends all that is left of it as soon as the command ends, or whoever asked for it does.

`processes` starts it as a file (`python -I -S supervisor.py COMMAND ...`), so it imports nothing of stagebench, nor
pathlib, which takes as long as all the rest. Its standard input is a pipe that only the one who asked holds open:
however that one ends, the system closes it.
"""

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress

CANNOT_RUN = 126  # the exit status where the command can't be run, as a shell has it; the reason is on standard error
PATIENCE = 10.0  # seconds for processes to end that were killed; one in the middle of a system call may need some
SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl()
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def main(command: list[str]) -> int:
    """Run the command, and return its exit status, or 128 and the number of the signal that ended it."""
    _prctl(SET_CHILD_SUBREAPER, 1)  # what a process of the command leaves behind becomes a child of this one
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.set_wakeup_fd(waking)
    for number in (signal.SIGCHLD, *ENDING):
        signal.signal(number, lambda *_: None)
    here, child = os.getpid(), os.fork()
    if not child:
        _become(command, here)
    ended: dict[int, int] = {}
    while child not in ended:
        ready, _, _ = select.select([sys.stdin, woken], [], [])
        if sys.stdin in ready or set(os.read(woken, 512)) & {*ENDING}:
            break
        _reap(ended)
    _end_all(child)
    code = os.waitstatus_to_exitcode(ended.get(child, signal.SIGKILL))
    return code if code >= 0 else 128 - code


def _become(command: list[str], supervisor: int) -> None:
    """Turn the forked process into the command, with signals as a process has them that Python did not start."""
    os.setpgid(0, 0)
    _prctl(SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(CANNOT_RUN)  # it ended before the line above
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        os.execvp(command[0], command)  # noqa: S606 # no shell is what is wanted
    except OSError as error:
        os.write(2, str(error.strerror).encode())
    os._exit(CANNOT_RUN)


def _prctl(option: int, value: int) -> None:
    with suppress(AttributeError, OSError):  # no Linux: then the command's process group is all that can be ended
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _end_all(group: int) -> None:
    """End the command's group, and every descendant: the children of one that ends become our own."""
    deadline = time.monotonic() + PATIENCE
    with suppress(OSError):
        os.killpg(group, signal.SIGKILL)
    while _reap({}) and time.monotonic() < deadline:
        for child in _children():
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def _children() -> list[int]:
    here, found = os.getpid(), []
    with suppress(OSError), os.scandir("/proc") as processes:
        for each in (each.name for each in processes if each.name.isdigit()):
            with suppress(OSError), open(f"/proc/{each}/stat", "rb") as file:  # noqa: PTH123 # see above
                if int(file.read().rpartition(b")")[2].split()[1]) == here:
                    found.append(int(each))
    return found


def _reap(ended: dict[int, int]) -> bool:
    """Note the status of each child that has ended; return whether others are left."""
    with suppress(ChildProcessError):
        while (each := os.waitpid(-1, os.WNOHANG))[0]:
            ended[each[0]] = each[1]
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
