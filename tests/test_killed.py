"""Commands that measure are killed at any moment, and nothing that they had started lives on."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from stagebench.core.machine import locks, processes

SRC = Path(__file__).parents[1] / "src"
AT_ONCE = 8

LEAVES_BEHIND = """
import os, subprocess, sys, time
kind = os.environ["BEHIND"]
sleep = [sys.executable, "-S", "-c", "import time; time.sleep(300)"]
if kind == "child":
    subprocess.Popen(sleep)
elif kind == "shell":
    subprocess.run(["sh", "-c", '"$@" & exit', "sh", *sleep])
elif kind == "session":
    subprocess.Popen(sleep, start_new_session=True)
elif kind == "daemon" and not os.fork():
    os.setsid()
    if not os.fork():
        time.sleep(300)
    os._exit(0)
elif kind == "deaf":
    subprocess.Popen(["sh", "-c", "trap '' HUP INT TERM; sleep 300; sleep 300"])
"""
KINDS = ("none", "child", "shell", "session", "daemon", "deaf")


@pytest.fixture(scope="module")
def project(tmp_path_factory, new_project, git):
    """One whose benchmarks leave processes behind, in the way that BEHIND says."""
    root = new_project(tmp_path_factory.mktemp("killed") / "project")
    conftest = root / "conftest.py"
    conftest.write_text(LEAVES_BEHIND + conftest.read_text())
    git(root, "commit", "--quiet", "-am", "leave processes behind")
    return root


def alive(mark):
    """The commands of processes that were started with this mark; one that is only not yet waited for has none."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes() and (line := (process / "cmdline").read_bytes()):
                found.append(line.decode().replace("\0", " "))
        except OSError:  # gone meanwhile
            pass
    return found


def start(project, folder, kind, *command):
    """A command in a machine of its own; what it starts bears the folder's name as a mark."""
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(SRC), "BEHIND": kind, "MARK": str(folder), locks.FOLDER: str(folder)}
    line = [sys.executable, "-m", "stagebench", *command, str(folder / "out")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(line, cwd=project, env=environment, start_new_session=True, **quiet)


def left_by_kills(project, tmp_path, kills, *command):
    """What still runs 2 s after each of so many kills: most at any moment, every fourth while it measures."""
    draw, left = random.Random(0), []
    for first in range(0, kills, AT_ONCE):
        begun = {}
        for number in range(first, min(first + AT_ONCE, kills)):
            folder = tmp_path / str(number)
            begun[folder] = number, start(project, folder, KINDS[number // 4 % len(KINDS)], *command)
        for folder, (number, process) in begun.items():
            while number % 4 == 1 and process.poll() is None and len(alive(str(folder))) < 3:
                time.sleep(0.02)
            time.sleep(draw.uniform(0, 0.2))
            assert process.poll() is None
            process.kill()
            process.wait()
        deadline = time.monotonic() + 2
        while (living := [line for folder in begun for line in alive(str(folder))]) and time.monotonic() < deadline:
            time.sleep(0.02)
        left += living
    return left


def test_nothing_outlives_a_recording_that_is_killed_40_times(project, tmp_path):
    assert left_by_kills(project, tmp_path, 40, "bench", "--rounds", "1") == []


def test_nothing_outlives_a_gate_that_is_killed(project, tmp_path, nothing_is_left):
    command = ("gate", "--base", "HEAD", "--rounds", "1", "--blocks", "4", "--out")
    assert left_by_kills(project, tmp_path, 6, *command) == []


SCRATCH = """
import time
from stagebench.core.machine.locks import scratch_folder
with scratch_folder() as folder:
    print(folder, flush=True)
    time.sleep(300)
"""


def test_the_scratch_of_a_process_that_is_killed_is_swept_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", SCRATCH], stdout=subprocess.PIPE, text=True)
    folder = Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()
    left = list(tmp_path.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with locks.scratch_folder() as mine:
        assert (left, list(tmp_path.iterdir())) == ([folder], [mine])


def test_what_a_process_leaves_behind_ends_with_it(tmp_path):
    mark = tmp_path / "mark"
    for kind in KINDS:
        code = [sys.executable, "-c", LEAVES_BEHIND]
        assert processes.run(code, env=os.environ | {"BEHIND": kind, "MARK": str(mark)}) == (0, b"", b"")
        assert alive(str(mark)) == []


def test_a_recording_that_is_stopped_with_its_whole_group_leaves_nothing_either(project, tmp_path):
    process = start(project, tmp_path / "out", "daemon", "bench")
    while len(alive(str(tmp_path / "out"))) < 4:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)
    assert alive(str(tmp_path / "out")) == []
