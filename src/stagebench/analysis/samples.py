"""The raw samples of an analysis: one JSON line a sample, model and pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Required, TypedDict

from stagebench.analysis.attribution import UNATTRIBUTED, Costs, mean_of
from stagebench.core.checks import Count, Number, Object, Positive, Spread, Text, Time, check
from stagebench.core.errors import AnalysisError, StagebenchError
from stagebench.core.json_files import parse_json, read_bytes
from stagebench.core.stages import STAGE_NAMES

Row = Mapping[str, Any]
"""A `Sample`, with what else was noted of it."""

Name = Text | Count
_Pass = TypedDict("_Pass", {"pass": Count}, total=False)


class Sample(_Pass, total=False):
    """One pass of one model over one sample; times in seconds, `work` and `peak_bytes` by stage.

    `mode` is natural or fixed, `load` is cold or warm, `tpot` is there where it has a meaning.
    """

    model: Required[Text]
    sample: Required[Name]
    seconds: Required[dict[str, Spread]]
    e2e: Required[Time]
    tokens: Required[Positive]
    sequence: Name
    mode: Text
    study: Text
    path: Text
    load: Text
    finish_reason: Text
    text: Text
    not_cold: Text
    error: Text
    order: Count
    value: Spread | None
    ttft: Spread
    tpot: Spread | None
    itl: list[Spread]
    unattributed: Number
    cold_load: Spread
    token_ids: list[Count]
    work: Object
    peak_bytes: dict[str, Count]


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


def require_row(row: Row, where: str, error_type: type[StagebenchError] = AnalysisError, whole: bool = True) -> None:
    """Check that a row is a `Sample`; one that failed need not be `whole`.

    Raises:
        error_type: naming what is missing, or is something else.
    """
    check(row, Sample, where, error_type, whole)
    check(row.get("seconds", {}), dict.fromkeys(STAGE_NAMES, Spread), f"{where}: seconds", error_type, whole)


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
