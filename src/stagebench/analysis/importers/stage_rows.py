"""Rows of one sample each, as the scripts around EventGPT write them.

    [{"id": ..., "egpt_time": ..., "egpt_stage1_time": ..., "egpt_stage2_time": ..., "egpt_stage3_time": ...,
      "egpt_token_ids": [...], "llava_stage1_time": ..., ...}, ...]

What stands before `_stage1_time` names a model. Three stages are load, preprocess and generation; a fourth takes encode
out of the generation, and a fifth prefill too. Rows may be the `results` of an object, and what belongs to a model an
object of its own: `{"results": [{"eventgpt": {"stage1_time": ..., "output_tokens": [...]}, ...}]}`. Times in seconds.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from statistics import median
from typing import Any

from stagebench.analysis.attribution import Costs
from stagebench.analysis.importers.measured import Measured, averaged, number, objects
from stagebench.core.errors import AnalysisError

STAGES_OF = {
    3: ("load", "preprocess", "generation"),
    4: ("load", "preprocess", "encode", "generation"),
    5: ("load", "preprocess", "encode", "prefill", "decode"),
}
TOLERANCE = 0.01
SLOW_START = 3.0
BOS = 1
"""Of the Llama tokenizers, which these models share."""

Flat = dict[str, Any]
_STAGE = re.compile(r"(?P<model>.+)_stage(?P<number>\d)_time")


def looks_like(data: Any) -> bool:
    """Whether the data are such rows."""
    rows = _rows(data)
    return isinstance(rows, list) and any(isinstance(row, dict) and _models([_flat(row)]) for row in rows)


def read(data: Any, source: str) -> Measured:
    """Read such rows. Where a model has no times or no tokens, the row is left out for it and counted among the doubts.

    Raises:
        AnalysisError: where no row has times and tokens, a number is impossible, or an id appears twice.
    """
    rows = [_flat(row) for row in objects(_rows(data), source)]
    ids = [str(row.get("id", row.get("sample_idx", position))) for position, row in enumerate(rows)]
    most_common, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise AnalysisError(f"{source}: every row must have an id of its own, got {most_common!r} {times} times")
    samples: dict[str, dict[str, Costs]] = {}
    doubts: list[str] = []
    for model, stages in _models(rows).items():
        timed = {each: row for each, row in zip(ids, rows, strict=True) if _complete(model, row)}
        samples[model] = {each: _costs(model, stages, row, f"{source}: {each}") for each, row in timed.items()}
        doubts += _doubts(model, samples[model], list(timed.values()), len(rows))
    return averaged(samples, {each: _sequence(row, each) for each, row in zip(ids, rows, strict=True)}, doubts)


def _rows(data: Any) -> Any:
    return data.get("results") if isinstance(data, dict) else data


def _flat(row: Mapping[str, Any]) -> Flat:
    """Nested objects with their key before each of theirs."""
    flat: Flat = {}
    for key, value in row.items():
        flat |= {f"{key}_{inner}": each for inner, each in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _models(rows: Sequence[Flat]) -> dict[str, tuple[str, ...]]:
    """The names of the stages by model."""
    highest: dict[str, int] = {}
    for row in rows:
        for found in filter(None, map(_STAGE.fullmatch, row)):
            highest[found["model"]] = max(highest.get(found["model"], 0), int(found["number"]))
    for model, count in highest.items():
        if count not in STAGES_OF:
            raise AnalysisError(f"{model} must have 3, 4 or 5 stages, got {count}")
    return {model: STAGES_OF[count] for model, count in highest.items()}


def _costs(model: str, stages: Sequence[str], row: Flat, where: str) -> Costs:
    *parts, last = (number(row, f"{model}_stage{i}_time", where) for i in range(1, len(stages) + 1))
    tokens = _ids(model, row)
    count = len(tokens) if tokens is not None else number(row, _count_key(model, row), where)
    return Costs(model, dict(zip(stages[:-1], parts, strict=True)), count, last, prefilled=int(stages[-1] == "decode"))


def _complete(model: str, row: Flat) -> bool:
    return row.get(f"{model}_stage1_time") is not None and _ids(model, row) != []


def _ids(model: str, row: Flat) -> list[int] | None:
    found = row.get(f"{model}_token_ids", row.get(f"{model}_output_tokens"))
    return found if isinstance(found, list) and all(isinstance(each, int) for each in found) else None


def _count_key(model: str, row: Flat) -> str:
    names = [f"{model}_{name}" for name in ("num_tokens", "token_count", "tokens", "decode_tokens")]
    return next((name for name in names if isinstance(row.get(name), int | float)), f"{model}_token_ids")


def _sequence(row: Flat, sample: str) -> str:
    """Given, or the folder of the recording."""
    folder = PurePosixPath(str(row.get("event_data", ""))).parent.name
    return str(row.get("sequence") or folder or sample)


def _doubts(model: str, costs: Mapping[str, Costs], rows: Sequence[Flat], total: int) -> list[str]:
    values = list(costs.values())
    checks = (
        _missing(len(values), total),
        *_sums(model, values, rows),
        _counts(model, rows),
        _bos(model, rows),
        _slow_start(values),
    )
    return [f"{model}: {doubt}" for doubt in checks if doubt]


def _missing(timed: int, total: int) -> str | None:
    return f"{total - timed} of {total} rows have no times or no tokens: did they fail?" if timed < total else None


def _sums(model: str, costs: Sequence[Costs], rows: Sequence[Flat]) -> list[str]:
    totals = [row.get(f"{model}_time", row.get(f"{model}_total_time")) for row in rows]
    known = [(each.total, total) for each, total in zip(costs, totals, strict=True) if isinstance(total, int | float)]
    if lost := sum(not math.isfinite(total) for _, total in known):
        return [f"the total is no number in {lost} of {len(known)} rows"]
    over = sum(stages > total * (1 + TOLERANCE) for stages, total in known)
    under = sum(stages < total * (1 - TOLERANCE) for stages, total in known)
    return [
        *([f"the stages take longer than the total in {over} of {len(known)} rows: that can't be"] if over else []),
        *([f"the stages leave more than 1 % of the total open in {under} of {len(known)} rows"] if under else []),
    ]


def _counts(model: str, rows: Sequence[Flat]) -> str | None:
    key = [(_ids(model, row), row.get(_count_key(model, row))) for row in rows]
    wrong = sum(ids is not None and isinstance(count, int) and count != len(ids) for ids, count in key)
    return f"the count of tokens is not the number of their ids in {wrong} rows" if wrong else None


def _bos(model: str, rows: Sequence[Flat]) -> str | None:
    heads = [ids[0] for row in rows if (ids := _ids(model, row))]
    if heads and set(heads) == {BOS}:
        return "every text begins with id 1, a beginning-of-sequence token: it is counted, and nobody generated it"
    return None


def _slow_start(costs: Sequence[Costs]) -> str | None:
    if len(costs) < 3:
        return None
    ratio = costs[0].total / median(each.total for each in costs[1:])
    return f"the first row takes {ratio:.1f} times the median: was it the warm-up?" if ratio > SLOW_START else None
