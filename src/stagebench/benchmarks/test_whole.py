"""The whole path, and as references transformers' own `generate()`, and from file to text with it."""

from __future__ import annotations

import pytest

from stagebench.benchmarks.no_capture_guard import about
from stagebench.core.errors import StageError
from stagebench.core.stages import time_outside
from stagebench.pipeline.run_stages import prepared, reference_generate
from stagebench.pipeline.timed_pass import check_passes, timed_run

WARM_UPS = 1
"""Of seconds each: one sets up what there is to set up."""


def test_e2e(benchmark, pedantic, model, sample, options, verified, rounds):
    benchmark.group = "e2e"
    runs = []

    def timed():
        runs.append(timed_run(model, sample, options))
        return runs[-1]

    run = pedantic(timed, warmup_rounds=WARM_UPS)
    passes = runs[-max(rounds, 2) :]  # of one alone a stop of the process may be taken for a fault
    check_passes(model, passes, verified.generation.token_ids if verified else None)
    if problem := time_outside([each.unattributed for each in passes], [each.e2e for each in passes]):
        raise StageError(f"{model.name}: the stages must explain e2e, got {problem}")
    if verified:
        benchmark.extra_info |= {"work": verified.work, "content": verified.content}
    benchmark.extra_info |= about(model) | {
        "new_tokens": run.new_tokens,
        "unattributed_share": run.unattributed / run.e2e,
        "text": run.text,
    }


@pytest.mark.eager
def test_generate(benchmark, pedantic, model, sample, options, verified):
    benchmark.group = "generate()"
    inputs = prepared(model, sample)

    tokens = pedantic(reference_generate, args=(model, inputs, options), warmup_rounds=WARM_UPS)

    if verified:
        assert tokens[0].tolist() == list(verified.generation.token_ids[0])
        benchmark.extra_info["work"] = verified.reference_work
    benchmark.extra_info |= {"model": model.name, "new_tokens": tokens.shape[1]}


@pytest.mark.eager
def test_e2e_generate(benchmark, pedantic, model, sample, options, verified):
    benchmark.group = "e2e"

    def from_file_to_text():
        tokens = reference_generate(model, prepared(model, sample), options)
        return tokens, model.tokenizer.decode(tokens[0], skip_special_tokens=True)

    tokens, _ = pedantic(from_file_to_text, warmup_rounds=WARM_UPS)

    if verified:
        assert tokens[0].tolist() == list(verified.generation.token_ids[0])
        benchmark.extra_info["work"] = verified.reference_work
    benchmark.extra_info |= {"model": model.name, "new_tokens": tokens.shape[1]}
