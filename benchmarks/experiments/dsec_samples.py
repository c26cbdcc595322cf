"""Turns a list in the layout of the DSEC instruction sets into one for `stagebench analyze --dataset`.

    python benchmarks/experiments/dsec_samples.py DSEC/instructions.json > DSEC/samples.json

    [{"id": ..., "event_data": "a.npy", "event_image": ["a/0.png", ...], "mp4_data": "a.mp4",
      "conversations": [{"from": "human", "value": "<event> What moves?"}, ...]}, ...]

beside the folders `event_npy`, `event_image`, `mp4` and `video`. Somebody else's list needs another twenty lines.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

FOLDERS = {
    "event_data": ("event_npy", "events"),
    "event_image": ("event_image", "images"),
    "mp4_data": ("mp4", "video"),
    "video_data": ("video", "video"),
}
"""Where each key's files lie, and which kind of media they are."""


def to_samples(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Convert rows; of a list of PNGs, the folder that they lie in."""
    return [_sample(row) for row in rows]


def _sample(row: dict[str, Any]) -> dict[str, Any]:
    sample: dict[str, Any] = {"id": row["id"]}
    for key, (folder, kind) in FOLDERS.items():
        if names := row.get(key):
            path = PurePosixPath(folder, names[0]).parent if isinstance(names, list) else PurePosixPath(folder, names)
            sample.setdefault(kind, str(path))
    asked = [turn["value"] for turn in row.get("conversations", ()) if turn["from"] == "human"]
    if asked:
        sample["question"] = re.sub("<event>|<image>|<video>", " ", asked[0]).strip()
    return sample


if __name__ == "__main__":
    json.dump(to_samples(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), sys.stdout, indent=1)
