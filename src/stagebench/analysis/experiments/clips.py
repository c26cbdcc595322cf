"""Short samples out of long ones: consecutive windows of clips and recordings, through `LoadSettings`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stagebench.analysis.experiments.dataset import Dataset, Entry, Problem, one_line
from stagebench.core.errors import AnalysisError, MediaError
from stagebench.media.events.event_arrays import Window
from stagebench.media.events.recordings import READERS, load_event_arrays
from stagebench.media.video.frames import seconds_shown


def seconds_of(path: Path, time_unit: str | None = None) -> float:
    """How long a clip or recording is, as its frames or its first and last event (in a unit, as `LoadSettings`) say.

    Raises:
        MediaError: the file can't be read, or its frames tell no times.
    """
    if path.suffix.lower() in READERS:
        t = load_event_arrays(path, Window(unit=time_unit)).t
        return (int(t[-1]) - int(t[0])) / 1e6
    return seconds_shown(path)


def cut(
    dataset: Dataset, clip_window: float | None, recording_window: float | None, time_unit: str | None = None
) -> Dataset:
    """Cut samples into consecutive windows that do not overlap; what is left at the end is dropped.

    Args:
        dataset: whole samples.
        clip_window: seconds, of samples that have a clip (and of the recording beside it); None leaves them whole.
        recording_window: seconds, of samples that have a recording and no clip; likewise.
        time_unit: of recordings, as in `LoadSettings`.

    Returns:
        The windows, of the same sequences; what is shorter than a window, or a folder of images, stays whole. A file
        that can't be read joins the broken ones.
    """
    entries: list[Entry] = []
    broken = list(dataset.broken)
    for entry in dataset.entries:
        window = clip_window if "video" in entry.paths else recording_window if "events" in entry.paths else None
        try:
            entries += [entry] if window is None else _windows(entry, window, time_unit)
        except MediaError as error:
            broken.append(Problem(entry.id, one_line(error)))
    return replace(dataset, entries=tuple(entries), broken=tuple(broken))


def spread(entry: Entry, length: float, count: int) -> list[Entry]:
    """`count` windows of one sample, evenly spaced, its beginning and its end included; they may overlap.

    Args:
        entry: with a length of its own (no folder of images).
        length: of each, in seconds.
        count: how many.

    Raises:
        AnalysisError: the sample is shorter than that.
        MediaError: it can't be read.
    """
    whole = _seconds_of_entry(entry)
    if whole < length:
        raise AnalysisError(f"{entry.id} lasts {whole:.2f} s, too short for windows of {length:g} s")
    starts = [i * (whole - length) / max(count - 1, 1) for i in range(count)]
    return [_window(entry, round(start, 6), length) for start in starts]


def lasting(entries: Sequence[Entry], seconds: float, time_unit: str | None = None) -> list[Entry]:
    """The samples that last so long."""
    return [entry for entry in entries if _length_or_zero(entry, time_unit) >= seconds]


def beginning(entry: Entry, seconds: float) -> Entry:
    """The first `seconds` of a sample."""
    return _window(entry, 0.0, seconds)


def _windows(entry: Entry, length: float, time_unit: str | None) -> list[Entry]:
    count = int(_seconds_of_entry(entry, time_unit) / length + 1e-9)
    return [_window(entry, round(i * length, 6), length) for i in range(count)] if count > 1 else [entry]


def _window(entry: Entry, start: float, length: float) -> Entry:
    # Without the images beside it, which have no times to cut at.
    paths = {kind: path for kind, path in entry.paths.items() if path in _timed(entry.paths)}
    return replace(entry, id=f"{entry.id}@{start:g}+{length:g}s", paths=paths, start=start, duration=length)


def _seconds_of_entry(entry: Entry, time_unit: str | None = None) -> float:
    """The shortest of its clip and its recording, so that a window lies within both."""
    return min(seconds_of(path, time_unit) for path in _timed(entry.paths))


def _length_or_zero(entry: Entry, time_unit: str | None) -> float:
    try:
        return _seconds_of_entry(entry, time_unit)
    except (MediaError, ValueError):  # a ValueError: nothing in it has a length
        return 0.0


def _timed(paths: Mapping[str, Path]) -> list[Path]:
    """Those that have a length: a folder of frames has none."""
    return [
        path
        for path in paths.values()
        if path.suffix.lower() in READERS or (path.is_file() and path.suffix.lower() != ".png")
    ]
