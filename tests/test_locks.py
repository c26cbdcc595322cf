"""One measurement at a time, and folders that one process holds."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest
from click.testing import CliRunner

from stagebench.cli import main
from stagebench.core.errors import BusyError
from stagebench.core.machine import environment, locks

MEASURING = """
import time
from stagebench.core.machine.locks import measurement
with measurement(print):
    print("measures", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """The file of a machine's lock that nobody holds."""
    monkeypatch.setenv(locks.FOLDER, str(tmp_path))
    return tmp_path / "stagebench.lock"


@pytest.fixture
def other(machine):
    """Another process that measures."""
    process = subprocess.Popen([sys.executable, "-c", MEASURING, "an argument"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "measures\n"
    yield process
    process.kill()
    process.communicate()


def measure():
    said = []
    with locks.measurement(said.append):
        pass
    return said


def test_a_second_measurement_is_refused_and_the_first_one_named(other):
    expected = "one measurement at a time may run here, got a second beside process {} (stagebench an argument)"
    with pytest.raises(BusyError) as refusal:
        measure()
    assert str(refusal.value) == expected.format(other.pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_has_ended_in_any_way_holds_nothing(other, number):
    other.send_signal(number)
    other.wait()
    assert (measure(), locks.beside()) == ([], None)


def test_one_measurement_comes_after_the_other(machine):
    assert (measure(), measure(), machine.read_text(), locks.WITHIN in os.environ) == ([], [], "", False)


def test_what_a_measurement_starts_is_part_of_it(machine):
    with locks.measurement(print):
        code = "from stagebench.core.machine import locks\nwith locks.measurement(print): print(locks.beside())"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "None\n"


def test_a_run_beside_a_measurement_is_warned(other):
    assert f"another measurement is running, by process {other.pid} " in environment.load_warning()


def test_looking_for_another_measurement_disturbs_none(machine):
    assert (locks.beside(), measure(), locks.beside()) == (None, [], None)


def test_a_note_of_strangers_is_shown_in_one_clean_line(other, machine):
    machine.write_bytes(b"\x1b[31m\nred\xff" + b"x" * 10**6)
    with pytest.raises(BusyError, match=r"beside \?\[31m\?red\ufffdx{190}$"):
        measure()


def test_analyze_is_refused_beside_another_measurement_and_leaves_nothing(other, tmp_path):
    said = CliRunner().invoke(main, ["analyze", "--device", "cpu", "--out", str(tmp_path / "out")])
    assert (said.exit_code, len(said.stderr.splitlines())) == (2, 1)
    assert f"got a second beside process {other.pid}" in said.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["missing", "folder", "link", "file"])
def test_a_lock_that_cannot_be_had_costs_a_warning(kind, machine, tmp_path, monkeypatch):
    if kind == "missing":
        monkeypatch.setenv(locks.FOLDER, str(tmp_path / "nowhere"))
    elif kind == "folder":
        machine.mkdir()
    elif kind == "link":
        machine.symlink_to(tmp_path / "elsewhere")
    else:
        monkeypatch.setenv(locks.FOLDER, "/dev/null")
    (said,) = measure()
    assert said.startswith("can't tell whether another measurement is running, ")


def test_every_user_may_lock_the_machine(machine):
    before = os.umask(0o077)
    try:
        measure()
    finally:
        os.umask(before)
    assert machine.stat().st_mode & 0o777 == 0o666


def test_a_folder_is_held_by_one_and_goes_when_it_is_empty(tmp_path):
    with locks.locked(tmp_path / "a" / "b", "") as folder:
        with (
            pytest.raises(BusyError, match=r"^a folder must be free, got .*b$"),
            locks.locked(folder, "a folder must be free"),
        ):
            pass
        assert folder.is_dir()
    assert not folder.exists()


def test_a_folder_with_something_in_it_stays(tmp_path):
    with locks.locked(tmp_path / "a", "") as folder:
        (folder / "file").touch()
    assert (folder / "file").exists()


def test_scratch_of_a_killed_process_is_removed_by_the_next_and_that_of_a_living_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{locks.SCRATCH}left"
    left.mkdir()
    (left / "clip.mp4").touch()
    (tmp_path / "another").mkdir()
    with locks.scratch_folder() as first:
        (first / "clip.mp4").touch()
        with locks.scratch_folder() as second:
            assert {path.name for path in tmp_path.iterdir()} == {"another", first.name, second.name}
            assert (first / "clip.mp4").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["another"]
