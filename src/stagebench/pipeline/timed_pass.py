"""Time passes, and check each one's own tokens, text, work and clock, because verification ran another pass."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stagebench.core import meter
from stagebench.core.artifacts import Run, Sample, Work
from stagebench.core.errors import StageError
from stagebench.core.stages import DECODE, STAGE_NAMES
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.remembered import require_work
from stagebench.pipeline.run_stages import Options, detokenize, run_stages
from stagebench.pipeline.timing import Stopwatch, repeats_itself, without_collection
from stagebench.pipeline.verify import require_same_tokens

COLLECTION = {"garbage_collection": "off"}  # in timed passes: a pause would count as part of a stage

_CLOCK = (5e-4, 0.02)  # seconds, or a share, by which two clocks around the same call may differ
_ELSEWHERE = 2e-3  # seconds by which clocks in different places may differ, such as a GPU's


def timed_pass(model: VisionLanguageModel, sample: Sample, options: Options) -> Run:
    """Time a pass, up to three times until clocks agree and nothing is set up; raise StageError for set-ups."""
    for _ in range(3):
        before = model.setups
        with without_collection():
            run = timed_run(model, sample, options)
        if (grown := model.setups - before) == 0 and not any(clock_problems([run])):
            break
    if grown:
        raise StageError(f"a later pass of an input must set nothing up, got {grown} set-ups")
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
    """Refuse the timed passes of one sample where one of them is wrong.

    A pass is wrong if its tokens differ from the expected ones (where the model is repeatable), or its text from its
    tokens. It is also wrong if a stage did no work, or a timer disagrees with the second clock.
    """
    judged = expected if repeats_itself(model.hf_model.device) else None
    for run in runs:
        tokens = run.generation.token_ids
        text: str = model.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()  # independently
        if run.text != text:
            said = f"that of its {run.new_tokens} tokens, {len(text)} characters"
            raise StageError(f"the text must be {said}, got another")
        if judged is not None:
            require_same_tokens(model.tokenizer, tokens, judged)
        for stage, done in run.metered.items():
            require_work(stage, done)
    for problem in clock_problems(runs):
        raise StageError(problem)


def clock_problems(runs: Sequence[Run]) -> Iterator[str]:
    """Yield a line for each timer that disagrees with the second clock, in the pass of median disagreement."""
    for stage in STAGE_NAMES:
        timed, seen = _middle((run.seconds[stage], run.spans[stage][1] - run.spans[stage][0]) for run in runs)
        if abs(seen - timed) > max(_CLOCK[0], _CLOCK[1] * seen):
            yield f"{stage} must agree with a second clock, {seen * 1e3:.2f} ms, got {timed * 1e3:.2f} ms"
    first, last = STAGE_NAMES[0], STAGE_NAMES[-1]
    e2e, seen = _middle((run.e2e, run.spans[last][1] - run.spans[first][0]) for run in runs)
    if e2e < seen - _ELSEWHERE:
        yield f"e2e must contain all stages, {seen * 1e3:.2f} ms by a second clock, got {e2e * 1e3:.2f} ms"
    (began, ended), ends = runs[0].spans[DECODE.name], runs[0].generation.step_ends
    if not all(began - _ELSEWHERE < end < ended + _ELSEWHERE for end in ends) or list(ends) != sorted(ends):
        yield "the tokens of decode must come while it runs, got times outside it or out of order"


def _middle(clocks: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return the pair of times of median distance, the lower median of two: a single pass may have been stopped."""
    apart = sorted(clocks, key=lambda both: abs(both[1] - both[0]) / both[1])
    return apart[(len(apart) - 1) // 2]
