"""Runs modules as `python -m` does, in fresh processes that needn't import torch again.

Each is forked from a server that imported what they share and did nothing else; this file is also that server.
"""

import atexit
import gc
import json
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

SHARED = (
    "scipy.stats",
    "stagebench.backends.load",
    "stagebench.models.eventgpt",
    "stagebench.models.llava",
    "stagebench.models.video_llava",
    "stagebench.pipeline.verify",
    "transformers.generation.utils",
)
"""Not pytest's plugins, which pytest has to import itself."""


class WarmProcesses:
    """Starts the server when the first process is wanted. One runs at a time."""

    def __init__(self):
        self._server = None

    def start(self, module, *arguments, cwd=None, **environment):
        """Start a process; what `finish` returns is the same as that of `subprocess.run`."""
        if self._server is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._server = subprocess.Popen([sys.executable, __file__], **pipes)
        said = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 # closed when read
        paths = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in said]
        command = [module, *map(str, arguments)]
        request = {"command": command, "cwd": str(cwd or Path.cwd()), "paths": paths}
        print(json.dumps(request | {"environment": os.environ | environment}), file=self._server.stdin, flush=True)
        return WarmProcess(command, int(self._server.stdout.readline()), self._server.stdout, said)

    def run(self, module, *arguments, **more):
        return self.start(module, *arguments, **more).finish()

    def close(self):
        if self._server is not None:
            self._server.communicate()


class WarmProcess:
    """One that runs."""

    def __init__(self, command, pid, server, said):
        self.command, self.pid, self._server, self._said = command, pid, server, said

    def finish(self):
        """Wait for its end."""
        code, told = int(self._server.readline()), []
        for file in self._said:
            with file:
                file.seek(0)
                told.append(file.read().decode())
        return subprocess.CompletedProcess(self.command, code, *told)


def _serve():
    """Fork a process for each line; say its number, and how it ended."""
    for name in SHARED:
        __import__(name)
    # Of BLAS, whose threads are good for a fork.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    gc.collect()
    gc.freeze()  # what is imported stays, and need not be looked through again in each process
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            return json.loads(line)
        _say(pid)
        _say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _say(number):
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _become(command, cwd, paths, environment):
    """Be the process that was asked for."""
    for number, path in enumerate([os.devnull, *paths]):
        file = os.open(path, os.O_RDWR | (os.O_APPEND if number else 0))
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = cwd
    sys.argv[1:] = command[1:]
    code = 0
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # to take all that is imported to pieces would take a second


if __name__ == "__main__":
    _become(**_serve())
