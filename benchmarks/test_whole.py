"""The whole path, and transformers' own `generate()` as the reference for encode + prefill + decode."""

from __future__ import annotations

from stagebench.pipeline import prepared, reference_generate, timed_run


def test_e2e(benchmark, model, sample, options, rounds, proof):
    benchmark.group = "e2e"
    run = benchmark.pedantic(timed_run, args=(model, sample, options), rounds=rounds, warmup_rounds=1)

    if proof:
        proof.require_same_tokens(run.generation)
        benchmark.extra_info["work"] = proof.work
    benchmark.extra_info |= {
        "model": model.name,
        "new_tokens": run.new_tokens,
        "unattributed_share": run.unattributed / run.e2e,
        "text": run.text,
    }


def test_generate(benchmark, model, sample, options, rounds, proof):
    benchmark.group = "generate()"
    inputs = prepared(model, sample)

    tokens = benchmark.pedantic(reference_generate, args=(model, inputs, options), rounds=rounds, warmup_rounds=1)

    if proof:
        assert tokens[0].tolist() == list(proof.generation.token_ids[0])
        benchmark.extra_info["work"] = proof.reference_work
    benchmark.extra_info |= {"model": model.name, "new_tokens": tokens.shape[1]}
