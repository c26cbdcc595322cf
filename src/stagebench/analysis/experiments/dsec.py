"""Rows in the layout of the DSEC instruction sets, which EventGPT's authors publish, as samples of a list of ours.

    {"id": ..., "event_data": "a.npy", "event_image": ["a/0.png", ...], "mp4_data": "a.mp4",
     "conversations": [{"from": "human", "value": "<event> What moves?"}, ...]}

beside the folders `event_npy`, `event_image`, `mp4` and `video`.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from stagebench.core.checks import Text, check
from stagebench.core.errors import AnalysisError

FOLDERS = {
    "event_data": ("event_npy", "events"),
    "event_image": ("event_image", "images"),
    "mp4_data": ("mp4", "video"),
    "video_data": ("video", "video"),
}
"""Where each key's files lie, and which kind of media they are."""

Files = Text | list[Text] | None
_Turn = TypedDict("_Turn", {"from": Text, "value": Text}, total=False)


class DsecRow(TypedDict, total=False):
    """What a row says beside its id."""

    event_data: Files
    event_image: Files
    mp4_data: Files
    video_data: Files
    conversations: list[_Turn] | None


def is_dsec(row: Any) -> bool:
    """Return whether a row is in this layout."""
    return isinstance(row, dict) and bool(row.keys() & DsecRow.__annotations__.keys())


def to_sample(row: dict[str, Any], root: Path) -> dict[str, Any]:
    """Convert a row of a list that lies in `root`.

    Raises:
        AnalysisError: for a value of another kind, a part of a folder's PNGs, or a conversation that asks nothing.
    """
    check(row, DsecRow, "a sample", AnalysisError)
    sample = {key: value for key, value in row.items() if key == "id"}
    for key, (folder, kind) in FOLDERS.items():
        if named := row.get(key):
            sample.setdefault(kind, str(PurePosixPath(folder, _one_path(root / folder, named, key))))
    if row.get("conversations") is not None:
        asked = next((turn.get("value") for turn in row["conversations"] if turn.get("from") == "human"), None)
        if asked is None:
            raise AnalysisError("conversations must have a turn from human with a text, got none")
        sample["question"] = re.sub("<event>|<image>|<video>", " ", asked)
    return sample


def _one_path(folder: Path, named: str | list[str], key: str) -> str:
    """Return the one file that is named, or the folder all of whose PNGs are."""
    names = [named] if isinstance(named, str) else named
    if len(names) == 1:
        return names[0]
    parents = {str(PurePosixPath(name).parent) for name in names}
    lying = {file.name for file in folder.glob(f"{min(parents)}/*") if file.suffix.lower() == ".png"}
    if len(parents) > 1 or {PurePosixPath(name).name for name in names} != lying:
        raise AnalysisError(f"{key} must list all PNGs of a folder, got {len(names)} files of {len(parents)} folders")
    return min(parents)
