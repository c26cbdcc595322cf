"""The report as a person reads it: sections of sentences, tables and pictures, whatever they are printed on.

Everything here comes out of `findings`, so that all reports show the same numbers. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stagebench.analysis import display
from stagebench.analysis.experiments.schedule import DURATIONS
from stagebench.analysis.report.document import Figure, Part, Section
from stagebench.core.stages import STAGE_NAMES
from stagebench.core.tables import COUNT, MS, PERCENT, RATIO, SENTENCES, WORDS, Table, Unit

Found = Mapping[str, Any]

OF = (("model", WORDS), ("length", WORDS))
"""The first columns of a table over models and modes."""
QUANTILES = ("p50", "p90", "p99")
ONE_DIGIT = Unit("{:,.1f}")
MEGA, GIBI = Unit("{:,.2f}", 1e-6), Unit("{:.2f}", 2**-30)


def sections(found: Found) -> list[Section]:
    """Lay out a report; a section without anything to say is left out."""
    made = {
        "Summary": _summary,
        "What was compared": _compared,
        "Warnings": _warnings,
        "Failed and skipped": _failures,
        "Stages": _stages,
        "Why one is faster": _attribution,
        "Tokens and latency": _tokens,
        "Time against tokens": _fit,
        "Memory and machine": _machine,
        "Load from the disk": _cold,
        "Scaling": _scaling,
        "Draft and target": _drafting,
        "Texts side by side": _texts,
        "Environment": _environment,
    }
    return [Section(title, parts) for title, make in made.items() if (parts := tuple(make(found)))]


def headlines(found: Found) -> list[str]:
    """Say the whole of it in a few lines."""
    lines = [
        f"At {mode} length, {pair['sentences'][0]}" for mode, each in found["modes"].items() for pair in each["pairs"]
    ]
    done, planned = found["measured"], found["plan"]["passes"]
    unfinished = "" if done >= planned else f" of {planned} planned"
    return [*lines, f"{done} passes measured{unfinished}; {len(found['failures'])} samples failed."]


def _of(found: Found, what: str) -> Iterator[tuple[tuple[str, str], Any]]:
    """Give what there is of every model in every mode, with the cells of the columns `OF`."""
    for mode, each in found["modes"].items():
        yield from (((model, mode), value) for model, value in each[what].items())


def _summary(found: Found) -> Iterator[Part]:
    yield tuple(headlines(found))
    yield Figure("stages", "Mean seconds of a sample by stage. What no stage explains is drawn too.")


def _compared(found: Found) -> Iterator[Part]:
    plan, here, last = found["plan"], found["identity"], found["sessions"][-1]
    together = "all models in memory at once, their order drawn anew for each sample"
    apart = "one model after the other, because the memory does not hold them together; their order is drawn"
    one = "; they are one sequence, so no interval can be given" if plan["sequences"] == 1 else ""
    yield (
        f"Samples: {plan['samples']}, of sequences: {plan['sequences']}, from {here['input']}{one}.",
        f"Generation, the same for all models: {here['generation']}.",
        f"Media: {here['media']}; read with {here['loading']}.",
        "A sample named NAME@START+LENGTH is that window of NAME.",
        f"Order (seed {here['order_seed']}): {together if last['together'] else apart}.",
        f"Worked on in sessions: {len(found['sessions'])}, first at {found['sessions'][0]['started']}.",
    )
    yield "Before anything was timed:"
    yield tuple(
        f"{model}: the stages gave the tokens and did the work of generate() on {next(iter(modes.values()))['sample']} "
        f"at {' and at '.join(modes)} length; this warmed up too, in {sum(p['seconds'] for p in modes.values()):.1f} s."
        for model, modes in last["proofs"].items()
    )


def _warnings(found: Found) -> Iterator[Part]:
    rows = [(*of, each["kind"], each["text"]) for of, warnings in _of(found, "warnings") for each in warnings]
    lines = sorted({each["load_warning"] for each in found["sessions"] if each["load_warning"]})
    for mode, each in found["modes"].items():
        if each["left_out"]:
            lines.append(f"{mode} length: {each['left_out']} samples that a model lacks are left out for all")
    if rows:
        yield Table("Of the numbers", (*OF, ("kind", WORDS), ("what was seen", SENTENCES)), rows)
    if lines:
        yield tuple(lines)
    if not rows and not lines:
        yield "None: no drift, outliers, cold cache, cut-off texts, near-ties or busy machine."


def _failures(found: Found) -> Iterator[Part]:
    for title, problems in (("failed", found["failures"]), ("skipped", found["plan"]["skipped"])):
        if problems:
            rows = [(each["name"], each["reason"]) for each in problems]
            yield Table(f"{len(rows)} {title}", (("name", WORDS), ("reason", SENTENCES)), rows)


def _stages(found: Found) -> Iterator[Part]:
    yield "The share is of the mean e2e; the interval, of 95 %, is of the median, whole sequences drawn."
    names = ("median", "interval", "mean", "p90", "cv")
    columns = (("stage", WORDS), *((name, MS) for name in names[:-1]), ("CV", PERCENT), ("share", PERCENT))
    for (model, mode), summary in _of(found, "models"):
        spreads = summary["stages"] | {"e2e": summary["e2e"]}
        shares = summary["shares"] | {"e2e": 1.0}
        rows = [(stage, *(spread[name] for name in names), shares[stage]) for stage, spread in spreads.items()]
        yield Table(f"{model}, {mode} length, {summary['passes']} passes", columns, rows)
    for mode in found["modes"]:
        yield Figure(f"distribution-{mode}", f"All passes of each stage at {mode} length; boxes hold the middle half.")


def _attribution(found: Found) -> Iterator[Part]:
    pairs = [(mode, i, pair) for mode, each in found["modes"].items() for i, pair in enumerate(each["pairs"])]
    if pairs:
        yield (
            "The seconds that the faster model saves in the mean, shared out so that the order in which the factors "
            "are told does not matter (Shapley); beside them the shares of the logarithm of the speedup (LMDI)."
        )
    for mode, i, pair in pairs:
        title = f"{pair['other']['model']} against {pair['baseline']['model']}, {mode} length"
        yield Figure(f"waterfall-{mode}-{i}", f"{title}: from the seconds of one to those of the other.")
        yield display.table(pair, title)


def _tokens(found: Found) -> Iterator[Part]:
    rows = []
    for of, summary in _of(found, "models"):
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(summary["finish_reasons"].items()))
        tokens = (summary["tokens"][name] for name in ("median", "mean", "p90"))
        rows.append((*of, *tokens, reasons, summary["output_throughput"]))
    numbers = ("median", COUNT), ("mean", ONE_DIGIT), ("p90", COUNT)
    yield Table("New tokens", (*OF, *numbers, ("finished by", WORDS), ("tokens/s", ONE_DIGIT)), rows)
    titles = {"ttft": "ttft, without load", "tpot": "tpot", "itl": "itl: the gaps between tokens"}
    columns = (*OF, *((name, MS) for name in QUANTILES), ("values", COUNT))
    for what, title in titles.items():
        times = [(of, summary[what]) for of, summary in _of(found, "models") if summary[what]]
        if times:
            yield Table(title, columns, [(*of, *(each[q] for q in (*QUANTILES, "count"))) for of, each in times])
    for mode in found["modes"]:
        yield Figure(f"latency-{mode}", f"The gap before each token at {mode} length: median, and up to p90.")


def _fit(found: Found) -> Iterator[Part]:
    names = {"intercept": "a", "slope": "b", "slope_interval": "b interval", "robust_slope": "b robust"}
    rows = [
        (*of, *(line[name] for name in names), max(map(abs, line["residuals"])), line["r2"])
        for of, line in _of(found, "fits")
    ]
    if rows:
        yield "n is the number of new tokens; least squares over the passes, and the robust slope of Theil and Sen."
        times = ((name, MS) for name in (*names.values(), "largest residual"))
        yield Table("e2e = a + b n", (*OF, *times, ("r²", RATIO)), rows)


def _machine(found: Found) -> Iterator[Part]:
    ceilings = found["sessions"][-1]["ceilings"]
    yield (
        f"Measured on this machine, in the models' dtype: {ceilings['flops'] / 1e9:,.0f} GFLOP/s in a matrix product, "
        f"{ceilings['bandwidth'] / 1e9:,.1f} GB/s in a {ceilings['bandwidth_kind']}. MFU and MBU are against these. "
        "The bytes are those of weights and KV cache, read once a forward; a small model stays in a cache and can pass "
        "100 %. On a CPU the FLOPs of attention itself are not counted."
    )
    units = {"flops": ("MFLOP", MEGA), "bytes": ("MB", MEGA), "seconds": ("", MS)}
    units |= {"mfu": ("MFU", PERCENT), "mbu": ("MBU", PERCENT)}
    rows = [
        (*of, stage, *(use[name] for name in units))
        for of, stages in _of(found, "utilisation")
        for stage, use in stages.items()
    ]
    if rows:
        yield Table("Utilisation; of decode, a step", (*OF, ("stage", WORDS), *units.values()), rows)
    peaks = [(of, summary["peak_bytes"]) for of, summary in _of(found, "models") if summary["peak_bytes"]]
    if peaks:
        title = "Peak device memory by stage, GiB, the model's own weights included"
        columns = (*OF, *((stage, GIBI) for stage in STAGE_NAMES))
        yield Table(title, columns, [(*of, *(peak[stage] for stage in STAGE_NAMES)) for of, peak in peaks])
    else:
        yield "Peak memory by stage is measured on a GPU only."


def _cold(found: Found) -> Iterator[Part]:
    names = ("samples", "cold", "warm", "ratio")
    rows = [(model, *(cold[n] for n in names)) for model, cold in found["cold"].items() if cold["samples"]]
    if rows:
        yield "The load stage with the file dropped from the page cache, beside the one that all other tables show."
        columns = (("model", WORDS), ("samples", COUNT), ("cold", MS), ("warm", MS), ("cold / warm", RATIO))
        yield Table("Load, medians", columns, rows)
    reasons = sorted({reason for cold in found["cold"].values() for reason in cold.get("not_cold", ())})
    yield from (f"No cold load was timed for some samples: {reason}." for reason in reasons)


def _scaling(found: Found) -> Iterator[Part]:
    for study, models in found["scaling"].items():
        unit = "seconds of the clip" if study == DURATIONS else "new tokens"
        for model, curves in models.items():
            sizes = [(f"at {size:g}", MS) for size, _ in curves["e2e"]["points"]]
            rows = []
            for name, curve in curves.items():
                growth = curve["growth"] or {}
                seconds = (each for _, each in curve["points"])
                rows.append((name, *seconds, growth.get("exponent"), growth.get("interval")))
            columns = (("stage", WORDS), *sizes, ("exponent", RATIO), ("interval", RATIO))
            yield Table(f"{model} against {unit}", columns, rows)
        if models:
            yield Figure(f"scaling-{study}", f"Median seconds of each stage against {unit}, on logarithmic axes.")


def _drafting(found: Found) -> Iterator[Part]:
    rows = []
    for each in found["drafting"]:
        agreed, reach = each["agreement"], each.get("speculation", {})
        first = agreed["match_rates"][0] if agreed["match_rates"] else None
        speedups = (reach.get(name) for name in ("draft_tokens", "decode_speedup", "e2e_speedup"))
        rows.append((each["draft"], each["target"], first, agreed["mean_prefix"], agreed["acceptance"], *speedups))
    if rows:
        yield (
            "Where two models share a tokenizer, one could draft for the other. Tokens are compared from the first on; "
            "the speedups are what speculative decoding could reach at the measured times, against the target alone."
        )
        names = ("draft", WORDS), ("target", WORDS)
        agreement = ("first token equal", PERCENT), ("mean prefix", RATIO), ("acceptance", PERCENT)
        reach = ("draft length", COUNT), ("decode speedup", RATIO), ("e2e speedup", RATIO)
        yield Table("Speculative decoding", (*names, *agreement, *reach), rows)


def _texts(found: Found) -> Iterator[Part]:
    columns = (("model", WORDS), ("tokens", COUNT), ("finished by", WORDS), ("text", SENTENCES))
    for each in found["texts"]:
        rows = [(model, t["tokens"], t["finish_reason"], t["text"]) for model, t in each["texts"].items()]
        yield Table(f"{each['sample']}, {each['mode']} length", columns, rows)


def _environment(found: Found) -> Iterator[Part]:
    rows = sorted(found["identity"].items())
    yield Table("What the times depend on", (("key", WORDS), ("value", SENTENCES)), rows)
