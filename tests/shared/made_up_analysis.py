"""A run of `stagebench analyze` that was made up: what its run.json and its lines of samples hold."""

from itertools import accumulate

from stagebench.core.stages import STAGE_NAMES

MODELS = {"quick": 1.0, "slow <b>": 2.5}
TEXT = "a *car* | a <script>alert(1)</script>"


def row(model, i, study="main", value=None, mode="natural", tokens=None):
    factor, tokens = MODELS[model], tokens or 4 + i % 3
    seconds = {stage: factor * (n + 1 + 0.01 * i) * 1e-3 for n, stage in enumerate(STAGE_NAMES)}
    seconds["decode"] = factor * 2e-3 * (tokens - 1)
    seconds["load"] *= 1 if value is None else value
    starts = dict(zip(STAGE_NAMES, accumulate(seconds.values(), initial=0.0), strict=False))
    ttft = sum(seconds[stage] for stage in ("preprocess", "encode", "prefill"))
    e2e = sum(seconds.values()) + 1e-4
    about = {"study": study, "value": value, "model": model, "sample": f"s{i}", "sequence": f"q{i % 4}", "mode": mode}
    return about | {
        "pass": 0,
        "order": i,
        "seconds": seconds,
        "unattributed": 1e-4,
        "e2e": e2e,
        "ttft": ttft,
        "tpot": (e2e - seconds["load"] - ttft) / (tokens - 1),
        "itl": [factor * 2e-3] * (tokens - 2),
        "starts": starts,
        "token_times": [starts["decode"] + factor * 2e-3 * (n + 1) for n in range(tokens - 1)],
        "tokens": tokens,
        "token_ids": [7, *([3 if i % 2 else 4] if model == "quick" else [3]), *range(2, tokens)],
        "finish_reason": "stop",
        "text": TEXT,
        "cold_load": seconds["load"] * 2,
    }


def rows():
    main = [row(model, i, mode=mode) for i in range(12) for model in MODELS for mode in ("natural", "fixed")]
    grown = [row(model, i, "durations", value, "fixed") for i in range(2) for model in MODELS for value in (1.0, 4.0)]
    failed = {
        k: v for k, v in row("quick", 99).items() if k in ("study", "value", "model", "sample", "mode", "pass", "order")
    }
    return [*main, *grown, failed | {"error": "clip.mp4: must be whole"}]


def proof():
    work = {stage: {"flops": 10**6, "steps": 4} for stage in STAGE_NAMES}
    moved = {stage: {"weights": 10**6} for stage in STAGE_NAMES}
    return {mode: {"seconds": 1.0, "sample": "s0", "work": work, "bytes": moved} for mode in ("natural", "fixed")}


def run():
    session = {
        "started": "2026-01-01T00:00:00+00:00",
        "load_warning": None,
        "ceilings": {"flops": 1e10, "bandwidth": 1e10, "bandwidth_kind": "copy"},
        "together": True,
        "proofs": {model: proof() for model in MODELS},
        "same_tokens": [["slow <b>", "quick"]],
    }
    names = ("device", "input", "generation", "media", "loading", "order_seed")
    identity = {name: f"the {name}" for name in names} | {"models": ", ".join(MODELS)}
    plan = {"passes": 57, "samples": 13, "sequences": 4, "broken": [{"name": "b", "reason": "empty"}], "skipped": []}
    return {"schema": 1, "identity": identity, "plan": plan, "sessions": [session]}
