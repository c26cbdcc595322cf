"""Many samples: a JSON list of them, or any folder of clips and recordings.

    [{"id": "night_7", "question": "What moves?", "video": "clips/night_7.mp4", "events": "night_7.npy"}, ...]

`images` may stand there too, and the `sequence` that the sample is cut from; it is the id without its number else. Rows
in the layout of the DSEC instruction sets, which EventGPT's authors publish, are samples too:

    {"id": ..., "event_data": "a.npy", "event_image": ["a/0.png", ...], "mp4_data": "a.mp4",
     "conversations": [{"from": "human", "value": "<event> What moves?"}, ...]}

Nothing is decoded here. What can't be a sample is named with the reason, never dropped in silence.
"""

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Required, TypedDict

from stagebench.core.checks import Count, Text, check
from stagebench.core.errors import AnalysisError, MediaError
from stagebench.core.json_files import read_json
from stagebench.core.settings import DEFAULT_QUESTION
from stagebench.media.events.recordings import READERS
from stagebench.media.files import CLIPS, files_in, is_folder, size_of

KINDS = ("video", "events", "images")  # of media: a clip, a recording, and a PNG or a folder of them
DSEC = {
    "event_data": ("event_npy", "events"),
    "event_image": ("event_image", "images"),
    "mp4_data": ("mp4", "video"),
    "video_data": ("video", "video"),
}
"""The folder in which each key's files lie beside the list, and which kind of media they are."""

_Turn = TypedDict("_Turn", {"from": Text, "value": Text}, total=False)


class ListedSample(TypedDict, total=False):
    """A sample of a JSON list; its files lie where the list says, beside the list."""

    id: Required[Text | Count]
    sequence: Text | Count
    question: Text
    video: Text
    events: Text
    images: Text


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample of a dataset, whichever model it will be shown to."""

    id: str  # unique in its dataset
    sequence: str  # what it was cut from; samples of one sequence overlap, and are not independent
    question: str  # without any template
    paths: Mapping[str, Path]  # by kind of media, at least one of `KINDS`
    start: float = 0.0  # seconds into the clip or recording
    duration: float | None = None  # seconds to read from there; None for all


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is no sample, by name, and why, in one line each."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """What was found, in a fixed order."""

    entries: tuple[Entry, ...]
    broken: tuple[Problem, ...] = ()  # what was meant to be a sample and can't be one; each counts as a failure
    skipped: tuple[Problem, ...] = ()  # what was never meant to be one, such as a text file beside the clips


def read_dataset(path: Path, question: str = DEFAULT_QUESTION) -> Dataset:
    """Read a JSON list, a folder that holds one, or else a folder of clips, recordings and folders of PNGs.

    Files of one name but for the suffix are one sample; those without a question of their own are asked the given one.
    Raise AnalysisError where nothing is there, a folder holds several JSON files, or the JSON is no list.
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
    """Return what a model gets of a sample, by one of `settings.MEDIA` and its own kind ("video" or "events").

    Events may be drawn already. None where the sample has nothing of the kind.
    """
    events, frames = ("events", "images"), ("video",)
    own_first = (*events, *frames) if own == "events" else (*frames, *events)
    kinds = {"own": own_first, "frames": frames, "events": events}[media]
    return next((entry.paths[kind] for kind in kinds if kind in entry.paths), None)


def sequence_of(name: str) -> str:
    """Return the recording that a sample was cut from: its name without the number at the end."""
    return re.sub(r"[_-]\d+$", "", name) or name


def one_line(text: object) -> str:
    """Return a text that can be printed and written anywhere: one line, and no half characters."""
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
        raise AnalysisError("its id must be its own, got that of an earlier one")
    paths = {kind: root / row[kind] for kind in KINDS if row.get(kind)}
    if not paths:
        raise AnalysisError(f"a sample must name a file under one of {', '.join(KINDS)}, got none")
    for kind, path in paths.items():
        if Path(row[kind]).is_absolute() or ".." in Path(row[kind]).parts:
            raise AnalysisError(f"{kind} must name a file inside the dataset, got {row[kind]!r}")
        _require_data(path)
    return Entry(name, one_line(row.get("sequence", sequence_of(name))), asked, paths)


def _of_dsec(row: dict[str, Any], root: Path) -> dict[str, Any]:
    """Convert a row of DSEC's of a list in `root`; refuse a part of a folder's PNGs, or a talk that asks nothing."""
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
    """Return the one file that is named, or the folder all of whose PNGs are."""
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
    """Take files of one name but for the suffix as one sample; what lies deeper is named with its folders."""
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
            broken.append(Problem(shown, f"its name must be its own, got that of {found[name][kind].name}"))
    entries = (Entry(name, sequence_of(name), question, paths) for name, paths in found.items())
    return Dataset(tuple(entries), tuple(broken), tuple(skipped))


def _candidates(root: Path, seen: set[Path]) -> Iterator[Path]:
    """Find all files and folders of PNGs below a folder, by name; PNGs themselves belong to their folder."""
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
