"""Find and replace stored baselines: results that somebody accepted, in a folder for each environment."""

import getpass
import hashlib
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from stagebench import __version__
from stagebench.core.errors import ResultsError
from stagebench.core.json_files import json_text
from stagebench.core.machine.environment import ADDED, UNKNOWN, differences
from stagebench.core.machine.locks import locked
from stagebench.core.results import NAMING, Accepted, Results, Session, by_name, read_results, write_results

FILE_NAME = "baseline.json"
SHOWN = 10  # names of benchmarks in an error
HISTORY = 20  # earlier acceptances that a baseline remembers; git has the rest


def folder_of(root: Path, identity: Mapping[str, str]) -> Path:
    """Name the folder of an environment: readable, and another one wherever any part of the identity differs."""
    readable = "-".join(identity[key] for key in NAMING)
    slug = re.sub(r"[^a-z0-9.]+", "-", readable.lower()).strip("-")
    kept = {key: value for key, value in identity.items() if ADDED.get(key) != value}  # as it was before these keys
    return root / f"{slug}-{hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]}"


def find(root: Path, identity: Mapping[str, str]) -> Path | None:
    """Find the baseline of this very environment; None without one."""
    path = folder_of(root, identity) / FILE_NAME
    return path if path.is_file() else None


def closest(root: Path, identity: Mapping[str, str]) -> str:
    """Say what the closest baseline of another environment differs in, for lack of one of this."""
    stored = sorted(root.glob(f"*/{FILE_NAME}"))
    try:
        apart = [(path.parent.name, differences(identity, read_results(path)["machine_info"])) for path in stored]
    except ResultsError as error:
        return str(error)
    if not apart:
        return f"{root.name}/ is empty"
    nearest, keys = min(apart, key=lambda each: len(each[1]))
    return f"the closest, {nearest}, differs in {'; '.join(keys)}"


def accept(path: Path, root: Path, reason: str, partial: bool = False) -> Path:
    """Make results, of `pytest benchmarks --benchmark-json`, the baseline of their environment, and return its path.

    The reason is kept in it, with who, when, and what it replaces. Raise ResultsError where the run is empty, was
    interrupted, failed, or got slower than was allowed; and, unless `partial`, where it was of a part of the suite, or
    lacks benchmarks of the baseline that it would replace.
    """
    results = read_results(path)
    _require_acceptable(results, path)
    if not reason.strip():
        raise ResultsError(f"a baseline needs a reason, got {reason!r}")
    target = folder_of(root, results["machine_info"]) / FILE_NAME
    with locked(root):  # no history is lost between reading what is there and replacing it
        replaced = read_results(target) if target.exists() else None
        if not partial:
            _require_whole(results, replaced)
        results["stagebench"]["accepted"] = _acceptance(results, replaced, reason)
        write_results(target, results)
    return target


def _require_acceptable(results: Results, path: Path) -> None:
    own = results["stagebench"]
    status = own["exit_status"] or own.get("final_status", 0)
    only, failures = "a run becomes a baseline only if", f"{own['failed']} failures and pytest's exit status {status}"
    refusals = {
        "a baseline must hold at least one benchmark, got none": not results["benchmarks"],
        f"{only} its work was proven, got --stage-times-only": own.get("times_only"),
        f"a regressed run does not become a baseline, got {', '.join(own['regressed'])}": own["regressed"],
        f"{only} nothing failed, got {failures}": own["failed"] or status,
        f"{only} it came to its end, got one that did not": not own.get("complete", True),  # older ones do not say
    }
    if refused := [said for said, holds in refusals.items() if holds]:
        raise ResultsError(f"{refused[0]} in {path}")


def _require_whole(results: Results, replaced: Results | None) -> None:
    """Refuse results without benchmarks of what they replace, or of a part of the suite, and of another part."""
    there = by_name(replaced) if replaced else {}
    if lost := sorted(there.keys() - by_name(results).keys()):
        raise ResultsError(
            f"the run must hold all benchmarks of the baseline it replaces, or be accepted with --partial, "
            f"got none of {_some(lost)}"
        )
    own = results["stagebench"]
    if own.get("selection") and (replaced is None or _part(own) != _part(replaced["stagebench"])):
        raise ResultsError(
            f"a run of a part of the suite becomes a baseline by --partial, got {'; '.join(own['selection'])}, "
            f"without {_some(own.get('deselected', ())) or 'what that leaves out'}"
        )


def _part(own: Session) -> object:
    """Return which part of the suite results are of; a recording of before says it by its plan alone."""
    return own.get("recording", {}).get("select") or own.get("selection", [])


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def _acceptance(results: Results, replaced: Results | None, reason: str) -> Accepted:
    """Say who accepts results and why, and which results of whose acceptance they replace."""
    before = replaced["stagebench"].get("accepted", {}) if replaced else {}
    sha256 = hashlib.sha256(json_text(replaced).encode()).hexdigest()  # whatever the layout of its file
    latest = {key: before.get(key) for key in ("who", "when", "reason", "commit")}
    return {
        "who": _who(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "reason": reason,
        "commit": _commit(results),
        "version": __version__,
        "replaces": {"commit": _commit(replaced), "sha256": sha256} if replaced else None,
        "history": [latest, *before.get("history", [])][:HISTORY] if replaced else [],
    }


def _commit(results: Results) -> str | None:
    return (results.get("commit_info") or {}).get("id")


def _who() -> str:
    """Return the name that git signs commits with, else the user's."""
    with suppress(OSError, subprocess.CalledProcessError):  # no git, or no name there
        return subprocess.check_output(("git", "config", "user.name"), text=True).strip()  # noqa: S607 # any git
    with suppress(OSError, KeyError):  # a user without a name, as in some containers
        return getpass.getuser()
    return UNKNOWN
