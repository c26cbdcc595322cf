"""What the lines of a run say, as numbers: one object, from which every report is made. Importable without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from statistics import median
from typing import Any

from stagebench.analysis.attribution import mean_of
from stagebench.analysis.comparison import compare
from stagebench.analysis.display import as_json
from stagebench.analysis.drafting import agreement, drafting
from stagebench.analysis.experiments.schedule import DURATIONS, MAIN, MODES, NEW_TOKENS
from stagebench.analysis.fits import fit_growth, fit_line
from stagebench.analysis.roofline import Ceilings
from stagebench.analysis.samples import costs_by_sample, select, sequences
from stagebench.analysis.summary import percentiles, summarize
from stagebench.analysis.warnings import flags
from stagebench.core.errors import AnalysisError, StudyError
from stagebench.core.results import versioned
from stagebench.core.stages import STAGE_NAMES

Row = Mapping[str, Any]
EXAMPLES = 3
"""Samples whose texts are shown."""


def findings(run: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Analyse a run, finished or not.

    Args:
        run: as `journal.read_run` gives it.
        rows: as `journal.read_samples` gives them.

    Returns:
        JSON, times in seconds. A value that has no meaning is absent or None.

    Raises:
        StudyError: no sample went through any model.
    """
    good = [row for row in rows if "error" not in row]
    main = select(good, study=MAIN)
    if not main:
        raise StudyError("a report needs at least one sample that went through a model, got none")
    found = {
        "identity": run["identity"],
        "plan": run["plan"],
        "sessions": run["sessions"],
        "measured": len(good),
        "failures": _failures(run, rows),
        "modes": {mode: found for mode in MODES if (found := _mode(run, select(main, mode=mode)))},
        "cold": _cold(main),
        "texts": _texts(main),
        "drafting": _drafting(run, main),
        "scaling": {study: _scaling(select(good, study=study)) for study in (DURATIONS, NEW_TOKENS)},
    }
    return versioned("report", found)


def models_of(rows: Sequence[Row]) -> list[str]:
    """The models in a fixed order."""
    return sorted({row["model"] for row in rows})


def shared(rows: Sequence[Row]) -> list[Row]:
    """The rows of the samples that every model has as many of; all rows where there is no such sample.

    What failed for one model is left out for all, so that their numbers are of the same samples.
    """
    passes = {model: [row["sample"] for row in rows if row["model"] == model] for model in models_of(rows)}
    counts = [{sample: each.count(sample) for sample in set(each)} for each in passes.values()]
    common = {sample for sample, n in counts[0].items() if all(other.get(sample) == n for other in counts)}
    return [row for row in rows if row["sample"] in common] or list(rows)


def _failures(run: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, str]]:
    """Each sample that failed, once, whether before the run or in it."""
    failed = {each["name"]: each["reason"] for each in run["plan"]["broken"]}
    for row in rows:
        if "error" in row:
            failed.setdefault(row["sample"], f"{row['model']}: {row['error']}")
    return [{"name": name, "reason": reason} for name, reason in failed.items()]


def _mode(run: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any] | None:
    if not rows:
        return None
    kept = shared(rows)
    by_model = {model: select(kept, model=model) for model in models_of(kept)}
    return {
        "samples": len({row["sample"] for row in kept}),
        "sequences": len(set(sequences(kept).values())),
        "left_out": len({row["sample"] for row in rows} - {row["sample"] for row in kept}),
        "models": {model: asdict(summarize(each)) for model, each in by_model.items()},
        "warnings": {model: [asdict(flag) for flag in flags(each)] for model, each in by_model.items()},
        "pairs": [_pair(by_model[a], by_model[b]) for a, b in combinations(by_model, 2)],
        "fits": {model: fit for model, each in by_model.items() if (fit := _fit(each))},
        "utilisation": {model: found for model, each in by_model.items() if (found := _utilisation(run, each))},
    }


def _pair(a: Sequence[Row], b: Sequence[Row]) -> dict[str, Any]:
    """Explain two models, the slower one first."""
    costs = sorted((costs_by_sample(a), costs_by_sample(b)), key=lambda each: -mean_of(list(each.values())).total)
    return as_json(*compare(costs[0], costs[1], sequences([*a, *b])))


def _fit(rows: Sequence[Row]) -> dict[str, Any] | None:
    """e2e = a + b n over the passes; None where all have the same number of tokens."""
    try:
        return asdict(fit_line([row["tokens"] for row in rows], [row["e2e"] for row in rows]))
    except AnalysisError:
        return None


def _utilisation(run: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, dict[str, float]] | None:
    """MFU and MBU of the stages that compute, at the median of their seconds, against the last measured ceilings.

    FLOPs and bytes were counted in the proof, on one sample. Those of decode are taken a step, because texts differ in
    length.
    """
    model, mode = rows[0]["model"], rows[0]["mode"]
    session = next((each for each in reversed(run["sessions"]) if mode in each["proofs"].get(model, {})), None)
    if session is None:
        return None
    ceilings, proof = Ceilings(**session["ceilings"]), session["proofs"][model][mode]
    found = {}
    for stage in ("encode", "prefill", "decode"):
        times, counted = _unit_times(rows, stage), max(proof["work"][stage].get("steps", 1), 1)
        if times:
            flops = proof["work"][stage]["flops"] / counted
            moved = sum(proof["bytes"].get(stage, {}).values()) / counted
            seconds = median(times)
            found[stage] = {"mfu": ceilings.mfu(flops, seconds), "mbu": ceilings.mbu(moved, seconds)}
            found[stage] |= {"flops": flops, "bytes": moved, "seconds": seconds}
    return found


def _unit_times(rows: Sequence[Row], stage: str) -> list[float]:
    """Seconds of a stage; of decode, of each of its steps."""
    if stage != "decode":
        return [row["seconds"][stage] for row in rows]
    return [row["seconds"]["decode"] / (row["tokens"] - 1) for row in rows if row["tokens"] > 1]


def _cold(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The load stage from the disk beside the one from the page cache, of the same samples."""
    found: dict[str, dict[str, Any]] = {}
    for model in models_of(rows):
        loads = [(row.get("cold_load"), row["seconds"]["load"]) for row in select(rows, model=model)]
        pairs = [(cold, warm) for cold, warm in loads if cold and warm]
        if pairs:
            found[model] = {
                "samples": len(pairs),
                "cold": median(cold for cold, _ in pairs),
                "warm": median(warm for _, warm in pairs),
                "ratio": median(cold / warm for cold, warm in pairs),
            }
        if reasons := sorted({row["not_cold"] for row in rows if row["model"] == model and "not_cold" in row}):
            found.setdefault(model, {"samples": 0})["not_cold"] = reasons
    return found


def _texts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What the models wrote about the first few samples, in the freest mode there is."""
    mode = next(mode for mode in MODES if select(rows, mode=mode))
    kept = shared(select(rows, mode=mode))
    samples = list(dict.fromkeys(row["sample"] for row in sorted(kept, key=lambda row: str(row["sample"]))))
    step = max(len(samples) // EXAMPLES, 1)
    return [
        {
            "sample": sample,
            "mode": mode,
            "texts": {
                row["model"]: {k: row[k] for k in ("text", "tokens", "finish_reason")}
                for row in kept
                if row["sample"] == sample
            },
        }
        for sample in samples[::step][:EXAMPLES]
    ]


def _drafting(run: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Pairs of models that share a tokenizer, each as the draft of the other, over the texts of natural length."""
    same = {tuple(pair) for session in run["sessions"] for pair in map(sorted, session["same_tokens"])}
    kept = shared(select(rows, mode=next(mode for mode in MODES if select(rows, mode=mode))))
    found = []
    for a, b in combinations(models_of(kept), 2):
        if (a, b) in same:
            found += [_draft(kept, draft, target) for draft, target in ((a, b), (b, a))]
    return found


def _draft(rows: Sequence[Row], draft: str, target: str) -> dict[str, Any]:
    ids = {model: {row["sample"]: row["token_ids"] for row in select(rows, model=model)} for model in (draft, target)}
    agreed = agreement([(ids[draft][sample], ids[target][sample]) for sample in ids[draft] if sample in ids[target]])
    entry = {"draft": draft, "target": target, "agreement": asdict(agreed) | {"mean_prefix": agreed.mean_prefix}}
    costs = {model: mean_of(list(costs_by_sample(select(rows, model=model)).values())) for model in (draft, target)}
    if agreed.acceptance is not None and all(each.time_per_token for each in costs.values()):
        entry["speculation"] = asdict(drafting(costs[draft], costs[target], agreed.acceptance))
    return entry


def _scaling(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """By model and stage: the median seconds at each size, and the exponent of their growth."""
    found: dict[str, dict[str, Any]] = {}
    for model in models_of(rows):
        own = by_size(select(rows, model=model))
        found[model] = {
            stage: _curve({value: [_seconds(r, stage) for r in each] for value, each in own.items()})
            for stage in (*STAGE_NAMES, "e2e")
        }
    return found


def by_size(rows: Sequence[Row]) -> dict[float, list[Row]]:
    """The rows of one model by the size that they were made at."""
    return {value: [row for row in rows if row["value"] == value] for value in sorted({row["value"] for row in rows})}


def _seconds(row: Row, stage: str) -> float:
    return float(row["e2e"] if stage == "e2e" else row["seconds"][stage])


def _curve(times: Mapping[float, Sequence[float]]) -> dict[str, Any]:
    points = [[size, median(seconds)] for size, seconds in times.items()]
    sizes = [size for size, seconds in times.items() for _ in seconds]
    growth = asdict(fit_growth(sizes, [s for seconds in times.values() for s in seconds])) if len(points) > 1 else None
    return {"points": points, "growth": growth}


def latencies(rows: Sequence[Row]) -> dict[str, list[dict[str, float]]]:
    """By model, the quantiles of the gap before each token over all passes that reach it."""
    found = {}
    for model in models_of(rows):
        gaps = [row.get("itl", []) for row in select(rows, model=model)]
        longest = max(map(len, gaps), default=0)
        columns = [percentiles([each[i] for each in gaps if i < len(each)]) for i in range(longest)]
        found[model] = [asdict(column) for column in columns if column]
    return found
