"""Which samples and blocks a run consists of, out of a dataset and what a person asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from stagebench.analysis.experiments.clips import beginning, cut, lasting, spread
from stagebench.analysis.experiments.dataset import Dataset, Entry, Problem, path_shown
from stagebench.analysis.experiments.schedule import DURATIONS, MAIN, NEW_TOKENS, Block
from stagebench.core.errors import ExperimentError
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
        clip_window: seconds, as `windows.cut` takes it.
        recording_window: likewise.
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
        """How text is generated in a mode."""
        return GenerationSettings(max(self.new_tokens), fixed_length=mode == "fixed")


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be measured, and what can't be.

    Attributes:
        blocks: for `schedule`.
        broken: samples that failed before the run began.
        skipped: what is no sample, or was left out.
    """

    blocks: tuple[Block, ...]
    broken: tuple[Problem, ...]
    skipped: tuple[Problem, ...]

    def as_json(self, models: Sequence[str]) -> dict[str, Any]:
        """What is kept of it beside the samples."""
        of_one = sum(block.passes * len(block.entries) * len(block.generations) for block in self.blocks)
        return {
            "passes": of_one * len(models),
            "samples": len(self.blocks[0].entries),
            "sequences": len({entry.sequence for entry in self.blocks[0].entries}),
            "broken": [asdict(each) for each in self.broken],
            "skipped": [asdict(each) for each in self.skipped],
        }

    def digest(self) -> str:
        """Equal for plans that measure the same things, wherever they lie on the disk."""
        return hashlib.sha256(json.dumps([_block_as_json(block) for block in self.blocks]).encode()).hexdigest()[:12]


def make_plan(dataset: Dataset, wanted: Wanted) -> Plan:
    """Cut the samples, leave out what has not the media asked for, and lay out the blocks.

    Raises:
        ExperimentError: no sample is left.
    """
    whole = _with_media(dataset, wanted.media)
    windows = cut(whole, wanted.clip_window, wanted.recording_window, wanted.time_unit)
    entries = windows.entries
    if wanted.samples is not None and wanted.samples < len(entries):
        entries = tuple(entries[i] for i in evenly_spaced(len(entries), wanted.samples))
    if not entries:
        first = [f"{each.name}: {each.reason}" for each in (*windows.broken, *windows.skipped)][:1]
        raise ExperimentError(
            f"there must be at least one sample, got none; {first[0] if first else 'the dataset is empty'}"
        )
    main = Block(MAIN, None, entries, {mode: wanted.generation(mode) for mode in wanted.modes}, wanted.passes)
    durations, short = _duration_blocks(whole.entries, wanted)
    blocks = (main, *durations, *_token_blocks(entries, wanted))
    return Plan(blocks, windows.broken, (*windows.skipped, *short))


def synthetic_dataset(synthetic: SyntheticClip, samples: int, question: str) -> Dataset:
    """Windows of the synthetic clip, evenly spaced and overlapping: one sequence, whatever their number."""
    whole = Entry("scene", "scene", question, {"video": synthetic.video, "events": synthetic.events})
    return Dataset((whole,) if samples == 1 else tuple(spread(whole, SYNTHETIC_WINDOW, samples)))


def _with_media(dataset: Dataset, media: str) -> Dataset:
    has = [path_shown(entry, media, "video") is not None for entry in dataset.entries]
    without = [Problem(e.id, f"has no {media}") for e, fits in zip(dataset.entries, has, strict=True) if not fits]
    kept = tuple(entry for entry, fits in zip(dataset.entries, has, strict=True) if fits)
    return replace(dataset, entries=kept, skipped=(*dataset.skipped, *without))


def _duration_blocks(entries: Sequence[Entry], wanted: Wanted) -> tuple[list[Block], list[Problem]]:
    """The same few samples at each duration, so that nothing but the duration differs: those that last longest."""
    possible = [seconds for seconds in wanted.durations if lasting(entries, seconds, wanted.time_unit)]
    short = [
        Problem(f"a duration of {seconds:g} s", "no sample lasts so long")
        for seconds in wanted.durations
        if seconds not in possible
    ]
    if not possible:
        return [], short
    chosen = _few(lasting(entries, max(possible), wanted.time_unit))
    generation = {"fixed": wanted.generation("fixed")}
    return [Block(DURATIONS, s, [beginning(e, s) for e in chosen], generation) for s in possible], short


def _token_blocks(entries: Sequence[Entry], wanted: Wanted) -> list[Block]:
    if len(wanted.new_tokens) < 2:
        return []
    return [
        Block(NEW_TOKENS, float(n), _few(entries), {"fixed": GenerationSettings(n, fixed_length=True)})
        for n in sorted(set(wanted.new_tokens))
    ]


def _few(entries: Sequence[Entry]) -> list[Entry]:
    return [entries[i] for i in evenly_spaced(len(entries), min(SCALING_SAMPLES, len(entries)))]


def _block_as_json(block: Block) -> list[Any]:
    generation = {mode: each.describe() for mode, each in block.generations.items()}
    return [block.study, block.value, block.passes, generation, [_entry_as_json(entry) for entry in block.entries]]


def _entry_as_json(entry: Entry) -> list[Any]:
    files = {kind: (path.name, path.stat().st_size if path.is_file() else 0) for kind, path in entry.paths.items()}
    return [entry.id, entry.question, entry.start, entry.duration, files]
