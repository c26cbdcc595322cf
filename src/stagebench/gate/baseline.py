"""Find, replace and drop stored baselines: accepted results, in one folder per environment."""

import getpass
import hashlib
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any

from stagebench import __version__
from stagebench.core.errors import ResultsError
from stagebench.core.json_files import json_text
from stagebench.core.machine.environment import ADDED, UNKNOWN, differences
from stagebench.core.places import Place, place_of
from stagebench.core.results import NAMING, Accepted, Results, Session, by_name, each_read_at, read_results

SHOWN = 10  # names of benchmarks in an error
HISTORY = 20  # earlier acceptances listed in a baseline; git, or the store, has the rest
# In an environment's folder: one file, which is replaced. A store has no locks, so there each acceptance is a new file,
# named by its number and content; simultaneous ones may have the same number.
FILE_NAME, DROPPED = "baseline.json", "dropped.json"
_FILE = re.compile(r"(\d{6}-[0-9a-f]{16}\.)?(baseline|dropped)\.json")


def folder_of(identity: Mapping[str, str]) -> str:
    """Return the folder name of an environment: readable, and different for every different identity."""
    readable = "-".join(identity[key] for key in NAMING)
    slug = re.sub(r"[^a-z0-9.]+", "-", readable.lower()).strip("-")
    kept = {key: value for key, value in identity.items() if ADDED.get(key) != value}  # as before these keys existed
    return f"{slug}-{hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]}"


def _latest(place: Place) -> dict[str, list[str]]:
    """Return by environment the last accepted files in order; the last one counts."""
    files = [name for name in place.names("*/*.json") if _FILE.fullmatch(PurePath(name).name)]
    return {here: [*names][-HISTORY:] for here, names in groupby(files, lambda name: name.partition("/")[0])}


def stored(place: Place) -> dict[str, str]:
    """Return each baseline's file by its environment's folder."""
    return {here: names[-1] for here, names in _latest(place).items() if not names[-1].endswith(DROPPED)}


def each_stored(place: Place) -> dict[str, Results | ResultsError]:
    """Return each baseline, or the error of reading it, by its environment's folder."""
    names = stored(place)
    return dict(zip(names, each_read_at(place, [*names.values()]), strict=True))


def find(place: Place, identity: Mapping[str, str]) -> str | None:
    """Return the baseline's file of exactly this environment; None without one."""
    return stored(place).get(folder_of(identity))


def latest(place: Place, folder: str) -> tuple[list[str], list[Results]]:
    """Return the last files of an environment, and the readable results in them; raise for an unreadable last one."""
    names = _latest(place).get(folder, [])
    found = [*each_read_at(place, names)]
    if found and isinstance(found[-1], ResultsError):
        raise found[-1]
    return names, [results for results in found if not isinstance(results, ResultsError)]


def closest(place: Place, identity: Mapping[str, str]) -> str:
    """Return how the closest baseline of another environment differs, in words."""
    apart = []
    for here, there in each_stored(place).items():
        if isinstance(there, ResultsError):
            return str(there)
        apart.append((here, differences(identity, there["machine_info"])))
    if not apart:
        return f"{str(place).rstrip('/')}/ is empty"
    nearest, keys = min(apart, key=lambda each: len(each[1]))
    return f"the closest, {nearest}, differs in {'; '.join(keys)}"


def accept(path: Path, place: Place | Path | str, reason: str, partial: bool = False) -> Path | str:
    """Make results of `pytest benchmarks --benchmark-json` the baseline of their environment; return its path or URL.

    It records the reason, who, when, and what it replaces. Raise ResultsError where the run is empty, was interrupted,
    failed, or exceeded its limits. Unless `partial`, raise it also where the run covers a part of the suite, or lacks
    benchmarks of the replaced baseline.
    """
    results = read_results(path)
    _require_acceptable(results, path)
    return _store(place_of(place), folder_of(results["machine_info"]), reason, results, partial)


def drop(place: Place, folder: str, reason: str) -> Path | str:
    """Drop an environment's baseline; return where it is kept, with the reason, who and when."""
    return _store(place, folder, reason)


def _store(place: Place, folder: str, reason: str, results: Results | None = None, partial: bool = False) -> Path | str:
    """Replace the baseline of an environment by results, or drop it."""
    if not reason.strip():
        raise ResultsError(f"a baseline needs a reason, got {reason!r}")
    with place.held():  # so that no history is lost between reading and replacing
        names, before = latest(place, folder)
        there = before[-1] if names and not names[-1].endswith(DROPPED) else None
        if results and not partial:
            _require_whole(results, there)
        if not results and not there:
            raise ResultsError(f"a baseline must exist to be dropped, got none of {folder} in {place}")
        kept, kind = (results, FILE_NAME) if results else (before[-1], DROPPED)
        kept["stagebench"]["accepted"] = _acceptance(kept, before, reason) | ({} if results else {"dropped": True})
        text = json_text(kept)
        if place.store:
            number = int(PurePath(names[-1]).name[:6]) if names else 0
            kind = f"{number + 1:06}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.{kind}"
        place.write(f"{folder}/{kind}", text)
        if not place.store:
            (place.folder / folder / (DROPPED if results else FILE_NAME)).unlink(missing_ok=True)
    return place.where(f"{folder}/{kind}")


def _require_acceptable(results: Results, path: Path) -> None:
    own = results["stagebench"]
    status = own["exit_status"] or own.get("final_status", 0)
    only, failures = "a run becomes a baseline only if", f"{own['failed']} failures and pytest's exit status {status}"
    refusals = {
        "a baseline must hold at least one benchmark, got none": not results["benchmarks"],
        f"{only} its work was verified, got --stage-times-only": own.get("times_only"),
        f"a regressed run can't become a baseline, got {', '.join(own['regressed'])}": own["regressed"],
        f"{only} nothing failed, got {failures}": own["failed"] or status,
        f"{only} it is complete, got an interrupted one": not own.get("complete", True),  # absent in older runs
    }
    if refused := [said for said, holds in refusals.items() if holds]:
        raise ResultsError(f"{refused[0]} in {path}")


def _require_whole(results: Results, replaced: Results | None) -> None:
    """Refuse results that lack benchmarks of the replaced ones, or cover a different part of the suite."""
    there = by_name(replaced) if replaced else {}
    if lost := sorted(there.keys() - by_name(results).keys()):
        raise ResultsError(
            f"the run must hold all benchmarks of the baseline it replaces, or be accepted with --partial, "
            f"got none of {_some(lost)}"
        )
    own = results["stagebench"]
    if own.get("selection") and (replaced is None or _part(own) != _part(replaced["stagebench"])):
        raise ResultsError(
            f"a run of a part of the suite needs --partial to become a baseline, got {'; '.join(own['selection'])}, "
            f"without {_some(own.get('deselected', ())) or 'the deselected benchmarks'}"
        )


def _part(own: Session) -> object:
    """Return the part of the suite that results cover; older recordings have it in their plan alone."""
    return own.get("recording", {}).get("select") or own.get("selection", [])


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def _acceptance(results: Results, before: Sequence[Results], reason: str) -> Accepted:
    """Return who accepts results and why, and which results they replace."""
    replaced = before[-1] if before else None
    sha256 = hashlib.sha256(json_text(replaced).encode()).hexdigest()  # independent of its file's layout
    return {
        "who": _who(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "reason": reason,
        "commit": _commit(results),
        "version": __version__,
        "replaces": {"commit": _commit(replaced), "sha256": sha256} if replaced else None,
        "history": history(before)[:HISTORY],
    }


def history(kept: Sequence[Results]) -> list[dict[str, Any]]:
    """Return who accepted or dropped what, when and why, from the last accepted files, the latest first."""
    accepted = [results["stagebench"].get("accepted", {}) for results in reversed(kept)]
    keys = "who", "when", "reason", "commit", "dropped"
    latest = [{key: each.get(key) for key in keys if key in each or key != "dropped"} for each in accepted]
    found = [*latest, *(entry for each in accepted for entry in each.get("history", []))]
    return [entry for place, entry in enumerate(found) if entry not in found[:place]]


def _commit(results: Results) -> str | None:
    return (results.get("commit_info") or {}).get("id")


def _who() -> str:
    """Return git's user name, else the system's."""
    with suppress(OSError, subprocess.CalledProcessError):  # no git, or no name in it
        return subprocess.check_output(("git", "config", "user.name"), text=True).strip()  # noqa: S607 # any git
    with suppress(OSError, KeyError):  # a user without a name, as in some containers
        return getpass.getuser()
    return UNKNOWN
