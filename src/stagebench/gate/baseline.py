"""Stored baselines: pytest-benchmark's own JSON, one folder for each comparable environment."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stagebench import __version__
from stagebench.core.environment import ADDED, UNKNOWN
from stagebench.core.errors import BaselineError
from stagebench.core.json_files import write_json
from stagebench.core.results import read_run

FILE_NAME = "baseline.json"
INEXACT = ("peak_bytes", "bytes_from_files")
"""Counters that depend on what ran before in the same process, or on what libraries look up."""
SHOWN = 10
"""How many names of benchmarks an error holds."""
HISTORY = 20
"""How many earlier acceptances a baseline remembers; git has the rest."""


def folder_of(root: Path, identity: dict[str, str]) -> Path:
    """Name the folder of an environment: readable, and another one wherever any part of the identity differs."""
    readable = "-".join(identity[key] for key in ("device", "profile", "dtype"))
    slug = re.sub(r"[^a-z0-9.]+", "-", readable.lower()).strip("-")
    told = {key: value for key, value in identity.items() if ADDED.get(key) != value}  # as it was before these keys
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
    return root / f"{slug}-{digest}"


def find(root: Path, identity: dict[str, str]) -> Path | None:
    """Find the baseline of this very environment, or None where there is none yet."""
    path = folder_of(root, identity) / FILE_NAME
    return path if path.is_file() else None


def closest(root: Path, identity: dict[str, str]) -> str:
    """Say what the closest baseline of another environment differs in, where there is none of this one."""
    apart: dict[str, list[str]] = {}
    for path in sorted(root.glob(f"*/{FILE_NAME}")):
        try:
            apart[path.parent.name] = differences(identity, read_run(path)["machine_info"])
        except BaselineError as error:
            return str(error)
    if not apart:
        return f"{root.name}/ is empty"
    nearest = min(apart, key=lambda name: len(apart[name]))
    return f"the closest, {nearest}, differs in {'; '.join(apart[nearest])}"


def differences(identity: dict[str, str], other: dict[str, str]) -> list[str]:
    """Say what makes two environments incomparable, a phrase a key; empty where they are comparable."""
    identity, other = ADDED | identity, ADDED | other
    keys = sorted(identity.keys() | other.keys())
    return [
        f"{key}: {identity.get(key, 'absent')!r} here, {other.get(key, 'absent')!r} there"
        for key in keys
        if identity.get(key) != other.get(key) or identity.get(key) == UNKNOWN
    ]


def work_differences(benchmarks: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which benchmarks do other work than in the baseline: then their times do not compare.

    Args:
        benchmarks: of this run, with `fullname` and `extra_info`.
        baseline: likewise.
    """
    stored = {b["fullname"]: b.get("extra_info", {}).get("work", {}) for b in baseline}
    lines = []
    for benchmark in benchmarks:
        before, now = stored.get(benchmark["fullname"]), benchmark.get("extra_info", {}).get("work", {})
        if not isinstance(now, Mapping):
            lines.append(f"{benchmark['fullname'].split('::')[-1]}: work must be counters, got {now!r:.40}")
        elif before is not None and _exact(before) != _exact(_named(now, before)):
            lines.append(f"{benchmark['fullname'].split('::')[-1]}: {_exact(before)} there, {_exact(now)} here")
    return lines


def _named(work: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """The counters that an older run has too: what is counted since says nothing of it."""
    return {
        k: _named(v, names[k]) if isinstance(v, Mapping) and isinstance(names[k], Mapping) else v
        for k, v in work.items()
        if k in names
    }


def _exact(work: Mapping[str, Any]) -> dict[str, Any]:
    """The counters that repeat exactly; nested ones (of e2e, by stage) likewise."""
    return {k: _exact(v) if isinstance(v, Mapping) else v for k, v in work.items() if k not in INEXACT}


def require_comparable(identity: dict[str, str], path: Path, other: dict[str, Any]) -> None:
    """Refuse a baseline of another environment.

    Raises:
        BaselineError: naming every key that differs.
    """
    if differing := differences(identity, other):
        raise BaselineError(f"not comparable with {path}: {'; '.join(differing)}")


def accept(run_path: Path, root: Path, reason: str, partial: bool = False) -> Path:
    """Make a run the baseline of its environment.

    Args:
        run_path: what `pytest benchmarks --benchmark-json` wrote.
        root: the folder of all baselines.
        reason: why; kept in the file, with who, when, and what it replaces.
        partial: take a run of a part of the suite, also where it lacks benchmarks of the baseline that it replaces.

    Returns:
        The baseline's path.

    Raises:
        BaselineError: where the run is empty, was interrupted, failed, got slower than was allowed, was of a part of
            the suite, or lacks benchmarks of the baseline that it would replace.
    """
    run = read_run(run_path)
    _require_acceptable(run, run_path)
    if not reason.strip():
        raise BaselineError(f"a baseline needs a reason, got {reason!r}")
    target = folder_of(root, run["machine_info"]) / FILE_NAME
    with _locked(root):
        replaced = read_run(target) if target.exists() else None
        if not partial:
            _require_whole(run, replaced)
        run["stagebench"]["accepted"] = _acceptance(run, reason) | {
            "replaces": _replaced(replaced, target) if replaced else None,
            "history": _history(replaced) if replaced else [],
        }
        write_json(target, run)
    return target


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one acceptance at a time read and replace what is there, so that no history is lost between the two."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise BaselineError(f"can't write to {folder}: {error.strerror}") from error
    try:
        with contextlib.suppress(OSError):  # a file system without such locks refuses nobody
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _require_whole(run: Mapping[str, Any], replaced: Mapping[str, Any] | None) -> None:
    """Refuse a run that lacks benchmarks of what it replaces, or was of a part of the suite, and of another part."""
    names = {b["fullname"] for b in run["benchmarks"]}
    if lost := sorted({b["fullname"] for b in replaced["benchmarks"]} - names if replaced else ()):
        raise BaselineError(
            f"the run must hold all benchmarks of the baseline it replaces, or be accepted with --partial, "
            f"got none of {_some(lost)}"
        )
    own = run["stagebench"]
    if own.get("selection") and (replaced is None or _part(own) != _part(replaced["stagebench"])):
        raise BaselineError(
            f"a run of a part of the suite becomes a baseline by --partial, got {'; '.join(own['selection'])}, "
            f"without {_some(own.get('deselected', ())) or 'what that leaves out'}"
        )


def _part(own: Mapping[str, Any]) -> object:
    """Which part of the suite a run is of; a recording of before says it by its plan alone."""
    return own.get("recording", {}).get("select") or own.get("selection", [])


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def _acceptance(run: Mapping[str, Any], reason: str) -> dict[str, Any]:
    return {
        "who": _who(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "reason": reason,
        "commit": run.get("commit_info", {}).get("id"),
        "version": __version__,
    }


def _replaced(baseline: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What tells the replaced baseline from any other, also where two were made of one commit."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"commit": baseline.get("commit_info", {}).get("id"), "sha256": digest}


def _history(replaced: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Who accepted the baselines before this one, the latest first."""
    accepted = replaced["stagebench"].get("accepted", {})
    latest = {key: accepted.get(key) for key in ("who", "when", "reason", "commit")}
    return [latest, *accepted.get("history", [])][:HISTORY]


def _who() -> str:
    """The name that git signs commits with, else the user's."""
    with contextlib.suppress(OSError):  # no git
        command = ("git", "config", "user.name")
        asked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 # a constant
        if name := asked.stdout.strip():
            return name
    with contextlib.suppress(OSError, KeyError):  # a user without a name, as in some containers
        return getpass.getuser()
    return UNKNOWN


def _require_acceptable(run: dict[str, Any], path: Path) -> None:
    own = run["stagebench"]
    if not run["benchmarks"]:
        raise BaselineError(f"a baseline must hold at least one benchmark, got none in {path}")
    if own.get("times_only"):
        raise BaselineError(f"a run becomes a baseline only if its work was proven, got --times-only in {path}")
    if own["regressed"]:
        raise BaselineError(f"a regressed run does not become a baseline, got {', '.join(own['regressed'])} in {path}")
    status = own["exit_status"] or own.get("final_status", 0)
    if own["failed"] or status:
        raise BaselineError(
            f"a run becomes a baseline only if nothing failed, got {own['failed']} failures "
            f"and pytest's exit status {status} in {path}"
        )
    if own.get("complete", True) is not True:  # those of before say nothing of it
        raise BaselineError(f"a run becomes a baseline only if it came to its end, got one that did not in {path}")
