"""Timings as other tools and people write them, each whole, with changes where a test asks for them."""


def stage_row(i, **changes):
    return {
        "id": f"sample_{i}",
        "event_data": f"interlaken_00_a/{i:06}.npy",
        "egpt": "In the scene, there is",
        "egpt_time": 1.851,
        "egpt_stage1_time": 0.851,
        "egpt_stage2_time": 0.023,
        "egpt_stage3_time": 0.977,
        "egpt_token_ids": list(range(500, 545)),
        "llava_time": 9.463,
        "llava_stage1_time": 6.858,
        "llava_stage2_time": 0.072,
        "llava_stage3_time": 2.533,
        "llava_token_ids": list(range(500, 602)),
    } | changes


ROWS = [stage_row(i) for i in range(4)]


def served(**changes):
    """Three requests, one after the other: 0.1 s to the first token, then 0.05 s a token, of 3, 5 and 7 tokens."""
    return {
        "model_id": "llava",
        "duration": 2.0,
        "completed": 3,
        "total_output_tokens": 15,
        "output_throughput": 7.5,
        "mean_ttft_ms": 100.0,
        "median_ttft_ms": 100.0,
        "p99_ttft_ms": 100.0,
        "mean_tpot_ms": 50.0,
        "mean_e2el_ms": 300.0,
        "input_lens": [10, 20, 30],
        "output_lens": [3, 5, 7],
        "ttfts": [0.1, 0.1, 0.1],
        "itls": [[0.05] * 2, [0.05] * 4, [0.05] * 6],
        "errors": ["", "", ""],
    } | changes


def summary(**changes):
    """Requests of 2 and 10 tokens, the short one of slow tokens: 0.1 s each to the first, then 0.08 and 0.02 s a token.

    Their mean decode is 0.13 s, where mean tpot times mean tokens makes 0.25 s.
    """
    times = {"mean_ttft_ms": 100.0, "mean_tpot_ms": 50.0, "std_tpot_ms": 30.0, "mean_itl_ms": 26.0}
    counts = {"completed": 2, "total_output_tokens": 12, "duration": 0.46, "max_concurrency": 1, "request_rate": "inf"}
    return {"model_id": "m", "latencies": [0.18, 0.28]} | times | counts | changes


def ran(**changes):
    """As `stagebench run --json` writes it, the second pass of each model slower by 1 s a stage."""
    seconds = {"load": 1.0, "preprocess": 2.0, "encode": 3.0, "prefill": 4.0, "decode": 5.0}
    slower = {stage: each + 1 for stage, each in seconds.items()}
    said = {
        "study": "main",
        "mode": "fixed",
        "token_ids": [7, 8, 9],
        "tokens": 3,
        "finish_reason": "length",
        "text": "x",
    }
    rows = [
        {
            "model": model,
            "sample": "scene",
            "pass": i,
            "order": i,
            "seconds": each,
            "ttft": 9.0,
            "text": "x",
            "e2e": 15.5 + 5 * i,
        }
        for model in ("a", "b")
        for i, each in enumerate((seconds, slower))
    ]
    rows = [row | said | changes for row in rows]
    return {"kind": "samples", "schema": 1, "identity": {"input": "scene"}, "samples": rows}


def typed(**numbers):
    """A table of two models, the first with other numbers."""
    whole = {"load": 1.0, "preprocess": 0.1, "encode": 0.1, "prefill": 0.2, "decode": 2.0, "tokens": 101}
    one = {key: value for key, value in (whole | numbers).items() if value is not None}
    return {"models": [{"name": "a", **one}, {"name": "b", **whole}]}


TYPED = {
    "models": [
        {"name": "a", "load": 1, "preprocess": 1, "generation": 1, "tokens": 9, "e2e": 3},
        {"name": "b", "samples": [{"id": 1, "load": 1, "preprocess": 1, "generation": 1, "tokens": 9, "e2e": 3}]},
    ]
}
