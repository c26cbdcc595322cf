"""Time passes, and hold each to its own tokens, text, work and clock: what was verified is another pass."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from stagebench.core import meter
from stagebench.core.artifacts import Run, Sample, Work
from stagebench.core.errors import StageError
from stagebench.core.stages import DECODE, STAGE_NAMES
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.remembered import require_work
from stagebench.pipeline.run_stages import Options, detokenize, run_stages, setups
from stagebench.pipeline.timing import Stopwatch, without_collection
from stagebench.pipeline.token_match import require_same_tokens

COLLECTION = {"garbage_collection": "off"}
"""What the results say of timed passes: a pause for it would be counted as some stage's."""

_CLOCK = (5e-4, 0.02)  # seconds, or a share of them, by which two clocks around the same call may differ
_ELSEWHERE = 2e-3  # seconds by which clocks of other places may, such as that of a GPU


def timed_pass(model: VisionLanguageModel, sample: Sample, options: Options) -> Run:
    """Time a pass, again where a backend set something up in it, or a second clock says otherwise.

    A process may be stopped between two looks at its clocks: what they say of the last of three passes holds.

    Raises:
        StageError: where something was set up in each of them.
    """
    for _ in range(3):
        before = setups(model)
        with without_collection():
            run = timed_run(model, sample, options)
        if (grown := setups(model) - before) == 0 and not any(clock_problems([run])):
            break
    if grown:
        raise StageError(f"a later pass of an input must find all set up, got {grown} set up in it")
    return run


def timed_run(model: VisionLanguageModel, sample: Sample, options: Options) -> Run:
    """Run the path with a stopwatch, once."""
    watch = Stopwatch(model.hf_model.device)
    spans: dict[str, tuple[float, float]] = {}
    counts: dict[str, Work] = {}

    def instrument(stage: str, *call: Any) -> Any:
        before, began = meter.so_far(), time.perf_counter_ns()
        result = watch(stage, *call)
        spans[stage] = began / 1e9, time.perf_counter_ns() / 1e9
        counts[stage] = meter.since(before)
        return result

    start = time.perf_counter()
    generation = run_stages(model, sample, options, instrument)[DECODE.name]
    text = detokenize(model, generation)
    e2e = time.perf_counter() - start
    return Run(model.name, watch.seconds, watch.device_seconds, e2e, generation, text, spans, counts)


def check_passes(model: VisionLanguageModel, runs: Sequence[Run], expected: Sequence[Sequence[int]] | None) -> None:
    """Refuse timed passes of one sample that are not what they say.

    Args:
        model: that of the passes.
        runs: all of them; by the pass in the middle, of two by the better one, because a process may be stopped between
            two looks at its clocks.
        expected: tokens that a verified pass gave, a row each; None where the model does not repeat itself.

    Raises:
        StageError: for other tokens, a text that is not that of the tokens, a stage that did nothing, or a timer that
            the second clock contradicts.
    """
    for run in runs:
        require_text(model, run)
        if expected is not None:
            require_same_tokens(model.tokenizer, run.generation.token_ids, expected)
        for stage, done in run.metered.items():
            require_work(stage, done)
    for problem in clock_problems(runs):
        raise StageError(problem)


def require_text(model: VisionLanguageModel, run: Run) -> None:
    """Refuse a text that is not all that the pass's tokens say."""
    text: str = model.tokenizer.decode(run.generation.token_ids[0], skip_special_tokens=True).strip()  # independently
    if run.text != text:
        raise StageError(f"the text must be that of its {run.new_tokens} tokens, {len(text)} characters, got another")


def clock_problems(runs: Sequence[Run]) -> Iterator[str]:
    """Say which timers the second clock contradicts, in the pass that lies in the middle by how far they do."""

    def middle(clocks: Callable[[Run], tuple[float, float]]) -> tuple[float, float]:
        apart = sorted(map(clocks, runs), key=lambda both: abs(both[1] - both[0]) / both[1])
        return apart[(len(apart) - 1) // 2]

    for stage in STAGE_NAMES:
        timed, seen = middle(partial(_both_clocks, stage))
        if abs(seen - timed) > max(_CLOCK[0], _CLOCK[1] * seen):
            yield f"{stage} must take what a second clock says, {seen * 1e3:.2f} ms, got {timed * 1e3:.2f} ms"
    first, last = STAGE_NAMES[0], STAGE_NAMES[-1]
    e2e, seen = middle(lambda run: (run.e2e, run.spans[last][1] - run.spans[first][0]))
    if e2e < seen - _ELSEWHERE:
        yield f"e2e must hold all stages, {seen * 1e3:.2f} ms by a second clock, got {e2e * 1e3:.2f} ms"
    if _steps_outside(runs[0]):
        yield "the tokens of decode must come while it runs, got times outside of it, or not in order"


def _both_clocks(stage: str, run: Run) -> tuple[float, float]:
    """Return a stage's seconds by its timer, and by the second clock."""
    began, ended = run.spans[stage]
    return run.seconds[stage], ended - began


def _steps_outside(run: Run) -> bool:
    began, ended = run.spans[DECODE.name]
    ends = run.generation.step_ends
    backwards = any(before > after for before, after in pairwise(ends))
    return backwards or not all(began - _ELSEWHERE < end < ended + _ELSEWHERE for end in ends)
