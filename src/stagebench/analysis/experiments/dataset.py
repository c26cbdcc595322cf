"""Read a dataset: a JSON list of samples, or a folder of clips and recordings.

    [{"id": "night_7", "question": "What moves?", "video": "clips/night_7.mp4", "events": "night_7.npy"}, ...]

A sample may also have `images`, and the `sequence` that it was cut from, by default its id without the last number.
Where it is known, `answers` holds the right one of models for "video" and for "events".
Rows in the layout of the DSEC instruction sets, which EventGPT's authors publish, are samples too:

    {"id": ..., "event_data": "a.npy", "event_image": ["a/0.png", ...], "mp4_data": "a.mp4",
     "conversations": [{"from": "human", "value": "<event> What moves?"}, ...]}

Nothing is decoded here. Invalid samples are reported with the reason, never dropped silently.
"""

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Required, TypedDict

from stagebench.core.checks import Count, Text, check
from stagebench.core.errors import AnalysisError, MediaError
from stagebench.core.json_files import read_json
from stagebench.core.settings import DEFAULT_QUESTION
from stagebench.media.events.recordings import READERS
from stagebench.media.files import CLIPS, files_in, is_folder, size_of

KINDS = ("video", "events", "images")  # of media: a clip, a recording, and a PNG or a folder of PNGs
DSEC = {
    "event_data": ("event_npy", "events"),
    "event_image": ("event_image", "images"),
    "mp4_data": ("mp4", "video"),
    "video_data": ("video", "video"),
}
"""By key: the folder of its files beside the list, and their kind of media."""

_Turn = TypedDict("_Turn", {"from": Text, "value": Text}, total=False)


class ListedSample(TypedDict, total=False):
    """A sample of a JSON list; paths are relative to the list."""

    id: Required[Text | Count]
    sequence: Text | Count
    question: Text
    video: Text
    events: Text
    images: Text
    answers: dict[str, Text]


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample of a dataset, for any model."""

    id: str  # unique in its dataset
    sequence: str  # the recording it was cut from; samples of one sequence are not independent
    question: str  # without any template
    paths: Mapping[str, Path]  # by kind of media, at least one of `KINDS`
    start: float = 0.0  # seconds into the clip or recording
    duration: float | None = None  # seconds to read from there; None for all
    answers: Mapping[str, str] = field(default_factory=dict)  # where known, by the kind that a model is made for


@dataclass(frozen=True, slots=True)
class Problem:
    """An invalid sample by name, and the reason, in one line each."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """The samples that were found, in a fixed order."""

    entries: tuple[Entry, ...]
    broken: tuple[Problem, ...] = ()  # invalid samples, each of which counts as a failure
    skipped: tuple[Problem, ...] = ()  # other files, such as texts beside the clips


def read_dataset(path: Path, question: str = DEFAULT_QUESTION) -> Dataset:
    """Read a JSON list, a folder with one, or a folder of clips, recordings and folders of PNGs.

    Files that differ only in the suffix are one sample; samples without a question get the given one. Raise
    AnalysisError where the path does not exist, a folder holds several JSON files, or the JSON is not a list.
    """
    try:
        if not is_folder(path):
            size_of(path)
            return _from_json(path, question)
        lists = sorted(file for file in files_in(path) if file.suffix.lower() == ".json")
        if len(lists) > 1:
            raise AnalysisError(f"{path.name}: must hold one JSON list, or be given as one of them, got {len(lists)}")
        return _from_json(lists[0], question) if lists else _from_folder(path, question)
    except MediaError as error:
        raise AnalysisError(f"can't read the dataset: {error}") from error


def path_shown(entry: Entry, media: str, own: str) -> Path | None:
    """Return a model's path in a sample, by one of `settings.MEDIA` and its own kind; None without such media."""
    events, frames = ("events", "images"), ("video",)
    own_first = (*events, *frames) if own == "events" else (*frames, *events)
    kinds = {"own": own_first, "frames": frames, "events": events}[media]
    return next((entry.paths[kind] for kind in kinds if kind in entry.paths), None)


def sequence_of(name: str) -> str:
    """Return the sequence of a sample: its name without the number at the end."""
    return re.sub(r"[_-]\d+$", "", name) or name


def one_line(text: object) -> str:
    """Return a text as one line that can be encoded."""
    return " ".join(str(text).encode("utf-8", "backslashreplace").decode().split())


def _from_json(path: Path, question: str) -> Dataset:
    rows = read_json(path, path.name, AnalysisError)
    if not isinstance(rows, list):
        raise AnalysisError(f"{path.name} must be a JSON list of samples, got {type(rows).__name__}")
    entries: dict[str, Entry] = {}
    broken: list[Problem] = []
    for number, row in enumerate(rows):
        try:
            entry = _entry(row, path.parent, question, entries)
            entries[entry.id] = entry
        except (AnalysisError, MediaError) as error:
            name = row.get("id") if isinstance(row, dict) else None
            named = isinstance(name, str | int) and str(name).strip()
            broken.append(Problem(one_line(name) if named else f"number {number}", one_line(error)))
    return Dataset(tuple(entries.values()), tuple(broken))


def _entry(row: Any, root: Path, question: str, taken: Container[str]) -> Entry:
    if isinstance(row, dict) and row.keys() & {*DSEC, "conversations"}:
        row = _of_dsec(row, root)
    check(row, ListedSample, "a sample", AnalysisError)
    name, asked = one_line(row["id"]), one_line(row.get("question", question))
    if not name or not asked:
        raise AnalysisError(f"id and question must not be blank, got {name!r} and {asked!r}")
    if name in taken:
        raise AnalysisError("its id must be unique, got that of an earlier one")
    paths = {kind: root / row[kind] for kind in KINDS if row.get(kind)}
    if not paths:
        raise AnalysisError(f"a sample must name a file under one of {', '.join(KINDS)}, got none")
    for kind, path in paths.items():
        if Path(row[kind]).is_absolute() or ".." in Path(row[kind]).parts:
            raise AnalysisError(f"{kind} must name a file inside the dataset, got {row[kind]!r}")
        _require_data(path)
    answers = {kind: one_line(answer) for kind, answer in row.get("answers", {}).items()}
    return Entry(name, one_line(row.get("sequence", sequence_of(name))), asked, paths, answers=answers)


def _of_dsec(row: dict[str, Any], root: Path) -> dict[str, Any]:
    """Convert a row of DSEC's; refuse a part of a folder's PNGs, or a conversation without a question."""
    forms = dict.fromkeys(DSEC, Text | list[Text] | None) | {"conversations": list[_Turn] | None}
    check(row, {key: form for key, form in forms.items() if key in row}, "a sample", AnalysisError)
    sample = {key: value for key, value in row.items() if key == "id"}
    for key, (folder, kind) in DSEC.items():
        if named := row.get(key):
            sample.setdefault(kind, str(PurePosixPath(folder, _one_path(root / folder, named, key))))
    if row.get("conversations") is not None:
        asked = next((turn.get("value") for turn in row["conversations"] if turn.get("from") == "human"), None)
        if asked is None:
            raise AnalysisError("conversations must have a turn from human with a text, got none")
        sample["question"] = re.sub("<event>|<image>|<video>", " ", asked)
    return sample


def _one_path(folder: Path, named: str | list[str], key: str) -> str:
    """Return the only named file, or the folder if all its PNGs are named."""
    names = [named] if isinstance(named, str) else named
    if len(names) == 1:
        return names[0]
    parents = {str(PurePosixPath(name).parent) for name in names}
    lying = {file.name for file in folder.glob(f"{min(parents)}/*") if file.suffix.lower() == ".png"}
    if len(parents) > 1 or {PurePosixPath(name).name for name in names} != lying:
        raise AnalysisError(f"{key} must list all PNGs of a folder, got {len(names)} files of {len(parents)} folders")
    return min(parents)


def _require_data(path: Path) -> None:
    if not is_folder(path):
        size_of(path)
    elif path.suffix.lower() not in READERS and not _has_pngs(path):
        raise AnalysisError(f"{path.name}: must be a folder of PNGs, got none in it")


def _from_folder(root: Path, question: str) -> Dataset:
    """Make one sample of files that differ only in the suffix; names include the folders below `root`."""
    found: dict[str, dict[str, Path]] = {}
    broken, skipped = list[Problem](), list[Problem]()
    for path in _candidates(root, set()):
        shown = one_line(path.relative_to(root).as_posix())
        suffix = path.suffix.lower()
        kind = "events" if suffix in READERS else "images" if path.is_dir() else "video" if suffix in CLIPS else None
        if kind is None:
            skipped.append(Problem(shown, "neither a clip, nor a recording, nor a folder of PNGs"))
            continue
        name = shown if kind == "images" else shown.removesuffix(path.suffix)
        try:
            _require_data(path)
        except (AnalysisError, MediaError) as error:
            broken.append(Problem(shown, one_line(error)))
            continue
        if found.setdefault(name, {}).setdefault(kind, path) is not path:
            broken.append(Problem(shown, f"its name must be unique, got that of {found[name][kind].name}"))
    entries = (Entry(name, sequence_of(name), question, paths) for name, paths in found.items())
    return Dataset(tuple(entries), tuple(broken), tuple(skipped))


def _candidates(root: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield all files and folders of PNGs below a folder, by name, without the PNGs themselves."""
    seen.add(root.resolve())
    for path in sorted(files_in(root)):
        if path.name.startswith("."):
            continue
        if path.is_dir() and path.suffix.lower() not in READERS:  # some recordings are folders
            if _has_pngs(path):
                yield path
            if path.resolve() not in seen:  # a link may lead back up
                yield from _candidates(path, seen)
        elif path.suffix.lower() != ".png":
            yield path


def _has_pngs(folder: Path) -> bool:
    return any(file.suffix.lower() == ".png" for file in files_in(folder))
