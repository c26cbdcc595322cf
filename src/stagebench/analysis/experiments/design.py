"""The design of an experiment: which samples are measured, in which blocks, and in which order."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from stagebench.analysis.experiments.clips import cut, length_of, spread, window
from stagebench.analysis.experiments.dataset import Dataset, Entry, Problem, path_shown
from stagebench.analysis.samples import DURATIONS, MAIN, NEW_TOKENS
from stagebench.core.errors import AnalysisError, MediaError
from stagebench.core.settings import GenerationSettings
from stagebench.media.sampling import evenly_spaced
from stagebench.media.synthetic_clip import SyntheticClip

SYNTHETIC_WINDOW = 0.4
"""Seconds of the synthetic clip in a sample of it: 12 frames, of which the models take 8."""
SCALING_SAMPLES = 3
"""Samples at each point of a scaling curve."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person asked for.

    Attributes:
        samples: how many, evenly drawn from all; None for all.
        clip_window: seconds, as `clips.cut` takes it.
        recording_window: seconds, as `clips.cut` takes it too.
        media: as `dataset.path_shown` takes it.
        modes: of generation.
        new_tokens: the limit; of several, the largest, and all of them are compared.
        passes: of each sample, model and mode.
        durations: in seconds, to be compared.
        time_unit: of recordings, as in `LoadSettings`.
    """

    samples: int | None
    clip_window: float | None
    recording_window: float | None
    media: str
    modes: tuple[str, ...]
    new_tokens: tuple[int, ...]
    passes: int
    durations: tuple[float, ...]
    time_unit: str | None = None

    def generation(self, mode: str) -> GenerationSettings:
        """Return how text is generated in a mode."""
        return GenerationSettings(max(self.new_tokens), fixed_length=mode == "fixed")


@dataclass(frozen=True, slots=True)
class Block:
    """Samples that are all treated alike.

    Attributes:
        study: one of `STUDIES`.
        value: what the study varies, in seconds or tokens; None in the main one.
        entries: the samples.
        generations: how text is generated, by mode.
        passes: of each sample, model and mode.
    """

    study: str
    value: float | None
    entries: Sequence[Entry]
    generations: Mapping[str, GenerationSettings]
    passes: int = 1

    def as_json(self) -> list[Any]:
        """Return what makes it the same block, wherever its files lie on the disk."""
        generations = {mode: each.describe() for mode, each in self.generations.items()}
        return [self.study, self.value, self.passes, generations, [_entry_as_json(entry) for entry in self.entries]]


@dataclass(frozen=True, slots=True)
class Task:
    """One pass of one sample through one model.

    Attributes:
        block: that it belongs to.
        model: its name.
        entry: the sample.
        mode: of generation.
        number: of the pass, from 0.
        cold: also time a load from the disk, with the files dropped from the page cache, before it.
    """

    block: Block
    model: str
    entry: Entry
    mode: str
    number: int
    cold: bool

    @property
    def generation(self) -> GenerationSettings:
        """How text is generated."""
        return self.block.generations[self.mode]

    @property
    def key(self) -> tuple[str, float | None, str, str, str, int]:
        """As `sample_log.KEY` of its line."""
        return self.block.study, self.block.value, self.model, self.entry.id, self.mode, self.number


@dataclass(frozen=True, slots=True)
class Design:
    """What will be measured, and what can't be.

    Attributes:
        blocks: one after the other, the main one first.
        broken: samples that failed before the run began.
        skipped: what is no sample, or was left out.
    """

    blocks: tuple[Block, ...]
    broken: tuple[Problem, ...]
    skipped: tuple[Problem, ...]

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
        """Return a text that is equal for designs that measure the same things."""
        return hashlib.sha256(json.dumps([block.as_json() for block in self.blocks]).encode()).hexdigest()[:12]


def make_design(dataset: Dataset, wanted: Wanted) -> Design:
    """Cut the samples, leave out what has not the media asked for, and lay out the blocks.

    Raises:
        AnalysisError: no sample is left.
    """
    whole = _with_media(dataset, wanted.media)
    windows = cut(whole, wanted.clip_window, wanted.recording_window, wanted.time_unit)
    entries = windows.entries
    if not entries:
        problems = [f"{each.name}: {each.reason}" for each in (*windows.broken, *windows.skipped)]
        raise AnalysisError(f"there must be at least one sample, got none; {[*problems, 'the dataset is empty'][0]}")
    if wanted.samples is not None:
        entries = _few(entries, wanted.samples)
    main = Block(MAIN, None, entries, {mode: wanted.generation(mode) for mode in wanted.modes}, wanted.passes)
    durations, short = _duration_blocks(whole.entries, wanted)
    lengths = sorted(set(wanted.new_tokens)) if len(wanted.new_tokens) > 1 else []
    fixed = [{"fixed": GenerationSettings(n, fixed_length=True)} for n in lengths]
    tokens = [
        Block(NEW_TOKENS, float(n), _few(entries, SCALING_SAMPLES), each)
        for n, each in zip(lengths, fixed, strict=True)
    ]
    return Design((main, *durations, *tokens), windows.broken, (*windows.skipped, *short))


def synthetic_dataset(synthetic: SyntheticClip, samples: int, question: str) -> Dataset:
    """Return windows of the synthetic clip, evenly spaced and overlapping: one sequence, whatever their number."""
    whole = Entry("scene", "scene", question, {"video": synthetic.video, "events": synthetic.events})
    return Dataset((whole,) if samples == 1 else tuple(spread(whole, SYNTHETIC_WINDOW, samples)))


def _with_media(dataset: Dataset, media: str) -> Dataset:
    has = {entry.id for entry in dataset.entries if path_shown(entry, media, "video") is not None}
    kept = tuple(entry for entry in dataset.entries if entry.id in has)
    without = [Problem(entry.id, f"has no {media}") for entry in dataset.entries if entry.id not in has]
    return replace(dataset, entries=kept, skipped=(*dataset.skipped, *without))


def _duration_blocks(entries: Sequence[Entry], wanted: Wanted) -> tuple[list[Block], list[Problem]]:
    """Take the same few samples at each duration, those that last longest: nothing but the duration differs."""
    lengths = [_length_or_zero(entry, wanted.time_unit) for entry in entries] if wanted.durations else []
    possible = [seconds for seconds in wanted.durations if seconds <= max(lengths, default=0.0)]
    short = [
        Problem(f"a duration of {seconds:g} s", "no sample lasts so long")
        for seconds in wanted.durations
        if seconds not in possible
    ]
    longest = [e for e, length in zip(entries, lengths, strict=False) if possible and length >= max(possible)]
    chosen, generation = _few(longest, SCALING_SAMPLES), {"fixed": wanted.generation("fixed")}
    return [Block(DURATIONS, s, [window(e, 0.0, s) for e in chosen], generation) for s in possible], short


def _length_or_zero(entry: Entry, time_unit: str | None) -> float:
    try:
        return length_of(entry, time_unit)
    except MediaError:
        return 0.0


def _few(entries: Sequence[Entry], count: int) -> tuple[Entry, ...]:
    return tuple(entries[i] for i in evenly_spaced(len(entries), min(count, len(entries)))) if entries else ()


def _entry_as_json(entry: Entry) -> list[Any]:
    files = {kind: (path.name, path.stat().st_size if path.is_file() else 0) for kind, path in entry.paths.items()}
    return [entry.id, entry.question, entry.start, entry.duration, files]
