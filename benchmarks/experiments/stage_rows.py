"""Turns rows of one sample each, as the scripts around EventGPT write them, into a table for `stagebench explain`.

    python benchmarks/experiments/stage_rows.py results.json > table.json && stagebench explain table.json

    [{"id": ..., "egpt_time": ..., "egpt_stage1_time": ..., "egpt_stage2_time": ..., "egpt_stage3_time": ...,
      "egpt_token_ids": [...], "llava_stage1_time": ..., ...}, ...]

What stands before `_stage1_time` names a model. Three stages are load, preprocess and generation; a fourth takes encode
out of the generation, and a fifth prefill too. Rows may be the `results` of an object, and what belongs to a model an
object of its own. Times in seconds. Somebody else's rows need another twenty lines like these.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

STAGES_OF = {
    3: ("load", "preprocess", "generation"),
    4: ("load", "preprocess", "encode", "generation"),
    5: ("load", "preprocess", "encode", "prefill", "decode"),
}
BOS = 1  # of the Llama tokenizers, which these models share

Row = dict[str, Any]


def to_table(data: Any) -> dict[str, Any]:
    """Convert rows; a model that has no times or no tokens in a row has no sample of it."""
    rows = [_flat(row) for row in (data["results"] if isinstance(data, dict) else data)]
    return {"models": [{"name": model, "samples": _samples(model, rows)} for model in _models(rows)]}


def _flat(row: Row) -> Row:
    """Put nested objects into the row, with their key before each of theirs."""
    flat: Row = {}
    for key, value in row.items():
        flat |= {f"{key}_{inner}": each for inner, each in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _models(rows: list[Row]) -> list[str]:
    found = (re.fullmatch(r"(.+)_stage1_time", key) for row in rows for key in row)
    return list(dict.fromkeys(match[1] for match in found if match))


def _samples(model: str, rows: list[Row]) -> list[Row]:
    samples = []
    for place, row in enumerate(rows):
        times = [row[key] for key in sorted(row) if re.fullmatch(rf"{re.escape(model)}_stage\d_time", key)]
        ids = row.get(f"{model}_token_ids", row.get(f"{model}_output_tokens"))
        if len(times) not in STAGES_OF or None in times or not ids:
            continue
        sample = str(row.get("id", row.get("sample_idx", place)))
        stages = dict(zip(STAGES_OF[len(times)], times, strict=True))
        tokens = len(ids) - (ids[0] == BOS)  # nobody generated a beginning-of-sequence token
        total = row.get(f"{model}_time", row.get(f"{model}_total_time"))
        about = {"id": sample, "sequence": PurePosixPath(str(row.get("event_data", ""))).parent.name or sample}
        samples.append(about | stages | {"tokens": tokens} | ({} if total is None else {"e2e": total}))
    return samples


if __name__ == "__main__":
    json.dump(to_table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), sys.stdout, indent=1)
