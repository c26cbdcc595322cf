"""A run folder as a report reads it: everything that it shows is there, and is what it should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from stagebench.analysis.experiments.sample_log import RUN_FILE, SAMPLES_FILE, read_run, read_samples
from stagebench.analysis.experiments.schedule import DURATIONS, MAIN, MODES, NEW_TOKENS
from stagebench.analysis.samples import Row, require_row
from stagebench.core.checks import Count, Flag, Must, Object, Spread, Text, Time, Work, check
from stagebench.core.errors import ExperimentError
from stagebench.core.stages import STAGE_NAMES

KEYS = ("study", "mode", "ttft", "finish_reason", "text", "token_ids")
"""Of a row, beside those that every analysis needs."""
_PAIR = Annotated[list[str], Must(lambda v: isinstance(v, list) and [*map(type, v)] == [str, str], "a pair of texts")]
_IDENTITY = dict.fromkeys(("input", "generation", "media", "loading", "order_seed", "models", "device"), Text)
_PLAN = dict.fromkeys(("passes", "samples", "sequences"), Count) | dict.fromkeys(("broken", "skipped"), list[Object])
_PROBLEM = {"name": Text, "reason": Text}
_CEILINGS = {"flops": Time, "bandwidth": Time, "bandwidth_kind": Text}
_SESSION = {
    "started": Text,
    "load_warning": Text | None,
    "ceilings": _CEILINGS,
    "together": Flag | None,
    "proofs": Object,
    "same_tokens": list[_PAIR],
}
_PROOF = {"seconds": Spread, "sample": Text, "work": Work, "bytes": Work}


def read_stored(folder: Path) -> tuple[dict[str, Any], Sequence[Row]]:
    """Read a run and its samples.

    Raises:
        ExperimentError: naming what is missing, or is something else.
    """
    run, rows = read_run(folder), read_samples(folder)
    _require_run(run, f"the run {folder / RUN_FILE}")
    for number, row in enumerate(rows, 1):
        where = f"{folder / SAMPLES_FILE}:{number}"
        if "error" in row:
            _require(row, ("model", "sample"), where)
            continue
        require_row(row, where, ExperimentError)
        _require(row, KEYS, where)
        if row["study"] not in (MAIN, DURATIONS, NEW_TOKENS) or row["mode"] not in MODES:
            raise ExperimentError(f"{where} must be of a known study and mode, got {row['study']!r}, {row['mode']!r}")
        if row["study"] != MAIN and not row.get("value"):
            raise ExperimentError(f"{where} must have the value that its study varies, got {row.get('value')!r}")
    return run, rows


def _require_run(run: Mapping[str, Any], where: str) -> None:
    check(run["identity"], dict.fromkeys(run["identity"], Text) | _IDENTITY, f"{where}: identity", ExperimentError)
    check(run["plan"], _PLAN, f"{where}: plan", ExperimentError)
    for problem in (*run["plan"]["broken"], *run["plan"]["skipped"]):
        check(problem, _PROBLEM, f"{where}: plan", ExperimentError)
    if not run["sessions"]:
        raise ExperimentError(f"{where} must have at least one session, got none")
    for session in run["sessions"]:
        check(session, _SESSION, f"{where}: a session", ExperimentError)
        for proofs in session["proofs"].values():
            _require_proofs(proofs, f"{where}: proofs")


def _require_proofs(proofs: Any, where: str) -> None:
    if not isinstance(proofs, dict) or not proofs:
        raise ExperimentError(f"{where} must be by mode, got {type(proofs).__name__}")
    for proof in proofs.values():
        check(proof, _PROOF, where, ExperimentError)
        check(proof["work"], dict.fromkeys(STAGE_NAMES, Object), f"{where}: work", ExperimentError)
        for stage in STAGE_NAMES:
            _require(proof["work"][stage], ("flops",) if stage in ("encode", "prefill", "decode") else (), where)
        check(proof["bytes"], dict.fromkeys(STAGE_NAMES, Object), f"{where}: bytes", ExperimentError, whole=False)


def _require(data: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    if missing := [key for key in keys if key not in data]:
        raise ExperimentError(f"{where} must have {', '.join(keys)}, got no {', '.join(missing)}")
