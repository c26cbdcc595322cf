"""Run a command, and kill everything left of it as soon as the command or the requesting process ends.

`processes` starts it as a file (`python -I -S supervisor.py COMMAND ...`). It imports nothing of stagebench, and not
pathlib, which takes as long as all the rest. Its standard input is a pipe that only the requesting process holds open:
however that process ends, the system closes it.
"""

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress

CANNOT_RUN = 126  # exit status where the command can't be run, as in a shell; the reason is on standard error
PATIENCE = 10.0  # seconds that killed processes may take to end; one inside a system call may need some
SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl()
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def main(command: list[str]) -> int:
    """Run the command; return its exit status, or 128 plus the number of the signal that ended it."""
    _prctl(SET_CHILD_SUBREAPER, 1)  # orphans of the command become children of this process
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
    """Turn the forked process into the command, with the default signal handling of a process outside Python."""
    os.setpgid(0, 0)
    _prctl(SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(CANNOT_RUN)  # the supervisor ended before the line above
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        os.execvp(command[0], command)  # noqa: S606 # without a shell on purpose
    except OSError as error:
        os.write(2, str(error.strerror).encode())
    os._exit(CANNOT_RUN)


def _prctl(option: int, value: int) -> None:
    with suppress(AttributeError, OSError):  # not Linux: then only the command's process group can be ended
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _end_all(group: int) -> None:
    """Kill the command's group and every descendant: children of a killed process become our own."""
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
    """Record the status of each child that has ended; return whether others are left."""
    with suppress(ChildProcessError):
        while (each := os.waitpid(-1, os.WNOHANG))[0]:
            ended[each[0]] = each[1]
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
