"""Short samples out of long ones: windows of clips and recordings, through `LoadSettings`."""

from dataclasses import replace
from pathlib import Path

from stagebench.analysis.experiments.dataset import Dataset, Entry, Problem, one_line
from stagebench.core.errors import AnalysisError, MediaError
from stagebench.media.events.event_arrays import Window
from stagebench.media.events.recordings import READERS, load_event_arrays
from stagebench.media.video.frames import seconds_shown


def seconds_of(path: Path, time_unit: str | None = None) -> float:
    """Return how long a clip or recording is, by its frames or its first and last event (in a unit of `LoadSettings`).

    Raises:
        MediaError: the file can't be read, or its frames have no times.
    """
    if path.suffix.lower() in READERS:
        t = load_event_arrays(path, Window(unit=time_unit)).t
        return (int(t[-1]) - int(t[0])) / 1e6
    return seconds_shown(path)


def length_of(entry: Entry, time_unit: str | None = None) -> float:
    """Return how long a sample is, by the shorter of its clip and its recording; 0 where it has neither.

    Raises:
        MediaError: as `seconds_of`.
    """
    return min((seconds_of(path, time_unit) for path in _timed(entry).values()), default=0.0)


def cut(
    dataset: Dataset, clip_window: float | None, recording_window: float | None, time_unit: str | None = None
) -> Dataset:
    """Cut samples into consecutive windows that do not overlap; what is left at the end is dropped.

    Args:
        dataset: whole samples.
        clip_window: seconds, of samples that have a clip (and of the recording beside it); None leaves them whole.
        recording_window: seconds, of samples that have a recording and no clip; None leaves them whole too.
        time_unit: of recordings, as in `LoadSettings`.

    Returns:
        The windows, of the same sequences; what is shorter than a window, or a folder of images, stays whole. A file
        that can't be read joins the broken ones.
    """
    entries: list[Entry] = []
    broken = list(dataset.broken)
    for entry in dataset.entries:
        length = clip_window if "video" in entry.paths else recording_window if "events" in entry.paths else None
        try:
            count = int(length_of(entry, time_unit) / length + 1e-9) if length else 0
        except MediaError as error:
            broken.append(Problem(entry.id, one_line(error)))
            continue
        entries += [window(entry, i * length, length) for i in range(count)] if length and count > 1 else [entry]
    return replace(dataset, entries=tuple(entries), broken=tuple(broken))


def spread(entry: Entry, length: float, count: int) -> list[Entry]:
    """Return `count` windows of a sample, evenly spaced, its beginning and its end included; they may overlap.

    Raises:
        AnalysisError: the sample is shorter than a window of that length, in seconds.
        MediaError: it can't be read.
    """
    whole = length_of(entry)
    if whole < length:
        raise AnalysisError(f"{entry.id} lasts {whole:.2f} s, too short for windows of {length:g} s")
    return [window(entry, i * (whole - length) / max(count - 1, 1), length) for i in range(count)]


def window(entry: Entry, start: float, length: float) -> Entry:
    """Return so many seconds of a sample, without the images beside it, which have no times to cut at."""
    start = round(start, 6)
    return replace(entry, id=f"{entry.id}@{start:g}+{length:g}s", paths=_timed(entry), start=start, duration=length)


def _timed(entry: Entry) -> dict[str, Path]:
    """Return the paths that have a length: images have none."""
    return {kind: path for kind, path in entry.paths.items() if kind != "images"}
