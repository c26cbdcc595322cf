"""Lay out the report as a person reads it: sections of sentences, tables and pictures, whatever they are printed on.

Every number comes out of `report_data`, so that all reports show the same; the passes are here for the pictures.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from stagebench.analysis import narrative
from stagebench.analysis.report.document import COLUMNS, SAID, UNITS, Figure, Folded, Part, Sections, without_empty
from stagebench.analysis.report.report_data import shared
from stagebench.analysis.samples import DURATIONS, MAIN, SampleLine, by_model, select, thumbnail_of
from stagebench.core.shown import MS, SENTENCES, Table, of_records
from stagebench.core.stages import STAGE_NAMES

Found = Mapping[str, Any]

OF, KEYS = COLUMNS["of"], [*COLUMNS["environment"].items()]
JPEG, GALLERY = b"\xff\xd8\xff", 24  # how such a file begins, and how many samples are shown


def title(found: Found) -> str:
    """Name the models and the machine, and say where the weights are no model's."""
    here = found["identity"]
    weights = " (random weights)" if here.get("weights") == "random" else ""
    return f"stagebench: {here['models']}{weights} on {here['device']}"


def sections(found: Found, rows: Sequence[SampleLine], folder: Path | None = None) -> Sections:
    """Lay out a report of what `report_data` found in these rows of a run, with the thumbnails in its folder."""
    main = select(rows, study=MAIN)
    passes = {mode: shared(select(main, mode=mode)) for mode in found["modes"]}
    fits = [of | line for of, line in _of(found, "fits")]
    made: Sections = {
        "Summary": _summary(found),
        "Why one is faster": _attribution(found),
        "Stages": _stages(found, passes),
        "One pass over time": _timeline(found),
        "Tokens and latency": _tokens(found, passes),
        "Time against tokens": [of_records("e2e = intercept + slope n", OF | COLUMNS["fit"], fits, SAID["fitted"])],
        "Scaling": _scaling(found),
        "Load from the disk": _cold(found),
        "Memory and machine": _machine(found),
        "Draft and target": _drafting(found),
        "Media": _media(found, folder),
        "Every pass": [Figure("Every pass; a name opens it. Times are in ms.", "every_pass", rows)],
        "Warnings": _warnings(found),
        "Failed and skipped": _failures(found),
        "What was compared": _compared(found),
        "Environment": [Table("What the times depend on", KEYS, sorted(found["identity"].items()))],
    }
    return without_empty(made)


def headlines(found: Found) -> list[str]:
    """Say the whole of it in a few lines."""
    lines = [
        f"{mode.capitalize()} length. {pair['sentences'][0]}{'' if 'intervals' in pair else SAID['unknown']}"
        for mode, each in found["modes"].items()
        for pair in each["pairs"]
    ]
    alone = [
        f"{of['length'].capitalize()} length. {of['model']} takes {MS.write(each['e2e']['mean'])} ms."
        for of, each in _of(found, "models")
    ]
    done, planned = found["measured"], found["plan"]["passes"]
    unfinished = "" if done >= planned else f" of {planned} planned"
    return [*(lines or alone), f"{done} passes measured{unfinished}; {len(found['failures'])} samples failed."]


def _summary(found: Found) -> Iterator[Part]:
    yield tuple(headlines(found))
    bars = [of | {"parts": each["stages"], "whole": each["e2e"]} for of, each in _of(found, "models")]
    yield Figure("Where the time of a sample goes, in ms; behind the bar its interval.", "stacked", bars)
    kinds = Counter(warning["kind"] for _, warnings in _of(found, "warnings") for warning in warnings)
    listed = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
    yield f"{SAID['statistic']}{f' Warnings, listed below: {listed}.' if listed else ''}"


def _of(found: Found, what: str) -> Iterator[tuple[dict[str, str], Any]]:
    """Give what there is of every model in every mode, with the cells of the columns `OF`."""
    for mode, each in found["modes"].items():
        yield from (({"model": model, "length": mode}, value) for model, value in each[what].items())


def _compared(found: Found) -> Iterator[Part]:
    plan, here, last = found["plan"], found["identity"], found["sessions"][-1]
    one = "; they are one sequence, so no interval can be given" if plan["sequences"] == 1 else ""
    yield (
        f"Samples: {plan['samples']}, of sequences: {plan['sequences']}, from {here['input']}{one}.",
        f"Generation, the same for all models: {here['generation']}.",
        f"Media: {here['media']}; read with {here['loading']}.",
        "A sample named NAME@START+LENGTH is that window of NAME.",
        f"Order (seed {here['order_seed']}): {SAID['together' if last['together'] else 'apart']}.",
        f"Worked on in sessions: {len(found['sessions'])}, first at {found['sessions'][0]['started']}.",
    )
    yield "Before anything was timed:"
    yield tuple(
        f"{model}: the stages gave the tokens and did the work of generate() on {next(iter(modes.values()))['sample']} "
        f"at {' and at '.join(modes)} length; this warmed up too, in {sum(p['seconds'] for p in modes.values()):.1f} s."
        for model, modes in last["proofs"].items()
    )


def _warnings(found: Found) -> Iterator[Part]:
    kinds: dict[str, list[dict[str, str]]] = {}
    for of, warnings in _of(found, "warnings"):
        for warning in warnings:
            kinds.setdefault(warning["kind"], []).append(of | warning)
    for kind, rows in kinds.items():
        yield Folded(f"{kind}: {len(rows)}", of_records("", OF | {"text": SENTENCES}, rows))
    lines = sorted({each["load_warning"] for each in found["sessions"] if each["load_warning"]})
    for mode, each in found["modes"].items():
        if each["left_out"]:
            lines.append(f"{mode} length: {each['left_out']} samples that a model lacks are left out for all")
    if lines:
        yield tuple(lines)
    elif not kinds:
        yield "None: no drift, outliers, cold cache, cut-off texts, near-ties or busy machine."


def _failures(found: Found) -> Iterator[Part]:
    for kind, problems in (("Failed", found["failures"]), ("Skipped", found["plan"]["skipped"])):
        yield of_records(f"{kind}: {len(problems)}", COLUMNS["problems"], problems)


def _stages(found: Found, passes: Mapping[str, Sequence[SampleLine]]) -> Iterator[Part]:
    for of, summary in _of(found, "models"):
        shares = summary["shares"] | {"e2e": 1.0}
        spreads = summary["stages"] | {"e2e": summary["e2e"]}
        rows = [{"stage": stage, "share": shares[stage], **spread} for stage, spread in spreads.items()]
        named = f"{of['model']}, {of['length']} length, {summary['samples']} samples"
        yield of_records(named, COLUMNS["spread"], rows)
    for mode, kept in passes.items():
        models = by_model(kept)
        dots = {name: {m: [row["seconds"][name] for row in own] for m, own in models.items()} for name in STAGE_NAMES}
        yield Figure(f"Every pass at {mode} length, a dot each; the bar is at the mean.", "dots", dots)


def _attribution(found: Found) -> Iterator[Part]:
    pairs = [(mode, pair) for mode, each in found["modes"].items() for pair in each["pairs"]]
    if pairs:
        yield SAID["shared_out"]
    for mode, pair in pairs:
        named = f"{pair['other']['model']} against {pair['baseline']['model']}, {mode} length"
        bars = narrative.factors(pair)
        yield Figure(f"{named}: ms saved, with intervals; left of the line, and dashed: lost.", "saved", bars)
        yield narrative.table(pair, named)


def _timeline(found: Found) -> Iterator[Part]:
    if line := found["timeline"]:
        said = f"The median pass of each model on {line['sample']} at {line['mode']} length; a tick is a token."
        yield Figure(said, "timeline", line)


def _tokens(found: Found, passes: Mapping[str, Sequence[SampleLine]]) -> Iterator[Part]:
    summaries = list(_of(found, "models"))
    rows = []
    for of, each in summaries:
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(each["finish_reasons"].items()))
        rows.append(of | each["tokens"] | {"tokens/s": each["output_throughput"], "finished_by": reasons})
    yield of_records("New tokens", OF | COLUMNS["tokens"], rows)
    right = [of | each["right"] for of, each in summaries if each["right"]]
    yield of_records("Texts that are the known answer, word for word", OF | COLUMNS["right"], right)
    titles = {"ttft": "ttft, without load", "tpot": "tpot", "itl": "itl: the gaps between tokens"}
    for what, heading in titles.items():
        yield of_records(heading, OF | COLUMNS["quantiles"], [of | each[what] for of, each in summaries if each[what]])
    for mode, kept in passes.items():
        models = by_model(row for row in kept if len(row.get("itl", ())) > 1)
        if models:
            said = f"ms before each token at {mode} length: mean, and up to p90."
            yield Figure(said, "gaps", {model: _gaps(own) for model, own in models.items()})


def _gaps(rows: Sequence[SampleLine]) -> dict[str, list[float]]:
    """Give of each position the mean gap and its p90, over the passes that reach it."""
    gaps = np.array(list(zip_longest(*(row["itl"] for row in rows), fillvalue=np.nan)))
    return {"mean": np.nanmean(gaps, axis=1).tolist(), "p90": np.nanquantile(gaps, 0.9, axis=1).tolist()}


def _machine(found: Found) -> Iterator[Part]:
    ceilings = found["sessions"][-1]["ceilings"]
    rates = {"flops": ceilings["flops"] / 1e9, "bandwidth": ceilings["bandwidth"] / 1e9}
    yield SAID["ceilings"].format(**rates, kind=ceilings["bandwidth_kind"])
    rows = [of | {"stage": name} | use for of, stages in _of(found, "utilisation") for name, use in stages.items()]
    yield of_records("Utilisation; of decode, a step", OF | COLUMNS["use"], rows)
    peaks = [of | each["peak_bytes"] for of, each in _of(found, "models") if each["peak_bytes"]]
    heading = "Peak device memory, the model's own weights included"
    yield of_records(heading, OF | dict.fromkeys(STAGE_NAMES, UNITS["GIBI"]), peaks)
    if not peaks:
        yield "Peak memory by stage is measured on a GPU only."


def _cold(found: Found) -> Iterator[Part]:
    rows = [{"model": model} | cold for model, cold in found["cold"].items() if cold["samples"]]
    yield of_records("Load", COLUMNS["cold"], rows, SAID["cold"])
    reasons = sorted({reason for cold in found["cold"].values() for reason in cold["not_cold"]})
    yield from (f"No cold load was timed for some samples: {reason}." for reason in reasons)


def _scaling(found: Found) -> Iterator[Part]:
    for study, models in found["scaling"].items():
        unit = "seconds of the clip" if study == DURATIONS else "new tokens"
        rows = [
            {"model": model, "stage": stage} | curve["growth"]
            for model, curves in models.items()
            for stage, curve in curves.items()
            if curve["growth"]
        ]
        said = f"ms of each stage against {unit}, on logarithmic axes, and the exponents of their growth."
        if rows:
            exponents = of_records(f"Exponents against {unit}", COLUMNS["growth"], rows)
            yield Figure(said, "scaling", {"models": models, "unit": unit}, exponents)


def _drafting(found: Found) -> Iterator[Part]:
    agreed = [each | each["agreement"] for each in found["drafting"]]
    yield of_records("Agreement of texts", COLUMNS["agreement"], agreed, SAID["agreement"])
    rows = [each | each["speculation"] for each in found["drafting"] if each["speculation"]]
    yield of_records("Speculative decoding", COLUMNS["speculation"], rows, SAID["speculation"])
    yield from (reason for each in found["drafting"] for reason in each["refused"])
    same = [{each["draft"], each["target"]} for each in found["drafting"]]
    apart = [pair for pair in combinations(found["identity"]["models"].split(", "), 2) if {*pair} not in same]
    yield from (f"{a} and {b} have other tokenizers, so neither drafts for the other." for a, b in apart)


def _media(found: Found, folder: Path | None) -> Iterator[Part]:
    pictures: dict[str, list[dict[str, Any]]] = {}
    for each in found["media"]:
        path = folder and "kind" in each and folder / thumbnail_of(each["sample"], each["file"], each["images"])
        if path and path.is_file() and (data := path.read_bytes()).startswith(JPEG):
            pictures.setdefault(each["sample"], []).append(each | {"jpeg": b64encode(data).decode("ascii")})
    if pictures:
        few = list(pictures.items())[:: -(-len(pictures) // GALLERY)]
        said = f"{len(few)} of {len(pictures)} samples, as the models see them."
        yield Figure(said, "gallery", few)
    if found["media"]:
        yield Folded(f"All files: {len(found['media'])}", of_records("", COLUMNS["media"], found["media"]))
