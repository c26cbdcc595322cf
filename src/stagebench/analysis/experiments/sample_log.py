"""The log of an experiment, written line by line: a kill loses at most the pass in hand. Importable without torch."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stagebench.analysis.samples import RUN_FILE, SAMPLES_FILE, ExperimentRun, SampleLine, parse_samples, read_run
from stagebench.core.errors import AnalysisError
from stagebench.core.json_files import read_bytes, write_json
from stagebench.core.machine.environment import differences
from stagebench.core.machine.locks import locked
from stagebench.core.results import versioned

KEY = ("study", "value", "model", "sample", "mode", "pass")  # what makes two lines the same measurement

Key = tuple[Any, ...]


def key_of(line: Mapping[str, Any]) -> Key:
    """Return what a line is the measurement of."""
    return tuple(line.get(name) for name in KEY)


class SampleLog:
    """The folder of an experiment that is being worked on, by one process at a time, as `open_log` finds it."""

    def __init__(self, folder: Path, file: Any, run: ExperimentRun, lines: list[SampleLine]) -> None:
        self.run, self.lines = run, lines
        self._folder, self._file = folder, file
        self._done = {key_of(line) for line in lines}

    def begin_session(self, session: dict[str, Any]) -> None:
        """Note under which conditions the coming lines are made."""
        self.run["sessions"].append(session)
        self.save_run()

    def save_run(self) -> None:
        """Write `run.json`, after a session has learnt something."""
        write_json(self._folder / RUN_FILE, self.run)

    def has(self, key: Key) -> bool:
        """Return whether this has been measured, or has failed."""
        return key in self._done

    def append(self, line: SampleLine) -> None:
        """Write a line, and wait until it is on the disk."""
        if self.has(key_of(line)):
            raise AnalysisError(f"a sample is measured once, got {key_of(line)} twice")
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.lines.append(line)
        self._done.add(key_of(line))


@contextmanager
def open_log(folder: Path, identity: dict[str, str], plan: dict[str, Any]) -> Iterator[SampleLog]:
    """Begin an experiment in a folder, or take up one that was interrupted after its first line.

    The identity is what the times depend on, and what is measured; the plan is kept as it is. Raise AnalysisError where
    the folder is in use, is damaged, or belongs to a run of another identity: every key that differs is named.
    """
    path = folder / SAMPLES_FILE
    with locked(folder, "only one run at a time may write to a folder"), path.open("ab") as file:
        data = read_bytes(path, f"the samples {path}", AnalysisError)
        end = data.rfind(b"\n") + 1
        lines = parse_samples(data[:end], str(path))
        run: Any = versioned("samples", {"identity": identity, "plan": plan, "sessions": []})
        if (folder / RUN_FILE).exists():
            there = read_run(folder)  # also where it is replaced: a file that is no run of ours is not
            if lines and there["identity"] != identity:
                apart = "; ".join(differences(identity, there["identity"]))
                raise AnalysisError(f"{folder} holds another run, so it is not resumed: {apart}")
            run = there if lines else run
        file.truncate(end)  # half a line, or one that a kill left without its end
        yield SampleLog(folder, file, run, lines)
