"""Lay out what `stagebench bench` measured, as tables in GitHub's Markdown. Importable without torch."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from stagebench.analysis.importers.suite import AXES, EAGER, Found, Key, in_path, sides, timed
from stagebench.analysis.report import document
from stagebench.analysis.report.document import COLUMNS, SAID, UNITS, Part, Sections, without_empty
from stagebench.analysis.samples import Ceilings
from stagebench.core.shown import PERCENT, Table, Value, of_records
from stagebench.core.stages import IN_GENERATE, STAGE, STAGE_NAMES

CEILINGS = ("flops", "bandwidth")


def to_markdown(results: Mapping[str, Any]) -> str:
    """Lay out a run that `recording.combine` made; how near it came to the machine's ceilings, where it timed those."""
    ceilings = _ceilings(results["benchmarks"])
    found = _in_order(timed(results["benchmarks"]))
    rows = [_figures(key, found, ceilings) for key in found if key.stage in STAGE_NAMES]
    sections: Sections = {
        "How it was measured": _conditions(results, ceilings),
        "Stages": _by_model(row for row in rows if not any(row[axis] for axis in AXES)),
        "Beside generate()": [_beside_generate(found, "generate", "", IN_GENERATE)],
        "From file to text": [_beside_generate(found, "e2e by generate", "e2e", STAGE_NAMES)],
        "Encode by number of images": _by_model(row for row in rows if row["images"]),
        "Batch and context": _by_model(row for row in rows if row["batch"] or row["context"]),
        "Set-up, outside of what is timed": [_set_up(found)],
    }
    return document.to_markdown(f"stagebench on {results['machine_info']['device']}", without_empty(sections))


def _ceilings(given: Iterable[Mapping[str, Any]]) -> Ceilings | None:
    rates = {
        info["ceiling"]: info["work"]["amount"] / data["stats"]["median"]
        for data in given
        if (info := data.get("extra_info", {})).get("ceiling") in CEILINGS and "amount" in info.get("work", {})
    }
    return Ceilings(**rates, bandwidth_kind="copy") if len(rates) == 2 else None


def _in_order(found: Found) -> Found:
    """Sort as in the run, but stages in order, axes by size, and eager first."""
    models, stages = [key.model for key in found], (*STAGE_NAMES, *(key.stage for key in found))

    def place(key: Key) -> tuple[Any, ...]:
        axes = [size or 0 for size in (key.images, key.batch, key.context)]
        return models.index(key.model), stages.index(key.stage), axes, key.backend != EAGER

    return {key: found[key] for key in sorted(found, key=place)}


def _conditions(results: Mapping[str, Any], ceilings: Ceilings | None) -> Iterator[Part]:
    recording, commit = results["stagebench"]["recording"], results.get("commit_info", {})
    select = ("--select", recording["select"]) if recording["select"] else ()
    rounds, minutes = recording["rounds"], round(recording["seconds"] / 60)
    counts = ("--processes", str(recording["processes"]), "--rounds", str(rounds))
    command = shlex.join(("stagebench", "bench", "out", *counts, *select, "--", *recording["arguments"]))
    lines = [
        f"Fresh processes: {recording['processes']}, with {rounds} round{'s' * (rounds != 1)} of every benchmark in "
        f"each, after one that proved what they run; {minutes} minute{'s' * (minutes != 1)} in all.",
        SAID["recorded"],
        f"Commit {commit.get('id')}{', changed' if commit.get('dirty') else ''}: {command}",
    ]
    if ceilings:
        rates = {"flops": ceilings.flops / 1e12, "bandwidth": ceilings.bandwidth / 1e12}
        lines.append(SAID["recorded_ceilings"].format(**rates, kind=ceilings.bandwidth_kind))
    if warning := results["stagebench"].get("load_warning"):
        lines.append(f"{warning}.")
    yield (*lines, *(f"Left out, because a process skipped it: {name}." for name in recording["left_out"]))
    yield Table("Environment", [*COLUMNS["environment"].items()], sorted(results["machine_info"].items()))


def _by_model(rows: Iterable[Mapping[str, Any]]) -> Iterator[Table]:
    for model, own in groupby(rows, lambda row: row["model"]):
        yield of_records(model, COLUMNS["recorded"], own)


def _figures(key: Key, found: Found, ceilings: Ceilings | None) -> dict[str, Any]:
    """Give the figures of a benchmark that have a meaning.

    MFU of encode and prefill, and MBU of decode, are of the work that eager counted, at this one's time: a replayed
    graph or a kernel of our own does the same work unseen by the counters.
    """
    own, eager = found[key], found.get(key._replace(backend=EAGER))
    counted, units = eager or own, own.get("units")
    decodes, generates = STAGE[key.stage].per_token, key.stage in IN_GENERATE
    flops = counted.get("work", {}).get("flops") if generates and not decodes else None
    moved = sum(counted.get("bytes", {}).values()) if decodes else None
    return key._asdict() | {
        "work": "" if units is None else f"{units} {own.get('unit', '')}".replace("_", " ").strip(),
        "time": own["time"],
        "min to max": own["min to max"],
        "to eager": own["time"] / eager["time"] if eager and generates else None,
        "a step": own["time"] / units if decodes and units else None,
        "MFU": ceilings.mfu(flops, own["time"]) if ceilings and flops else None,
        "MBU": ceilings.mbu(moved, own["time"]) if ceilings and moved else None,
    }


def _beside_generate(found: Found, generate: str, whole: str, stages: Sequence[str]) -> Table:
    """Lay out what a path takes, in all and by token, beside the benchmark of the same with `generate()`.

    The path is the benchmark `whole`, or where that is "" the sum of its stages. The share of each stage is its own
    benchmark's time over that of the path.
    """
    rows = []
    for model, backend in sides(found):
        reference = found.get(Key(model, EAGER, generate))
        if reference and backend == EAGER:
            rows.append(_path(model, "generate()", reference, reference))
        parts = {stage: each for stage in stages if (each := in_path(found, model, backend, stage))}
        added = sum(each["time"] for each in parts.values()) if len(parts) == len(stages) else None
        one = in_path(found, model, backend, whole)
        if added and not whole:
            one = {**parts[stages[-1]], "time": added, "min to max": None}
        if one:
            row = _path(model, backend, one, reference)
            row |= {stage: each["time"] / one["time"] for stage, each in parts.items()}
            row["all stages"] = added / one["time"] if added and whole else None
            row["operators"] = _operators(reference or {}, *parts.values()) if added and backend == EAGER else None
            rows.append(row)
    shares = dict.fromkeys((*stages, "all stages", "unattributed"), PERCENT)
    return of_records("", COLUMNS["path"] | shares | {"operators": UNITS["FOUR_DIGITS"]}, rows)


def _path(model: str, by: str, one: Mapping[str, Any], reference: Mapping[str, Any] | None) -> dict[str, Value]:
    return {
        "model": model,
        "by": by,
        "time": one["time"],
        "min to max": one["min to max"],
        "a token": one["time"] / one["new_tokens"] if one.get("new_tokens") else None,
        "to generate()": one["time"] / reference["time"] if reference else None,
        "unattributed": one.get("unattributed_share"),
    }


def _operators(*counted: Mapping[str, Any]) -> float | None:
    """Divide the operators of the plain path's stages by those of `generate()`, the first: exact, as times are not."""
    whole, *parts = (each.get("work", {}).get("aten_operators", 0) for each in counted)
    return float(sum(parts) / whole) if whole and all(parts) else None


def _set_up(found: Found) -> Table:
    """Lay out the set-up by model and backend; of the benchmarks that note it, the one that notes most tells all."""
    rows = []
    for side in sides(found):
        noted = [each["setup"] for key, each in found.items() if key[:2] == side and "setup" in each]
        if noted:
            rows.append({"model": side[0], "backend": side[1], **max(noted, key=lambda cost: cost["captures"])})
    return of_records("What capture and compilation cost, once a process", COLUMNS["set up"], rows)
