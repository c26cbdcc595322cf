"""The design of an experiment: the windows of samples that are measured, their blocks, and their order."""

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

SYNTHETIC_WINDOW = 0.4  # seconds of the synthetic clip in a sample: 12 frames, of which the models take 8
SCALING_SAMPLES = 3  # samples at each point of a scaling curve


@dataclass(frozen=True, slots=True)
class Wanted:
    """The requested measurements."""

    loading: LoadSettings
    samples: int | None  # evenly spaced among all; None for all
    window: float | None  # seconds, as `cut` takes it
    modes: tuple[str, ...]  # of generation
    new_tokens: tuple[int, ...]  # limits to compare; the main block uses the largest
    passes: int  # of each sample, model and mode
    durations: tuple[float, ...]  # seconds to compare

    def generation(self, mode: str) -> GenerationSettings:
        """Return how text is generated in a mode."""
        return GenerationSettings(max(self.new_tokens), fixed_length=mode == "fixed")


@dataclass(frozen=True, slots=True)
class Block:
    """Samples that are measured in the same way."""

    study: str  # one of `STUDIES`
    value: float | None  # of the variable of the study, in seconds or tokens; None in the main one
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
    cold: bool  # whether first a load from the disk is timed, with the files dropped from the page cache

    @property
    def generation(self) -> GenerationSettings:
        """Return how text is generated."""
        return self.block.generations[self.mode]

    @property
    def key(self) -> tuple[str, float | None, str, str, str, int]:
        """Return the key of its line, as in `samples.KEY`."""
        return self.block.study, self.block.value, self.model, self.entry.id, self.mode, self.number


@dataclass(frozen=True, slots=True)
class Design:
    """What will be measured, and what can't be measured."""

    blocks: tuple[Block, ...]  # in order, the main one first
    broken: tuple[Problem, ...]  # samples that failed before the run began
    skipped: tuple[Problem, ...]  # not samples, or left out

    def schedule(self, models: Sequence[str], seed: int) -> list[Task]:
        """Return all passes, at random by sample, then by model and mode; a seed gives one order, also for resuming."""
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
        """Return the summary that is stored beside the samples."""
        of_one = sum(block.passes * len(block.entries) * len(block.generations) for block in self.blocks)
        return {
            "passes": of_one * len(models),
            "samples": len(self.blocks[0].entries),
            "sequences": len({entry.sequence for entry in self.blocks[0].entries}),
            "broken": [asdict(each) for each in self.broken],
            "skipped": [asdict(each) for each in self.skipped],
        }

    def digest(self) -> str:
        """Return a digest that is equal for designs with the same measurements, independent of folders."""
        described = json.dumps(
            [asdict(block) for block in self.blocks],
            default=lambda path: (path.name, path.stat().st_size if path.is_file() else 0),
        )
        return hashlib.sha256(described.encode()).hexdigest()[:12]


def make_design(dataset: Dataset, wanted: Wanted) -> Design:
    """Cut the samples, keep those with the requested media, and make the blocks; raise AnalysisError without any."""
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
    """Return windows of the synthetic clip, evenly spaced and overlapping, all of one sequence."""
    whole = Entry("scene", "scene", question, {"video": synthetic.video, "events": synthetic.events})
    if samples == 1:
        return Dataset((whole,))
    apart = (length_of(whole) - SYNTHETIC_WINDOW) / (samples - 1)
    return Dataset(tuple(_window(whole, i * apart, SYNTHETIC_WINDOW) for i in range(samples)))


def cut(dataset: Dataset, length: float | None, time_unit: str | None = None) -> Dataset:
    """Cut samples into windows of `length` seconds; shorter ones stay whole, and unreadable ones become broken."""
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
    """Return the seconds of the shorter of a sample's clip and recording; 0 where it has neither."""
    return min((seconds_of(path, time_unit) for path in _timed(entry).values()), default=0.0)


def seconds_of(path: Path, time_unit: str | None = None) -> float:
    """Return a clip's or recording's seconds; raise MediaError where it is unreadable, or its frames have no times."""
    if path.suffix.lower() in READERS:
        t = load_event_arrays(path, LoadSettings(time_unit=time_unit)).t
        return (int(t[-1]) - int(t[0])) / 1e6
    return seconds_shown(path)


def _window(entry: Entry, start: float, length: float) -> Entry:
    """Return a window of a sample, without its images, which have no times, and answers, which are of all of it."""
    start = round(start, 6)
    name = f"{entry.id}@{start:g}+{length:g}s"
    return replace(entry, id=name, paths=_timed(entry), start=start, duration=length, answers={})


def _timed(entry: Entry) -> dict[str, Path]:
    return {kind: path for kind, path in entry.paths.items() if kind != "images"}


def _duration_blocks(entries: Sequence[Entry], wanted: Wanted) -> tuple[list[Block], list[Problem]]:
    """Use the same few longest samples at each duration, so that only the duration differs."""
    lengths = dict.fromkeys((entry.id for entry in entries), 0.0)
    for entry in entries if wanted.durations else ():
        with suppress(MediaError):
            lengths[entry.id] = length_of(entry, wanted.loading.time_unit)
    possible = [seconds for seconds in wanted.durations if seconds <= max(lengths.values(), default=0.0)]
    missing = [f"a duration of {seconds:g} s" for seconds in wanted.durations if seconds not in possible]
    longest = [entry for entry in entries if possible and lengths[entry.id] >= max(possible)]
    chosen, generation = _few(longest, SCALING_SAMPLES), {"fixed": wanted.generation("fixed")}
    blocks = [Block(DURATIONS, s, [_window(e, 0.0, s) for e in chosen], generation) for s in possible]
    return blocks, [Problem(name, "no sample is that long") for name in missing]


def _few(entries: Sequence[Entry], count: int) -> tuple[Entry, ...]:
    return tuple(entries[i] for i in evenly_spaced(len(entries), min(count, len(entries)))) if entries else ()
