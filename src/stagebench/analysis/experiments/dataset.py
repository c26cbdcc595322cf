"""Many samples: a JSON list of them, or any folder of clips and recordings.

    [{"id": "night_7", "question": "What moves?", "video": "clips/night_7.mp4", "events": "night_7.npy"}, ...]

`images` may stand there too, and the `sequence` that the sample is cut from; it is the id without its number else.
Rows in the layout of `dsec.py` are samples too.

Nothing is decoded here. What can't be a sample is named with the reason, never dropped in silence. Importable without
torch.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Required, TypedDict

from stagebench.analysis.experiments.dsec import is_dsec, to_sample
from stagebench.core.checks import Count, Text, check
from stagebench.core.errors import AnalysisError, MediaError
from stagebench.core.json_files import read_json
from stagebench.core.settings import DEFAULT_QUESTION
from stagebench.media.events.recordings import READERS
from stagebench.media.files import CLIPS, files_in, is_folder, size_of

KINDS = ("video", "events", "images")
"""Of media: a clip, a recording, and a PNG or a folder of them."""


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
    """One sample of a dataset, whichever model it will be shown to.

    Attributes:
        id: unique in its dataset.
        sequence: what it was cut from; samples of one sequence overlap, and are not independent.
        question: what the models are asked, without any template.
        paths: by kind of media, at least one of `KINDS`.
        start: seconds into the clip or recording.
        duration: seconds to read from there; None for all.
    """

    id: str
    sequence: str
    question: str
    paths: Mapping[str, Path]
    start: float = 0.0
    duration: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is no sample, by name, and why, in one line each."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """What was found.

    Attributes:
        entries: the samples, in a fixed order.
        broken: what was meant to be a sample and can't be one; each counts as a failure.
        skipped: what was never meant to be one, such as a text file beside the clips.
    """

    entries: tuple[Entry, ...]
    broken: tuple[Problem, ...] = ()
    skipped: tuple[Problem, ...] = ()


def read_dataset(path: Path, question: str = DEFAULT_QUESTION) -> Dataset:
    """Read a JSON list, or a folder that holds one, or else a folder of media.

    Args:
        path: a JSON list; a folder with one such file; or a folder of clips,
            recordings and folders of PNGs, in which files of one name but for the suffix are one sample.
        question: put to the samples that have none of their own.

    Raises:
        AnalysisError: there is nothing at the path, it holds several JSON files, or the JSON is no list.
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
    """Return what a model gets of a sample; None where the sample has nothing of the kind.

    Args:
        entry: the sample.
        media: "own" (the model's own kind, or else what there is), "frames" or "events", drawn already or not.
        own: the model's own kind, "video" or "events".
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
            entry = _entry(row, path.parent, question)
        except (AnalysisError, MediaError) as error:
            broken.append(Problem(_name_of(row, number), one_line(error)))
            continue
        if entries.setdefault(entry.id, entry) is not entry:
            broken.append(Problem(entry.id, "its id must be its own, got that of an earlier one"))
    return Dataset(tuple(entries.values()), tuple(broken))


def _name_of(row: Any, number: int) -> str:
    """Return the id of a broken sample where it has one, else its place in the list."""
    name = row.get("id") if isinstance(row, dict) else None
    return one_line(name) if isinstance(name, str | int) and str(name).strip() else f"number {number}"


def _entry(row: Any, root: Path, question: str) -> Entry:
    if is_dsec(row):
        row = to_sample(row, root)
    check(row, ListedSample, "a sample", AnalysisError)
    name, asked = one_line(row["id"]), one_line(row.get("question", question))
    if not name or not asked:
        raise AnalysisError(f"id and question must not be blank, got {name!r} and {asked!r}")
    paths = {kind: root / row[kind] for kind in KINDS if row.get(kind)}
    if not paths:
        raise AnalysisError(f"a sample must name a file under one of {', '.join(KINDS)}, got none")
    for kind, path in paths.items():
        if Path(row[kind]).is_absolute() or ".." in Path(row[kind]).parts:
            raise AnalysisError(f"{kind} must name a file inside the dataset, got {row[kind]!r}")
        _require_data(path)
    return Entry(name, one_line(row.get("sequence", sequence_of(name))), asked, paths)


def _require_data(path: Path) -> None:
    if not is_folder(path):
        size_of(path)
    elif path.suffix.lower() not in READERS and not _pngs(path):
        raise AnalysisError(f"{path.name}: must be a folder of PNGs, got none in it")


def _from_folder(root: Path, question: str) -> Dataset:
    """Take files of one name but for the suffix as one sample; what lies deeper is named with its folders."""
    found: dict[str, dict[str, Path]] = {}
    broken: list[Problem] = []
    skipped: list[Problem] = []
    for path in _candidates(root, set()):
        shown = one_line(path.relative_to(root).as_posix())
        kind = _kind(path)
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


def _kind(path: Path) -> str | None:
    suffix = path.suffix.lower()
    if suffix in READERS:
        return "events"
    if path.is_dir():
        return "images"
    return "video" if suffix in CLIPS else None


def _candidates(root: Path, seen: set[Path]) -> Iterator[Path]:
    """Find all files and folders of PNGs below a folder, by name; PNGs themselves belong to their folder."""
    seen.add(root.resolve())
    for path in sorted(files_in(root)):
        if path.name.startswith("."):
            continue
        if path.is_dir() and path.suffix.lower() not in READERS:  # some recordings are folders
            if _pngs(path):
                yield path
            if path.resolve() not in seen:  # a link may lead back up
                yield from _candidates(path, seen)
        elif path.suffix.lower() != ".png":
            yield path


def _pngs(folder: Path) -> list[Path]:
    return [file for file in files_in(folder) if file.suffix.lower() == ".png"]
