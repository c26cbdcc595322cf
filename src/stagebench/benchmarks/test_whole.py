"""The whole path, and as references transformers' own `generate()`, alone and from file to text."""

from __future__ import annotations

import pytest

from stagebench.core.errors import StageError
from stagebench.core.stages import time_outside
from stagebench.pipeline.run_stages import prepared, reference_generate
from stagebench.pipeline.timed_pass import check_passes, timed_run
from stagebench.suite.no_capture_guard import about

WARM_UPS = 1
"""Each takes seconds; one sets everything up."""


def test_e2e(benchmark, stage_benchmark, stage_model, stage_sample, stage_options, stage_verified, stage_rounds):
    benchmark.group = "e2e"
    runs = []

    def timed():
        runs.append(timed_run(stage_model, stage_sample, stage_options))
        return runs[-1]

    run = stage_benchmark(timed, warmup_rounds=WARM_UPS)
    passes = runs[-max(stage_rounds, 2) :]  # a stop of the process may look like a fault in one alone
    check_passes(stage_model, passes, stage_verified.generation.token_ids if stage_verified else None)
    if problem := time_outside([each.unattributed for each in passes], [each.e2e for each in passes]):
        raise StageError(f"{stage_model.name}: the stages must explain e2e, got {problem}")
    if stage_verified:
        benchmark.extra_info |= {"work": stage_verified.work, "content": stage_verified.content}
    benchmark.extra_info |= about(stage_model) | {
        "new_tokens": run.new_tokens,
        "unattributed_share": run.unattributed / run.e2e,
        "text": run.text,
    }


@pytest.mark.eager
def test_generate(benchmark, stage_benchmark, stage_model, stage_sample, stage_options, stage_verified):
    benchmark.group = "generate()"
    inputs = prepared(stage_model, stage_sample)

    tokens = stage_benchmark(reference_generate, args=(stage_model, inputs, stage_options), warmup_rounds=WARM_UPS)

    if stage_verified:
        assert tokens[0].tolist() == list(stage_verified.generation.token_ids[0])
        benchmark.extra_info["work"] = stage_verified.reference_work
    benchmark.extra_info |= {"model": stage_model.name, "new_tokens": tokens.shape[1]}


@pytest.mark.eager
def test_e2e_generate(benchmark, stage_benchmark, stage_model, stage_sample, stage_options, stage_verified):
    benchmark.group = "e2e"

    def from_file_to_text():
        tokens = reference_generate(stage_model, prepared(stage_model, stage_sample), stage_options)
        return tokens, stage_model.tokenizer.decode(tokens[0], skip_special_tokens=True)

    tokens, _ = stage_benchmark(from_file_to_text, warmup_rounds=WARM_UPS)

    if stage_verified:
        assert tokens[0].tolist() == list(stage_verified.generation.token_ids[0])
        benchmark.extra_info["work"] = stage_verified.reference_work
    benchmark.extra_info |= {"model": stage_model.name, "new_tokens": tokens.shape[1]}
