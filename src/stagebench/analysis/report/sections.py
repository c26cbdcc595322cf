"""The report as a person reads it: sections of sentences, tables and pictures, whatever they are printed on.

Everything here comes out of `findings`, so that all reports show the same numbers. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stagebench.analysis.experiments.schedule import DURATIONS
from stagebench.analysis.narrative import percent, subject
from stagebench.core.stages import STAGE_NAMES

Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text; the first column names the row, the others are numbers unless `prose`."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    prose: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture, by its name in `pictures.draw`, and what it shows."""

    name: str
    caption: str


@dataclass(frozen=True, slots=True)
class Points:
    """Sentences, one below the other."""

    lines: tuple[str, ...]


Part = str | Table | Figure | Points


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    id: str
    title: str
    parts: tuple[Part, ...]


def sections(found: Found) -> list[Section]:
    """Lay out a report; a section without anything to say is left out."""
    made = (
        ("summary", "Summary", _summary(found)),
        ("compared", "What was compared", _compared(found)),
        ("flags", "Doubts", _doubts(found)),
        ("failures", "Failed and skipped", _failures(found)),
        ("stages", "Stages", _stages(found)),
        ("attribution", "Why one is faster", _attribution(found)),
        ("tokens", "Tokens and latency", _tokens(found)),
        ("fit", "Time against tokens", _fit(found)),
        ("machine", "Memory and machine", _machine(found)),
        ("cold", "Load from the disk", _cold(found)),
        ("scaling", "Scaling", _scaling(found)),
        ("drafting", "Draft and target", _drafting(found)),
        ("texts", "Texts side by side", _texts(found)),
        ("environment", "Environment", _environment(found)),
    )
    return [Section(name, title, tuple(parts)) for name, title, each in made if (parts := list(each))]


def headlines(found: Found) -> list[str]:
    """The whole of it in a few lines."""
    lines = []
    for mode, each in found["modes"].items():
        lines += [f"At {mode} length, {pair['sentences'][0]}" for pair in each["pairs"]]
    done, planned = found["measured"], found["plan"]["passes"]
    unfinished = "" if done >= planned else f" of {planned} planned"
    return [*lines, f"{done} passes measured{unfinished}; {len(found['failures'])} samples failed."]


def _summary(found: Found) -> Iterator[Part]:
    yield Points(tuple(headlines(found)))
    yield Figure("stages", "Mean seconds of a sample by stage. What no stage explains is drawn too.")


def _compared(found: Found) -> Iterator[Part]:
    plan, here, last = found["plan"], found["identity"], found["sessions"][-1]
    together = "all models in memory at once, their order drawn anew for each sample"
    apart = "one model after the other, because the memory does not hold them together; their order is drawn"
    proofs = [
        f"{model}: the stages gave the tokens and did the work of generate() on {each['sample']}, at "
        f"{' and at '.join(modes)} length; this warmed up too, in {sum(p['seconds'] for p in modes.values()):.1f} s."
        for model, modes in last["proofs"].items()
        for each in [next(iter(modes.values()))]
    ]
    samples = f"{_count(plan['samples'], 'sample')} of {_count(plan['sequences'], 'sequence')},"
    one = "; they are one sequence, so no interval can be given" if plan["sequences"] == 1 else ""
    yield Points(
        (
            f"{samples} from {here['input']}{one}.",
            f"Generation, the same for all models: {here['generation']}.",
            f"Media: {here['media']}; read with {here['loading']}.",
            "A sample named NAME@START+LENGTH is that window of NAME.",
            f"Order (seed {here['order_seed']}): {together if last['together'] else apart}.",
            f"Worked on in {_count(len(found['sessions']), 'session')}, first at {found['sessions'][0]['started']}.",
        )
    )
    yield "Before anything was timed:"
    yield Points(tuple(proofs))


def _doubts(found: Found) -> Iterator[Part]:
    if flags := tuple(_flags(found)):
        yield Table("Flags", ("length", "model", "kind", "what was seen"), flags, prose=True)
    lines = sorted({each["load_warning"] for each in found["sessions"] if each["load_warning"]})
    lines += [f"{mode} length: {n} samples that a model lacks are left out for all" for mode, n in _left_out(found)]
    if lines:
        yield Points(tuple(lines))
    if not flags and not lines:
        yield "None: no drift, outliers, cold cache, cut-off texts, near-ties or busy machine."


def _flags(found: Found) -> Iterator[tuple[str, ...]]:
    for mode, each in found["modes"].items():
        for model, flags in each["flags"].items():
            yield from ((mode, model, flag["kind"], flag["text"]) for flag in flags)


def _left_out(found: Found) -> Iterator[tuple[str, int]]:
    return ((mode, each["left_out"]) for mode, each in found["modes"].items() if each["left_out"])


def _failures(found: Found) -> Iterator[Part]:
    for title, problems in (("failed", found["failures"]), ("skipped", found["plan"]["skipped"])):
        if problems:
            rows = tuple((each["name"], each["reason"]) for each in problems)
            yield Table(f"{len(rows)} {title}", ("name", "reason"), rows, prose=True)


def _stages(found: Found) -> Iterator[Part]:
    yield "Milliseconds. The share is of the mean e2e; the interval, of 95 %, is of the median, whole sequences drawn."
    for mode, each in found["modes"].items():
        for model, summary in each["models"].items():
            rows = [
                (*_spread_row(stage, spread), f"{summary['shares'][stage]:.1%}")
                for stage, spread in summary["stages"].items()
            ]
            rows.append((*_spread_row("e2e", summary["e2e"]), "100 %"))
            head = ("ms", "median", "interval", "mean", "p90", "CV", "share")
            yield Table(f"{model}, {mode} length, {summary['passes']} passes", head, tuple(rows))
        yield Figure(f"distribution-{mode}", f"All passes of each stage at {mode} length; boxes hold the middle half.")


def _spread_row(name: str, spread: Mapping[str, Any]) -> tuple[str, ...]:
    within = spread["interval"]
    interval = f"{ms(within['low'])} to {ms(within['high'])}" if within else "-"
    cv = "-" if spread["cv"] is None else f"{spread['cv']:.1%}"
    return name, ms(spread["median"]), interval, ms(spread["mean"]), ms(spread["p90"]), cv


def _attribution(found: Found) -> Iterator[Part]:
    if not any(each["pairs"] for each in found["modes"].values()):
        return
    yield (
        "The seconds that the faster model saves in the mean, shared out so that the order in which the factors are "
        "told does not matter (Shapley); beside them the shares of the logarithm of the speedup (LMDI)."
    )
    for mode, each in found["modes"].items():
        for i, pair in enumerate(each["pairs"]):
            title = f"{pair['other']} against {pair['baseline']}, {mode} length"
            yield Figure(f"waterfall-{mode}-{i}", f"{title}: from the seconds of one to those of the other.")
            yield _factor_table(title, pair)
            yield Points(tuple(pair["sentences"]))


def _factor_table(title: str, pair: Mapping[str, Any]) -> Table:
    intervals = pair["intervals"] or {}
    rows = []
    for factor, seconds in pair["seconds"].items():
        within = intervals.get("seconds", {}).get(factor)
        rows.append(
            (
                subject(factor),
                ms(seconds),
                f"{ms(within['low'])} to {ms(within['high'])}" if within else "-",
                percent(pair["shares"][factor]) if pair["shares"] else "-",
                percent(pair["log_shares"][factor]) if pair["log_shares"] else "-",
            )
        )
    rows.append(("All", ms(pair["saved"]), "", "100.0 %", "100.0 %"))
    return Table(title, ("factor", "ms saved", "interval", "share", "share in logs"), tuple(rows))


def _tokens(found: Found) -> Iterator[Part]:
    for mode, each in found["modes"].items():
        rows = [_token_row(model, summary) for model, summary in each["models"].items()]
        head = ("model", "median", "mean", "p90", "finished by", "tokens/s")
        yield Table(f"New tokens at {mode} length", head, tuple(rows))
        quantiles = ("model", *_quantiles("ttft"), *_quantiles("tpot"))
        times = [(m, *_percentile_cells(s["ttft"]), *_percentile_cells(s["tpot"])) for m, s in each["models"].items()]
        yield Table(f"ttft without load, and tpot, at {mode} length, in ms", quantiles, tuple(times))
        gaps = [
            (m, *_percentile_cells(s["itl"]), str(s["itl"]["count"])) for m, s in each["models"].items() if s["itl"]
        ]
        if gaps:
            yield Table(
                f"itl at {mode} length: the gaps between tokens, in ms",
                ("model", "p50", "p90", "p99", "gaps"),
                tuple(gaps),
            )
            yield Figure(f"latency-{mode}", f"The gap before each token at {mode} length: median, and up to p90.")


def _quantiles(name: str) -> tuple[str, ...]:
    return tuple(f"{name} {quantile}" for quantile in ("p50", "p90", "p99"))


def _token_row(model: str, summary: Mapping[str, Any]) -> tuple[str, ...]:
    tokens = summary["tokens"]
    reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(summary["finish_reasons"].items()))
    return (
        model,
        f"{tokens['median']:g}",
        f"{tokens['mean']:.1f}",
        f"{tokens['p90']:g}",
        reasons,
        f"{summary['output_throughput']:.1f}",
    )


def _percentile_cells(found: Mapping[str, float] | None) -> tuple[str, ...]:
    return tuple(ms(found[name]) if found else "-" for name in ("p50", "p90", "p99"))


def _fit(found: Found) -> Iterator[Part]:
    rows = []
    for mode, each in found["modes"].items():
        for model, line in each["fits"].items():
            worst = max(map(abs, line["residuals"]))
            within = line["slope_interval"]
            interval = f"{ms(within['low'])} to {ms(within['high'])}" if within else "-"
            r2 = "-" if line["r2"] is None else f"{line['r2']:.3f}"
            rows.append(
                (
                    model,
                    mode,
                    ms(line["intercept"]),
                    ms(line["slope"]),
                    interval,
                    ms(line["robust_slope"]),
                    r2,
                    ms(worst),
                )
            )
    if rows:
        yield "n is the number of new tokens; least squares over the passes, and the robust slope of Theil and Sen."
        head = ("model", "length", "a ms", "b ms", "b interval", "b robust", "r²", "largest residual ms")
        yield Table("e2e = a + b n", head, tuple(rows))


def _machine(found: Found) -> Iterator[Part]:
    ceilings = found["sessions"][-1]["ceilings"]
    yield (
        f"Measured on this machine, in the models' dtype: {ceilings['flops'] / 1e9:,.0f} GFLOP/s in a matrix product, "
        f"{ceilings['bandwidth'] / 1e9:,.1f} GB/s in a {ceilings['bandwidth_kind']}. MFU and MBU are against these. "
        "The bytes are those of weights and KV cache, read once a forward; a small model stays in a cache and can pass "
        "100 %. On a CPU the FLOPs of attention itself are not counted."
    )
    used = tuple(_used(found))
    if used:
        head = ("model", "length", "stage", "MFLOP", "MB", "ms", "MFU", "MBU")
        yield Table("Utilisation; of decode, a step", head, used)
    peaks = tuple(_peaks(found))
    if peaks:
        title = "Peak device memory by stage, GiB, the model's own weights included"
        yield Table(title, ("model", "length", *STAGE_NAMES), peaks)
    else:
        yield "Peak memory by stage is measured on a GPU only."


def _used(found: Found) -> Iterator[tuple[str, ...]]:
    for mode, each in found["modes"].items():
        for model, stages in each["utilisation"].items():
            for stage, use in stages.items():
                work = f"{use['flops'] / 1e6:,.2f}", f"{use['bytes'] / 1e6:,.2f}"
                yield model, mode, stage, *work, ms(use["seconds"]), f"{use['mfu']:.1%}", f"{use['mbu']:.1%}"


def _peaks(found: Found) -> Iterator[tuple[str, ...]]:
    for mode, each in found["modes"].items():
        for model, summary in each["models"].items():
            if peak := summary["peak_bytes"]:
                yield model, mode, *(f"{peak[stage] / 2**30:.2f}" for stage in STAGE_NAMES)


def _cold(found: Found) -> Iterator[Part]:
    rows = [
        (model, str(cold["samples"]), ms(cold["cold"]), ms(cold["warm"]), f"{cold['ratio']:.2f}")
        for model, cold in found["cold"].items()
        if cold["samples"]
    ]
    if rows:
        yield "The load stage with the file dropped from the page cache, beside the one that all other tables show."
        yield Table("Load in ms, medians", ("model", "samples", "cold", "warm", "cold / warm"), tuple(rows))
    reasons = sorted({reason for cold in found["cold"].values() for reason in cold.get("not_cold", ())})
    yield from (f"No cold load was timed for some samples: {reason}." for reason in reasons)


def _scaling(found: Found) -> Iterator[Part]:
    for study, models in found["scaling"].items():
        if not models:
            continue
        unit = "seconds of the clip" if study == DURATIONS else "new tokens"
        for model, curves in models.items():
            sizes = [size for size, _ in curves["e2e"]["points"]]
            head = ("ms at", *(f"{size:g}" for size in sizes), "exponent", "interval")
            rows = tuple(
                (name, *(ms(seconds) for _, seconds in curve["points"]), *_growth(curve["growth"]))
                for name, curve in curves.items()
            )
            yield Table(f"{model} against {unit}", head, rows)
        yield Figure(f"scaling-{study}", f"Median seconds of each stage against {unit}, on logarithmic axes.")


def _growth(growth: Mapping[str, Any] | None) -> tuple[str, str]:
    if growth is None:
        return "-", "-"
    within = growth["interval"]
    return f"{growth['exponent']:.2f}", f"{within['low']:.2f} to {within['high']:.2f}" if within else "-"


def _drafting(found: Found) -> Iterator[Part]:
    if not found["drafting"]:
        return
    yield (
        "Where two models share a tokenizer, one could draft for the other. Tokens are compared from the first on; the "
        "speedups are what speculative decoding could reach at the measured times, against the target alone."
    )
    rows = [_draft_row(each) for each in found["drafting"]]
    head = (
        "draft → target",
        "first token equal",
        "mean prefix",
        "acceptance",
        "draft length",
        "decode speedup",
        "e2e speedup",
    )
    yield Table("Speculative decoding", head, tuple(rows))


def _draft_row(each: Mapping[str, Any]) -> tuple[str, ...]:
    agreed, reach = each["agreement"], each.get("speculation")
    first = agreed["match_rates"][0] if agreed["match_rates"] else None
    return (
        f"{each['draft']} → {each['target']}",
        "-" if first is None else f"{first:.1%}",
        f"{agreed['mean_prefix']:.2f}",
        "-" if agreed["acceptance"] is None else f"{agreed['acceptance']:.1%}",
        *(
            (str(reach["draft_tokens"]), f"{reach['decode_speedup']:.2f}", f"{reach['e2e_speedup']:.2f}")
            if reach
            else ("-",) * 3
        ),
    )


def _texts(found: Found) -> Iterator[Part]:
    for each in found["texts"]:
        rows = tuple((model, f"{t['tokens']} ({t['finish_reason']})", t["text"]) for model, t in each["texts"].items())
        yield Table(f"{each['sample']}, {each['mode']} length", ("model", "tokens", "text"), rows, prose=True)


def _environment(found: Found) -> Iterator[Part]:
    rows = tuple(sorted(found["identity"].items()))
    yield Table("What the times depend on", ("key", "value"), rows, prose=True)


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def ms(seconds: float) -> str:
    """Milliseconds for a person."""
    return f"{seconds * 1e3:,.2f}"
