"""A small part of the fuzzing of recordings; `tests/fuzz/events.py` does the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def test_damaged_recordings_are_read_or_refused_and_run_no_code() -> None:
    for library in ("faery", "h5py", "hdf5plugin", "lz4", "zstandard"):
        pytest.importorskip(library)
    script = Path(__file__).parent / "fuzz" / "events.py"

    done = subprocess.run([sys.executable, script, "--inputs", "300"], capture_output=True, text=True, check=False)

    assert (done.returncode, "300 inputs, 0 failed" in done.stdout) == (0, True), done.stdout
