"""A few of the thousands of damaged inputs that `tests/fuzz` makes: `python tests/fuzz/video.py --inputs 5000`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz"


@pytest.mark.parametrize(("script", "inputs"), [("events.py", 300), ("video.py", 100)])
def test_damaged_inputs_end_in_a_result_or_one_line(script: str, inputs: int) -> None:
    for library in ("faery", "h5py", "hdf5plugin", "lz4", "zstandard"):
        pytest.importorskip(library)
    command = [sys.executable, FUZZ / script, "--inputs", str(inputs)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{inputs} inputs, 0 failed" in result.stdout


def test_a_crash_a_hang_and_a_foreign_error_are_counted(tmp_path: Path) -> None:
    script = tmp_path / "bad.py"
    script.write_text(
        f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(FUZZ)!r})
import harness

def make(index, folder):
    path = folder / str(index)
    path.touch()
    return path

def read(path):
    number = int(path.name)
    if number == 0:
        os.abort()
    if number == 1:
        time.sleep(60)
    if number == 2:
        raise KeyError(number)
    if number == 3:
        bytearray(2**31)
    if number == 4:
        (path.parent / harness.CANARY).touch()

if __name__ == "__main__":
    harness.main(make, read)
"""
    )
    command = [sys.executable, script, "--inputs", "5", "--seconds", "3", "--megabytes", "256"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    ends = [line.partition(": ")[2] for line in result.stdout.splitlines() if line.startswith("input ")]
    assert (result.returncode, ends) == (1, ["crash (-6)", "hang", "KeyError: N", "MemoryError:", "code ran"])
