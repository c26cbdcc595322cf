"""What holds each timed pass to its own tokens, text, work and clock: the proof is of another pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from statistics import median_low

from stagebench.core.artifacts import Run, Sample
from stagebench.core.errors import StageError
from stagebench.core.stages import STAGE_NAMES
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.remembered import require_work
from stagebench.pipeline.run_stages import Options, timed_run
from stagebench.pipeline.timing import without_collection
from stagebench.pipeline.token_match import another_token

COLLECTION = {"garbage_collection": "off"}
"""What the results say of timed passes: a pause for it would be laid at the door of some stage."""

_CLOCK = (5e-4, 0.02)  # seconds, or a share of them, by which two clocks around the same call may differ
_ELSEWHERE = 2e-3  # seconds by which clocks of other places may, such as that of a GPU
_OUTSIDE = (5e-3, 0.05)  # likewise of e2e, that may lie outside the stages


def timed_pass(model: VisionLanguageModel, sample: Sample, options: Options) -> Run:
    """Time a pass, again where a second clock says otherwise: a process may be stopped between two looks."""
    for _ in range(3):
        with without_collection():
            run = timed_run(model, sample, options)
        if not any(clock_problems([run])):
            break
    return run


def check_passes(model: VisionLanguageModel, runs: Sequence[Run], expected: Sequence[Sequence[int]] | None) -> None:
    """Refuse timed passes of one sample that are not what they say.

    Args:
        model: that of the passes.
        runs: all of them; by the pass in the middle, of two by the better one, because a process may be stopped between
            two looks at its clocks.
        expected: tokens that a proven pass gave, a row each; None where the model does not repeat itself.

    Raises:
        StageError: for other tokens, a text that is not that of the tokens, a stage that did nothing, or a timer that
            the walk's own clock contradicts.
    """
    for run in runs:
        require_text(model, run)
        if expected is not None:
            require_tokens(model, run, expected)
        for stage, done in run.metered.items():
            require_work(stage, done)
    for problem in clock_problems(runs):
        raise StageError(problem)


def require_tokens(model: VisionLanguageModel, run: Run, expected: Sequence[Sequence[int]]) -> None:
    """Refuse a pass that wrote another text than the first of its kind."""
    for mine, first in zip(run.generation.token_ids, expected, strict=True):
        if mine != tuple(first):
            got = another_token(model.tokenizer, first, mine)
            raise StageError(f"every pass must give the tokens of the first, got {got}")


def require_text(model: VisionLanguageModel, run: Run) -> None:
    """Refuse a text that is not all that the pass's tokens say."""
    told: str = model.tokenizer.decode(run.generation.token_ids[0], skip_special_tokens=True).strip()
    if run.text != told:
        raise StageError(f"the text must be that of its {run.new_tokens} tokens, {len(told)} characters, got another")


def clock_problems(runs: Sequence[Run]) -> Iterator[str]:
    """Say which timers the walk's own clock contradicts, in the pass that lies in the middle by how far they do."""

    def middle(both: Callable[[Run], tuple[float, float]]) -> tuple[float, float]:
        apart = sorted(map(both, runs), key=lambda clocks: abs(clocks[1] - clocks[0]) / clocks[1])
        return apart[(len(apart) - 1) // 2]

    for stage in STAGE_NAMES:
        told, seen = middle(partial(_both, stage=stage))
        if abs(seen - told) > max(_CLOCK[0], _CLOCK[1] * seen):
            yield f"{stage} must take what a second clock says, {seen * 1e3:.2f} ms, got {told * 1e3:.2f} ms"
    e2e, seen = middle(lambda run: (run.e2e, _walked(run)))
    if e2e < seen - _ELSEWHERE:
        yield f"e2e must hold all stages, {seen * 1e3:.2f} ms by a second clock, got {e2e * 1e3:.2f} ms"
    if any(_steps_outside(run) for run in runs[:1]):
        yield "the tokens of decode must come while it runs, got times outside of it, or not in order"


def _both(run: Run, stage: str) -> tuple[float, float]:
    """A stage's seconds by its timer, and by the walk."""
    began, ended = run.spans[stage]
    return run.seconds[stage], ended - began


def _walked(run: Run) -> float:
    """Seconds from the first stage's begin to the last one's end."""
    return run.spans[STAGE_NAMES[-1]][1] - run.spans[STAGE_NAMES[0]][0]


def _steps_outside(run: Run) -> bool:
    began, ended = run.spans["decode"]
    ends = run.generation.step_ends
    return any(not began - _ELSEWHERE < end < ended + _ELSEWHERE for end in ends) or any(
        a > b for a, b in pairwise(ends)
    )


def outside(runs: Sequence[Run]) -> str | None:
    """Say how much time lies outside the stages in the median pass, where it is more than detokenising takes."""
    unattributed, e2e = median_low(run.unattributed for run in runs), median_low(run.e2e for run in runs)
    if unattributed <= max(_OUTSIDE[0], _OUTSIDE[1] * e2e):
        return None
    return f"{unattributed * 1e3:.1f} ms of {e2e * 1e3:.1f} ms lie outside the stages ({unattributed / e2e:.0%})"
