"""Stored baselines: pytest-benchmark's own JSON, one folder for each comparable environment."""

from __future__ import annotations

import hashlib
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stagebench import __version__
from stagebench.errors import BaselineError

SCHEMA = 1
FILE_NAME = "baseline.json"


def folder_of(root: Path, identity: dict[str, str]) -> Path:
    """Name the folder of an environment: readable, and another one wherever any part of the identity differs."""
    readable = "-".join(identity[key] for key in ("device", "profile", "dtype"))
    slug = re.sub(r"[^a-z0-9.]+", "-", readable.lower()).strip("-")
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return root / f"{slug}-{digest}"


def find(root: Path, identity: dict[str, str]) -> Path | None:
    """Find the baseline of this very environment, or None where there is none yet."""
    path = folder_of(root, identity) / FILE_NAME
    return path if path.is_file() else None


def read_run(path: Path) -> dict[str, Any]:
    """Read a run that `pytest benchmarks --benchmark-json` wrote, or a baseline made of one.

    Raises:
        BaselineError: where the file is missing, is no such run, or was written by a newer stagebench.
    """
    try:
        run: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaselineError(f"can't read the run {path}: {error.strerror}") from error
    except ValueError as error:
        raise BaselineError(f"the run {path} must be JSON, got: {error}") from error
    own = run.get("stagebench") if isinstance(run, dict) else None
    if not isinstance(run, dict) or not isinstance(own, dict) or not isinstance(run.get("machine_info"), dict):
        raise BaselineError(f"the run {path} must be written by stagebench's pytest plugin, got none of its keys")
    if own.get("schema") != SCHEMA:
        raise BaselineError(f"the run {path} must have schema {SCHEMA}, got {own.get('schema')!r}")
    return run


def differences(identity: dict[str, str], other: dict[str, str]) -> list[str]:
    """Say what makes two environments incomparable, a phrase a key; empty where they are comparable."""
    keys = sorted(identity.keys() | other.keys())
    return [
        f"{key}: {identity.get(key, 'absent')!r} here, {other.get(key, 'absent')!r} there"
        for key in keys
        if identity.get(key) != other.get(key)
    ]


def require_comparable(identity: dict[str, str], path: Path, other: dict[str, Any]) -> None:
    """Refuse a baseline of another environment.

    Raises:
        BaselineError: naming every key that differs.
    """
    if differing := differences(identity, other):
        raise BaselineError(f"not comparable with {path}: {'; '.join(differing)}")


def accept(run_path: Path, root: Path, reason: str) -> Path:
    """Make a run the baseline of its environment.

    Args:
        run_path: what `pytest benchmarks --benchmark-json` wrote.
        root: the folder of all baselines.
        reason: why; kept in the file.

    Returns:
        The baseline's path.

    Raises:
        BaselineError: where the run is empty, or a benchmark in it failed.
    """
    run = read_run(run_path)
    if not run["benchmarks"]:
        raise BaselineError(f"a baseline must hold at least one benchmark, got none in {run_path}")
    if failed := run["stagebench"]["failed"]:
        raise BaselineError(f"a run becomes a baseline only if nothing failed, got {failed} failures in {run_path}")
    target = folder_of(root, run["machine_info"]) / FILE_NAME
    run["stagebench"]["accepted"] = {
        "reason": reason,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "replaces": read_run(target)["commit_info"].get("id") if target.exists() else None,
    }
    write_json(target, run)
    return target


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that nobody ever sees half of it: to a temporary file beside it, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
