"""The raw samples of a study, written down one by one: a kill loses at most the one in hand. Importable without torch.

A run folder holds `run.json` (what the run is, and each time it was worked on) and `samples.jsonl`, to which lines are
only ever added.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stagebench.analysis.samples import require_row
from stagebench.core.errors import ExperimentError
from stagebench.core.json_files import parse_json, read_bytes, read_json, write_json
from stagebench.core.results import SCHEMAS, versioned

RUN_FILE = "run.json"
SAMPLES_FILE = "samples.jsonl"
KEY = ("study", "value", "model", "sample", "mode", "pass")
"""What makes two lines the same measurement."""

Row = dict[str, Any]
Key = tuple[Any, ...]


def key_of(row: Mapping[str, Any]) -> Key:
    """What a line is the measurement of."""
    return tuple(row.get(name) for name in KEY)


def read_run(folder: Path) -> dict[str, Any]:
    """Read `run.json`.

    Raises:
        ExperimentError: where it is missing or damaged, or of another stagebench.
    """
    path = folder / RUN_FILE
    run = read_json(path, f"the run {path}", ExperimentError)
    parts = {"identity": dict, "plan": dict, "sessions": list}
    if not isinstance(run, dict) or not all(isinstance(run.get(name), kind) for name, kind in parts.items()):
        raise ExperimentError(f"the run {path} must have an identity, a plan and sessions, got something else")
    if run.get("schema") != SCHEMAS["samples"]:
        raise ExperimentError(f"the run {path} must have schema {SCHEMAS['samples']}, got {run.get('schema')!r}")
    return run


def read_samples(folder: Path) -> list[Row]:
    """Read the lines, of which the last may have been cut off by a kill.

    Raises:
        ExperimentError: where the file can't be read, or an earlier line is damaged.
    """
    return _parse(folder / SAMPLES_FILE)[0]


class Journal:
    """A run folder that is being worked on, by one process at a time.

    Attributes:
        run: what `run.json` holds.
        rows: the lines so far.
    """

    def __init__(self, folder: Path, identity: dict[str, str], plan: dict[str, Any]) -> None:
        """Begin a run, or take up one that was interrupted. One that ended before its first line is begun anew.

        Args:
            folder: made where it is missing.
            identity: what the times depend on, and what is measured; it must be that of a run which is there already.
            plan: what a reader wants to know of it, kept as it is.

        Raises:
            ExperimentError: where the folder is in use, or belongs to another run: every key that differs is named.
        """
        self._folder = folder
        self._file = self._locked(folder)
        try:
            self.rows, end = _parse(folder / SAMPLES_FILE)
            self.run: dict[str, Any] = versioned("samples", {"identity": identity, "plan": plan, "sessions": []})
            if (folder / RUN_FILE).exists():
                there = read_run(folder)  # also where it is replaced: a file that is no run of ours is not
                if self.rows:
                    _require_same(folder, there["identity"], identity)
                    self.run = there
            self._file.truncate(end)  # half a line, or one that a kill left without its end
            self._done = {key_of(row) for row in self.rows}
        except BaseException:
            self._file.close()
            raise

    def begin_session(self, session: dict[str, Any]) -> None:
        """Note under which conditions the coming lines are made."""
        self.run["sessions"].append(session)
        self.save_run()

    def save_run(self) -> None:
        """Write `run.json`, after a session has learnt something."""
        write_json(self._folder / RUN_FILE, self.run)

    def has(self, key: Key) -> bool:
        """Whether this has been measured, or has failed."""
        return key in self._done

    def append(self, row: Row) -> None:
        """Write a line, and wait until it is on the disk."""
        if self.has(key_of(row)):
            raise ExperimentError(f"a sample is measured once, got {key_of(row)} twice")
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows.append(row)
        self._done.add(key_of(row))

    @staticmethod
    def _locked(folder: Path) -> Any:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / SAMPLES_FILE).open("ab")
        except OSError as error:
            raise ExperimentError(f"can't write to {folder}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise ExperimentError(f"only one run at a time may write to {folder}, got a second") from error
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _parse(path: Path) -> tuple[list[Row], int]:
    """The whole lines of a file, and where the last one ends, in bytes."""
    data = read_bytes(path, f"the samples {path}", ExperimentError)
    end = data.rfind(b"\n") + 1
    rows = []
    for number, line in enumerate(data[:end].splitlines(), 1):
        try:
            rows.append(parse_json(line))
        except ValueError as error:
            raise ExperimentError(f"{path}:{number} must be JSON, got: {error}") from error
        if not isinstance(rows[-1], dict):
            raise ExperimentError(f"{path}:{number} must be an object, got {type(rows[-1]).__name__}")
        require_row(rows[-1], f"{path}:{number}", ExperimentError, whole=False)
    return rows, end


def _require_same(folder: Path, there: dict[str, str], here: dict[str, str]) -> None:
    differing = [
        f"{key}: {there.get(key, 'absent')!r} there, {here.get(key, 'absent')!r} here"
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    ]
    if differing:
        raise ExperimentError(f"{folder} holds another run, so it is not resumed: {'; '.join(differing)}")
