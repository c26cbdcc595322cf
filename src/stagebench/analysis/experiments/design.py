"""The design of an experiment: which windows of which samples are measured, in which blocks, and in which order."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stagebench.analysis.experiments.dataset import Dataset, Entry, Problem, one_line, path_shown
from stagebench.analysis.samples import DURATIONS, MAIN, NEW_TOKENS
from stagebench.core.errors import AnalysisError, MediaError
from stagebench.core.settings import GenerationSettings, LoadSettings
from stagebench.media.events.recordings import READERS, load_event_arrays
from stagebench.media.sampling import evenly_spaced
from stagebench.media.synthetic_clip import SyntheticClip
from stagebench.media.video.frames import seconds_shown

SYNTHETIC_WINDOW = 0.4  # seconds of the synthetic clip in a sample of it: 12 frames, of which the models take 8
SCALING_SAMPLES = 3  # samples at each point of a scaling curve


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person asked for."""

    loading: LoadSettings
    samples: int | None  # evenly drawn from all; None for all
    window: float | None  # seconds, as `cut` takes it
    modes: tuple[str, ...]  # of generation
    new_tokens: tuple[int, ...]  # the limit; of several, the largest, and all of them are compared
    passes: int  # of each sample, model and mode
    durations: tuple[float, ...]  # seconds, to be compared

    def generation(self, mode: str) -> GenerationSettings:
        """Return how text is generated in a mode."""
        return GenerationSettings(max(self.new_tokens), fixed_length=mode == "fixed")


@dataclass(frozen=True, slots=True)
class Block:
    """Samples that are all treated alike."""

    study: str  # one of `STUDIES`
    value: float | None  # what the study varies, in seconds or tokens; None in the main one
    entries: Sequence[Entry]
    generations: Mapping[str, GenerationSettings]  # by mode
    passes: int = 1  # of each sample, model and mode


@dataclass(frozen=True, slots=True)
class Task:
    """One pass of one sample through one model."""

    block: Block
    model: str
    entry: Entry
    mode: str
    number: int  # of the pass, from 0
    cold: bool  # first time a load from the disk too, with the files dropped from the page cache

    @property
    def generation(self) -> GenerationSettings:
        """How text is generated."""
        return self.block.generations[self.mode]

    @property
    def key(self) -> tuple[str, float | None, str, str, str, int]:
        """As `samples.KEY` of its line."""
        return self.block.study, self.block.value, self.model, self.entry.id, self.mode, self.number


@dataclass(frozen=True, slots=True)
class Design:
    """What will be measured, and what can't be."""

    blocks: tuple[Block, ...]  # one after the other, the main one first
    broken: tuple[Problem, ...]  # samples that failed before the run began
    skipped: tuple[Problem, ...]  # what is no sample, or was left out

    def schedule(self, models: Sequence[str], seed: int) -> list[Task]:
        """Put all passes in order: samples as drawn, within each sample the models as drawn, then modes and passes.

        No model always goes first, and what drifts during the run meets all of them alike. The same seed gives the same
        order, so that a run can be taken up again.
        """
        draw = random.Random(seed)
        tasks: list[Task] = []
        for block in self.blocks:
            for entry in draw.sample(block.entries, len(block.entries)):
                for model in draw.sample(models, len(models)):
                    modes = draw.sample(list(block.generations), len(block.generations))
                    passes = [(number, mode) for number in range(block.passes) for mode in modes]
                    tasks += [
                        Task(block, model, entry, mode, number, cold=block.study == MAIN and i == 0)
                        for i, (number, mode) in enumerate(passes)
                    ]
        return tasks

    def as_json(self, models: Sequence[str]) -> dict[str, Any]:
        """Return what is kept of it beside the samples."""
        of_one = sum(block.passes * len(block.entries) * len(block.generations) for block in self.blocks)
        return {
            "passes": of_one * len(models),
            "samples": len(self.blocks[0].entries),
            "sequences": len({entry.sequence for entry in self.blocks[0].entries}),
            "broken": [asdict(each) for each in self.broken],
            "skipped": [asdict(each) for each in self.skipped],
        }

    def digest(self) -> str:
        """Return a text that is equal for designs that measure the same things, wherever the files lie."""
        described = json.dumps(
            [asdict(block) for block in self.blocks],
            default=lambda path: (path.name, path.stat().st_size if path.is_file() else 0),
        )
        return hashlib.sha256(described.encode()).hexdigest()[:12]


def make_design(dataset: Dataset, wanted: Wanted) -> Design:
    """Cut the samples, leave out what has not the media asked for, and lay out the blocks.

    Raise AnalysisError where no sample is left.
    """
    media = wanted.loading.media
    entries = tuple(entry for entry in dataset.entries if path_shown(entry, media, "video"))
    without = (Problem(e.id, f"has no {media}") for e in dataset.entries if not path_shown(e, media, "video"))
    whole = replace(dataset, entries=entries, skipped=(*dataset.skipped, *without))
    cut_up = cut(whole, wanted.window, wanted.loading.time_unit)
    if not cut_up.entries:
        problems = [f"{each.name}: {each.reason}" for each in (*cut_up.broken, *cut_up.skipped)]
        raise AnalysisError(f"there must be at least one sample, got none; {[*problems, 'the dataset is empty'][0]}")
    chosen = _few(cut_up.entries, wanted.samples or len(cut_up.entries))
    main = Block(MAIN, None, chosen, {mode: wanted.generation(mode) for mode in wanted.modes}, wanted.passes)
    durations, short = _duration_blocks(entries, wanted)
    lengths = sorted(set(wanted.new_tokens)) if len(wanted.new_tokens) > 1 else []
    few = _few(chosen, SCALING_SAMPLES)
    tokens = [Block(NEW_TOKENS, float(n), few, {"fixed": GenerationSettings(n, fixed_length=True)}) for n in lengths]
    return Design((main, *durations, *tokens), cut_up.broken, (*cut_up.skipped, *short))


def synthetic_dataset(synthetic: SyntheticClip, samples: int, question: str) -> Dataset:
    """Return windows of the synthetic clip, evenly spaced and overlapping: one sequence, whatever their number."""
    whole = Entry("scene", "scene", question, {"video": synthetic.video, "events": synthetic.events})
    if samples == 1:
        return Dataset((whole,))
    apart = (length_of(whole) - SYNTHETIC_WINDOW) / (samples - 1)
    return Dataset(tuple(_window(whole, i * apart, SYNTHETIC_WINDOW) for i in range(samples)))


def cut(dataset: Dataset, length: float | None, time_unit: str | None = None) -> Dataset:
    """Cut samples into consecutive windows of so many seconds; what is left at the end is dropped.

    What is shorter than a window or has no length stays whole. A file that can't be read joins the broken ones.
    """
    if length is None:
        return dataset
    entries: list[Entry] = []
    broken = list(dataset.broken)
    for entry in dataset.entries:
        try:
            count = int(length_of(entry, time_unit) / length + 1e-9)
        except MediaError as error:
            broken.append(Problem(entry.id, one_line(error)))
            continue
        entries += [_window(entry, i * length, length) for i in range(count)] if count > 1 else [entry]
    return replace(dataset, entries=tuple(entries), broken=tuple(broken))


def length_of(entry: Entry, time_unit: str | None = None) -> float:
    """Return the seconds of a sample, by the shorter of its clip and its recording; 0 where it has neither."""
    return min((seconds_of(path, time_unit) for path in _timed(entry).values()), default=0.0)


def seconds_of(path: Path, time_unit: str | None = None) -> float:
    """Return how long a clip or recording is, by its frames or its first and last event (in a unit of `LoadSettings`).

    Raise MediaError where the file can't be read, or its frames have no times.
    """
    if path.suffix.lower() in READERS:
        t = load_event_arrays(path, LoadSettings(time_unit=time_unit)).t
        return (int(t[-1]) - int(t[0])) / 1e6
    return seconds_shown(path)


def _window(entry: Entry, start: float, length: float) -> Entry:
    """Return so many seconds of a sample, without the images beside it, which have no times to cut at."""
    start = round(start, 6)
    return replace(entry, id=f"{entry.id}@{start:g}+{length:g}s", paths=_timed(entry), start=start, duration=length)


def _timed(entry: Entry) -> dict[str, Path]:
    return {kind: path for kind, path in entry.paths.items() if kind != "images"}


def _duration_blocks(entries: Sequence[Entry], wanted: Wanted) -> tuple[list[Block], list[Problem]]:
    """Take the same few samples at each duration, those that last longest: nothing but the duration differs."""
    lengths = dict.fromkeys((entry.id for entry in entries), 0.0)
    for entry in entries if wanted.durations else ():
        with suppress(MediaError):
            lengths[entry.id] = length_of(entry, wanted.loading.time_unit)
    possible = [seconds for seconds in wanted.durations if seconds <= max(lengths.values(), default=0.0)]
    missing = [f"a duration of {seconds:g} s" for seconds in wanted.durations if seconds not in possible]
    longest = [entry for entry in entries if possible and lengths[entry.id] >= max(possible)]
    chosen, generation = _few(longest, SCALING_SAMPLES), {"fixed": wanted.generation("fixed")}
    blocks = [Block(DURATIONS, s, [_window(e, 0.0, s) for e in chosen], generation) for s in possible]
    return blocks, [Problem(name, "no sample lasts so long") for name in missing]


def _few(entries: Sequence[Entry], count: int) -> tuple[Entry, ...]:
    return tuple(entries[i] for i in evenly_spaced(len(entries), min(count, len(entries)))) if entries else ()
