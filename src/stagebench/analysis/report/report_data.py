"""Turn the lines of a run into numbers: one object, from which every report is made. Importable without torch."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, permutations, repeat
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stagebench.analysis import samples
from stagebench.analysis.attribution import UNATTRIBUTED, compare, mean_of
from stagebench.analysis.drafting import agreement, speculation
from stagebench.analysis.intervals import Interval, bootstrap, fit_growth, fit_line, proportion
from stagebench.analysis.narrative import as_json
from stagebench.analysis.samples import Ceilings, ExperimentRun, SampleLine, by_model, costs_by_sample, select
from stagebench.core import statistics
from stagebench.core.errors import AnalysisError
from stagebench.core.results import versioned
from stagebench.core.stages import DECODE, IN_GENERATE, LOAD, STAGE, STAGE_NAMES, time_outside

COLD_RATIO = 1.5  # of a first load over later ones, from which on a warning says so


def report_data(run: ExperimentRun, rows: Sequence[SampleLine]) -> dict[str, Any]:
    """Analyse a run, finished or not, as JSON in seconds; raise AnalysisError where no sample went through a model."""
    good = select(rows)
    main = select(good, study=samples.MAIN)
    if not main:
        raise AnalysisError("a report needs at least one sample that went through a model, got none")
    modes = {mode: own for mode in samples.MODES if (own := select(main, mode=mode))}
    freest = shared(next(iter(modes.values())))
    found = {
        "identity": run["identity"],
        "plan": run["plan"],
        "sessions": run["sessions"],
        "measured": len(good),
        "failures": _failures(run, rows),
        "modes": {mode: _mode(run, own) for mode, own in modes.items()},
        "cold": {model: _cold(own) for model, own in by_model(main).items()},
        "timeline": timeline(freest),
        "media": _media(good),
        "drafting": _drafting(run, freest),
        "scaling": {study: _scaling(select(good, study=study)) for study in (samples.DURATIONS, samples.NEW_TOKENS)},
    }
    return versioned("report", found)


def shared(rows: Sequence[SampleLine]) -> list[SampleLine]:
    """Keep the rows of the samples that every model has as many of, so that all are of the same; else all rows."""
    counts = [Counter(row["sample"] for row in own) for own in by_model(rows).values()]
    common = {sample for sample in counts[0] if len({each[sample] for each in counts}) == 1}
    return [row for row in rows if row["sample"] in common] or list(rows)


def _failures(run: ExperimentRun, rows: Sequence[SampleLine]) -> list[dict[str, str]]:
    """Name each sample that failed, once, whether before the run or in it."""
    failed = {each["name"]: each["reason"] for each in run["plan"]["broken"]}
    for row in rows:
        if "error" in row:
            failed.setdefault(str(row["sample"]), f"{row['model']}: {row['error']}")
    return [{"name": name, "reason": reason} for name, reason in failed.items()]


def _mode(run: ExperimentRun, rows: Sequence[SampleLine]) -> dict[str, Any]:
    kept = shared(rows)
    models = by_model(kept)
    middle = {model: list(samples.median_passes(own).values()) for model, own in models.items()}
    fits = {m: fit_line([row["tokens"] for row in own], [row["e2e"] for row in own]) for m, own in middle.items()}
    return {
        "left_out": len({row["sample"] for row in rows} - {row["sample"] for row in kept}),
        "models": {model: summarize(own) for model, own in models.items()},
        "warnings": {model: warnings(own) for model, own in models.items()},
        "pairs": [_pair(models[a], models[b]) for a, b in combinations(models, 2)],
        "fits": {model: fit for model, fit in fits.items() if fit},
        "utilisation": {model: _utilisation(run, own) for model, own in middle.items()},
    }


def summarize(passes: Sequence[SampleLine]) -> dict[str, Any]:
    """Summarize the passes of one model in one mode: of each sample its median one. A value without meaning is None."""
    of, lines = samples.sequences(passes), list(samples.median_passes(passes).values())
    seconds = np.array([[line["seconds"][stage] for stage in STAGE_NAMES] for line in lines])
    e2e, tokens = (np.array([float(line[key]) for line in lines]) for key in ("e2e", "tokens"))
    columns = np.column_stack([seconds, e2e - seconds.sum(axis=1), e2e, tokens])
    clusters = [of[str(line["sample"])] for line in lines]
    means = bootstrap(clusters, lambda chosen: columns[chosen].mean(axis=0))
    *each, whole, written = map(_spread, columns.T, means or repeat(None))
    stages = dict(zip((*STAGE_NAMES, UNATTRIBUTED), each, strict=True))
    peaks = [line["peak_bytes"] for line in passes if line.get("peak_bytes")]
    return {
        "model": lines[0]["model"],
        "samples": len(lines),
        "passes": len(passes),
        "sequences": len(set(clusters)),
        "stages": stages,
        "shares": {name: spread["mean"] / whole["mean"] for name, spread in stages.items()},
        "e2e": whole,
        "tokens": written,
        "ttft": percentiles([line["ttft"] for line in lines]),
        "tpot": percentiles([tpot for line in lines if (tpot := line.get("tpot")) is not None]),
        "itl": percentiles([gap for line in lines for gap in line.get("itl", ())]),  # of all samples pooled
        "output_throughput": float(tokens.sum() / e2e.sum()),
        "right": proportion([line["right"] for line in lines if "right" in line]),
        "finish_reasons": dict(Counter(line["finish_reason"] for line in lines)),
        "peak_bytes": {name: max(peak.get(name, 0) for peak in peaks) for name in STAGE_NAMES} if peaks else {},
    }


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """Return the mean, p90 and p99, and of how many values: the p99 of fewer than 100 is near their maximum."""
    if not values:
        return None
    p90, p99 = np.quantile(values, (0.9, 0.99)).tolist()
    return {"mean": float(np.mean(values)), "p90": p90, "p99": p99, "count": len(values)}


def _spread(values: NDArray[np.float64], interval: Interval | None) -> dict[str, Any]:
    mean = float(values.mean())
    return {
        "mean": mean,
        "interval": interval,
        "p90": float(np.quantile(values, 0.9)),
        "cv": float(values.std(ddof=1)) / abs(mean) if len(values) > 1 and mean else None,
    }


def warnings(lines: Sequence[SampleLine]) -> list[dict[str, str]]:
    """Give the kind and text of all that makes the passes of one model doubtful."""
    rest = [line["e2e"] - sum(line["seconds"].values()) for line in lines]
    natural = [line["finish_reason"] for line in lines if line["mode"] == "natural"]
    cut = natural.count("length")  # whose number of tokens is not the model's
    found = {
        "drift": [_drift(lines)],
        "outliers": [_outliers(lines, stage) for stage in STAGE_NAMES],
        "cold cache": [_cold_cache(lines)],
        "limit": [f"{cut} of {len(natural)} texts of natural length were cut off by the limit" if cut else None],
        UNATTRIBUTED: [time_outside(rest, [line["e2e"] for line in lines])],
    }
    return [{"kind": kind, "text": text} for kind, texts in found.items() for text in texts if text]


def _drift(lines: Sequence[SampleLine]) -> str | None:
    """Say how far the passes drift in the order of the run, in what should not depend on the sample, averaged."""
    stages = [_paces(lines, stage) for stage in IN_GENERATE]
    mean = np.mean([each / (np.median(each) or 1.0) for each in stages], axis=0)
    if (found := statistics.drift(mean, [line["order"] for line in lines])) is None:
        return None
    evidence = f"Kendall's tau {found.tau:.2f}, p = {found.p:.1g}"
    return f"encode, prefill and time per token change by {found.change:+.0%} over the run ({evidence})"


def _outliers(lines: Sequence[SampleLine], stage: str) -> str | None:
    """Say which passes are far from the median; those of samples that differ in length are so rightly."""
    seconds = _paces(lines, stage)
    if not (far := statistics.outliers(seconds)):
        return None
    middle = np.median(seconds)
    worst = max(far, key=lambda i: abs(seconds[i] - middle))
    return (
        f"{stage}: {len(far)} of {len(lines)} passes lie far out, the farthest, of {lines[worst]['sample']}, "
        f"at {seconds[worst] / middle:.2g} times the median"
    )


def _paces(lines: Sequence[SampleLine], stage: str) -> NDArray[np.float64]:
    """Return the seconds of each pass; those of decode by its steps, where there are any."""
    steps = [max(line["tokens"] - 1, 1) if stage == DECODE.name else 1 for line in lines]
    return np.array([line["seconds"][stage] for line in lines]) / steps


def _cold_cache(lines: Sequence[SampleLine]) -> str | None:
    """Say that first loads take at least half as long again as the later ones of the same samples, in the median."""
    loads: dict[str, list[float]] = {}
    for line in sorted(lines, key=lambda line: line["order"]):
        loads.setdefault(str(line["sample"]), []).append(line["seconds"][LOAD.name])
    ratios = [first / median(later) for first, *later in loads.values() if later]
    if not ratios or median(ratios) < COLD_RATIO:
        return None
    return f"the first load of a sample takes {median(ratios):.1f} times as long as its later ones"


def _pair(a: Sequence[SampleLine], b: Sequence[SampleLine]) -> dict[str, Any]:
    """Explain two models, the slower one first."""
    costs = sorted((costs_by_sample(a), costs_by_sample(b)), key=lambda each: -mean_of(list(each.values())).total)
    return as_json(*compare(costs[0], costs[1], samples.sequences([*a, *b])))


def _utilisation(run: ExperimentRun, rows: Sequence[SampleLine]) -> dict[str, dict[str, float]]:
    """Give MFU and MBU of the stages that compute, at the mean of their seconds, by the last measured ceilings."""
    model, mode = rows[0]["model"], rows[0]["mode"]
    session = next((each for each in reversed(run["sessions"]) if mode in each["proofs"].get(model, {})), None)
    if session is None:
        return {}
    ceilings, proof = Ceilings(**session["ceilings"]), session["proofs"][model][mode]
    found = {}
    for stage in IN_GENERATE:
        units = sum(row["tokens"] - 1 if STAGE[stage].per_token else 1 for row in rows)
        if units and (time := sum(row["seconds"][stage] for row in rows) / units):
            work = proof["work"][stage]
            steps = max(work.get("steps", 1), 1)  # of the proof's own text: texts differ in length
            flops, moved = work["flops"] / steps, sum(proof["bytes"].get(stage, {}).values()) / steps
            found[stage] = {"flops": flops, "bytes": moved, "time": time}
            found[stage] |= {"mfu": ceilings.mfu(flops, time), "mbu": ceilings.mbu(moved, time)}
    return found


def _cold(rows: Sequence[SampleLine]) -> dict[str, Any]:
    """Put the load stage from the disk beside the one from the page cache, of the same samples."""
    loads = [(row.get("cold_load"), row["seconds"][LOAD.name]) for row in rows]
    pairs = [(cold, warm) for cold, warm in loads if cold and warm]
    found = {"samples": len(pairs), "not_cold": sorted({row["not_cold"] for row in rows if "not_cold" in row})}
    if not pairs:
        return found
    cold, warm = (fmean(side) for side in zip(*pairs, strict=True))
    return found | {"cold": cold, "warm": warm, "ratio": cold / warm}


def timeline(rows: Sequence[SampleLine]) -> dict[str, Any]:
    """Return the median pass of every model on the sample that takes the first of them the middle time; in seconds."""
    passes = {model: samples.median_passes(own) for model, own in by_model(rows).items()}
    first = next(iter(passes.values()))
    common = sorted((s for s in first if all(s in own for own in passes.values())), key=lambda s: first[s]["e2e"])
    sample = common[(len(common) - 1) // 2] if common else None
    lines = {model: own[sample] for model, own in passes.items()} if sample else {}
    if not lines or not all(line.get("starts", {}).keys() >= set(STAGE_NAMES) for line in lines.values()):
        return {}  # the models share no sample, or a pass did not note when its stages began
    found = {
        model: {
            "e2e": line["e2e"],
            "stages": {stage: [line["starts"][stage], line["seconds"][stage]] for stage in STAGE_NAMES},
            "tokens": line.get("token_times", []),
        }
        for model, line in lines.items()
    }
    return {"sample": sample, "mode": rows[0]["mode"], "passes": found}


def _media(rows: Sequence[SampleLine]) -> list[dict[str, Any]]:
    """List what was shown of each sample, once for all models that saw as many images of it."""
    seen = {}
    for row in rows:
        if "path" in row:
            media = row.get("media", {})
            seen[str(row["sample"]), row["path"], media.get("images", 0)] = media
    return [media | {"sample": sample, "file": path} for (sample, path, _), media in sorted(seen.items())]


def _drafting(run: ExperimentRun, rows: Sequence[SampleLine]) -> list[dict[str, Any]]:
    """Take each of two models that share a tokenizer as the draft of the other."""
    same = {frozenset(pair) for session in run["sessions"] for pair in session["same_tokens"]}
    models = by_model(rows)
    return [_draft(run, models, *pair) for pair in permutations(models, 2) if frozenset(pair) in same]


def _draft(run: ExperimentRun, models: dict[str, list[SampleLine]], *pair: str) -> dict[str, Any]:
    lines = [line for line in run.get("drafts", []) if (line["draft"], line["target"]) == pair]
    draft, target = ({row["sample"]: row["token_ids"] for row in models[name]} for name in pair)
    agreed = agreement([(draft[sample], target[sample]) for sample in draft if sample in target])
    costs = [mean_of(list(costs_by_sample(models[name]).values())) for name in pair]
    return dict(zip(("draft", "target"), pair, strict=True)) | {
        "agreement": agreed | {"first_token": next(iter(agreed["match_rates"]), None)},
        "speculation": speculation(lines, *costs),
        "refused": sorted({line["error"] for line in lines if "error" in line}),
    }


def _scaling(rows: Sequence[SampleLine]) -> dict[str, dict[str, Any]]:
    """Give by model and stage the mean seconds at each size, and the exponent of their growth."""
    found: dict[str, dict[str, Any]] = {}
    for model, own in by_model(rows).items():
        found[model] = {}
        for stage in (*STAGE_NAMES, "e2e"):
            times = sorted((row["value"] or 0.0, (row["seconds"] | {"e2e": row["e2e"]})[stage]) for row in own)
            points = {size: fmean(seconds for other, seconds in times if other == size) for size, _ in times}
            line = fit_growth(*zip(*times, strict=True))
            growth = {"exponent": line["slope"], "interval": line["slope_interval"]} if line else None
            found[model][stage] = {"points": list(points.items()), "growth": growth}
    return found
