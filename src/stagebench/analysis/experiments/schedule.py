"""What is measured in which order. The same plan gives the same schedule, so that a run can be taken up again."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stagebench.analysis.experiments.dataset import Entry
from stagebench.core.settings import GenerationSettings

MAIN, DURATIONS, NEW_TOKENS = "main", "durations", "new_tokens"
"""The studies of a run: the samples, and how the costs grow with the length of a clip and of the text."""

MODES = ("natural", "fixed")


@dataclass(frozen=True, slots=True)
class Task:
    """One pass of one sample through one model.

    Attributes:
        study: `MAIN`, `DURATIONS` or `NEW_TOKENS`.
        value: in the last two, the seconds or the tokens; None in the first.
        model: its name.
        entry: the sample.
        mode: one of `MODES`.
        generation: how text is generated.
        number: of the pass, from 0.
        cold: also time a load from the disk, with the files dropped from the page cache, before it.
    """

    study: str
    value: float | None
    model: str
    entry: Entry
    mode: str
    generation: GenerationSettings
    number: int
    cold: bool

    @property
    def key(self) -> tuple[str, float | None, str, str, str, int]:
        """As `journal.KEY` of its row."""
        return self.study, self.value, self.model, self.entry.id, self.mode, self.number


@dataclass(frozen=True, slots=True)
class Block:
    """Samples that are all treated alike.

    Attributes:
        study: as in `Task`.
        value: as in `Task`.
        entries: the samples.
        generations: by mode.
        passes: of each sample, model and mode.
    """

    study: str
    value: float | None
    entries: Sequence[Entry]
    generations: Mapping[str, GenerationSettings]
    passes: int = 1


def schedule(blocks: Sequence[Block], models: Sequence[str], seed: int) -> list[Task]:
    """Put all passes in order: samples as drawn, and within each sample the models as drawn, then modes and passes.

    No model always goes first, and what drifts during the run meets all of them alike.

    Args:
        blocks: one after the other.
        models: names.
        seed: of the draws.
    """
    draw = random.Random(seed)
    tasks: list[Task] = []
    for block in blocks:
        for entry in draw.sample(block.entries, len(block.entries)):
            for model in draw.sample(models, len(models)):
                tasks += _passes(block, entry, model, draw)
    return tasks


def _passes(block: Block, entry: Entry, model: str, draw: random.Random) -> list[Task]:
    modes = draw.sample(list(block.generations), len(block.generations))
    return [
        Task(
            block.study,
            block.value,
            model,
            entry,
            mode,
            block.generations[mode],
            number,
            cold=block.study == MAIN and mode == modes[0] and number == 0,
        )
        for number in range(block.passes)
        for mode in modes
    ]
