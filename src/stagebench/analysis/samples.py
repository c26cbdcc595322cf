"""The raw samples of an analysis: one JSON line a sample, model and pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stagebench.analysis.attribution import UNATTRIBUTED, Costs, mean_of
from stagebench.core.checks import (
    COUNT,
    COUNTS,
    NUMBER,
    OBJECT,
    POSITIVE,
    SPREAD,
    SPREADS,
    TEXT,
    TIME,
    Check,
    check,
    is_count,
    is_text,
    or_none,
)
from stagebench.core.errors import AnalysisError, StagebenchError
from stagebench.core.json_files import parse_json, read_bytes
from stagebench.core.stages import STAGE_NAMES

Row = Mapping[str, Any]
"""`model`, `sample`, `sequence`, `mode` (natural or fixed), `order`, `seconds` by stage, `unattributed`, `e2e`, `ttft`,
`tpot` where it has a meaning, `itl`, `tokens`, `token_ids`, `finish_reason`, `text`, `work` by stage, `peak_bytes` by
stage and `near_ties` (steps) where known, `load` (cold or warm). Times in seconds."""
REQUIRED = frozenset({"model", "sample", "seconds", "e2e", "tokens"})
_NAME: Check = (lambda value: is_text(value) or is_count(value), "a text or a whole number")
_SECONDS = dict.fromkeys(STAGE_NAMES, SPREAD)
_NOTED = {
    **dict.fromkeys(("model", "mode", "study", "path", "load", "finish_reason", "text", "not_cold", "error"), TEXT),
    **dict.fromkeys(("sample", "sequence"), _NAME),
    **dict.fromkeys(("order", "pass"), COUNT),
    **dict.fromkeys(("seconds", "work", "peak_bytes"), OBJECT),
    "value": or_none(SPREAD),
    "e2e": TIME,
    "ttft": SPREAD,
    "tpot": or_none(SPREAD),
    "itl": SPREADS,
    "unattributed": NUMBER,
    "cold_load": SPREAD,
    "tokens": POSITIVE,
    "token_ids": COUNTS,
}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines. A last line that was cut off, as a kill leaves it, is left out, and so are samples that failed.

    Raises:
        AnalysisError: where the file can't be read, or another line is no row.
    """
    *lines, last = read_bytes(path, f"the samples {path}", AnalysisError).split(b"\n")
    rows = [_row(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]
    with suppress(AnalysisError):
        rows.append(_row(last, str(path)))
    return [row for row in rows if "error" not in row]


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row: Any = parse_json(line)
    except ValueError as error:
        raise AnalysisError(f"{where} must be JSON, got: {error}") from error
    if not isinstance(row, dict):
        raise AnalysisError(f"{where} must be an object, got {type(row).__name__}")
    if "error" not in row:
        require_row(row, where)
    return row


def require_row(row: Row, where: str, error_type: type[StagebenchError] = AnalysisError) -> None:
    """Check that a row has what every analysis needs, and that every number is one.

    Raises:
        error_type: naming what is missing, or is something else.
    """
    if missing := sorted(REQUIRED - row.keys()):
        raise error_type(f"{where} must have {', '.join(sorted(REQUIRED))}, got no {', '.join(missing)}")
    require_noted(row, where, error_type)
    if missing := [stage for stage in STAGE_NAMES if stage not in row["seconds"]]:
        raise error_type(f"{where} must have the seconds of every stage, got none of {', '.join(missing)}")
    check(row["seconds"], _SECONDS, f"{where}: seconds", error_type)
    check(row.get("peak_bytes", {}), dict.fromkeys(STAGE_NAMES, COUNT), f"{where}: peak_bytes", error_type)


def require_noted(row: Row, where: str, error_type: type[StagebenchError]) -> None:
    """Check the keys that are there, as of a sample that failed.

    Raises:
        error_type: naming the first that is something else.
    """
    check(row, _NOTED, where, error_type)


def select(rows: Iterable[Row], **wanted: str) -> list[Row]:
    """The rows whose keys have these values: `select(rows, model="eventgpt", mode="natural", load="warm")`."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def sequences(rows: Iterable[Row]) -> dict[str, str]:
    """Which sequence each sample is cut from; a sample that names none is one of its own."""
    return {str(row["sample"]): str(row.get("sequence") or row["sample"]) for row in rows}


def costs_of(row: Row) -> Costs:
    """The costs of one pass; they add up to its `e2e`."""
    parts = {stage: row["seconds"][stage] for stage in STAGE_NAMES if stage != "decode"}
    explained = sum(parts.values()) + row["seconds"]["decode"]
    return Costs(row["model"], parts | {UNATTRIBUTED: row["e2e"] - explained}, row["tokens"], row["seconds"]["decode"])


def costs_by_sample(rows: Sequence[Row]) -> dict[str, Costs]:
    """The costs of each sample of one model, averaged over its passes."""
    passes: dict[str, list[Costs]] = {}
    for row in rows:
        passes.setdefault(str(row["sample"]), []).append(costs_of(row))
    return {sample: mean_of(costs) for sample, costs in passes.items()}
